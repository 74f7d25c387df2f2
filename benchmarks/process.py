"""One fresh process, measured from outside: no shell, no thread, nothing of ours in between.

This process stays small on purpose, and whatever imports much runs in one of its own: Linux counts the memory of the
process that starts another one, up to the moment of ``exec``, into the peak of the latter.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PYTHON = sys.executable
SPLITBAKE = str(Path(sys.executable).with_name("splitbake"))

_TAIL = 20


@dataclass(frozen=True)
class Finished:
    """How a process went.

    Attributes:
        seconds: wall time from its start to its end.
        peak: bytes of the largest resident set among the process and those that it started and waited for.
        output: what it wrote to stdout.
    """

    seconds: float
    peak: int
    output: str


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a measured process: the caller's own, but no settings of Python and of AWS.

    A shell that forbids Python to keep compiled modules (PYTHONDONTWRITEBYTECODE) would have each run compile
    everything anew, ours and theirs; and no figure may depend on, or touch, somebody's account.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AWS_", "GITHUB_"))}
    return {**kept, **(extra or {})}


def run(argv: tuple[str, ...], *, cwd: Path, env: Mapping[str, str], stdin: Path = Path(os.devnull)) -> Finished:
    """Run ``argv`` to its end.

    Raises:
        RuntimeError: it left with another exit code than 0; the message ends with what it wrote last.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, str(stdin), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, err.fileno(), 2),
        ]
        back = Path.cwd()
        os.chdir(cwd)  # posix_spawn takes no folder
        try:
            started = time.perf_counter()
            pid = os.posix_spawnp(argv[0], argv, env, file_actions=actions)
            status, peak = _wait(pid)
            seconds = time.perf_counter() - started
        finally:
            os.chdir(back)
        if code := os.waitstatus_to_exitcode(status):
            told = "\n".join([*_text(out).splitlines(), *_text(err).splitlines()][-_TAIL:])
            raise RuntimeError(f"{' '.join(argv)} left with {code}:\n{told}")
        return Finished(seconds, peak, _text(out))


def _wait(pid: int) -> tuple[int, int]:
    """Return exit status and peak (bytes) of ``pid``; whoever breaks off takes it along."""
    try:
        _, status, usage = os.wait4(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    return status, usage.ru_maxrss * 1024


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
