"""The inputs of each half as the project has them now; see docs/fingerprints.md."""

from __future__ import annotations

import hashlib

from splitbake import context, layering
from splitbake.artifact import Half
from splitbake.errors import BuildError
from splitbake.generate import dockerfile, labels, packer
from splitbake.inputs import Inputs
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.project import Project


def inputs(project: Project, half: Half) -> Inputs:
    """Return the inputs of ``half``.

    Raises:
        BuildError: a script or a file that travels cannot be read, or may not travel.
        LockError: the lock does not belong to the manifest.
    """
    return _ami(project) if half == "ami" else _image(project)


def _ami(project: Project) -> Inputs:
    """Base, models, provisioning. Where and with which Packer it is baked is no part of it."""
    manifest, lock = project.manifest, project.lock
    scripts = {path: _sha256(text.encode()) for path, text in packer.scripts(manifest, lock).items()}
    scripts |= {path: _provisions(project, path) for path in manifest.ami.provision}
    return Inputs(
        "ami",
        values={
            "project": manifest.project,
            "contract": manifest.contract,
            "base AMI": lock.base_ami.id,
            "models.root": manifest.models.root,
            "models.mode": manifest.models.mode,
            **_runtime(manifest, lock),
            **({"ami.preload": list(manifest.ami.preload)} if manifest.ami.preload else {}),
            "Packer template": meaning(packer.recipe(manifest, lock)),
        },
        files={
            **{f"model/{file.path}": file.sha256 for file in lock.files},
            **{f"wheel/{wheel.file}": wheel.sha256 for wheel in (lock.runtime.wheels if lock.runtime else ())},
            **{f"script/{path}": digest for path, digest in scripts.items()},
        },
    )


def _runtime(manifest: Manifest, lock: Lock) -> dict[str, str]:
    """Return what there is to say of the runtime beside its wheels; nothing where there is none."""
    if manifest.runtime is None or lock.runtime is None:
        return {}
    return {"runtime.root": manifest.runtime.root, "runtime ABI": lock.runtime.abi}


def _provisions(project: Project, path: str) -> str:
    try:
        return _sha256((project.root / path).read_bytes())
    except OSError as problem:
        raise BuildError(
            f"cannot read {path} of ami.provision: {problem.strerror}",
            hint="restore the file, or correct ami.provision in the manifest",
        ) from problem


def _image(project: Project) -> Inputs:
    """Base, Dockerfile, what a container starts with, and every file that travels, layer by layer."""
    manifest, lock = project.manifest, project.lock
    texts = dockerfile.render(manifest, lock)
    beside = {path: text for path, text in texts.items() if path != dockerfile.DOCKERFILE}
    image = manifest.image
    return Inputs(
        "image",
        values={
            "contract": manifest.contract,
            "architecture": lock.base_ami.architecture,
            "base image": lock.base_image.digest,
            "Dockerfile": meaning(texts[dockerfile.DOCKERFILE]),
            "image.workdir": image.workdir,
            "image.uid": image.uid,
            "image.command": list(image.command),
            "labels": labels.fixed(manifest, lock),
            "layers": [layering.SCHEME, *layering.order(manifest, lock)],
        },
        files={
            **context.as_inputs(context.collect(project)),
            **{f"script/{path}": _sha256(text.encode()) for path, text in beside.items()},
        },
    )


def meaning(text: str) -> list[str]:
    """Return the lines of HCL or of a Dockerfile that say something; both drop lines that begin with ``#``."""
    return [line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
