"""Bringing an image that arrived as a file into a repository, through no engine."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from splitbake import ecr, units
from splitbake.cloud import Cloud
from splitbake.errors import SourceError, UsageError
from splitbake.oci import image as images
from splitbake.oci import layer as layers
from splitbake.oci.archive import Archive, opened
from splitbake.oci.client import Manifest, Repository
from splitbake.oci.image import Descriptor
from splitbake.oci.measure import is_gzip, measure
from splitbake.oci.packed import Index, Packed
from splitbake.project import Project
from splitbake.ui import Say


@dataclass(frozen=True, kw_only=True)
class LoadedPlatform:
    """An image of one platform that is in the repository now.

    Attributes:
        platform: what it is for, as ``linux/amd64``.
        digest: ``sha256:…`` of its manifest.
        compressed_size: bytes of its layers in the repository.
        size: bytes of its layers uncompressed.
    """

    platform: str
    digest: str
    compressed_size: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What is in the repository now.

    Attributes:
        repository: its URI.
        digest: ``sha256:…`` of the manifest, or of the index of an image for several platforms.
        tag: of the image.
        platforms: what it is for.
        layers: how many it has; one that several platforms share counts once, here and in the sizes.
        sent: how many of them were brought there; the others it had.
        sent_bytes: the bytes of those.
        compressed_size: bytes of all layers in the repository.
        size: bytes of all layers uncompressed.
    """

    repository: str
    digest: str
    tag: str
    platforms: tuple[LoadedPlatform, ...]
    layers: int
    sent: int
    sent_bytes: int
    compressed_size: int
    size: int

    @property
    def uri(self) -> str:
        """By which it is pulled."""
        return f"{self.repository}@{self.digest}"


def load(project: Project, cloud: Cloud, path: Path, *, repository: str, tag: str, platform: str, say: Say) -> Loaded:
    """Bring the image in the archive ``path`` to ``repository``, which is made where it does not exist.

    A compressed layer stays as it is, and so do the manifest and its digest where all of them are compressed. An image
    for several platforms comes as a whole, and its index stays as it is where all of the manifests do. It gets its tag
    last: whatever fails, the tag never names a part. The budget is for images that splitbake builds; here sizes are
    only told.

    Args:
        project: whose manifest says how its own repository is made.
        cloud: where to.
        path: of the archive.
        repository: by name; "" is that of the project's image.
        tag: "" is one that no other image has.
        platform: the one to be brought alone; "" is all that the archive has.
        say: hears of every layer.

    Raises:
        SourceError: it is no such archive, or damaged, or lacks a platform.
        UsageError: it has several images, and not exactly one of them is meant.
        CloudError: the registry refused something.
    """
    own = project.manifest.image
    with opened(path) as archive:
        packed, index = _chosen(archive, platform, say)
        name = repository or own.repository
        uri = ecr.ensure_repository(cloud, name, own.ecr if name == own.repository else None, say)
        target = Repository(uri, ecr.credentials(cloud))
        bringing = _Bringing(path, archive, target, say)
        brought = [bringing.image(one, f"{one.platform}, " if index else "") for one in packed]
        manifest = bringing.index(index, brought) if index else brought[0].manifest
        tag = tag or f"loaded-{manifest.digest.removeprefix('sha256:')[:12]}"
        digest = target.put_manifest(manifest, tag)
    every = bringing.layers.values()
    return Loaded(
        repository=uri,
        digest=digest,
        tag=tag,
        platforms=tuple(one.loaded() for one in brought),
        layers=len(every),
        sent=sum(one.sent for one in every),
        sent_bytes=sum(one.blob.size for one in every if one.sent),
        compressed_size=sum(one.blob.size for one in every),
        size=sum(one.size for one in every),
    )


def _chosen(archive: Archive, platform: str, say: Say) -> tuple[Sequence[Packed], Index | None]:
    """Return one image, or all that an index lists and that index."""
    found = archive.images()
    fitting = [one for one in found if not platform or one.platform == platform]
    if len(fitting) == 1:
        if not platform and (absent := archive.absent(fitting)):
            say(f"the file names {', '.join(absent)} too, and does not have it")
        return fitting, None
    held = "; ".join(map(str, found))
    if not fitting:
        raise UsageError(f"there is no image for {platform} in the archive, but {held}", hint="choose one of these")
    if not platform and (index := archive.index(found)):
        return found, index
    several = len({one.platform for one in fitting}) == len(fitting)
    hint = "choose one with --platform" if several else "save the one that you want alone"
    raise UsageError(f"the archive holds several images: {held}", hint=hint)


@dataclass(frozen=True)
class _Layer:
    """A layer that the repository has: its name there, its bytes uncompressed, and whether it was brought now."""

    blob: Descriptor
    size: int
    sent: bool


@dataclass(frozen=True)
class _Image:
    """An image whose layers and configuration the repository has, and the manifest that names them."""

    packed: Packed
    layers: Sequence[_Layer]

    @property
    def manifest(self) -> Manifest:
        """The archive's own where it names exactly these layers, else one that does."""
        blobs = [layer.blob for layer in self.layers]
        if self.packed.manifest:
            text, kind = self.packed.manifest
            if [layer["digest"] for layer in json.loads(text)["layers"]] == [blob.digest for blob in blobs]:
                return Manifest(text, kind)
        return Manifest(images.manifest(blobs, self.packed.config), images.MANIFEST)

    def listed(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return how an index lists it whose ``entry`` was for the archive's own manifest."""
        manifest, platform = self.manifest, {"platform": entry.get("platform") or self.packed.target}
        if manifest.digest == entry["digest"]:
            return {**entry, **platform}
        marks = entry.get("annotations") or {}
        return {**Descriptor(manifest.media_type, manifest.digest, len(manifest.text), marks).as_data(), **platform}

    def loaded(self) -> LoadedPlatform:
        return LoadedPlatform(
            platform=self.packed.platform,
            digest=self.manifest.digest,
            compressed_size=sum(layer.blob.size for layer in self.layers),
            size=sum(layer.size for layer in self.layers),
        )


class _Bringing:
    """Brings what an archive has to a repository; a layer that several images share is measured and sent once."""

    def __init__(self, path: Path, archive: Archive, target: Repository, say: Say) -> None:
        self._path, self._archive, self._target, self._say = path, archive, target, say
        self.layers: dict[tuple[str, str], _Layer] = {}

    def image(self, packed: Packed, whose: str) -> _Image:
        """Bring layers and configuration of an image; ``whose`` begins the line that tells of a layer."""
        found = []
        for number, of in enumerate(zip(packed.layers, self._diff_ids(packed), strict=True), start=1):
            if of not in self.layers:
                self.layers[of] = self._layer(*of, f"{whose}layer {number} of {len(packed.layers)}")
            found.append(self.layers[of])
        config = images.digest(packed.config)
        if not self._target.has(config):
            self._target.upload(io.BytesIO(packed.config), config, len(packed.config))
        return _Image(packed, found)

    def index(self, index: Index, brought: Sequence[_Image]) -> Manifest:
        """Bring the manifests of an index, and return one that lists them: the archive's own where none has changed."""
        made = {images.digest(one.packed.manifest[0]): one for one in brought if one.packed.manifest}
        for one in brought:
            self._target.put_manifest(one.manifest, one.manifest.digest)
        entries = [
            made[entry["digest"]].listed(entry) if entry["digest"] in made else entry
            for entry in index.entries
            if entry["digest"] in made or self._beside(entry, made)
        ]
        if entries == [*index.entries]:
            return Manifest(index.text, index.media_type)
        return Manifest(images.index(json.loads(index.text), entries), images.INDEX)

    def _beside(self, entry: Mapping[str, Any], made: Mapping[str, _Image]) -> bool:
        """Bring what an index lists beside its images, as it is, and return whether it can be listed."""
        found, who = self._archive.beside(entry), f"attestation {entry['digest'][:19]}…"
        if found is None:
            self._say(f"{who} is left out: the file does not have all of it")
            return False
        if found.about in made and made[found.about].manifest.digest != found.about:
            self._say(f"{who} is left out: it speaks of a manifest whose layers were not compressed")
            return False
        for digest in found.blobs:
            with self._archive.blob(digest) as content:
                blob = layers.described(content)
                if blob.digest != digest:
                    raise SourceError(f"{self._path}: {digest} is damaged", hint="save the image again")
                if not self._target.has(digest):
                    content.seek(0)
                    self._target.upload(content, digest, blob.size)
        self._target.put_manifest(Manifest(*found.manifest), entry["digest"])
        return True

    def _diff_ids(self, packed: Packed) -> Sequence[str]:
        ids = packed.settings.get("rootfs", {}).get("diff_ids", [])
        if len(ids) != len(packed.layers):
            raise SourceError(
                f"{self._path}: the image has {len(packed.layers)} layers, and its configuration says {len(ids)}",
                hint="save it again",
            )
        return list(ids)

    def _layer(self, file: str, diff_id: str, named: str) -> _Layer:
        with self._archive.open(file) as packed:
            try:
                found = measure(packed)
                if found.diff_id != diff_id:
                    raise ValueError(f"it is {found.diff_id}, and its image wants {diff_id}")
            except ValueError as problem:
                raise SourceError(f"{named} is damaged: {problem}", hint="save the image again") from problem
            with _compressed(packed) as (blob, content):
                size = units.format_size(blob.size)
                if self._target.has(blob.digest):
                    self._say(f"{named}: {size}, is there already")
                    return _Layer(blob, found.size, sent=False)
                self._say(f"{named}: pushing {size}")
                content.seek(0)
                self._target.upload(content, blob.digest, blob.size)
        return _Layer(blob, found.size, sent=True)


@contextmanager
def _compressed(content: IO[bytes]) -> Iterator[tuple[Descriptor, IO[bytes]]]:
    """Yield a layer as it goes into the repository: a compressed one as it is, another one compressed on disk."""
    content.seek(0)
    if is_gzip(content):
        yield layers.described(content), content
        return
    with tempfile.TemporaryFile() as file:
        yield layers.compress(content, file).blob, file
