"""A compute environment's part of a plan: one AMI source, an explicit version, no update that AWS would refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitbake.artifact import Artifact
from splitbake.errors import ReleaseError
from splitbake.release.fleet import Fleet
from splitbake.release.steps import Output, Phase, resolve
from splitbake.release.targets import Context, Pair, RootVolume
from splitbake.release.targets.batch_compute_environment import BatchComputeEnvironment, steps

LINKED = "arn:aws:iam::123456789012:role/aws-service-role/batch.amazonaws.com/AWSServiceRoleForBatch"
VERSION = Output("version of lt-1", "4")
OVERRIDE = {"launchTemplateName": "large", "version": "7", "targetInstanceTypes": ["p5.48xlarge"]}


def target(**fields) -> BatchComputeEnvironment:
    return BatchComputeEnvironment(batch_compute_environment="gpu", **fields)


def context(versions) -> Context:
    def artifact(half):
        return Artifact(half=half, id="x", location="here", fingerprint="f", created="now", seconds=1.0, size=1)

    return Context(
        live=None,
        root=Path(),
        release="r",
        pair=Pair(artifact("ami"), artifact("image")),
        volume=RootVolume("/dev/xvda", 40),
        models_root="/opt/dl-models",
        mounts={},
        versions=versions,
    )


def fleet(*, template=None, resources=None, sources=(), jobs=0, **description) -> Fleet:
    specification = {"launchTemplateName": "gpu", "version": "3"} if template is None else template
    return Fleet(
        {
            "computeEnvironmentName": "gpu",
            "status": "VALID",
            "serviceRole": LINKED,
            "computeResources": {
                "allocationStrategy": "BEST_FIT_PROGRESSIVE",
                **({"launchTemplate": specification} if specification else {}),
                **(resources or {}),
            },
            **description,
        },
        template_id="lt-1" if specification else "",
        other_sources=sources,
        running_jobs=jobs,
    )


def plan(fleet: Fleet, versions=None, **fields):
    return steps(target(**fields), fleet, context({"lt-1": VERSION} if versions is None else versions))


def test_it_moves_to_the_number_of_the_new_version_and_keeps_overrides():
    before = {"launchTemplateName": "gpu", "version": "3", "overrides": [OVERRIDE]}
    (step,) = plan(fleet(template=before)).steps
    assert step.phase is Phase.HOST
    assert resolve(step.call.parameters, {VERSION: "5"}) == {
        "computeEnvironment": "gpu",
        "computeResources": {
            "launchTemplate": {**before, "version": "5"},
            "updateToLatestImageVersion": True,
        },
    }
    assert step.undo[0].parameters["computeResources"]["launchTemplate"] == before


def test_at_the_version_already_it_needs_nothing():
    assert plan(fleet(), {"lt-1": "3"}).steps == ()


@pytest.mark.parametrize("version", ["$Default", "$Latest", None])
def test_a_moving_version_is_refused_unless_pinned(version):
    template = {"launchTemplateName": "gpu", **({"version": version} if version else {})}
    with pytest.raises(ReleaseError, match="decides anew"):
        plan(fleet(template=template))
    (step,) = plan(fleet(template=template), pin=True).steps
    assert step.call.parameters["computeResources"]["launchTemplate"]["version"] is VERSION


@pytest.mark.parametrize(
    ("live", "what"),
    [
        (fleet(sources=("imageId",)), "launchTemplate, imageId"),
        (fleet(template={}), "nothing, so Batch chooses"),
        (fleet(status="UPDATING"), "is UPDATING"),
        (fleet(serviceRole="arn:aws:iam::123456789012:role/own"), "only with the service-linked role"),
        (fleet(resources={"allocationStrategy": "BEST_FIT"}), "its allocation strategy is BEST_FIT"),
    ],
)
def test_what_cannot_be_updated_in_place_is_refused_with_the_reason(live, what):
    with pytest.raises(ReleaseError, match=what) as caught:
        plan(live)
    assert caught.value.hint


def test_its_launch_template_must_be_a_target():
    with pytest.raises(ReleaseError, match="launch template gpu, which is no target") as caught:
        plan(fleet(), {})
    assert "launch_template: gpu" in caught.value.hint


def test_invalid_is_no_obstacle_to_another_version_but_no_end():
    assert len(plan(fleet(status="INVALID")).steps) == 1
    with pytest.raises(ReleaseError, match="is INVALID: AMI cannot be described"):
        plan(fleet(status="INVALID", statusReason="AMI cannot be described"), {"lt-1": "3"})


@pytest.mark.parametrize(
    ("policy", "when"),
    [
        ({}, "after 30 min"),
        ({"jobExecutionTimeoutMinutes": 60}, "after 60 min"),
        ({"terminateJobsOnUpdate": True}, "at once"),
    ],
)
def test_running_jobs_are_a_warning(policy, when):
    (warning,) = plan(fleet(jobs=2, updatePolicy=policy)).warnings
    assert f"2; those on old hosts are stopped {when}" in warning
    assert plan(fleet(jobs=0)).warnings == ()
