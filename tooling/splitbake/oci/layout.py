"""An image in a folder, as tools read it that know neither registry nor engine (OCI image layout 1.0)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO

from splitbake.oci import image as images
from splitbake.oci.image import Descriptor, Image


def write(folder: Path, image: Image, fetch: Callable[[Descriptor, IO[bytes]], None]) -> None:
    """Write ``image`` into ``folder``; ``fetch`` brings a layer.

    Raises:
        OSError: the disk is full, or the folder read-only.
    """
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    config, manifest = image.texts()
    for text in (config, manifest):
        (blobs / _name(images.digest(text))).write_bytes(text)
    for blob in {layer.blob.digest: layer.blob for layer in image.layers}.values():
        with (blobs / _name(blob.digest)).open("wb") as file:
            fetch(blob, file)
    named = Descriptor(images.MANIFEST, images.digest(manifest), len(manifest)).as_data()
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}), encoding="ascii")
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}), encoding="ascii")


def _name(digest: str) -> str:
    return digest.removeprefix("sha256:")
