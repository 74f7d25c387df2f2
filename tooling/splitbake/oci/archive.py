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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from splitbake.errors import SourceError
from splitbake.oci import image as images
from splitbake.oci.measure import is_gzip

#: Bytes of the largest text that is read whole; a configuration with long histories has some hundred KiB.
_LARGEST_TEXT: Final = 8 * 1024**2
#: An index within an index within … ; real ones have two.
_DEEPEST: Final = 4
#: Marks what buildx adds of how an image was made.
_ATTESTATION: Final = "vnd.docker.reference.type"
#: Names of an image, as annotations.
_NAMES: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_SAVE_AGAIN: Final = "save it again: docker save NAME -o FILE, or as an OCI archive"


@dataclass(frozen=True)
class Packed:
    """An image in an archive.

    Attributes:
        names: what it is called there, for people.
        config: its configuration, byte for byte.
        manifest: its manifest, byte for byte, and the kind of that; None where the archive has none.
        layers: the names of its layers' files in the archive, from the lowest.
    """

    names: tuple[str, ...]
    config: bytes
    manifest: tuple[bytes, str] | None
    layers: tuple[str, ...]

    @property
    def settings(self) -> Mapping[str, Any]:
        """The configuration as data."""
        settings: Mapping[str, Any] = json.loads(self.config)
        return settings

    @property
    def platform(self) -> str:
        """What it is for, as ``linux/amd64`` or ``linux/arm/v7``."""
        of = self.settings
        variant = of.get("variant", "") if of["architecture"] != "arm64" else ""  # every arm64 is v8
        return "/".join(part for part in (of["os"], of["architecture"], variant) if part)

    def __str__(self) -> str:
        return f"{', '.join(self.names) or images.digest(self.config)[:19]} ({self.platform})"


class Archive:
    """An open archive."""

    def __init__(self, path: Path, archive: tarfile.TarFile) -> None:
        self._path, self._archive = path, archive
        self._members = {member.name.removeprefix("./"): member for member in archive}

    def images(self) -> list[Packed]:
        """Return the images in it.

        Raises:
            SourceError: there is none, or one that is damaged.
        """
        try:
            found = [*self._of_layout()] if "index.json" in self._members else []
            found = found or ([*self._of_docker()] if "manifest.json" in self._members else [])
            _ = [each.platform for each in found]
        except (KeyError, TypeError, ValueError, AttributeError, tarfile.TarError) as problem:
            raise self._error(f"what it says of its images cannot be understood: {problem!r}") from problem
        if not found:
            raise self._error("there is no image in it")
        return found

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
        found: dict[str, tuple[dict[str, Any], list[str]]] = {}
        for entry in self._manifests(json.loads(self.text("index.json")), []):
            names = found.setdefault(entry["digest"], (entry, []))[1]
            names += [name for name in entry["names"] if name not in names]
        for entry, names in found.values():
            text = self.text(_blob(entry["digest"]))
            said = json.loads(text)
            config, layers = said["config"]["digest"], [layer["digest"] for layer in said["layers"]]
            kind = entry.get("mediaType") or said["mediaType"]
            yield Packed(tuple(names), self.text(_blob(config)), (text, kind), tuple(map(_blob, layers)))

    def _manifests(self, index: Mapping[str, Any], names: Sequence[str], depth: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the manifests of an index that the archive really has, each with the names that lead to it."""
        for entry in index["manifests"]:
            marks = entry.get("annotations") or {}
            if _ATTESTATION in marks or _blob(entry["digest"]) not in self._members:
                continue  # of an image for several platforms often only one is saved
            called = [marks[key] for key in _NAMES if key in marks][:1] or [*names]
            kind = entry.get("mediaType")
            if kind in images.INDEXES and depth < _DEEPEST:
                yield from self._manifests(json.loads(self.text(_blob(entry["digest"]))), called, depth + 1)
            elif kind in images.MANIFESTS:
                yield {**entry, "names": called}

    def _of_docker(self) -> Iterator[Packed]:
        for entry in json.loads(self.text("manifest.json")):
            names = tuple(entry.get("RepoTags") or ())
            yield Packed(names, self.text(entry["Config"]), None, tuple(entry["Layers"]))

    def _error(self, what: str) -> SourceError:
        return SourceError(f"{self._path}: {what}", hint=_SAVE_AGAIN)


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
