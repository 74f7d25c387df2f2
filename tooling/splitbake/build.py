"""Building a half as the plan says: reuse what is there, make the rest; of two that build the same, one counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from splitbake import artifact as artifacts
from splitbake import explain, fingerprint, health, lease, plan
from splitbake.artifact import Artifact, Half, Run
from splitbake.catalog import Catalog
from splitbake.cloud import Cloud
from splitbake.errors import BuildError, SplitbakeError
from splitbake.inputs import Inputs
from splitbake.lease import Lease
from splitbake.project import Project
from splitbake.signals import uninterrupted
from splitbake.ui import Say

_SECONDS_AN_HOUR = 3600


@dataclass(frozen=True)
class Built:
    """An artifact, whether this run made it, and why."""

    artifact: Artifact
    reused: bool
    reasons: tuple[str, ...]


def build(project: Project, cloud: Cloud, half: Half, *, force: bool, say: Say) -> Built:
    """Return the artifact of ``half`` for the project as it is now; ``force`` makes it anew.

    Where another run builds the same inputs at this moment, its artifact is waited for and used.

    Raises:
        BuildError, ToolError, CloudError: nothing usable was made, and nothing is left running.
        StateError, CloudError: it was made, but could not be remembered; the message names it. The next build takes
            such an AMI up.
    """
    cloud.require_endpoint()
    plan.require_buildable(project, cloud)
    catalog, inputs = project.catalog(cloud), fingerprint.inputs(project, half)
    planned = plan.plan_half(project, cloud, catalog, inputs)
    if planned.artifact and not force:
        return Built(planned.artifact, reused=True, reasons=planned.reasons)
    identity = cloud.guard()
    name = catalog.lease("build", half, inputs.fingerprint)
    with lease.held(catalog.store, name, who=identity.arn, doing=f"building the {half}", wait=say) as held:
        before = catalog.artifact(half, inputs.fingerprint)
        again = plan.plan_half(project, cloud, catalog, inputs)
        if again.artifact and not force:
            return Built(again.artifact, reused=True, reasons=again.reasons)
        reasons = ("--force",) if force else again.reasons
        for reason in reasons:
            say(f"because {reason}")
        found = None if force else _left(project, cloud, catalog, inputs, say)
        made = found or _make(project, cloud, inputs, held, say)
        kept = _keep(project, cloud, catalog, inputs, made, held=held, instead_of=before)
        if not found:
            with _told(f"{kept.uri} is built and remembered, but not how long that took"):
                catalog.log(_run(project, made))
    return Built(kept, reused=found is not None or kept != made, reasons=reasons)


def current(project: Project, cloud: Cloud, half: Half) -> Artifact:
    """Return the built artifact of the project as it is now.

    Raises:
        BuildError: it was never built, or is gone.
        LockError: the lock is of another region.
    """
    plan.require_buildable(project, cloud)
    known = project.catalog(cloud).artifact(half, fingerprint.inputs(project, half).fingerprint)
    if known is None:
        raise BuildError(
            f"the {half} of the project as it is now was not built yet", hint=f"run splitbake build {half}"
        )
    problem = health.problem(cloud, known, project.manifest.image.repository)
    if problem:
        raise BuildError(problem, hint=f"run splitbake build {half}")
    return known


def _left(project: Project, cloud: Cloud, catalog: Catalog, inputs: Inputs, say: Say) -> Artifact | None:
    """Return what an earlier run has made of these inputs and could not write down. Image layers are found anyway."""
    if inputs.half == "image":
        return None
    from splitbake.bake import adopt

    return adopt.earlier(project, cloud, catalog, inputs.fingerprint, say)


def _make(project: Project, cloud: Cloud, inputs: Inputs, held: Lease, say: Say) -> Artifact:
    """Make the artifact of exactly these inputs; they may have changed while another build was waited for."""
    _require_unchanged(project, inputs)
    if inputs.half == "image":  # what bakes AMIs takes a tenth of a second to import
        from splitbake.bake import image

        return image.build(project, cloud, inputs, say=say)
    from splitbake.bake import ami

    return ami.bake(project, cloud, fingerprint=inputs.fingerprint, say=say, require=held.require)


def _require_unchanged(project: Project, inputs: Inputs) -> None:
    now = fingerprint.inputs(project, inputs.half)
    if now.fingerprint != inputs.fingerprint:
        raise BuildError(
            f"the project changed during the build of the {inputs.half}: {'; '.join(explain.explain(inputs, now))}",
            hint="build again when it is at rest",
        )


def _keep(
    project: Project,
    cloud: Cloud,
    catalog: Catalog,
    inputs: Inputs,
    made: Artifact,
    *,
    held: Lease,
    instead_of: Artifact | None,
) -> Artifact:
    """Remember ``made``, unless a healthy one was remembered meanwhile: then that one counts, and ours is removed."""
    with _discarding_on_interrupt(cloud, made, held), _told(f"{made.uri} was built, but could not be remembered"):
        held.require()
        catalog.keep_inputs(inputs)
        while (kept := catalog.keep(made, instead_of=instead_of)) != made:
            if not health.problem(cloud, kept, project.manifest.image.repository):
                break
            instead_of = kept
    if kept.id != made.id:  # else another run took ours up
        with uninterrupted(breakable=True):
            _discard(cloud, made, held)
    return kept


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Begin the message of an error with ``what``."""
    try:
        yield
    except SplitbakeError as problem:
        problem.message = f"{what}: {problem.message}"
        raise


@contextmanager
def _discarding_on_interrupt(cloud: Cloud, made: Artifact, held: Lease) -> Iterator[None]:
    """Remove ``made`` where the user wants nothing more; after an error the next build takes it up."""
    try:
        yield
    except KeyboardInterrupt as problem:
        from splitbake.bake import access

        access.clean_up_after(problem, lambda: _discard(cloud, made, held))
        raise


def _discard(cloud: Cloud, made: Artifact, held: Lease) -> None:
    """Remove an AMI with its snapshots. An image may stay: its layers are shared, and it may be the very same one.

    Raises:
        StateError: the lease is lost; another run may have taken the AMI up.
    """
    from splitbake.bake import ami

    if made.half == "ami":
        with _told(f"{made.uri} was to be removed, but stays"):
            held.require()
        ami.discard(cloud, made)


def _run(project: Project, made: Artifact) -> Run:
    builder = project.manifest.ami.builder
    price = builder.price if made.half == "ami" else None
    return Run(
        half=made.half,
        work="build",
        fingerprint=made.fingerprint,
        created=artifacts.now(),
        seconds=made.seconds,
        dollars=None if price is None else round(price * made.seconds / _SECONDS_AN_HOUR, 4),
    )
