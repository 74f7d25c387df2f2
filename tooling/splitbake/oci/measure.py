"""What is in a layer that somebody else has packed: its size as an engine counts it, and the digest it is known by."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO, Final, cast

#: How a file of that kind begins -> what the kind is called.
_MAGIC: Final = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2"}
_GZIP: Final = b"\x1f\x8b"
_CHUNK: Final = 1024**2


@dataclass(frozen=True)
class Measured:
    """A layer that was read from its start to its end.

    Attributes:
        diff_id: ``sha256:…`` of it uncompressed.
        size: bytes of the files in it, which is what engines and budgets count.
    """

    diff_id: str
    size: int


def is_gzip(content: IO[bytes]) -> bool:
    """Return whether ``content``, which is at its start, is compressed by gzip; it stays at its start.

    Raises:
        ValueError: it is compressed by something that cannot be read here.
    """
    head = content.read(8)
    content.seek(0)
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            raise ValueError(f"it is compressed by {name}; save it with gzip, or uncompressed")
    return head.startswith(_GZIP)


#: Hears of each file in a layer: its path, its size, and what reads it (only while it hears of this one).
See = Callable[[str, int, Callable[[], bytes]], None]


def measure(content: IO[bytes], see: See = lambda _path, _size, _read: None) -> Measured:
    """Read a layer, compressed by gzip or not, from its start; no more than a part of it is ever in memory.

    Raises:
        ValueError: it is no layer.
    """
    content.seek(0)
    plain = _Hashed(cast("IO[bytes]", gzip.GzipFile(fileobj=content)) if is_gzip(content) else content)
    size = 0
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", plain), mode="r|") as archive:
            for member in archive:
                size += len(member.linkname.encode()) if member.issym() else 0  # as a file system has it
                if member.isreg():
                    size += member.size
                    see(member.name.removeprefix("./"), member.size, partial(_read, archive, member))
                archive.members = []  # type: ignore[attr-defined] # else it remembers each one
        while plain.read(_CHUNK):
            pass
    except (tarfile.TarError, OSError, EOFError, zlib.error) as problem:
        raise ValueError(f"it is no layer: {problem}") from problem
    return Measured(plain.digest, size)


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


class _Hashed:
    def __init__(self, content: IO[bytes]) -> None:
        self._content, self._hash = content, hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._content.read(size)
        self._hash.update(chunk)
        return chunk
