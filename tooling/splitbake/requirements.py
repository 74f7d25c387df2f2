"""A pip requirements file, as far as it is looked into: which distributions, in which versions, and nothing else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from splitbake.errors import BuildError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_CONTINUED = re.compile(r"\\\r?\n")
_COMMENT = re.compile(r"(^|\s)#.*$")
_ELSEWHERE = re.compile(r"^\s*(?:-[rce]|--(?:requirement|constraint|editable)\b)", re.MULTILINE)
_PER_REQUIREMENT_OPTION = re.compile(r"\s--(hash|config-settings|global-option)\b.*$")


def parse(text: str, name: str) -> list[Requirement]:
    """Return the requirements in ``text``; lines that are options for pip as a whole are left out.

    Raises:
        BuildError: a line is not a requirement; ``name`` says of which file.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    found = []
    for line in _CONTINUED.sub(" ", text).splitlines():
        stripped = _PER_REQUIREMENT_OPTION.sub("", _COMMENT.sub("", line)).strip()
        if not stripped or stripped.startswith("-"):
            continue
        try:
            found.append(Requirement(stripped))
        except InvalidRequirement as problem:
            raise BuildError(
                f"{name}: {stripped!r} is not a requirement: {problem}", hint="name distributions: package==1.2.3"
            ) from None
    return found


def unhashed(text: str) -> list[str]:
    """Return the requirements in ``text`` that say no hash: what an index has for them tomorrow nobody knows."""
    lines = (_COMMENT.sub("", line).strip() for line in _CONTINUED.sub(" ", text).splitlines())
    return [line for line in lines if line and not line.startswith("-") and "--hash=" not in line]


def elsewhere(text: str) -> int:
    """Return the number of the first line that refers to another file (-r, -c, -e), 0 where none does.

    Such a file would neither travel nor be watched with this one.
    """
    found = _ELSEWHERE.search(text)
    return text.count("\n", 0, found.end()) + 1 if found else 0
