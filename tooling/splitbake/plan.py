"""What there is to do for each half, and why; nothing is changed.

An artifact is reused only after it was seen: recorded for these very inputs, there, healthy, and verified by what the
manifest demands today.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from splitbake import contract, explain, fingerprint, health, resolve
from splitbake.artifact import Artifact, Half, Report, Run
from splitbake.catalog import Catalog
from splitbake.cloud import Cloud
from splitbake.errors import BuildError, LockError
from splitbake.inputs import Inputs
from splitbake.project import Project
from splitbake.units import counted

Action = Literal["build", "verify", "reuse"]

#: Runs that an expectation is made of: enough for a median, few enough to follow a change of instance type.
_RUNS = 5


@dataclass(frozen=True)
class Expected:
    """What the work is expected to take, judged by earlier runs; ``dollars`` None where no price is known."""

    seconds: float
    dollars: float | None


@dataclass(frozen=True)
class HalfPlan:
    """What there is to do for one half.

    Attributes:
        action: ``build`` (and then verify), ``verify`` what is built, or ``reuse``: nothing.
        fingerprint: of the inputs as they are now.
        reasons: why, in words; at least one.
        artifact: what is there; None where it must be built.
        expected: None where there is nothing to do, or no earlier run to judge by.
    """

    half: Half
    action: Action
    fingerprint: str
    reasons: tuple[str, ...]
    artifact: Artifact | None = None
    expected: Expected | None = None

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "action": self.action,
            "fingerprint": self.fingerprint,
            "reasons": list(self.reasons),
            "artifact": self.artifact.uri if self.artifact else None,
            "expected_seconds": self.expected.seconds if self.expected else None,
            "expected_dollars": self.expected.dollars if self.expected else None,
        }


@dataclass(frozen=True)
class Plan:
    """The plan of an environment, by half."""

    environment: str
    halves: tuple[HalfPlan, ...]

    @property
    def has_work(self) -> bool:
        """Whether anything is to be built or verified."""
        return any(half.action != "reuse" for half in self.halves)

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        halves: dict[str, Any] = {half.half: half.as_data() for half in self.halves}
        return {"environment": self.environment, "changes": self.has_work, **halves}


def plan(project: Project, cloud: Cloud, halves: Sequence[Half] = get_args(Half)) -> Plan:
    """Plan ``halves``; they are looked at side by side.

    Raises:
        LockError: the lock is of another region, or a model in the project is not what it says.
        BuildError: the inputs of the image cannot be read, or may not travel; or the environment only promotes.
        SourceError: a model in the project cannot be read.
        GuardError: the endpoint or the account is not the environment's.
        CloudError, StateError: AWS or the state cannot be asked.
    """
    cloud.require_endpoint()
    require_buildable(project, cloud)
    catalog = project.catalog(cloud)
    with ThreadPoolExecutor(len(halves)) as pool:
        # The AMI's inputs are known at once; while AWS is asked about it, the files of the image are read.
        jobs = [pool.submit(plan_half, project, cloud, catalog, fingerprint.inputs(project, half)) for half in halves]
        return Plan(cloud.name, tuple(_expecting(catalog, job.result()) for job in jobs))


def plan_half(project: Project, cloud: Cloud, catalog: Catalog, inputs: Inputs) -> HalfPlan:
    """Plan the half that ``inputs`` are of, without what it is expected to take; see ``plan``."""
    half, wanted = inputs.half, inputs.fingerprint
    artifact = catalog.artifact(half, wanted)
    if artifact is None:
        return _build(inputs, _changes(catalog, inputs))
    problem = health.problem(cloud, artifact, project.manifest.image.repository)
    if problem:
        cloud.guard()  # what is gone here may be there for the right account
        return _build(inputs, [problem])
    if regions := health.uncopied(artifact, project.manifest.ami.copies):
        return _build(inputs, [f"{artifact.id} has no copy in {', '.join(regions)} yet"])
    report = catalog.report(artifact)
    if report and report.standard == project.standard(half):
        if report.passed:
            found = f"built {artifact.created}, there, and verified ({counted(report.held, 'check')})"
            return HalfPlan(half, "reuse", wanted, (f"nothing changed: {found}",), artifact)
        if report.created >= artifact.created:
            failed = ", ".join(report.failed) or "no check was made"
            return _build(inputs, [f"{artifact.uri} failed its verification: {failed}"])
    why = _unverified(report, project.standard(half))
    return HalfPlan(half, "verify", wanted, (why,), artifact)


def _unverified(report: Report | None, standard: str) -> str:
    if report is None:
        return "it was built, but not verified yet"
    if report.standard != standard:
        return "what verification demands has changed since"
    return "it was built again since it failed its verification"


def require_buildable(project: Project, cloud: Cloud) -> None:
    """Refuse where nothing of the project as it is now can be built.

    Raises:
        BuildError: the environment only gets what another one has built, or no AMI would offer what the image needs.
        LockError: the lock is of another region (AMI ids mean nothing there), or local models have left it behind.
        SourceError: a local model cannot be read.
    """
    if promote := cloud.environment.promote:
        raise BuildError(
            f"environment {cloud.name!r} promotes what {promote.origin!r} has released: nothing is built there",
            hint=f"build and release in {promote.origin}, then run splitbake release --env {cloud.name}",
        )
    locked, wanted = project.lock.base_ami.region, cloud.environment.region
    if locked != wanted:
        raise LockError(
            f"{project.lock_path} names a base AMI of {locked}, environment {cloud.name!r} is in {wanted}",
            hint=f"run splitbake lock --env {cloud.name}",
        )
    if changed := resolve.changed_models(project):
        raise LockError(
            f"{project.lock_path} is behind: {', '.join(changed)} in the project changed since it was written",
            hint=f"run splitbake lock --env {cloud.name}",
        )
    contract.insist(project.manifest, project.lock)


def _build(inputs: Inputs, reasons: Sequence[str]) -> HalfPlan:
    return HalfPlan(inputs.half, "build", inputs.fingerprint, tuple(reasons))


def _expecting(catalog: Catalog, planned: HalfPlan) -> HalfPlan:
    """Return ``planned`` with what it is expected to take; that is read only for people who ask for a plan."""
    if planned.action == "reuse":
        return planned
    checks = _expected(catalog.runs(planned.half, "verify", last=_RUNS))
    if planned.action == "verify":
        return replace(planned, expected=checks)
    builds = _expected(catalog.runs(planned.half, "build", last=_RUNS))
    if builds is None:
        return planned
    seconds = builds.seconds + (checks.seconds if checks else 0)
    return replace(planned, expected=Expected(round(seconds, 1), builds.dollars))


def _changes(catalog: Catalog, inputs: Inputs) -> list[str]:
    """Say what has changed since the latest build; there is always something to say."""
    builds = catalog.runs(inputs.half, "build", last=1)
    if not builds:
        what = "AMI" if inputs.half == "ami" else "image"
        return [f"no {what} was built yet in account {catalog.account}, region {catalog.region}"]
    before = catalog.inputs(inputs.half, builds[0].fingerprint)
    if before is None:
        return [f"the inputs are not those of the latest build ({builds[0].created}), whose list is not known here"]
    return explain.explain(before, inputs) or ["the state has lost the artifact of these inputs"]


def _expected(runs: Sequence[Run]) -> Expected | None:
    if not runs:
        return None
    dollars = [run.dollars for run in runs if run.dollars is not None]
    return Expected(
        round(statistics.median(run.seconds for run in runs), 1),
        round(statistics.median(dollars), 4) if dollars else None,
    )
