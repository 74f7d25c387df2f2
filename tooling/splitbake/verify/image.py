"""Verifying the image half: the image as the registry has it, in a container as production would start it."""

from __future__ import annotations

import dataclasses
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name

from splitbake import context, contract, dockercli, ecr, layering, requirements
from splitbake.artifact import Artifact, Report
from splitbake.cloud import Cloud
from splitbake.errors import VerifyError
from splitbake.generate import labels
from splitbake.project import Project
from splitbake.ui import Say
from splitbake.verify import bill, layers, models, runtime, suite

if TYPE_CHECKING:
    from python_on_whales import Container, DockerClient

#: Seconds after which a container ends by itself, should this process die without removing it.
_LONGEST_LIFE = 3600
#: What docker run leaves with where the engine refused, so that nothing was started.
_ENGINE_FAILED = 125
#: What the engine says of an entry check that it cannot start -> what to do about it.
_NO_START = {
    "no such file": "it is a shell script: choose an image.base that has a POSIX shell as /bin/sh",
    "exec format error": "verify on a machine of that architecture, or give this one its emulation (QEMU, binfmt_misc)",
}


def verify(project: Project, cloud: Cloud, artifact: Artifact, *, junit: Path | None, say: Say) -> Report:
    """Check the image of ``artifact`` and return what was found; the container is gone afterwards.

    Raises:
        VerifyError: the image cannot be pulled or started.
        ToolError: there is no Docker engine.
        SourceError, CloudError: a model for the mounts cannot be fetched.
    """
    with dockercli.login(ecr.credentials(cloud)) as docker:
        say(f"pulling {artifact.uri}")
        with dockercli.told(f"pull {artifact.uri}", VerifyError):
            docker.image.pull(artifact.uri, quiet=True)
    docker = dockercli.client()
    say("looking into every layer")
    found = dataclasses.asdict(_layers(docker, project, artifact.uri)) | _found(docker, artifact)
    found["alone"] = started_alone(artifact.uri, contract.platform(project.lock))
    with (
        bill.beside(project, cloud, artifact, say) as materials,
        models.laid_out(project, cloud, say) as root,
        running(docker, project, artifact.uri, root, say) as container,
    ):
        report = suite.run(
            "image",
            artifact=artifact,
            standard=project.standard("image"),
            hosts=f"docker://{container.id}",
            expected=_expected(project, artifact) | {"found": found},
            junit=junit,
            say=say,
        )
    return materials.noted(report)


def _layers(docker: DockerClient, project: Project, image: str) -> layers.Layers:
    """Walk all layers, and insist that all were read: one in a format unknown here would pass for empty."""
    found = layers.walk(image, project.lock.files)
    wanted = len(set(docker.image.inspect(image).root_fs.layers or ()))
    if found.layers < wanted:
        raise VerifyError(
            f"only {found.layers} of {wanted} layers of {image} could be read",
            hint="their compression is unknown here: push the image with gzip layers",
        )
    return found


@contextmanager
def running(docker: DockerClient, project: Project, image: str, root: Path, say: Say) -> Iterator[Container]:
    """Run ``image`` idle, as strictly as production may: nothing writable but /tmp, no network, models read-only.

    The models come from the subfolders of ``root``, as ``image.mounts`` says; contract and runtime as on any host.
    """
    shown = {**project.manifest.image.mounts, contract.FOLDER: contract.HOST}
    mounts = [(str(root / folder), path, "ro") for folder, path in shown.items()]
    if project.manifest.runtime and project.lock.runtime:
        mounts.append((str(runtime.installed(project.lock.runtime, say)), project.manifest.runtime.root, "ro"))
    with dockercli.told(f"start a container of {image}", VerifyError):
        container = docker.container.create(
            image,
            [str(_LONGEST_LIFE)],
            entrypoint="sleep",
            name=f"splitbake-verify-{secrets.token_hex(4)}",
            networks=["none"],
            read_only=True,
            remove=True,
            tmpfs=["/tmp"],  # noqa: S108 - the container's own
            volumes=mounts,
        )
    try:
        with dockercli.told(f"start a container of {image}", VerifyError):
            container.start()
        yield container
    finally:
        container.remove(force=True, volumes=True)


def started_alone(image: str, platform: str) -> dict[str, Any]:
    """Start ``image`` as on a host that has nothing for it, and return how it ended: its status, and what it said.

    Raises:
        VerifyError: its entry check cannot even be started.
    """
    options = ["--rm", "--network=none", "--read-only", "--pull=never", f"--platform={platform}"]
    done = subprocess.run(["docker", "run", *options, image, "true"], capture_output=True, text=True, check=False)
    said = done.stderr.strip()
    if done.returncode == _ENGINE_FAILED:
        raise VerifyError(f"could not start {image} without mounts: {said}", hint=dockercli.hint_for(said))
    hint = next((hint for words, hint in _NO_START.items() if words in said.lower()), None)
    if hint and done.returncode != contract.REFUSED:
        raise VerifyError(f"{image} cannot start its entry check {contract.ENTRY}: {said}", hint=hint)
    return {"status": done.returncode, "said": said}


def _expected(project: Project, artifact: Artifact) -> dict[str, Any]:
    """Return what manifest and lock want, as plain data for the checks."""
    image, verification = project.manifest.image, project.manifest.verify
    entries = context.collect(project)
    return {
        "fingerprint": artifact.fingerprint,
        "budget": image.budget,
        "compressed_budget": image.compressed_budget,
        "uid": image.uid,
        "command": list(image.command),
        "workdir": image.workdir,
        "files": {entry.path: [entry.mode, entry.sha256] for entry in entries if entry.in_image},
        "contract": _contract(project),
        "site": contract.SITE,
        "requirements": _requirements(project),
        "runtime": _runtime(project),
        "runtime_imports": asked_by_name(project),
        "mounts": {path: _sizes(project, folder) for folder, path in image.mounts.items()},
        "imports": list(verification.imports),
        "run": list(verification.run) if verification.run else None,
    }


def _contract(project: Project) -> dict[str, Any]:
    """Return what the image must say of the contract, in labels and in files."""
    entry_check = layering.plan(project, [])[0]
    return {
        "labels": labels.contracted(project.manifest),
        "folder": contract.IN_IMAGE,
        "host": contract.HOST,
        "files": {entry.path: [entry.mode, entry.sha256] for entry in entry_check.entries},
        "entry": contract.ENTRY,
        "refused": contract.REFUSED,
        "platform": contract.platform(project.lock),
    }


def _requirements(project: Project) -> list[str]:
    image = project.manifest.image
    if image.requirements is None:
        return []
    file = project.root / image.context / image.requirements
    return [str(wanted) for wanted in requirements.parse(file.read_text(encoding="utf-8"), str(file))]


def _runtime(project: Project) -> dict[str, Any] | None:
    """Return what the image must reach through the mount of the runtime, None where there is none."""
    wanted, locked = project.manifest.runtime, project.lock.runtime
    if wanted is None or locked is None:
        return None
    wheels = {wheel.name: [wheel.version, wheel.file] for wheel in locked.wheels}
    return {"root": wanted.root, "python": locked.python, "platform": locked.platform, "wheels": wheels}


def asked_by_name(project: Project) -> list[str]:
    """Return the distributions that the requirements of the runtime name: they are imported, and import the others."""
    wanted, locked = project.manifest.runtime, project.lock.runtime
    if wanted is None or locked is None:
        return []
    text = (project.root / wanted.requirements).read_text(encoding="utf-8")
    named = {canonicalize_name(one.name) for one in requirements.parse(text, wanted.requirements)}
    return [wheel.name for wheel in locked.wheels if canonicalize_name(wheel.name) in named]


def _sizes(project: Project, folder: str) -> dict[str, int]:
    """Return the model files that a mount of ``folder`` shows: path below it -> bytes."""
    prefix = f"{folder.rstrip('/')}/"
    return {file.path.removeprefix(prefix): file.size for file in project.lock.files if file.path.startswith(prefix)}


def _found(docker: DockerClient, artifact: Artifact) -> dict[str, Any]:
    """Return what the engine and the registry tell of the image."""
    inspected = docker.image.inspect(artifact.uri)
    config = inspected.config
    return {
        "size": inspected.size,
        "compressed_size": artifact.compressed_size,
        "user": config.user,
        "command": config.cmd,
        "entrypoint": config.entrypoint,
        "labels": config.labels,
        "environment": config.env,
        "architecture": f"{inspected.os}/{inspected.architecture}",
    }
