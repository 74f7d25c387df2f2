"""Do what a plan says."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from splitbake.doctor import apt
from splitbake.doctor.model import Action, AllowUser, Borrow, InstallPackages, Machine, StartEngine
from splitbake.doctor.probes import ask
from splitbake.errors import ToolError
from splitbake.ui import Say

#: A first start of dockerd on a slow disk takes some seconds; past this something is wrong.
ENGINE_START_S = 60.0
SOCKET = "/var/run/docker.sock"


def apply(actions: Iterable[Action], machine: Machine, say: Say) -> list[str]:
    """Do the actions in their order; return the packages that the machine's sources do not have.

    Raises:
        ToolError: one of them failed; those before it are done and stay.
    """
    unknown: list[str] = []
    for action in actions:
        say(f"{action} …")
        match action:
            case InstallPackages(packages):
                unknown += apt.install(packages, machine.prefix or (), say)
            case Borrow(loan, directory):
                apt.borrow(loan, Path(directory), codename=machine.codename, prefix=machine.prefix, say=say)
            case StartEngine(systemd):
                start_engine(machine, say, systemd=systemd)
            case AllowUser(user):
                allow(user, machine, say)
    return unknown


def start_engine(machine: Machine, say: Say, *, systemd: bool) -> None:
    """Start the engine unless it runs, and wait until it answers.

    Raises:
        ToolError: it did not come up.
    """
    prefix = machine.prefix or ()
    if engine_answers(prefix):
        return
    if systemd:
        apt.stream((*prefix, "systemctl", "start", "docker"), say, hint="see: journalctl --unit docker --no-pager")
        wait_for_engine(prefix, None, hint="see: journalctl --unit docker --no-pager")
        return
    log = engine_log(machine)
    has_nat = ask((*prefix, "iptables", "-t", "nat", "-L", "-n")).code == 0
    argv = (*prefix, "dockerd", *dockerd_options(has_nat=has_nat))
    say(f"{' '.join(argv)}, log in {log}")
    with log.open("ab") as sink:
        # A session of its own: the engine outlives this command and is not hit by its Ctrl-C.
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True, cwd="/"
        )
    wait_for_engine(prefix, process, hint=f"see {log}")


def dockerd_options(*, has_nat: bool) -> tuple[str, ...]:
    """Return the options the engine needs: where the kernel lacks nat tables it must leave iptables alone."""
    return () if has_nat else ("--iptables=false",)


def engine_log(machine: Machine) -> Path:
    """Return where the engine that we start writes its log."""
    if not machine.user:
        return Path("/var/log/dockerd.log")
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "splitbake"
    state.mkdir(parents=True, exist_ok=True)
    return state / "dockerd.log"


def engine_answers(prefix: tuple[str, ...]) -> bool:
    """Ask the engine, as root: the user may not have access yet."""
    return ask((*prefix, "docker", "version", "--format", "{{.Server.Version}}")).code == 0


def wait_for_engine(prefix: tuple[str, ...], process: subprocess.Popen[bytes] | None, *, hint: str) -> None:
    """Wait until the engine answers.

    Raises:
        ToolError: it ended, or did not answer in time.
    """
    deadline = time.monotonic() + ENGINE_START_S
    while not engine_answers(prefix):
        if process is not None and process.poll() is not None:
            raise ToolError(f"dockerd ended with exit code {process.returncode}", hint=hint)
        if time.monotonic() > deadline:
            raise ToolError(f"the Docker Engine does not answer after {ENGINE_START_S:.0f} s", hint=hint)
        time.sleep(0.3)


def allow(user: str, machine: Machine, say: Say) -> None:
    """Give ``user`` the engine: for good by the group, at once by the socket's owner."""
    prefix = machine.prefix or ()
    apt.stream((*prefix, "usermod", "-aG", "docker", user), say, hint="is the group docker there?")
    apt.stream((*prefix, "chown", user, SOCKET), say, hint=f"is {SOCKET} there?")
