"""Images in a file: what ``docker save`` and ``podman save`` write, and the image layout of the OCI as an archive.

Both kinds are archives of files that name each other. An older ``docker save`` has ``manifest.json`` only, a newer one
(25 on) is an OCI layout as well. Sources: the image layout of the OCI image specification 1.1 (image-layout.md);
"Combined Image JSON + Filesystem Changeset Format" of Docker's image specification 1.2.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

from splitbake.errors import SourceError
from splitbake.oci import image as images
from splitbake.oci.measure import is_gzip
from splitbake.oci.packed import ABOUT, Beside, Index, Packed, called, is_beside, named

#: Bytes of the largest text that is read whole; a configuration with long histories has some hundred KiB.
_LARGEST_TEXT: Final = 8 * 1024**2
#: An index within an index within … ; real ones have two.
_DEEPEST: Final = 4
#: The index of the archive itself; the others are blobs.
_TOP: Final = "index.json"
#: Names of an image, as annotations.
_NAMES: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_SAVE_AGAIN: Final = "save it again: docker save NAME -o FILE, or as an OCI archive"


class Archive:
    """An open archive."""

    def __init__(self, path: Path, archive: tarfile.TarFile) -> None:
        self._path, self._archive = path, archive
        self._members = {member.name.removeprefix("./"): member for member in archive}

    def images(self) -> list[Packed]:
        """Return the images in it, one for each platform.

        Raises:
            SourceError: there is none, or one that is damaged.
        """
        try:
            found = [*self._of_layout()] if _TOP in self._members else []
            found = found or ([*self._of_docker()] if "manifest.json" in self._members else [])
            _ = [each.platform for each in found]
        except (KeyError, TypeError, ValueError, AttributeError, tarfile.TarError) as problem:
            raise self._error(f"what it says of its images cannot be understood: {problem!r}") from problem
        if not found:
            raise self._error("there is no image in it")
        return found

    def index(self, packed: Sequence[Packed]) -> Index | None:
        """Return the index by which ``packed``, all that the archive has, are one image; None where they are several.

        Raises:
            SourceError: it lists an image that is not in the archive, or something that is none.
        """
        lists = {name for one in packed for name in one.indexes} - {_TOP}
        name = min(lists, default=_TOP)
        one = len(lists) <= 1 and all(name in each.indexes for each in packed)
        if name == _TOP:  # it lists all that is in the archive, be that one image or not
            one = one and len({each.names for each in packed}) == 1
            one = one and len({each.platform for each in packed}) == len(packed)
        if not one:
            return None
        hint = "save all of its platforms, or choose one with --platform"
        if absent := self.absent(packed):
            raise self._error(f"{', '.join(absent)} of its image for several platforms is missing in it", hint)
        said = json.loads(self.text(name))
        known = {images.digest(each.manifest[0]) for each in packed if each.manifest}
        for entry in said["manifests"]:
            if entry["digest"] not in known and not is_beside(entry):
                raise self._error(f"{called(entry)} of its image is of the kind {entry.get('mediaType')}", hint)
        return Index(self.text(name), said.get("mediaType") or images.INDEX, tuple(said["manifests"]))

    def absent(self, packed: Sequence[Packed]) -> list[str]:
        """Return what is listed with ``packed``, and is not in the archive: its platform, or else its digest."""
        entries = [
            entry
            for name in sorted({name for one in packed for name in one.indexes})
            for entry in json.loads(self.text(name))["manifests"]
        ]
        gone = [each for each in entries if not is_beside(each) and _blob(each["digest"]) not in self._members]
        return [*dict.fromkeys(map(called, gone))]

    def beside(self, entry: Mapping[str, Any]) -> Beside | None:
        """Return what :func:`is_beside` an image; None where a part of it was not saved, which is common."""
        name = _blob(entry["digest"])
        if name not in self._members:
            return None
        text = self.text(name)
        try:
            said = json.loads(text)
            blobs = tuple(part["digest"] for part in (said["config"], *said["layers"]))
            there = all(_blob(digest) in self._members for digest in blobs)
            kind, marks = entry.get("mediaType") or said["mediaType"], entry.get("annotations") or {}
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise self._error(f"{name} is no manifest: {problem!r}") from problem
        return Beside((text, kind), blobs, str(marks.get(ABOUT, ""))) if there else None

    def blob(self, digest: str) -> AbstractContextManager[IO[bytes]]:
        """Open what has this digest in an OCI layout."""
        return self.open(_blob(digest))

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Yield a file in it, to be read from where you like.

        Raises:
            SourceError: there is no such file.
        """
        try:
            file = self._archive.extractfile(self._members[name])
        except (KeyError, RecursionError):  # not there, or a link to nowhere, or to itself
            file = None
        if file is None:
            raise self._error(f"{name} is missing in it")
        with file:
            yield file

    def text(self, name: str) -> bytes:
        """Return a small file of it; what is named by its digest is compared with that."""
        with self.open(name) as file:
            text = file.read(_LARGEST_TEXT)
        if len(text) == _LARGEST_TEXT:
            raise self._error(f"{name} is larger than a manifest can be")
        if name.startswith("blobs/sha256/") and hashlib.sha256(text).hexdigest() != name.rpartition("/")[2]:
            raise self._error(f"{name} is damaged: it has another digest")
        return text

    def _of_layout(self) -> Iterator[Packed]:
        found: dict[str, list[_Listed]] = {}
        for each in self._manifests(_TOP, ()):
            found.setdefault(each.entry["digest"], []).append(each)
        for digest, listed in found.items():
            text = self.text(_blob(digest))
            said = json.loads(text)
            config, layers = said["config"]["digest"], [layer["digest"] for layer in said["layers"]]
            kind = listed[0].entry.get("mediaType") or said["mediaType"]
            packed = Packed(
                tuple({name: None for each in listed for name in each.names}),
                self.text(_blob(config)),
                (text, kind),
                tuple(map(_blob, layers)),
                frozenset(each.index for each in listed),
            )
            platforms = {named(of): of for each in listed if named(of := each.entry.get("platform") or {})}
            for platform in platforms.values() or ({},):  # the same may serve as linux/arm/v6 and as linux/arm/v7
                yield replace(packed, listed=platform)

    def _manifests(self, index: str, names: Sequence[str], depth: int = 0) -> Iterator[_Listed]:
        """Yield the manifests of an index that the archive really has, each with the names that lead to it."""
        for entry in json.loads(self.text(index))["manifests"]:
            file = _blob(entry["digest"])
            if is_beside(entry) or file not in self._members:
                continue  # of an image for several platforms often only one is saved
            marks = entry.get("annotations") or {}
            titles = [marks[key] for key in _NAMES if key in marks][:1] or names
            kind = entry.get("mediaType")
            if kind in images.INDEXES and depth < _DEEPEST:
                yield from self._manifests(file, titles, depth + 1)
            elif kind in images.MANIFESTS:
                yield _Listed(index, entry, titles)

    def _of_docker(self) -> Iterator[Packed]:
        for entry in json.loads(self.text("manifest.json")):
            names = tuple(entry.get("RepoTags") or ())
            yield Packed(names, self.text(entry["Config"]), None, tuple(entry["Layers"]))

    def _error(self, what: str, hint: str = _SAVE_AGAIN) -> SourceError:
        return SourceError(f"{self._path}: {what}", hint=hint)


@dataclass(frozen=True)
class _Listed:
    """A manifest in an index: the file of that, what it says, and the names that lead there."""

    index: str
    entry: Mapping[str, Any]
    names: Sequence[str]


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open an archive of images, compressed by gzip or not; a compressed one is unpacked to a temporary file.

    Raises:
        SourceError: it cannot be read, or is none.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as problem:
            raise SourceError(f"cannot read {path}: {problem.strerror}", hint="check its name") from problem
        try:
            plain = _unpacked(file, stack.enter_context(tempfile.TemporaryFile())) if is_gzip(file) else file
            archive = Archive(path, stack.enter_context(tarfile.open(fileobj=plain, mode="r:")))
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as problem:
            raise SourceError(f"{path} is no archive of images: {problem}", hint=_SAVE_AGAIN) from problem
        yield archive


def _unpacked(file: IO[bytes], into: IO[bytes]) -> IO[bytes]:
    with gzip.GzipFile(fileobj=file) as stream:
        shutil.copyfileobj(stream, into, 1024**2)
    into.seek(0)
    return into


def _blob(digest: str) -> str:
    kind, _, value = digest.partition(":")
    if kind != "sha256" or not value.isalnum():
        raise ValueError(f"{digest} is no digest that is known here")
    return f"blobs/{kind}/{value}"
