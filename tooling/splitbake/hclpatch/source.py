"""HCL files as they are on disk, and what stands in them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import PatchError
from .structure import Body, parse
from .tokens import ScanError, Token, tokenize

_BOM = "\ufeff"
_SUFFIXES = (".tf", ".tofu")


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One file: its bytes, its text without a byte-order mark, and its structure. Offsets count code points."""

    path: Path
    raw: bytes
    text: str
    tokens: list[Token]
    body: Body

    @classmethod
    def parse(cls, path: Path, raw: bytes) -> Source:
        """Read the bytes of a file.

        Raises:
            PatchError: the bytes are not UTF-8, or the text is not HCL; the message has file:line:column.
        """
        if path.suffix == ".json":
            raise PatchError(f"{path}: only HCL's native syntax can be patched, and this is JSON")
        try:
            text = raw.decode().removeprefix(_BOM)
        except UnicodeDecodeError as error:
            good = raw[: error.start].decode()
            raise PatchError(
                f"{path}:{_position(good, len(good))}: byte 0x{raw[error.start]:02x} is not UTF-8",
                hint="Terraform reads UTF-8 only; save the file in that encoding.",
            ) from error
        try:
            tokens = tokenize(text)
            return cls(path, raw, text, tokens, parse(tokens))
        except ScanError as error:
            raise PatchError(
                f"{path}:{_position(text, error.offset)}: {error.message}",
                hint="`terraform fmt` on the file tells more.",
            ) from error

    def encode(self, text: str) -> bytes:
        """A text as the bytes of this file: with the byte-order mark that it has."""
        mark = _BOM if self.raw.startswith(_BOM.encode()) else ""
        return (mark + text).encode()

    def line(self, offset: int) -> int:
        """The line of an offset, from 1."""
        return self.text.count("\n", 0, offset) + 1

    def where(self, offset: int) -> str:
        """`path:line` of an offset."""
        return f"{self.path}:{self.line(offset)}"


@dataclass(frozen=True, slots=True)
class Sources:
    """The files that are searched and patched together, each by the path it was given under."""

    by_path: Mapping[Path, Source]

    @classmethod
    def parse(cls, files: Mapping[Path, bytes]) -> Sources:
        """Read the bytes of several files.

        Raises:
            PatchError: one of them is not UTF-8 or not HCL.
        """
        return cls({path: Source.parse(path, raw) for path, raw in files.items()})

    def beside(self, source: Source) -> Sources:
        """The files in the folder of `source`: those of its Terraform module, where its references lead."""
        return Sources({path: s for path, s in self.by_path.items() if path.parent == source.path.parent})

    def __iter__(self) -> Iterator[Source]:
        return iter(self.by_path.values())

    def __getitem__(self, path: Path) -> Source:
        return self.by_path[path]

    def __str__(self) -> str:
        return ", ".join(map(str, self.by_path))


def load(paths: Iterable[Path]) -> Sources:
    """Read files and folders; a folder stands for the `*.tf` and `*.tofu` in it, as for Terraform.

    A file that is reached by two paths (through a symbolic link) is read once.

    Raises:
        PatchError: a path does not exist or cannot be read, a folder has no such file, or a file is not HCL.
    """
    files: dict[Path, bytes] = {}
    seen: set[str] = set()
    try:
        for path in (file for given in paths for file in _expand(given)):
            real = os.path.realpath(path, strict=True)
            if real not in seen:
                files[path] = path.read_bytes()
            seen.add(real)
    except OSError as error:
        raise PatchError(
            f"{error.filename}: cannot be read: {error.strerror}", hint="Check the path and its permissions."
        ) from error
    return Sources.parse(files)


def _expand(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if not files:
        raise PatchError(f"{path}: no {' or '.join('*' + suffix for suffix in _SUFFIXES)} file in this folder")
    return files


def _position(text: str, offset: int) -> str:
    return f"{text.count(chr(10), 0, offset) + 1}:{offset - text.rfind(chr(10), 0, offset)}"
