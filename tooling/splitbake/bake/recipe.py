"""What Packer reads, copied into the folder of its run: what is baked is what was fingerprinted, whoever edits."""

from __future__ import annotations

import hashlib
from pathlib import Path

from splitbake import files, fingerprint
from splitbake.errors import BuildError
from splitbake.generate import Compat
from splitbake.generate import packer as generated
from splitbake.inputs import Inputs
from splitbake.project import Project


def stage(project: Project, wanted: str, compat: Compat, folder: Path) -> Path:
    """Copy ``packer/`` and the scripts of ``ami.provision`` into ``folder``; return the template for Packer.

    Raises:
        BuildError: they are not what the fingerprint ``wanted`` stands for, or there is no room.
    """
    texts: dict[str, bytes] = {
        path: text.encode() for path, text in generated.render(project.manifest, project.lock, compat).items()
    }
    inputs = fingerprint.inputs(project, "ami")
    for path in project.manifest.ami.provision:
        texts[path] = (project.root / path).read_bytes()
    _require(inputs, wanted, {path: texts[path] for path in project.manifest.ami.provision})
    for path, text in texts.items():
        files.replace(folder / path, text, BuildError, mode=0o600)
    template = folder / generated.MAIN
    # versions.pkr.hcl belongs to a current Packer's template, so it takes the folder.
    return template.parent if compat == "latest" else template


def _require(inputs: Inputs, wanted: str, scripts: dict[str, bytes]) -> None:
    digests = {path: hashlib.sha256(text).hexdigest() for path, text in scripts.items()}
    changed = [path for path, digest in digests.items() if inputs.files[f"script/{path}"] != digest]
    if changed or inputs.fingerprint != wanted:
        what = f": {', '.join(changed)}" if changed else ""
        raise BuildError(
            f"the project changed when the bake of the AMI began{what}", hint="build again when it is at rest"
        )
