"""A pip requirements file, as far as verification needs it: which distributions, in which versions."""

from __future__ import annotations

import re

from packaging.requirements import InvalidRequirement, Requirement

from splitbake.errors import BuildError

_CONTINUED = re.compile(r"\\\n")
_COMMENT = re.compile(r"(^|\s)#.*$")
_PER_REQUIREMENT_OPTION = re.compile(r"\s--(hash|config-settings|global-option)\b.*$")


def parse(text: str, name: str) -> list[Requirement]:
    """Return the requirements in ``text``; lines that are options for pip as a whole are left out.

    Raises:
        BuildError: a line is not a requirement; ``name`` says of which file.
    """
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
