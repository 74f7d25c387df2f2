"""The labels of the image: the standard ones (OCI image specification, annotations.md), and what splitbake reads."""

from __future__ import annotations

import json
from typing import Final

from splitbake import contract
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.sources import base_image

#: The fingerprint of everything that the image was made from.
FINGERPRINT: Final = "splitbake.fingerprint"
#: The contract that it was made for, and the JSON list of the models that it needs.
CONTRACT: Final = "splitbake.contract"
NEEDS: Final = "splitbake.needs"


def of(manifest: Manifest, lock: Lock, *, fingerprint: str, revision: str, source: str) -> dict[str, str]:
    """Return the labels, name -> value; those without a value are left out."""
    values = {
        **fixed(manifest, lock),
        "org.opencontainers.image.revision": revision,
        "org.opencontainers.image.source": source,
        FINGERPRINT: fingerprint,
    }
    return {label: value for label, value in values.items() if value}


def fixed(manifest: Manifest, lock: Lock) -> dict[str, str]:
    """Return the labels that manifest and lock decide."""
    base = base_image.parse(manifest.image.base)
    return {
        "org.opencontainers.image.title": manifest.project,
        "org.opencontainers.image.base.name": (
            f"{base.host}/{base.repository}:{base.tag}" if base.host else manifest.image.base
        ),
        "org.opencontainers.image.base.digest": lock.base_image.digest,
        **contracted(manifest),
    }


def contracted(manifest: Manifest) -> dict[str, str]:
    """Return the labels that say what the image needs."""
    needs = json.dumps(contract.needed_paths(manifest.image), ensure_ascii=False)
    return {CONTRACT: str(manifest.contract), NEEDS: needs}
