"""Read what tools say about themselves. All functions but ``ask`` and ``file_exists`` are pure."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from splitbake import syft
from splitbake.doctor.model import Ask, Output, Reading, Status

#: A healthy tool tells its version at once; an engine that hangs must not hang the doctor.
PATIENCE_S = 20.0


def ask(argv: tuple[str, ...]) -> Output:
    """Run ``argv`` and return what it said; a missing program is an answer, not an error."""
    # Daemons live in sbin, which is not on every user's PATH; Packer, Terraform and syft would phone home.
    environment = {
        **os.environ,
        "PATH": f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin",
        "CHECKPOINT_DISABLE": "1",
        "SYFT_CHECK_FOR_APP_UPDATE": "false",
        "LC_ALL": "C.UTF-8",
    }
    program = shutil.which(argv[0], path=environment["PATH"])
    if program is None:
        return Output(code=None)
    try:
        done = subprocess.run(
            [program, *argv[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE_S,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return Output(code=124, text=f"{argv[0]} gave no answer within {PATIENCE_S:.0f} s")
    return Output(code=done.returncode, text=done.stdout)


def version_key(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: ``20.10.24+dfsg1`` -> ``(20, 10, 24)``."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def read_version(output: Output, pattern: str) -> Reading:
    """Find the version in a tool's answer; an answer without one means that the tool is not there."""
    if output.code is None:
        return Reading(Status.MISSING)
    if match := re.search(pattern, output.text):
        return Reading(Status.OK, version=match[1])
    return Reading(Status.MISSING, detail=last_line(output.text))


def read_engine(output: Output, *, installed: bool) -> Reading:
    """Make sense of ``docker version`` when asked for the server's version.

    Args:
        output: the answer of the command-line client.
        installed: whether this machine has ``dockerd``.
    """
    if output.code == 0 and version_key(output.text.strip()):
        return Reading(Status.OK, version=output.text.strip())
    detail = last_line(output.text)
    if "permission denied" in output.text.lower():
        return Reading(Status.NO_ACCESS, detail=detail)
    return Reading(Status.NOT_RUNNING if installed else Status.MISSING, detail=detail)


def last_line(text: str) -> str:
    """Return the last line that says something; tools put the reason there."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def version_of(*argv: str, pattern: str) -> Callable[[Ask], Reading]:
    """Make a probe that reads a version out of a command's answer (first group of ``pattern``)."""

    def probe(ask: Ask) -> Reading:
        return read_version(ask(argv), pattern)

    return probe


def engine(ask: Ask) -> Reading:
    """Probe the Docker Engine that the client would talk to; it honours DOCKER_HOST."""
    installed = ask(("dockerd", "--version")).code == 0
    return read_engine(ask(("docker", "version", "--format", "{{.Server.Version}}")), installed=installed)


def bill_maker(ask: Ask) -> Reading:
    """Probe syft: the one that came with the extra, else that of the machine."""
    return read_version(ask((syft.find() or "syft", "--version")), r"^syft v?(\d[\w.+-]*)")


def file_exists(path: str) -> Callable[[Ask], Reading]:
    """Make a probe that looks for a file."""

    def probe(_: Ask) -> Reading:
        return Reading(Status.OK if Path(path).is_file() else Status.MISSING)

    return probe
