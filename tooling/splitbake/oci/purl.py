"""Package URLs of images (github.com/package-url/purl-spec, type ``oci``)."""

from __future__ import annotations

from urllib.parse import quote


def of(repository: str, digest: str) -> str:
    """Return how bills of materials and records name the image ``repository@digest``."""
    name = repository.rpartition("/")[2].lower()
    return f"pkg:oci/{quote(name, safe='')}@{quote(digest, safe='')}?repository_url={quote(repository, safe='/')}"
