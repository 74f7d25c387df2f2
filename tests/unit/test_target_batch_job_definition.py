"""A job definition's part of a plan: image, mounts and retry change; everything else is carried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake.artifact import Artifact
from splitbake.errors import ReleaseError
from splitbake.release.steps import Phase, shown
from splitbake.release.targets import Context, Pair, RootVolume
from splitbake.release.targets.batch_job_definition import (
    registrable,
    released,
    retrying,
    steps,
)

ROOT = "/opt/dl-models"
IMAGE = "registry/app@sha256:1"
DESCRIBED = {
    "jobDefinitionName": "analysis",
    "jobDefinitionArn": "arn:aws:batch:us-east-1:123456789012:job-definition/analysis:7",
    "revision": 7,
    "status": "ACTIVE",
    "containerOrchestrationType": "ECS",
    "type": "container",
    "propagateTags": True,
    "tags": {"team": "vision", "aws:cloudformation:stack-name": "x"},
    "timeout": {"attemptDurationSeconds": 900},
    "futureField": {"kept": True},
    "containerProperties": {
        "image": "registry/app:latest",
        "environment": [{"name": "PASSWORD", "value": "secret-value"}],
        "volumes": [{"name": "scratch", "host": {"sourcePath": "/scratch"}}],
        "mountPoints": [{"sourceVolume": "scratch", "containerPath": "/scratch", "readOnly": False}],
        "futureField": [1],
    },
}


def context(mounts=None) -> Context:
    def artifact(half, name, location):
        return Artifact(half=half, id=name, location=location, fingerprint="f", created="now", seconds=1.0, size=1)

    pair = Pair(artifact("ami", "ami-1", "us-east-1"), artifact("image", "sha256:1", "registry/app"))
    mounts = {"models": "/workspace/models", "checkpoints/": "/workspace/checkpoints"} if mounts is None else mounts
    return Context(
        live=None,
        root=Path(),
        release="r",
        pair=pair,
        volume=RootVolume("/dev/xvda", 40),
        models_root=ROOT,
        mounts=mounts,
    )


def test_the_new_revision_differs_in_image_mounts_and_retry_alone():
    (step,) = steps("jd analysis", DESCRIBED, context()).steps
    assert step.phase is Phase.JOB
    sent = step.call.parameters
    container = sent["containerProperties"]
    assert container["image"] == IMAGE
    assert container["volumes"] == [
        {"name": "scratch", "host": {"sourcePath": "/scratch"}},
        {"name": "splitbake", "host": {"sourcePath": "/opt/dl-models/.splitbake"}},
        {"name": "checkpoints", "host": {"sourcePath": "/opt/dl-models/checkpoints"}},
        {"name": "models", "host": {"sourcePath": "/opt/dl-models/models"}},
    ]
    assert container["mountPoints"][1:] == [
        {"sourceVolume": "splitbake", "containerPath": "/opt/splitbake/host", "readOnly": True},
        {"sourceVolume": "checkpoints", "containerPath": "/workspace/checkpoints", "readOnly": True},
        {"sourceVolume": "models", "containerPath": "/workspace/models", "readOnly": True},
    ]
    for key in ("environment", "futureField"):
        assert container[key] == DESCRIBED["containerProperties"][key]
    for key in ("type", "propagateTags", "timeout", "futureField"):
        assert sent[key] == DESCRIBED[key]
    assert sent["tags"] == {"team": "vision"}
    assert not {"revision", "status", "jobDefinitionArn", "containerOrchestrationType"} & sent.keys()
    assert shown(step.undo[0].parameters, {}) == {"jobDefinition": "analysis:8 (predicted)"}


def test_the_runtime_is_mounted_where_the_host_has_it():
    with_runtime = replace(context(), runtime_root="/opt/dl-runtime")
    (step,) = steps("jd analysis", DESCRIBED, with_runtime).steps
    container = step.call.parameters["containerProperties"]
    assert {"name": "dl-runtime", "host": {"sourcePath": "/opt/dl-runtime"}} in container["volumes"]
    wanted = {"sourceVolume": "dl-runtime", "containerPath": "/opt/dl-runtime", "readOnly": True}
    assert wanted in container["mountPoints"]
    assert len(container["volumes"]) == 5
    assert steps("jd analysis", {**DESCRIBED, **step.call.parameters}, with_runtime).steps == ()


def test_environment_values_are_sent_but_never_shown():
    (step,) = steps("jd analysis", DESCRIBED, context()).steps
    assert "secret-value" in str(step.call.parameters)
    assert "secret-value" not in f"{shown(dict(step.call.changed), {})} {step.before} {step.after}"


def test_an_equal_revision_is_not_registered_again():
    (step,) = steps("jd analysis", DESCRIBED, context()).steps
    assert steps("jd analysis", {**DESCRIBED, **step.call.parameters}, context()).steps == ()


def test_names_of_volumes_that_are_right_are_kept_whatever_their_order():
    container = {
        **DESCRIBED["containerProperties"],
        "image": IMAGE,
        "volumes": [
            {"name": "vol-b", "host": {"sourcePath": "/opt/dl-models/models"}},
            {"name": "vol-a", "host": {"sourcePath": "/opt/dl-models/checkpoints"}},
            {"name": "vol-c", "host": {"sourcePath": "/opt/dl-models/.splitbake"}},
        ],
        "mountPoints": [
            {"sourceVolume": "vol-c", "containerPath": "/opt/splitbake/host", "readOnly": True},
            {"sourceVolume": "vol-b", "containerPath": "/workspace/models", "readOnly": True},
            {"sourceVolume": "vol-a", "containerPath": "/workspace/checkpoints", "readOnly": True},
        ],
    }
    same = {**DESCRIBED, "containerProperties": container, "retryStrategy": {"attempts": 2}}
    assert steps("jd analysis", same, context()).steps == ()


def test_writable_stale_and_shadowing_mounts_are_replaced():
    container = {
        "image": IMAGE,
        "volumes": [
            {"name": "models", "host": {"sourcePath": "/opt/dl-models/models"}},
            {"name": "gone", "host": {"sourcePath": "/opt/dl-models/gone"}},
            {"name": "else", "host": {"sourcePath": "/opt/dl-models-else"}},
        ],
        "mountPoints": [
            {"sourceVolume": "models", "containerPath": "/workspace/models", "readOnly": False},
            {"sourceVolume": "gone", "containerPath": "/gone"},
            {"sourceVolume": "else", "containerPath": "/workspace/checkpoints"},
        ],
    }
    new = released({**DESCRIBED, "containerProperties": container}, context())["containerProperties"]
    assert [volume["name"] for volume in new["volumes"]] == ["else", "splitbake", "checkpoints", "models"]
    assert [(point["sourceVolume"], point["readOnly"]) for point in new["mountPoints"]] == [
        ("splitbake", True),
        ("checkpoints", True),
        ("models", True),
    ]


def test_a_mount_written_with_a_final_slash_is_the_same_place():
    """Docker starts no container in which one place is mounted twice."""
    container = {
        **DESCRIBED["containerProperties"],
        "mountPoints": [{"sourceVolume": "scratch", "containerPath": "/workspace/models/"}],
    }
    new = released({**DESCRIBED, "containerProperties": container}, context())["containerProperties"]
    assert [point["containerPath"] for point in new["mountPoints"]] == [
        "/opt/splitbake/host",
        "/workspace/checkpoints",
        "/workspace/models",
    ]


def test_the_command_and_all_else_of_the_container_stay_the_users_own():
    own = {"command": ["python", "other.py", "Ref::video"], "readonlyRootFilesystem": True, "user": "10001"}
    container = {**DESCRIBED["containerProperties"], **own}
    new = released({**DESCRIBED, "containerProperties": container}, context())["containerProperties"]
    assert {key: new[key] for key in own} == own


RULE = {"onReason": "*", "action": "EXIT"}


@pytest.mark.parametrize(
    ("strategy", "is_told"),
    [
        ({}, False),
        ({"attempts": 2}, False),
        ({"attempts": 2, "evaluateOnExit": [RULE]}, False),
        ({"attempts": 2, "evaluateOnExit": [{"onExitCode": "78", "action": "retry"}, RULE]}, False),
        ({"attempts": 1, "evaluateOnExit": [RULE]}, True),
        ({"attempts": 2, "evaluateOnExit": [{"onExitCode": "78", "action": "exit"}]}, True),
        ({"attempts": 2, "evaluateOnExit": [RULE] * 5}, True),
    ],
)
def test_a_strategy_that_does_not_try_again_is_kept_and_told(strategy, is_told):
    before = {**DESCRIBED, "retryStrategy": strategy} if strategy else DESCRIBED
    planned = steps("jd analysis", before, context())
    assert any("jd analysis: its own retry strategy" in warning for warning in planned.warnings) is is_told
    after = {**before, **planned.steps[0].call.parameters}
    assert steps("jd analysis", after, context()).warnings == planned.warnings


names = st.text("ab/-_.", min_size=1, max_size=4).filter(lambda name: name.strip("/."))
paths = st.sampled_from(["/a", "/b", "/workspace/a", "/workspace/b"])
volumes = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c-models", "c"]), st.sampled_from([f"{ROOT}/a", f"{ROOT}/b", "/scratch", ROOT])
    ),
    max_size=4,
    unique_by=lambda pair: pair[0],
)


@given(volumes, st.lists(paths, max_size=4), st.dictionaries(names, paths, max_size=3))
def test_releasing_what_was_released_changes_nothing(volumes, points, mounts):
    container = {
        "image": "x",
        "volumes": [{"name": name, "host": {"sourcePath": path}} for name, path in volumes],
        "mountPoints": [
            {"sourceVolume": volumes[index % len(volumes)][0], "containerPath": path}
            for index, path in enumerate(points)
            if volumes
        ],
    }
    mounts = {folder: f"{path}/{index}" for index, (folder, path) in enumerate(mounts.items())}
    once = released(registrable({**DESCRIBED, "containerProperties": container}), context(mounts))
    assert released(once, context(mounts)) == once
    new = once["containerProperties"]
    declared = [volume["name"] for volume in new["volumes"]]
    assert len(declared) == len(set(declared))
    assert {point["sourceVolume"] for point in new["mountPoints"]} <= set(declared)
    mounted = {point["containerPath"]: point for point in new["mountPoints"]}
    assert all(mounted[path]["readOnly"] for path in mounts.values())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            {},
            {
                "attempts": 3,
                "evaluateOnExit": [
                    {"onExitCode": "78", "action": "RETRY"},
                    {"onReason": "*", "action": "EXIT"},
                ],
            },
        ),
        ({"attempts": 5}, {"attempts": 5}),
        (
            {"attempts": 2, "evaluateOnExit": [{"onReason": "*", "action": "exit"}]},
            {
                "attempts": 2,
                "evaluateOnExit": [
                    {"onExitCode": "78", "action": "RETRY"},
                    {"onReason": "*", "action": "exit"},
                ],
            },
        ),
        (
            {"attempts": 2, "evaluateOnExit": [{"onExitCode": "78", "action": "exit"}]},
            {"attempts": 2, "evaluateOnExit": [{"onExitCode": "78", "action": "exit"}]},
        ),
    ],
)
def test_a_mismatch_is_tried_again_and_other_failures_keep_their_fate(before, after):
    assert retrying(before) == after


def test_only_container_jobs_can_be_released_to():
    other = {key: value for key, value in DESCRIBED.items() if key != "containerProperties"}
    with pytest.raises(ReleaseError, match="has no containerProperties"):
        steps("jd analysis", {**other, "type": "multinode"}, context())
