"""What has changed between two sets of inputs of a half, in words that a reader of the manifest knows."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import PurePosixPath
from typing import Any

from splitbake.errors import printable
from splitbake.inputs import TEXTS, Inputs
from splitbake.units import counted

#: So many files of a kind are told one by one; more are counted by folder.
_FEW = {"file": 1, "model": 3, "script": 3, "wheel": 5}
#: Characters of a value that are shown.
_LONGEST = 60
#: Lines of a Dockerfile or a template that are shown; the rest is counted.
_MOST_LINES = 3


def explain(old: Inputs, new: Inputs) -> list[str]:
    """Say what differs from ``old`` to ``new``; empty where nothing does."""
    words = [_value(name, old.values.get(name), new.values.get(name)) for name in _differing(old.values, new.values)]
    words += _files(old.files, new.files)
    return [printable(text) for text in words]


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


def _value(name: str, old: Any, new: Any) -> str:
    if name.startswith("base "):
        return f"{name} moved from {old} to {new}"
    if name in TEXTS and old is not None and new is not None:
        return f"the {name} changed: {_lines(old, new)}"
    before, after = _shortened(_text(old), _text(new))
    if old is None or new is None:
        return f"{name} is {after} now" if old is None else f"{name} is gone (it was {before})"
    return f"{name} changed from {before} to {after}"


def _lines(old: Sequence[str], new: Sequence[str]) -> str:
    changed = list(_changed_lines(old, new))
    shown, more = "; ".join(changed[:_MOST_LINES]), len(changed) - _MOST_LINES
    return f"{shown}; and {counted(more, 'more line')}" if more > 0 else shown


def _changed_lines(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """Yield what went with ``-`` and what came with ``+``, line by line."""
    for _, start, end, new_start, new_end in difflib.SequenceMatcher(None, old, new).get_opcodes():
        for gone, come in zip_longest(old[start:end], new[new_start:new_end], fillvalue=""):
            if gone != come:
                texts = _shortened(gone.strip(), come.strip())
                yield from (f"{sign} {text}" for sign, text in zip("-+", texts, strict=True) if text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shortened(old: str, new: str) -> tuple[str, str]:
    """Cut what is too long to read so that the place where the two part stays in sight."""
    if max(len(old), len(new)) <= _LONGEST:
        return old, new
    shorter = min(len(old), len(new))
    same = next((index for index in range(shorter) if old[index] != new[index]), shorter)
    start = max(0, same - _LONGEST // 3)
    return _cut(old, start), _cut(new, start)


def _cut(text: str, start: int) -> str:
    end = start + _LONGEST
    return f"{'…' if start else ''}{text[start:end]}{'…' if len(text) > end else ''}"


def _files(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    """Tell of files by kind: what was done to them, one by one or counted by folder."""
    done = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": [name for name, content in new.items() if name in old and old[name] != content],
    }
    for how, names in done.items():
        kinds: dict[str, list[str]] = {}
        for name in sorted(names):
            kind, _, path = name.partition("/")
            kinds.setdefault(kind, []).append(path)
        for kind, paths in kinds.items():
            yield from _of_kind(kind, paths, how)


def _of_kind(kind: str, paths: Sequence[str], how: str) -> Iterator[str]:
    if len(paths) <= _FEW[kind]:
        yield from (f"{kind} {path} {how}" for path in paths)
        return
    for folder, count in Counter(_folder(path) for path in paths).most_common():
        yield f"{counted(count, kind)} {how} in {folder}"


def _folder(path: str) -> str:
    """Return the topmost folder of ``path``, by which many files are counted."""
    parts = PurePosixPath(path).parts
    return f"{parts[0]}/" if len(parts) > 1 else "the top folder"
