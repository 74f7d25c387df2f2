"""One digest a half over everything that can change its content.

The first line names the scheme, so that a later scheme never takes an artifact of this one for its own.
Times, paths of the checkout and the order in which a tool lists files do not enter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from splitbake.bake import context
from splitbake.generate import dockerfile, packer
from splitbake.manifest import Builder
from splitbake.project import Project

SCHEME = "splitbake-fingerprint-1"


def ami(project: Project) -> str:
    """Return the fingerprint of the AMI half: base, models, provisioning.

    The HCL enters as rendered for one fixed Packer and the default builder: two machines with different Packers
    agree, and where an AMI is baked is no part of it.
    """
    manifest, lock = project.manifest, project.lock
    anywhere = manifest.model_copy(update={"ami": manifest.ami.model_copy(update={"builder": Builder()})})
    return _digest(
        {
            "half": "ami",
            "inventory": packer.inventory(manifest, lock, fingerprint=""),
            "texts": packer.render(anywhere, lock, "latest"),
            "provision": {path: _sha256(project.root / path) for path in manifest.ami.provision},
        }
    )


def image(project: Project) -> str:
    """Return the fingerprint of the image half: base, Dockerfile, and every file that travels."""
    manifest, lock = project.manifest, project.lock
    return _digest(
        {
            "half": "image",
            "base": lock.base_image.digest,
            "texts": dockerfile.render(manifest, lock),
            "files": {entry.path: [entry.mode, entry.sha256] for entry in context.collect(project)},
        }
    )


def _digest(inputs: Mapping[str, object]) -> str:
    text = json.dumps({"scheme": SCHEME, **inputs}, sort_keys=True, ensure_ascii=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
