"""Sending ``probes/`` to an instance and taking their answers."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from splitbake.errors import VerifyError
from splitbake.verify import ssh


def source(name: str) -> str:
    """Return the program ``probes/<name>.py``."""
    return files("splitbake.verify").joinpath("probes", f"{name}.py").read_text(encoding="utf-8")


def ask(host: Any, name: str, *arguments: str) -> Any:
    """Return what a probe says of a host of testinfra.

    Raises:
        RuntimeError: it did not run to its end; in a check that is no finding, but a check that could not be made.
    """
    argv = ["python3", "-IB", "-c", source(name), *arguments]
    done = host.run(" ".join(["%s"] * len(argv)), *argv)
    if done.rc:
        raise RuntimeError(f"the probe {name} ended with {done.rc}: {last_line(done.stderr)}")
    return json.loads(done.stdout)


def ask_over_ssh(config: Path, host: str, name: str, *arguments: str, within: float) -> Any:
    """Return what a probe says of ``host`` in the SSH configuration, as root; it has ``within`` seconds.

    Raises:
        VerifyError: it did not run to its end.
    """
    argv = ["sudo", "-n", "python3", "-IB", "-", *arguments]
    done = ssh.run(config, host, argv, text=source(name), within=within)
    if done.returncode:
        raise VerifyError(
            f"the probe {name} ended with {done.returncode} on {host}: {last_line(done.stderr)}",
            hint=ssh.STILL_THERE if done.returncode == ssh.NO_ANSWER else "",
        )
    return json.loads(done.stdout)


def last_line(text: str) -> str:
    """Return the line in which a program says why it ended."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
