"""Packing files into a layer: the same files give the same bytes, wherever and whenever they are packed."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, Final, Protocol, cast

from splitbake.oci.image import LAYER, Descriptor, Layer

#: Seconds since 1970 of every file and folder in a layer (the earliest that a zip file can hold as well).
TIME: Final = 315532800
#: Stands for how a layer is written: change it with anything that would change the bytes of equal files.
SCHEME: Final = "splitbake-layer-1"

_LEVEL: Final = 6
_GZIP: Final = 16 + zlib.MAX_WBITS
_FOLDER_MODE: Final = 0o755
_CHUNK: Final = 1024**2


class Content(Protocol):
    """What a file holds, as it is read."""

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes more."""

    def close(self) -> None:
        """Let it go."""


@dataclass(frozen=True)
class File:
    """A file in a layer.

    Attributes:
        path: in the image, without a ``/`` at its start.
        mode: its permissions.
        size: bytes.
        open: opens its content.
    """

    path: str
    mode: int
    size: int
    open: Callable[[], Content]


def pack(files: Iterable[File], folders: Iterable[str], into: IO[bytes], **annotations: str) -> Layer:
    """Write a layer of ``files`` to ``into``, compressed, and return what names it.

    Everything in it belongs to root. Neither a file nor the layer is held in memory.

    Args:
        files: sorted by path, with only folders among ``folders``, or of the image below, above them.
        folders: those that the layer makes, without a ``/`` at start and end.
        into: gets the compressed layer.
        annotations: of the layer's descriptor.

    Raises:
        OSError: a file cannot be read, or the layer cannot be written.
    """
    compressed = _Hashed(into.write)
    with _gzip(compressed.write) as deflate:
        plain = _Hashed(deflate)
        # PAX keeps names of any length and script; a stream never seeks.
        with tarfile.open(fileobj=cast("IO[bytes]", plain), mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for folder in sorted(folders):
                archive.addfile(_member(folder, tarfile.DIRTYPE, _FOLDER_MODE))
            for file in files:
                with closing(file.open()) as content:
                    member = _member(file.path, tarfile.REGTYPE, file.mode, file.size)
                    archive.addfile(member, cast("IO[bytes]", content))
    return Layer(Descriptor(LAYER, compressed.digest, compressed.size, annotations), plain.digest)


def compress(content: IO[bytes], into: IO[bytes]) -> Layer:
    """Write a layer that somebody else has packed to ``into``, compressed, and return what names it."""
    compressed = _Hashed(into.write)
    with _gzip(compressed.write) as deflate:
        plain = _Hashed(deflate)
        while chunk := content.read(_CHUNK):
            plain.write(chunk)
    return Layer(Descriptor(LAYER, compressed.digest, compressed.size), plain.digest)


def described(content: IO[bytes]) -> Descriptor:
    """Return what names a compressed layer, which is read from where it is to its end."""
    seen = _Hashed(len)
    while chunk := content.read(_CHUNK):
        seen.write(chunk)
    return Descriptor(LAYER, seen.digest, seen.size)


def parents(paths: Iterable[str], below: str) -> set[str]:
    """Return the folders between ``below`` and each of ``paths``: those that a layer of these files must make."""
    top = PurePosixPath(below)
    folders = {PurePosixPath(path).parent for path in paths}
    return {str(each) for folder in folders for each in (folder, *folder.parents) if top in each.parents}


def _member(path: str, kind: bytes, mode: int, size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.size, member.mtime = kind, mode, size, TIME
    return member


@contextmanager
def _gzip(write: Callable[[bytes], Any]) -> Iterator[Callable[[bytes], None]]:
    """Yield what compresses to ``write``; unlike gzip's own header this one has no time and no name."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    yield lambda chunk: write(stream.compress(chunk))
    write(stream.flush())


class _Hashed:
    """Counts and hashes what is written through it."""

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._write, self._hash, self.size = write, hashlib.sha256(), 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, chunk: bytes) -> int:
        self._hash.update(chunk)
        self.size += len(chunk)
        self._write(chunk)
        return len(chunk)
