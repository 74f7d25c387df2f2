"""The line by which a generated file is known: only such a file is ever overwritten or removed."""

from __future__ import annotations

from pathlib import Path

MARK = "# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file."


def is_marked(path: Path) -> bool:
    """Return whether ``path`` is a file that says of itself that it was generated; a script says so below its #!."""
    with path.open("rb") as file:
        return any(line.rstrip() == MARK.encode() for line in (file.readline(), file.readline()))
