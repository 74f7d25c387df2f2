"""What a spot builder takes beside what every builder does. Nothing of it was ever exercised: see docs/iam.md.

Packer makes a launch template, has a fleet start one instance of it in the caller's name, and removes the template at
the end. It tags the template by the call that makes it, and the spot request when the instance runs. A current Packer
tags the fleet by its call too, and instance and volumes by the template; 1.6 tags these when they run, and the fleet
not at all (step_run_spot_instance.go of both).
"""

from __future__ import annotations

from collections.abc import Iterator

from splitbake.iam import common
from splitbake.iam.policies import GETS, HAS, Conditions, Scope, Statement

_RUN_TAG = "aws:ResourceTag/splitbake:run"


def builder(scope: Scope) -> Iterator[Statement]:
    """Yield it."""
    untagging = scope.packer == "1.6"
    template, request = scope.ec2("launch-template"), scope.ec2("spot-instances-request")
    yield Statement(
        sid="SpotTemplate",
        actions=["ec2:CreateLaunchTemplate"],
        resources=[template],
        conditions=scope.marked,
        why=common.UNNAMED,
    )
    yield Statement(
        sid="SpotFleet",
        actions=["ec2:CreateFleet"],
        resources=[scope.ec2("fleet")],
        conditions={} if untagging else scope.marked,
        why="the fleet has no id yet, and Packer 1.6 gives it no tags" if untagging else common.UNNAMED,
    )
    yield Statement(
        sid="SpotTags",
        actions=["ec2:CreateTags"],
        resources=[template, *(scope.ec2(kind) for kind in ("fleet", "instance", "network-interface", "volume"))],
        conditions={"StringEquals": {GETS: scope.project, "ec2:CreateAction": ["CreateFleet", "CreateLaunchTemplate"]}},
        why=common.UNNAMED,
    )
    yield Statement(
        sid="SpotFromTemplate",
        actions=["ec2:CreateFleet", "ec2:RunInstances"],
        resources=[template],
        conditions=scope.owned,
        why=common.TAGGED,
    )
    yield Statement(
        sid="SpotParts",
        actions=["ec2:CreateFleet"],
        resources=[scope.ec2(kind) for kind in ("image", "instance", "subnet", "volume")],
        why="the parts of the fleet have no id yet; RunInstances, which the fleet needs as well, narrows them",
    )
    yield Statement(
        sid="SpotRequest", actions=["ec2:RunInstances"], resources=[request], why="the request has no id yet"
    )
    yield Statement(
        sid="TagSpotRequest",
        actions=["ec2:CreateTags"],
        resources=[request],
        conditions=_adopting(scope),
        why="Packer tags the request when the instance runs; what has another project's tag stays out of reach",
    )
    if untagging:
        yield from _untagged(scope)
    yield Statement(
        sid="SpotEnd",
        actions=["ec2:DeleteLaunchTemplate"],
        resources=[template],
        conditions={**scope.owned, "Null": {_RUN_TAG: "false"}},
        why=f"{common.TAGGED}, and of that only what a run has made",
    )


def _adopting(scope: Scope, **more: str) -> Conditions:
    return {"StringEquals": {GETS: scope.project, **more}, "StringEqualsIfExists": {HAS: scope.project}}


def _untagged(scope: Scope) -> Iterator[Statement]:
    """Yield what only Packer 1.6 takes, whose spot instance starts without tags: always from a launch template."""
    type_ = {"ec2:InstanceType": scope.manifest.ami.builder.instance_type}
    spot = {**type_, "ec2:InstanceMarketType": "spot"}
    of_template: Conditions = {"ArnLike": {"ec2:LaunchTemplate": scope.ec2("launch-template")}}
    for sid, kind, narrowed in (
        ("SpotInstance", "instance", {**of_template, "StringEquals": type_}),
        ("SpotVolumes", "volume", of_template),
    ):
        yield Statement(
            sid=sid,
            actions=["ec2:RunInstances"],
            resources=[scope.ec2(kind)],
            conditions=narrowed,
            why="it has no id yet, and its launch template must carry the project's tag",
        )
    later = "Packer 1.6 tags it when it runs"
    for sid, kind, more in (("TagSpotInstance", "instance", spot), ("TagSpotVolumes", "volume", {})):
        yield Statement(
            sid=sid,
            actions=["ec2:CreateTags"],
            resources=[scope.ec2(kind)],
            conditions=_adopting(scope, **more),
            why=f"{later}; what has another project's tag stays out of reach",
        )
    yield Statement(
        sid="EndSpotInstance",
        actions=["ec2:TerminateInstances"],
        resources=[scope.ec2("instance")],
        conditions={"StringEquals": spot, "Null": {HAS: "true"}},
        why=f"{later}, and ends it where that fails",
    )
