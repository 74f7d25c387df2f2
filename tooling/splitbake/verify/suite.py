"""Running a module of checks against a machine or a container, in a pytest of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from splitbake import files
from splitbake.artifact import Artifact, Check, Report, now
from splitbake.errors import VerifyError
from splitbake.ui import Say
from splitbake.verify import ssh
from splitbake.verify.plugin import EXPECTED, STREAM

_CHECKS = Path(__file__).parent / "checks"
#: pytest: 0 all passed, 1 some failed; anything else is not a verdict.
_VERDICTS = {0, 1}
#: Seconds that one check may take: hashing 1.5 GB that EBS loads lazily at 5 MiB/s is the slowest.
LIMIT = 900
_TAIL = 20


@dataclass
class _Finished:
    """What the stream has told so far."""

    checks: list[Check]
    broken: list[Check]


def run(
    *modules: str,
    artifact: Artifact,
    standard: str,
    hosts: str,
    expected: Mapping[str, Any],
    ssh_config: Path | None = None,
    junit: Path | None,
    say: Say,
    limit: float = LIMIT,
) -> Report:
    """Run ``checks/<module>.py`` for each of ``modules`` and return what they found.

    Nothing of the project is read: no pytest configuration, conftest, plugin or cache of the user's.

    Args:
        modules: names of modules in ``verify/checks``, or paths of others; their order is that of the checks.
        artifact: what the report is about.
        standard: ``Project.standard``, written into the report.
        hosts: what testinfra connects to, for example ``ssh://builder?sudo=true``.
        expected: what the checks compare with.
        ssh_config: how to reach an ``ssh://`` host.
        junit: where to write JUnit XML.
        say: hears each check as it ends.
        limit: seconds that one check may take.

    Raises:
        VerifyError: the checks could not be run to their end. A failed check is not an error.
    """
    started, began = time.monotonic(), now()
    paths = [_CHECKS / f"{module}.py" if "/" not in module else Path(module) for module in modules]
    with tempfile.TemporaryDirectory(prefix="splitbake-verify-") as name:
        folder = Path(name)
        files.replace(folder / "expected.json", json.dumps(expected), VerifyError)
        files.replace(folder / "pytest.ini", "[pytest]\n", VerifyError)
        argv = _argv(paths, folder, hosts, ssh_config)
        if junit:
            with files.writing(junit, VerifyError):
                junit.parent.mkdir(parents=True, exist_ok=True)
            argv += [f"--junitxml={junit.resolve()}", "-o", f"junit_suite_name=splitbake-{artifact.half}"]
        finished = _Finished([], [])
        with (folder / "output").open("w+", encoding="utf-8") as output:
            status = _follow(argv, folder, output, lambda line: _take(line, finished, say), limit)
            output.seek(0)
            _insist(status, finished, output.read())
    return Report(
        half=artifact.half,
        artifact=artifact.id,
        fingerprint=artifact.fingerprint,
        standard=standard,
        created=began,
        seconds=round(time.monotonic() - started, 1),
        checks=tuple(finished.checks),
    )


def _argv(paths: Sequence[Path], folder: Path, hosts: str, ssh_config: Path | None) -> list[str]:
    argv = [sys.executable, "-m", "pytest", *map(str, paths), f"--rootdir={folder}", "-c", str(folder / "pytest.ini")]
    argv += ["-p", "no:cacheprovider", "-p", "testinfra.plugin", "-p", "splitbake.verify.plugin"]
    argv += ["--noconftest", "--import-mode=importlib", "--assert=plain", "--color=no", "--tb=short", "-q"]
    argv += [f"--hosts={hosts}"]
    return argv + ([f"--ssh-config={ssh_config}"] if ssh_config else [])


def _follow(argv: list[str], folder: Path, output: IO[str], take: Callable[[Any], None], limit: float) -> int:
    """Run pytest, take its stream line by line, and return its exit status; negative where it was killed."""
    reading, writing = os.pipe()
    # Of Python's own variables only the one by which splitbake itself may be found; PYTHONOPTIMIZE drops every assert.
    dropped = [name for name in os.environ if name.startswith(("PYTEST_", "PYTHON")) and name != "PYTHONPATH"]
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    env |= {
        EXPECTED: str(folder / "expected.json"),
        STREAM: str(writing),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with os.fdopen(reading, encoding="utf-8") as stream:
        process = subprocess.Popen(
            argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(writing,)
        )
        os.close(writing)
        try:
            with _watchdog(process, limit) as still_alive:
                for line in stream:
                    still_alive()
                    take(json.loads(line))
                return process.wait()
        finally:
            process.kill()
            process.wait()


class _Watchdog:
    """Kills a process that says nothing for ``limit`` seconds."""

    def __init__(self, process: subprocess.Popen[bytes], limit: float) -> None:
        self._process, self._limit = process, limit
        self._timer = self._start()

    def __call__(self) -> None:
        self.stop()
        self._timer = self._start()

    def stop(self) -> None:
        self._timer.cancel()

    def _start(self) -> threading.Timer:
        timer = threading.Timer(self._limit, self._process.kill)
        timer.daemon = True
        timer.start()
        return timer


@contextmanager
def _watchdog(process: subprocess.Popen[bytes], limit: float) -> Iterator[_Watchdog]:
    dog = _Watchdog(process, limit)
    try:
        yield dog
    finally:
        dog.stop()


def _take(line: Mapping[str, Any], finished: _Finished, say: Say) -> None:
    outcome = line["outcome"]
    values = {name: line[name] for name in ("name", "saw", "seconds", "figures")}
    check = Check(passed=outcome in {"passed", "skipped"}, skipped=outcome == "skipped", **values)
    (finished.broken if outcome == "broken" else finished.checks).append(check)
    say(f"{check.mark} {check.name}{f' ({check.saw})' if check.saw else ''}")


def _insist(status: int, finished: _Finished, output: str) -> None:
    """Raise unless the run is a verdict."""
    if finished.broken:
        first = finished.broken[0]
        raise VerifyError(f"the check {first.name!r} could not be made: {first.saw}", hint=ssh.STILL_THERE)
    if status < 0:
        raise VerifyError(
            f"the checks were ended after {len(finished.checks)}: the next one gave no answer in time",
            hint=ssh.STILL_THERE,
        )
    if status not in _VERDICTS:
        tail = "\n".join(f"  {line}" for line in output.splitlines()[-_TAIL:])
        raise VerifyError(f"the checks could not be run (pytest ended with {status}):\n{tail}")
