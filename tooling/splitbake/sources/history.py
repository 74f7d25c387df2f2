"""How often each pattern of ``image.include`` changed, as git remembers it: what the order of layers is made from."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from splitbake import patterns
from splitbake.errors import SourceError

#: So many commits are looked at, from the latest: what was long ago says little about tomorrow.
_COMMITS: Final = 1000
#: Begins a commit in what git says; no path does.
_MARK: Final = "\x01"


def order(include: Sequence[str], context: Path, exclude: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the patterns ``include`` from the one whose files seldom change to the one whose files often do.

    A commit counts once for each pattern that it touched; patterns that changed equally often stay as they are.

    Args:
        include: patterns of files below ``context``; of several that take a file the last one has it.
        context: a folder that git knows.
        exclude: patterns of files that never travel: how they change says nothing.

    Raises:
        SourceError: git does not know it, or not all of its history.
    """
    counts = Counter(pattern for paths in _commits(context) for pattern in _touched(include, exclude, paths))
    return tuple(sorted(include, key=lambda pattern: counts[pattern]))


def _touched(include: Sequence[str], exclude: Sequence[str], paths: Iterable[str]) -> set[str]:
    found = sorted(paths)
    unwanted = patterns.last_taking(exclude, found)
    return set(patterns.last_taking(include, [path for path in found if path not in unwanted]).values())


def _commits(context: Path) -> Iterator[list[str]]:
    """Yield the paths below ``context`` that each commit changed."""
    if _git(context, "rev-parse", "--is-shallow-repository").strip() != "false":
        raise SourceError(
            "image.order is auto, but git has only a part of the history here",
            hint="git fetch --unshallow (actions/checkout: fetch-depth: 0), then run splitbake lock again",
        )
    log = ("log", "--no-merges", f"--max-count={_COMMITS}", "--relative", "--name-only", "-z", "--format=format:%x01")
    paths: list[str] = []
    for word in _git(context, *log, "--", ".").split("\0"):
        if word.strip("\n") == _MARK:
            yield paths
            paths = []
        elif path := word.removeprefix(f"{_MARK}\n").removeprefix("\n"):
            if word.startswith(_MARK):
                yield paths
                paths = []
            paths.append(path)
    yield paths


def _git(context: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(context), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise SourceError("image.order is auto, but git is not installed", hint="install git") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise SourceError(
            f"image.order is auto, but git cannot tell how {context} changed: {said}",
            hint="write image.order: declared where there is no history",
        )
    return done.stdout.decode(errors="surrogateescape")
