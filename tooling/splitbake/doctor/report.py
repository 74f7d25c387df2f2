"""Show findings: rows and advice for people, plain data for scripts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from splitbake.doctor.model import Action, Finding, Status

COLUMNS = ("tool", "status", "version", "needed for")


def healthy(findings: Iterable[Finding]) -> bool:
    """Tell whether everything that is required is there; what is optional may be missing."""
    return all(finding.status is Status.OK for finding in findings if finding.required)


def row(finding: Finding) -> tuple[str, str, str, str]:
    """Return the cells of a finding, one for each of ``COLUMNS``."""
    why = finding.why if finding.required else f"{finding.why} (optional)"
    return finding.name, finding.status.value, finding.found or "-", why


def advice(finding: Finding) -> str:
    """Say what is wrong, what was seen and what to do about it; nothing where all is well."""
    if not finding.remedy:
        return ""
    needed = f", {finding.needed} is needed" if finding.status is Status.TOO_OLD else ""
    seen = f" ({finding.detail})" if finding.detail else ""
    return f"{finding.name} is {finding.status}{needed}{seen}: {finding.remedy}"


def as_data(findings: Iterable[Finding], actions: Iterable[Action]) -> dict[str, Any]:
    """Return the object that ``--json`` prints."""
    found = tuple(findings)
    return {
        "ok": healthy(found),
        "findings": [asdict(finding) for finding in found],
        "fixable": [str(action) for action in actions],
    }
