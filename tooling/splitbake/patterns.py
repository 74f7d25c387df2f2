"""Glob patterns for the files of the image, with the rules of ``.dockerignore``.

``*`` and ``?`` do not cross a ``/``; ``**`` does; all else is literal, brackets too. A pattern that names a folder
takes everything below it; with a ``/`` at its end it names nothing but a folder.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import PurePosixPath

_WILDCARD = re.compile(r"[*?]")
_TOKEN = re.compile(r"\*\*/?|\*|\?|[^*?]+")


def is_glob(text: str) -> bool:
    """Return whether ``text`` has a wildcard."""
    return _WILDCARD.search(text) is not None


def names(pattern: str, path: str) -> bool:
    """Return whether ``pattern`` names ``path`` itself, not only a folder above it."""
    return _naming(pattern.rstrip("/")).fullmatch(path) is not None


def takes(pattern: str, path: str) -> bool:
    """Return whether ``pattern`` takes the file ``path``: names it, or a folder that it lies in."""
    return _taking(pattern).fullmatch(path) is not None


def taken(pattern: str, paths: Sequence[str]) -> Iterator[str]:
    """Yield those of the files ``paths`` (sorted) that ``pattern`` takes; looks only where it can take any."""
    start = _WILDCARD.split(_clean(pattern))[0]
    near = takewhile(lambda path: path.startswith(start), paths[bisect_left(paths, start) :])
    return filter(_taking(pattern).fullmatch, near)


def last_taking(patterns: Iterable[str], paths: Sequence[str]) -> dict[str, str]:
    """Return the last of ``patterns`` that takes each of the files ``paths`` (sorted); not of one that none takes."""
    return {path: pattern for pattern in patterns for path in taken(pattern, paths)}


def naming(patterns: Iterable[str]) -> Callable[[str], object]:
    """Return what is true for the paths that any of ``patterns`` names: for asking about very many paths."""
    wanted = [_clean(pattern) for pattern in patterns]
    last = [_TOKEN.findall(pattern)[-1] for pattern in wanted]
    ends = tuple("" if is_glob(token) else token for token in last)  # a look at the end settles most paths
    fullmatch = re.compile("|".join(map(_expression, wanted)), re.DOTALL).fullmatch
    return lambda path: path.endswith(ends) and fullmatch(path)


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
def _naming(pattern: str) -> re.Pattern[str]:
    return re.compile(_expression(pattern), re.DOTALL)


@functools.cache
def _taking(pattern: str) -> re.Pattern[str]:
    return re.compile(_expression(pattern) + ("/.*" if pattern.endswith("/") else "(?:/.*)?"), re.DOTALL)


def _expression(pattern: str) -> str:
    """Translate as moby/patternmatcher does, so that .dockerignore means the same."""
    clean = _clean(pattern)
    start, below = (clean[:-2], ".*") if clean.endswith("**") else (clean, "")
    return f"(?:{''.join(map(_translated, _TOKEN.findall(start)))}{below})"


def _clean(pattern: str) -> str:
    return str(PurePosixPath(pattern))


def _translated(token: str) -> str:
    if token.startswith("**"):
        return "(?:.*/)?"
    return {"*": "[^/]*", "?": "[^/]"}.get(token) or re.escape(token)
