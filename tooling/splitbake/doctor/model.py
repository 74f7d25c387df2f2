"""The words of the doctor: checks, findings, and the actions that cure them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Status(StrEnum):
    """What a check found."""

    OK = "ok"
    MISSING = "missing"
    TOO_OLD = "too old"
    BROKEN = "broken"
    NOT_RUNNING = "not running"
    NO_ACCESS = "no access"


@dataclass(frozen=True)
class Output:
    """What a program answered.

    Attributes:
        code: its exit status, or None where there is no such program.
        text: stdout and stderr together (``ssh -V`` speaks on stderr).
    """

    code: int | None
    text: str = ""


#: Runs an argv and returns what it said; a test hands in captured outputs instead.
Ask = Callable[[tuple[str, ...]], Output]


@dataclass(frozen=True)
class Reading:
    """What a probe makes of a tool's answer; the minimum version is judged elsewhere."""

    status: Status
    version: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Apt:
    """Packages of the machine's own distribution."""

    packages: tuple[str, ...]


@dataclass(frozen=True)
class Loan:
    """One program out of a package that only a neighbouring release of the same distribution has.

    The package comes from the mirror that the machine uses already and is verified by apt; nothing but
    ``member`` is taken from it, so the machine's own packages and sources stay as they are.

    Attributes:
        package: name of the package.
        suite: the release that has it.
        member: path of the program inside the package.
        directory: where it goes on the machine when we are root or may use sudo.
        user_directory: where it goes otherwise, relative to the home folder; None where that would not help.
    """

    package: str
    suite: str
    member: str
    directory: str
    user_directory: str | None = None


@dataclass(frozen=True)
class Check:
    """One thing that splitbake needs from the machine.

    Attributes:
        name: as the user knows it.
        why: what it is needed for, in a few words.
        probe: finds out whether it is there.
        minimum: lowest version that is good enough; empty where any will do.
        broken: later versions that its makers took back.
        required: False for what only some users need.
        sources: where it comes from, by release code name; ``*`` stands for every other release of Debian and
            Ubuntu.
        remedy: how to get it where apt does not have it, or there is no apt.
    """

    name: str
    why: str
    probe: Callable[[Ask], Reading]
    remedy: str
    minimum: str = ""
    broken: tuple[str, ...] = ()
    required: bool = True
    sources: Mapping[str, Apt | Loan] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """The outcome of one check; ``remedy`` is empty where nothing needs to be done."""

    name: str
    status: Status
    found: str
    needed: str
    why: str
    required: bool
    detail: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Machine:
    """The facts about this machine that decide how a tool gets onto it.

    Attributes:
        codename: release code name (``bookworm``, ``noble``); empty where apt is not the package manager.
        apt: whether this is Debian, Ubuntu or a descendant with apt.
        prefix: what makes a command run as root: ``()`` for root, ``("sudo", "-n")``, or None for neither.
        systemd: whether systemd runs the services.
        user: login name; empty for root, which needs no leave to use the engine.
        docker_host: the engine that DOCKER_HOST points to; empty where it is this machine's own.
    """

    codename: str
    apt: bool
    prefix: tuple[str, ...] | None
    systemd: bool
    user: str
    docker_host: str = ""


@dataclass(frozen=True)
class InstallPackages:
    """``apt-get install`` of these packages."""

    packages: tuple[str, ...]

    def __str__(self) -> str:
        return f"apt-get install {' '.join(self.packages)}"


@dataclass(frozen=True)
class Borrow:
    """Take one program out of a package of a neighbouring release."""

    loan: Loan
    directory: str

    def __str__(self) -> str:
        return (
            f"take {self.loan.member.rpartition('/')[2]} out of the package {self.loan.package} of "
            f"{self.loan.suite} (same mirror, verified by apt) into {self.directory}"
        )


@dataclass(frozen=True)
class StartEngine:
    """Start the Docker Engine, as a service or as a process of its own."""

    systemd: bool

    def __str__(self) -> str:
        return "systemctl start docker" if self.systemd else "start dockerd in the background, with a log"


@dataclass(frozen=True)
class AllowUser:
    """Let a user talk to the Docker Engine."""

    user: str

    def __str__(self) -> str:
        return (
            f"let {self.user} use the Docker Engine: add to the group docker, own the socket until the engine "
            "restarts (whoever uses the engine can become root)"
        )


Action = InstallPackages | Borrow | StartEngine | AllowUser
