"""Edits put together: what each file becomes, and the difference as a reviewer reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher, unified_diff
from itertools import pairwise
from pathlib import Path

from ..errors import PatchError
from .edit import Edit
from .judge import judge
from .source import Source, Sources


@dataclass(frozen=True, slots=True)
class FileChange:
    """The bytes of a file before and after."""

    path: Path
    before: bytes
    after: bytes

    def name(self, root: Path = Path()) -> str:
        """The path as seen from the folder `root`; as it is where it does not lie below."""
        return (self.path.relative_to(root) if self.path.is_relative_to(root) else self.path).as_posix()

    def diff(self, root: Path = Path(), *, context: int = 3) -> str:
        """The unified diff, as `git apply` and `patch` take it in `root`, with so many unchanged lines around."""
        name = self.name(root).lstrip("/")
        before, after = _lines(self.before), _lines(self.after)
        lines = unified_diff(before, after, f"a/{name}", f"b/{name}", n=context)
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

    @property
    def changed_lines(self) -> int:
        """How many lines become others, come in or go out."""
        matcher = SequenceMatcher(None, _lines(self.before), _lines(self.after))
        return sum(
            max(old_end - old_start, new_end - new_start)
            for tag, old_start, old_end, new_start, new_end in matcher.get_opcodes()
            if tag != "equal"
        )


@dataclass(frozen=True, slots=True)
class Patch:
    """A set of edits, judged and ready to write; files that stay as they are have no change.

    Attributes:
        edits: every edit that was asked for, those that change nothing too.
        changes: the files that become other bytes.
        notes: what the user should know: warnings, and where a judge was missing.
    """

    edits: tuple[Edit, ...]
    changes: tuple[FileChange, ...]
    notes: tuple[str, ...]

    def diff(self, root: Path = Path(), *, context: int = 3) -> str:
        """The unified diff of all files (see `FileChange.diff`); empty where nothing changes."""
        return "".join(change.diff(root, context=context) for change in self.changes)

    @property
    def changed_lines(self) -> int:
        """How many lines of all files become others."""
        return sum(change.changed_lines for change in self.changes)


def plan(sources: Sources, edits: Iterable[Edit]) -> Patch:
    """Put edits together and have every changed file judged; writes nothing.

    Two parsers must agree that the edited literals are all that changes: python-hcl2, or, where it cannot read
    the file as it is, `terraform fmt` (which then runs, on a pipe); the notes say so.

    Raises:
        PatchError: two edits overlap, or a judge finds that more than the edited literals would change.
    """
    edits = tuple(dict.fromkeys(edits))
    changes, notes = [], [note for edit in edits for note in edit.notes]
    for path in dict.fromkeys(edit.path for edit in edits if edit.changes):
        source = sources[path]
        own = sorted((edit for edit in edits if edit.path == path and edit.changes), key=lambda edit: edit.start)
        after = _splice(source, own)
        notes += judge(source, after, own)
        changes.append(FileChange(path, source.raw, after.raw))
    return Patch(edits, tuple(changes), tuple(dict.fromkeys(notes)))


def _splice(source: Source, edits: list[Edit]) -> Source:
    """The file with the edits done, read anew."""
    for first, second in pairwise(edits):
        if second.start < first.end:
            where = source.where(second.start)
            raise PatchError(f"{where}: would be set to {first.new!r} and to {second.new!r}")
    pieces, position = [], 0
    for edit in edits:
        pieces += [source.text[position : edit.start], edit.text]
        position = edit.end
    return Source.parse(source.path, source.encode("".join([*pieces, source.text[position:]])))


def _lines(raw: bytes) -> list[str]:
    r"""Lines as diff tools see them: ended by `\n` alone (`str.splitlines` also cuts at U+2028 and others)."""
    lines = raw.decode().split("\n")
    return [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
