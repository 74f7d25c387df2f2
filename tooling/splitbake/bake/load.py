"""Bringing an image that arrived as a file into a repository, through no engine."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from splitbake import ecr, units
from splitbake.cloud import Cloud
from splitbake.errors import SourceError, UsageError
from splitbake.oci import image as images
from splitbake.oci import layer as layers
from splitbake.oci.archive import Packed, opened
from splitbake.oci.client import Manifest, Repository
from splitbake.oci.image import Descriptor
from splitbake.oci.measure import is_gzip, measure
from splitbake.project import Project
from splitbake.ui import Say


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What is in the repository now.

    Attributes:
        repository: its URI.
        digest: ``sha256:…`` of the manifest.
        tag: of the image.
        platform: what it is for, as ``linux/amd64``.
        layers: how many it has.
        sent: how many of them were brought there; the others it had.
        sent_bytes: the bytes of those.
        compressed_size: bytes of all layers in the repository.
        size: bytes of all layers uncompressed.
    """

    repository: str
    digest: str
    tag: str
    platform: str
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

    A compressed layer stays as it is, and so do the manifest and its digest where all of them are compressed. The
    budget is for images that splitbake builds; here sizes are only told.

    Args:
        project: whose manifest says how its own repository is made.
        cloud: where to.
        path: of the archive.
        repository: by name; "" is that of the project's image.
        tag: "" is one that no other image has.
        platform: "" is the only one in the archive.
        say: hears of every layer.

    Raises:
        SourceError: it is no such archive, or damaged.
        UsageError: it has several images, and not exactly one of them is meant.
        CloudError: the registry refused something.
    """
    own = project.manifest.image
    with opened(path) as archive:
        packed = _chosen(archive.images(), platform)
        name = repository or own.repository
        uri = ecr.ensure_repository(cloud, name, own.ecr if name == own.repository else None, say)
        target = Repository(uri, ecr.credentials(cloud))
        brought = []
        for number, (file, diff_id) in enumerate(zip(packed.layers, _diff_ids(path, packed), strict=True), start=1):
            with archive.open(file) as content:
                brought.append(_bring(content, diff_id, f"layer {number} of {len(packed.layers)}", target, say))
        config = images.digest(packed.config)
        if not target.has(config):
            target.upload(io.BytesIO(packed.config), config, len(packed.config))
        manifest = _manifest(packed, [one.blob for one in brought])
        tag = tag or f"loaded-{manifest.digest.removeprefix('sha256:')[:12]}"
        digest = target.put_manifest(manifest, tag)
    return Loaded(
        repository=uri,
        digest=digest,
        tag=tag,
        platform=packed.platform,
        layers=len(brought),
        sent=sum(one.sent for one in brought),
        sent_bytes=sum(one.blob.size for one in brought if one.sent),
        compressed_size=sum(one.blob.size for one in brought),
        size=sum(one.size for one in brought),
    )


def _chosen(found: Sequence[Packed], platform: str) -> Packed:
    fitting = [one for one in found if not platform or one.platform == platform]
    if len(fitting) == 1:
        return fitting[0]
    held = "; ".join(map(str, found))
    if not fitting:
        raise UsageError(f"there is no image for {platform} in the archive, but {held}", hint="choose one of these")
    if len({one.platform for one in fitting}) == len(fitting):
        raise UsageError(f"the archive holds an image for several platforms: {held}", hint="choose one with --platform")
    raise UsageError(f"the archive holds several images: {held}", hint="save the one that you want alone")


def _diff_ids(path: Path, packed: Packed) -> Sequence[str]:
    ids = packed.settings.get("rootfs", {}).get("diff_ids", [])
    if len(ids) != len(packed.layers):
        raise SourceError(
            f"{path}: the image has {len(packed.layers)} layers, and its configuration says {len(ids)}",
            hint="save it again",
        )
    return list(ids)


@dataclass(frozen=True)
class _Brought:
    """A layer that the repository has: its name there, its bytes uncompressed, and whether it was brought now."""

    blob: Descriptor
    size: int
    sent: bool


def _bring(content: IO[bytes], diff_id: str, named: str, target: Repository, say: Say) -> _Brought:
    try:
        found = measure(content)
        if found.diff_id != diff_id:
            raise ValueError(f"it is {found.diff_id}, and its image wants {diff_id}")
    except ValueError as problem:
        raise SourceError(f"{named} is damaged: {problem}", hint="save the image again") from problem
    with _compressed(content) as (blob, file):
        size = units.format_size(blob.size)
        if target.has(blob.digest):
            say(f"{named}: {size}, is there already")
            return _Brought(blob, found.size, sent=False)
        say(f"{named}: pushing {size}")
        file.seek(0)
        target.upload(file, blob.digest, blob.size)
    return _Brought(blob, found.size, sent=True)


@contextmanager
def _compressed(content: IO[bytes]) -> Iterator[tuple[Descriptor, IO[bytes]]]:
    """Yield a layer as it goes into the repository: a compressed one as it is, another one compressed on disk."""
    content.seek(0)
    if is_gzip(content):
        yield layers.described(content), content
        return
    with tempfile.TemporaryFile() as file:
        yield layers.compress(content, file).blob, file


def _manifest(packed: Packed, blobs: Sequence[Descriptor]) -> Manifest:
    """Return the archive's own manifest where it names exactly these layers, else one that does."""
    if packed.manifest:
        text, kind = packed.manifest
        if [layer["digest"] for layer in json.loads(text)["layers"]] == [blob.digest for blob in blobs]:
            return Manifest(text, kind)
    return Manifest(images.manifest(blobs, packed.config), images.MANIFEST)
