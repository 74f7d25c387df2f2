"""What an archive of images holds: images of one platform, what lists several as one, and what comes with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from splitbake.oci import image as images

#: Marks what buildx adds of how an image was made.
_ATTESTATION: Final = "vnd.docker.reference.type"
#: Names the manifest that it speaks of.
ABOUT: Final = "vnd.docker.reference.digest"


@dataclass(frozen=True)
class Packed:
    """An image of one platform in an archive.

    Attributes:
        names: what it is called there, for people.
        config: its configuration, byte for byte.
        manifest: its manifest, byte for byte, and the kind of that; None where the archive has none.
        layers: the names of its layers' files in the archive, from the lowest.
        indexes: the names of the files in the archive that list it.
        listed: for which platform they do; {} where they say none.
    """

    names: tuple[str, ...]
    config: bytes
    manifest: tuple[bytes, str] | None
    layers: tuple[str, ...]
    indexes: frozenset[str] = frozenset()
    listed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The configuration as data."""
        settings: Mapping[str, Any] = json.loads(self.config)
        return settings

    @property
    def target(self) -> Mapping[str, Any]:
        """What it is for, as an index says it: what lists it knows better, and the configuration may know more."""
        of = self.settings
        own = {"os": of["os"], "architecture": of["architecture"]}
        own |= {key: of[key] for key in ("os.version", "os.features", "variant") if of.get(key)}
        listed = self.listed or own
        same = (listed["os"], listed["architecture"]) == (own["os"], own["architecture"])
        return {**own, **listed} if same else listed

    @property
    def platform(self) -> str:
        """What it is for, as ``linux/amd64`` or ``linux/arm/v7``."""
        return named(self.target)

    def __str__(self) -> str:
        return f"{', '.join(self.names) or images.digest(self.config)[:19]} ({self.platform})"


@dataclass(frozen=True)
class Index:
    """What lists the platforms of an image.

    Attributes:
        text: it, byte for byte.
        media_type: what kind of index it is.
        entries: what it lists, as it says it.
    """

    text: bytes
    media_type: str
    entries: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Beside:
    """What an index lists beside its images.

    Attributes:
        manifest: its manifest, byte for byte, and the kind of that.
        blobs: the digests of what it consists of.
        about: the digest of the manifest that it speaks of; empty where it says none.
    """

    manifest: tuple[bytes, str]
    blobs: tuple[str, ...]
    about: str


def is_beside(entry: Mapping[str, Any]) -> bool:
    """Return whether an index lists something that belongs to an image and can never run: how it was made."""
    marks, platform = entry.get("annotations") or {}, entry.get("platform") or {}
    return _ATTESTATION in marks or "unknown" in (platform.get("os"), platform.get("architecture"))


def named(platform: Mapping[str, Any]) -> str:
    """Return a platform in one word; empty where what an index says of it is none."""
    if not (platform.get("os") and platform.get("architecture")):
        return ""
    variant = platform.get("variant", "") if platform["architecture"] != "arm64" else ""  # every arm64 is v8
    return "/".join(part for part in (platform["os"], platform["architecture"], variant) if part)


def called(entry: Mapping[str, Any]) -> str:
    """Return what an index calls an image: its platform, or else its digest."""
    return named(entry.get("platform") or {}) or str(entry["digest"])
