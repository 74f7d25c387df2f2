"""An image as data: its layers, its configuration, and how more layers go on top of it.

Source: the OCI image specification 1.1 (manifest.md, config.md). What a registry has in Docker's own format (schema 2)
is read as well: both differ in the names of their media types alone, so layers of one can stand in the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
#: What an image of one platform can be called by.
MANIFESTS: Final = (MANIFEST, DOCKER_MANIFEST)

INDEX: Final = "application/vnd.oci.image.index.v1+json"
#: Lists of images, one for each platform.
INDEXES: Final = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")

#: Docker's name of a layer -> OCI's; the bytes are the same.
_LAYERS: Final = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
}


@dataclass(frozen=True)
class Descriptor:
    """What names a blob.

    Attributes:
        media_type: what kind of thing it is.
        digest: ``sha256:…`` of its bytes.
        size: bytes.
        annotations: names and values that say more of it.
    """

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        """Return it as a manifest writes it."""
        data = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return {**data, "annotations": dict(self.annotations)} if self.annotations else data

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Descriptor:
        """Read what a manifest says; KeyError where it is none."""
        return cls(data["mediaType"], data["digest"], data["size"], data.get("annotations") or {})


@dataclass(frozen=True)
class Layer:
    """A layer in an image.

    Attributes:
        blob: it as a registry keeps it, compressed.
        diff_id: ``sha256:…`` of it uncompressed, by which engines know it.
    """

    blob: Descriptor
    diff_id: str


@dataclass(frozen=True)
class Image:
    """An image of one platform.

    Attributes:
        layers: from the lowest.
        config: the whole configuration; its ``config`` is what a container starts with.
    """

    layers: tuple[Layer, ...]
    config: Mapping[str, Any]

    @property
    def platform(self) -> str:
        """What it is for, as ``linux/amd64``."""
        return f"{self.config['os']}/{self.config['architecture']}"

    @property
    def compressed_size(self) -> int:
        """The bytes of its layers in a registry."""
        return sum(layer.blob.size for layer in self.layers)

    @property
    def digest(self) -> str:
        """Of its manifest, by which a registry names it."""
        return digest(self.texts()[1])

    def with_layers(self, layers: Sequence[Layer], made_by: Sequence[str], *, created: str) -> Image:
        """Return it with ``layers`` on top.

        Args:
            layers: from the lowest.
            made_by: a line for each, which ``docker history`` shows.
            created: ISO 8601; of the layers and of the image.
        """
        history = [*self.config.get("history", [])]
        history += [{"created": created, "created_by": line} for line in made_by]
        ids = [*self.config["rootfs"]["diff_ids"], *(layer.diff_id for layer in layers)]
        config = {**self.config, "created": created, "history": history, "rootfs": {"type": "layers", "diff_ids": ids}}
        return Image((*self.layers, *layers), config)

    def started(self, **settings: Any) -> Image:
        """Return it with other settings of ``config.config``: ``User``, ``Cmd``, ``Labels`` (these are added to)."""
        old = self.config.get("config") or {}
        labels = {**(old.get("Labels") or {}), **settings.pop("Labels", {})}
        return Image(self.layers, {**self.config, "config": {**old, **settings, "Labels": labels}})

    def texts(self) -> tuple[bytes, bytes]:
        """Return configuration and manifest, the same bytes for the same image."""
        config = _json(self.config)
        return config, manifest([layer.blob for layer in self.layers], config)


def manifest(layers: Sequence[Descriptor], config: bytes) -> bytes:
    """Return the manifest of these layers, from the lowest, and this configuration."""
    named = Descriptor(CONFIG, digest(config), len(config))
    blobs = [_oci(layer).as_data() for layer in layers]
    return _json({"schemaVersion": 2, "mediaType": MANIFEST, "config": named.as_data(), "layers": blobs})


def index(said: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> bytes:
    """Return an index of ``entries`` that keeps whatever else an index ``said``."""
    return _json({**said, "schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)})


def read(text: bytes, config: bytes) -> Image:
    """Return the image of the manifest ``text`` and its configuration.

    Raises:
        ValueError: they are none, or do not belong together.
    """
    try:
        found, settings = json.loads(text), json.loads(config)
        blobs, ids = [Descriptor.of(layer) for layer in found["layers"]], settings["rootfs"]["diff_ids"]
        return Image(tuple(Layer(blob, each) for blob, each in zip(blobs, ids, strict=True)), settings)
    except (KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"neither OCI nor Docker would write that: {problem}") from problem


def digest(content: bytes) -> str:
    """Return ``sha256:…``."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _oci(blob: Descriptor) -> Descriptor:
    return Descriptor(_LAYERS.get(blob.media_type, blob.media_type), blob.digest, blob.size, blob.annotations)


def _json(data: object) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
