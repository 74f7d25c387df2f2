"""Building a half: reuse the artifact of the same fingerprint where it is still there, make it otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from splitbake import artifact as artifacts
from splitbake import fingerprint
from splitbake.artifact import Artifact, Half
from splitbake.cloud import Cloud
from splitbake.errors import BuildError, LockError, SplitbakeError
from splitbake.project import Project
from splitbake.ui import Say


@dataclass(frozen=True)
class Built:
    """An artifact and whether this run made it."""

    artifact: Artifact
    reused: bool


def build(project: Project, cloud: Cloud, half: Half, *, force: bool, say: Say) -> Built:
    """Return the artifact of ``half`` for the project as it is now.

    An artifact is reused only after it was seen to exist; ``force`` makes it anew.

    Raises:
        BuildError, ToolError, CloudError: nothing usable was made, and nothing is left running.
        StateError, CloudError: it was made, but could not be remembered; the message names it.
    """
    _require_region(project, cloud)
    wanted = fingerprint_of(project, half)
    store = project.store(cloud)
    if not force:
        known = artifacts.find_artifact(store, half, wanted)
        if known and exists(project, cloud, known):
            return Built(known, reused=True)
    cloud.guard()
    artifact = _make(project, cloud, half, wanted, say)
    try:
        artifacts.save(store, artifact)
    except SplitbakeError as problem:
        problem.message = f"{artifact.uri} was built, but could not be remembered: {problem.message}"
        raise
    return Built(artifact, reused=False)


def current(project: Project, cloud: Cloud, half: Half) -> Artifact:
    """Return the built artifact of the project as it is now.

    Raises:
        BuildError: it was never built, or is gone.
        LockError: the lock is of another region.
    """
    _require_region(project, cloud)
    known = artifacts.find_artifact(project.store(cloud), half, fingerprint_of(project, half))
    if known is None:
        raise BuildError(
            f"the {half} of the project as it is now was not built yet", hint=f"run splitbake build {half}"
        )
    if not exists(project, cloud, known):
        raise BuildError(
            f"{known.uri} was built, but it is gone, or not where environment {cloud.name!r} wants it",
            hint=f"run splitbake build {half}",
        )
    return known


def _require_region(project: Project, cloud: Cloud) -> None:
    """Refuse a lock of another region: AMI ids mean nothing there."""
    locked, wanted = project.lock.base_ami.region, cloud.environment.region
    if locked != wanted:
        raise LockError(
            f"{project.lock_path} names a base AMI of {locked}, environment {cloud.name!r} is in {wanted}",
            hint=f"run splitbake lock --env {cloud.name}",
        )


def fingerprint_of(project: Project, half: Half) -> str:
    """Return the fingerprint of ``half`` for the project as it is now."""
    return fingerprint.ami(project) if half == "ami" else fingerprint.image(project)


def exists(project: Project, cloud: Cloud, artifact: Artifact) -> bool:
    """Return whether ``artifact`` can be used: the AMI is available, the digest is in the wanted repository."""
    from splitbake.bake import ami, image

    if artifact.half == "ami":
        return ami.exists(cloud, artifact)
    return image.exists(cloud, artifact, project.manifest.image.repository)


def _make(project: Project, cloud: Cloud, half: Half, wanted: str, say: Say) -> Artifact:
    from splitbake.bake import ami, image

    bake = ami.bake if half == "ami" else image.build
    return bake(project, cloud, fingerprint=wanted, say=say)
