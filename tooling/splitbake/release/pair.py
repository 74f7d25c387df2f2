"""Which AMI and which image are released together."""

from __future__ import annotations

from splitbake import build, fingerprint
from splitbake.artifact import Artifact, Half
from splitbake.catalog import Catalog
from splitbake.cloud import Cloud
from splitbake.errors import ReleaseError
from splitbake.project import Project
from splitbake.release import demands
from splitbake.release import record as records
from splitbake.release.record import Record
from splitbake.release.targets import Pair
from splitbake.state import Store


def of_project(project: Project, cloud: Cloud, half: Half | None = None) -> Pair:
    """Return the pair of the project as it is now, verified by what the manifest demands now.

    With ``half`` only that one is of the project as it is now: the other is what the environment's last good release
    has, by whatever it was verified then.

    Raises:
        BuildError: a half was not built, or is gone.
        LockError: the lock is of another region.
        ReleaseError: a half is not verified, or there was no release to take the other half from, or what it has
            cannot be used any more.
    """
    if half is None:
        return Pair(ami=_current(project, cloud, "ami"), image=_current(project, cloud, "image"))
    current = _current(project, cloud, half)
    record = records.last_good(project.store(cloud), cloud.name)
    if record is None:
        raise ReleaseError(
            f"there is no good release of {cloud.name!r} that the other half could stay from",
            hint="release both: splitbake release",
        )
    released = record.image if half == "ami" else record.ami
    try:
        demands.require_verified(project.catalog(cloud), released)
        demands.require_usable(cloud, released, project.manifest.image.repository)
    except ReleaseError as problem:
        message = f"the {released.half} of the last good release, {record.key}, cannot stay: {problem.message}"
        raise ReleaseError(message, hint="release both halves: splitbake release") from problem
    return Pair(ami=current, image=released) if half == "ami" else Pair(ami=released, image=current)


def _current(project: Project, cloud: Cloud, half: Half) -> Artifact:
    artifact = build.current(project, cloud, half)
    demands.require_verified(project.catalog(cloud), artifact, project.standard(half))
    return artifact


def of_origin(project: Project, origin: Cloud, key: str | None = None) -> Pair:
    """Return the pair that others promote from ``origin``: of its last good release, or of the good one ``key``.

    Where the environment has no targets, nothing is released there: then it is what the project as it is now has
    built and verified there. Nothing is asked but the state, as the credentials may be another account's.

    Raises:
        ReleaseError: there is none, or a half of it is not verified.
    """
    catalog = project.catalog(origin)
    if origin.environment.release or key:
        return _released(catalog, origin.name, key)
    return Pair(ami=_built(project, catalog, "ami"), image=_built(project, catalog, "image"))


def _released(catalog: Catalog, environment: str, key: str | None) -> Pair:
    record = _good(catalog.store, environment, key)
    try:
        for artifact in (record.ami, record.image):
            demands.require_verified(catalog, artifact)
    except ReleaseError as problem:
        raise ReleaseError(
            f"what {record.key} has released cannot be promoted: {problem.message}",
            hint=f"{problem.hint}; then release it there again: splitbake release --env {environment}",
        ) from problem
    return Pair(ami=record.ami, image=record.image, promoted_from=record.key)


def _good(store: Store, environment: str, key: str | None) -> Record:
    if key is None:
        last = records.last_good(store, environment)
        if last is None:
            raise ReleaseError(
                f"there is no good release of {environment!r} to promote",
                hint=f"run splitbake release --env {environment} first",
            )
        return last
    record = records.read(store, key) if key.startswith(f"records/{environment}/") else None
    if record is None:
        raise ReleaseError(
            f"there is no record {key} of environment {environment!r}",
            hint=f"splitbake release names it when it is done: records/{environment}/….json",
        )
    if record.status != "good":
        raise ReleaseError(f"the release {key} did not come to its end: it is {record.status}", hint="choose another")
    return record


def _built(project: Project, catalog: Catalog, half: Half) -> Artifact:
    artifact = catalog.artifact(half, fingerprint.inputs(project, half).fingerprint)
    if artifact is None:
        raise ReleaseError(
            f"the {half} of the project as it is now was not built in account {catalog.account}, {catalog.region}",
            hint=f"run splitbake build {half} there, then splitbake verify {half}",
        )
    demands.require_verified(catalog, artifact, project.standard(half))
    return artifact
