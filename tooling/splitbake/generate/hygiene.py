"""The shell lines that clear the builder of what must not travel, from the one list of rules."""

from __future__ import annotations

from splitbake.hygiene import RULES


def cleanup() -> str:
    """Return the shell lines that apply every rule.

    Their words (``remove`` and ``empty``, after ``late`` where that is so) are functions of the cleanup script.
    """
    lines: list[str] = []
    for rule in RULES:
        verb = ("late " if rule.late else "") + ("empty" if rule.emptied else "remove")
        lines += [f"# {rule.name}: {rule.why}", *(f"{verb} {path}" for path in rule.paths)]
    return "\n".join(lines)
