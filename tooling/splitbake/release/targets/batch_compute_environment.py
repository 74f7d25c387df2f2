"""A Batch compute environment whose hosts come from a launch template: it is moved to an explicit version.

Which AMI wins where several are named, AWS's own documents answer differently. So no precedence is modelled here:
the launch template must be the only AMI source, and after the update the AMI of the hosts that run is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from splitbake import units
from splitbake.errors import ReleaseError
from splitbake.release import fleet as fleets
from splitbake.release.fleet import Fleet
from splitbake.release.steps import ApiCall, ApiStep, Phase, resolve
from splitbake.release.targets import Context, Planned, Target
from splitbake.spec import Text

if TYPE_CHECKING:
    from splitbake.release.live import Live

#: Strategies with which Batch updates the infrastructure in place (Batch user guide, "infrastructure updates").
_IN_PLACE = {
    "BEST_FIT_PROGRESSIVE",
    "BEST_FIT_PROGRESSIVE_ORDERED",
    "SPOT_CAPACITY_OPTIMIZED",
    "SPOT_CAPACITY_OPTIMIZED_PRIORITIZED",
    "SPOT_PRICE_CAPACITY_OPTIMIZED",
}
_SERVICE_LINKED_ROLE = "/aws-service-role/batch.amazonaws.com/AWSServiceRoleForBatch"
#: Minutes that running jobs get in an update where the environment does not say (Batch API model, UpdatePolicy).
_JOB_MINUTES = 30
#: No version means the default one (Batch API model, LaunchTemplateSpecification).
_MOVING = {"", "$Default", "$Latest"}
_SETTLED = {"VALID", "INVALID"}
_BLUE_GREEN = "or replace it by a new compute environment on the same queue (blue/green)"


class BatchComputeEnvironment(Target):
    """A compute environment by its name; its launch template must be a target as well."""

    kind: ClassVar[str] = "batch_compute_environment"
    needs_versions: ClassVar[bool] = True
    batch_compute_environment: Text
    pin: bool = Field(default=False, description="replace $Default or $Latest by the number of the new version")
    within: units.Duration = Field(
        default="1 h", validate_default=True, description="for the update: new hosts up, jobs on old hosts ended"
    )

    def plan(self, context: Context) -> Planned:
        """See Target."""
        return steps(self, fleets.read(context.live, self.batch_compute_environment), context)


def steps(target: BatchComputeEnvironment, fleet: Fleet, context: Context) -> Planned:
    """Plan the update to the template's version with the new AMI; pure."""
    _require_one_source(target, fleet)
    _require_number(target, fleet)
    if fleet.template_id not in context.versions:
        name = fleet.template.get("launchTemplateName", fleet.template_id)
        raise ReleaseError(
            f"{target.label} takes its AMI from launch template {name}, which is no target of this environment",
            hint=f"add - {{launch_template: {name}}} to the environment's release list",
        )
    version = context.versions[fleet.template_id]
    _require_settled(target, fleet)
    if fleet.template.get("version") == version:
        _require_valid(target, fleet)
        return Planned()
    _require_in_place(target, fleet)
    step = ApiStep(
        phase=Phase.HOST,
        target=target.label,
        title=f"move compute environment {fleet.name} to the new launch template version, wait until VALID",
        before={"launchTemplate.version": fleet.template.get("version", "$Default")},
        after={"launchTemplate.version": version},
        undo=(_update(fleet.name, fleet.template),),
        call=_update(fleet.name, {**fleet.template, "version": version}),
        check=lambda live, outputs: _check(live, target, resolve(version, outputs), context.pair.ami.id),
    )
    return Planned(steps=(step,), warnings=tuple(_warnings(target, fleet)))


def _update(name: str, template: Mapping[str, Any]) -> ApiCall:
    """The whole template specification is sent: overrides that are left out would be unset (Batch API model).

    ``updateToLatestImageVersion`` is necessary for an AMI from a launch template by one text of AWS, and without
    effect by another.
    """
    return ApiCall.plain(
        "batch",
        "UpdateComputeEnvironment",
        computeEnvironment=name,
        computeResources={"launchTemplate": template, "updateToLatestImageVersion": True},
    )


def _require_one_source(target: BatchComputeEnvironment, fleet: Fleet) -> None:
    found = [*(["launchTemplate"] if fleet.template else []), *fleet.other_sources]
    if found != ["launchTemplate"]:
        raise ReleaseError(
            f"{target.label} must take its AMI from a launch template and nothing else; it takes it from: "
            f"{', '.join(found) or 'nothing, so Batch chooses'}",
            hint=f"AWS documents no reliable precedence: leave the AMI to one launch template, {_BLUE_GREEN}",
        )


def _require_number(target: BatchComputeEnvironment, fleet: Fleet) -> None:
    version = fleet.template.get("version", "")
    if version in _MOVING and not target.pin:
        raise ReleaseError(
            f"{target.label} names version {version or '$Default'} of its launch template: Batch decides anew at "
            "each infrastructure update which AMI that is, so a release could not be taken back",
            hint="give it a number, or set pin: true on this target to let the release do so",
        )


def _require_settled(target: BatchComputeEnvironment, fleet: Fleet) -> None:
    status = fleet.description["status"]
    if status not in _SETTLED:
        raise ReleaseError(f"{target.label} is {status}", hint="wait until that is over; then release again")


def _require_valid(target: BatchComputeEnvironment, fleet: Fleet) -> None:
    """INVALID is no obstacle to an update (a new AMI may be the very cure), but no end of one either."""
    if fleet.description["status"] == "INVALID":
        raise ReleaseError(
            f"{target.label} is INVALID: {fleet.description.get('statusReason', 'no reason given')}",
            hint="repair what the reason names; then release again",
        )


def _require_in_place(target: BatchComputeEnvironment, fleet: Fleet) -> None:
    """Refuse where an infrastructure update cannot work in place, with the reason."""
    role = fleet.description.get("serviceRole", "")
    if role and not role.endswith(_SERVICE_LINKED_ROLE):
        raise ReleaseError(
            f"{target.label} cannot be updated in place: its role is {role}, and AWS does that only with the "
            "service-linked role AWSServiceRoleForBatch",
            hint=f"a custom role cannot be changed to it: {_BLUE_GREEN.removeprefix('or ')}",
        )
    strategy = fleet.resources.get("allocationStrategy", "BEST_FIT")
    if strategy not in _IN_PLACE:
        raise ReleaseError(
            f"{target.label} cannot be updated in place: its allocation strategy is {strategy}, and AWS does that "
            f"only with {', '.join(sorted(_IN_PLACE))}",
            hint=f"change allocationStrategy first, {_BLUE_GREEN}",
        )


def _warnings(target: BatchComputeEnvironment, fleet: Fleet) -> Iterator[str]:
    if not fleet.running_jobs:
        return
    policy = fleet.description.get("updatePolicy", {})
    when = "at once"
    if not policy.get("terminateJobsOnUpdate"):
        when = f"after {policy.get('jobExecutionTimeoutMinutes', _JOB_MINUTES)} min"
    yield (
        f"{target.label}: jobs running on its queues: {fleet.running_jobs}; those on old hosts are stopped {when} "
        "(updatePolicy), and tried again only where their retry strategy says so"
    )


def _check(live: Live, target: BatchComputeEnvironment, version: str, ami: str) -> None:
    name = target.batch_compute_environment

    def settled() -> bool:
        found = Fleet(fleets.describe(live, name))
        if found.template.get("version") != version or found.description["status"] not in _SETTLED:
            return False
        _require_valid(target, found)
        return True

    live.wait(settled, target.within, f"{target.label} is not valid at version {version} of its launch template")
    others = sorted(fleets.running_amis(live, name) - {ami})
    if others:
        raise ReleaseError(
            f"{target.label} is valid at version {version}, but hosts run {', '.join(others)} instead of {ami}",
            hint="look for another AMI source (imageId, imageIdOverride, overrides), then release again",
        )
