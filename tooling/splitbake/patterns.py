"""Glob patterns for the files of the image, with the rules of ``.dockerignore``.

``*`` and ``?`` do not cross a ``/``; ``**`` does; all else is literal, brackets too. A pattern that names a folder
takes everything below it; with a ``/`` at its end it names nothing but a folder.
"""

from __future__ import annotations

import functools
import re
from pathlib import PurePosixPath

_TOKEN = re.compile(r"\*\*/?|\*|\?|[^*?]+")


def is_glob(text: str) -> bool:
    """Return whether ``text`` has a wildcard."""
    return "*" in text or "?" in text


def names(pattern: str, path: str) -> bool:
    """Return whether ``pattern`` names ``path`` itself, not only a folder above it."""
    return _compiled(pattern.rstrip("/")).fullmatch(path) is not None


def takes(pattern: str, path: str) -> bool:
    """Return whether ``pattern`` takes the file ``path``: names it, or a folder that it lies in."""
    folders = [str(parent) for parent in PurePosixPath(path).parents][:-1]
    return any(names(pattern, folder) for folder in folders) or (not pattern.endswith("/") and names(pattern, path))


def may_take_below(pattern: str, folder: str) -> bool:
    """Return whether ``pattern`` could take any file below ``folder``, so that it is worth looking there."""
    wanted, found = PurePosixPath(pattern).parts, PurePosixPath(folder).parts
    for pattern_part, folder_part in zip(wanted, found, strict=False):
        if "**" in pattern_part:
            return True
        if not names(pattern_part, folder_part):
            return False
    return True


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Translate as moby/patternmatcher does, so that .dockerignore means the same."""
    clean = str(PurePosixPath(pattern))
    start, below = (clean[:-2], ".*") if clean.endswith("**") else (clean, "")
    return re.compile("".join(map(_translated, _TOKEN.findall(start))) + below, re.DOTALL)


def _translated(token: str) -> str:
    if token.startswith("**"):
        return "(?:.*/)?"
    return {"*": "[^/]*", "?": "[^/]"}.get(token) or re.escape(token)
