"""From findings to the actions that cure them; nothing is touched here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from splitbake.doctor.catalogue import CHECKS
from splitbake.doctor.diagnose import source
from splitbake.doctor.model import (
    Action,
    AllowUser,
    Apt,
    Borrow,
    Check,
    Finding,
    InstallPackages,
    Loan,
    Machine,
    StartEngine,
    Status,
)

ENGINE = "Docker Engine"


def plan(findings: Iterable[Finding], machine: Machine, *, checks: Iterable[Check] = CHECKS) -> tuple[Action, ...]:
    """Return what would cure the required findings, in order; what must be done by hand is left out.

    A tool that is there but too old is the user's: it came from somewhere, and is not replaced behind their back.
    """
    status = {finding.name: finding.status for finding in findings}
    required = [check for check in checks if check.required]
    sources = [source(check, machine) for check in required if status[check.name] is Status.MISSING]
    return (
        *install(sources, machine),
        *borrow(sources, machine),
        *(engine(status[ENGINE], machine) if any(check.name == ENGINE for check in required) else ()),
    )


def install(sources: Iterable[Apt | Loan | None], machine: Machine) -> list[InstallPackages]:
    """Join all packages into one run of apt."""
    if machine.prefix is None:
        return []
    packages = sorted({package for source in sources if isinstance(source, Apt) for package in source.packages})
    return [InstallPackages(tuple(packages))] if packages else []


def borrow(sources: Iterable[Apt | Loan | None], machine: Machine) -> list[Borrow]:
    """Say where each borrowed program goes."""
    loans = [source for source in sources if isinstance(source, Loan)]
    if machine.prefix is not None:
        return [Borrow(loan, loan.directory) for loan in loans]
    return [Borrow(loan, str(Path.home() / loan.user_directory)) for loan in loans if loan.user_directory]


def engine(status: Status, machine: Machine) -> list[StartEngine | AllowUser]:
    """Start the engine and let this user in, as far as it will be needed once it is installed."""
    ours = machine.apt and machine.prefix is not None and not machine.docker_host
    if not ours or status in {Status.OK, Status.TOO_OLD}:
        return []
    start = [] if status is Status.NO_ACCESS else [StartEngine(systemd=machine.systemd)]
    allow = [AllowUser(machine.user)] if machine.user else []
    return [*start, *allow]
