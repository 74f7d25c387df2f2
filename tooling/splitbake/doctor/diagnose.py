"""Run the checks."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from splitbake.doctor.catalogue import CHECKS
from splitbake.doctor.model import Apt, Ask, Check, Finding, Loan, Machine, Reading, Status
from splitbake.doctor.probes import ask as run
from splitbake.doctor.probes import version_key


def diagnose(machine: Machine, *, checks: Iterable[Check] = CHECKS, ask: Ask = run) -> tuple[Finding, ...]:
    """Run all checks side by side and judge what they found."""
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(lambda check: judge(check, check.probe(ask), machine), checks))


def judge(check: Check, reading: Reading, machine: Machine) -> Finding:
    """Compare a reading with what the check asks for, and say what to do about it."""
    status = reading.status
    if status is Status.OK and check.minimum and version_key(reading.version) < version_key(check.minimum):
        status = Status.TOO_OLD
    elif status is Status.OK and reading.version in check.broken:
        status = Status.BROKEN
    return Finding(
        name=check.name,
        status=status,
        found=reading.version,
        needed=f">= {check.minimum}" if check.minimum else "any",
        why=check.why,
        required=check.required,
        detail=reading.detail,
        remedy=remedy(check, status, machine),
    )


def remedy(check: Check, status: Status, machine: Machine) -> str:
    """Say in one line what the user can do; nothing where nothing is wrong."""
    sudo = "sudo " if machine.user else ""
    match status:
        case Status.OK:
            return ""
        case Status.NOT_RUNNING if machine.docker_host:
            return f"DOCKER_HOST is {machine.docker_host}: start the engine there, or unset DOCKER_HOST"
        case Status.NOT_RUNNING:
            return f"{sudo}systemctl start docker" if machine.systemd else f"{sudo}dockerd (no systemd here)"
        case Status.NO_ACCESS:
            return (
                f"{sudo}usermod -aG docker {machine.user}, then log in again (it makes {machine.user} as good as root)"
            )
        case Status.TOO_OLD | Status.BROKEN:
            return check.remedy
        case Status.MISSING:
            return how_to_get(check, machine)


def how_to_get(check: Check, machine: Machine) -> str:
    """Say where a missing tool comes from on this machine."""
    match source(check, machine):
        case Apt(packages):
            return f"{'sudo ' if machine.user else ''}apt-get install {' '.join(packages)}"
        case Loan():
            return f"splitbake doctor --fix, or {check.remedy}"
        case None:
            return check.remedy


def source(check: Check, machine: Machine) -> Apt | Loan | None:
    """Return where ``check``'s tool comes from on this machine, None where the user must fetch it."""
    if not machine.apt:
        return None
    return check.sources.get(machine.codename) or check.sources.get("*")
