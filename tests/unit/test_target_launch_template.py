"""A launch template's part of a plan: everything is carried, only the AMI changes, nothing is made twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitbake.artifact import Artifact
from splitbake.errors import ReleaseError
from splitbake.release.steps import Output, Phase, shown
from splitbake.release.targets import Context, Pair, RootVolume
from splitbake.release.targets.launch_template import Template, steps

OLD, NEW = "ami-00000000000000001", "ami-00000000000000002"
DATA = {
    "ImageId": OLD,
    "UserData": "c2VjcmV0",
    "BlockDeviceMappings": [
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 100}},
        {"DeviceName": "/dev/xvdf", "Ebs": {"SnapshotId": "snap-1", "VolumeInitializationRate": 300}},
    ],
    "MetadataOptions": {"HttpTokens": "required", "State": "applied"},
    "FutureField": {"kept": True},
}


def artifact(half, name: str) -> Artifact:
    return Artifact(half=half, id=name, location="here", fingerprint="f", created="now", seconds=1.0, size=1)


def context(**changes) -> Context:
    values = {
        "live": None,
        "root": Path(),
        "release": "20261121T000000Z-abcdef",
        "pair": Pair(artifact("ami", NEW), artifact("image", "sha256:1")),
        "volume": RootVolume("/dev/xvda", 40),
        "models_root": "/opt/dl-models",
        "mounts": {"models": "/workspace/models"},
    }
    return Context(**{**values, **changes})


def template(*versions: dict, default: int = 1) -> Template:
    return Template("lt-1", "gpu", default, dict(enumerate(versions, start=1)))


def test_a_new_version_is_made_for_the_host_and_becomes_the_default_at_the_end():
    planned = steps("lt gpu", template(DATA), context())
    create, default = planned.steps
    assert (create.phase, default.phase) == (Phase.HOST, Phase.DEFAULT)
    sent = create.call.parameters["LaunchTemplateData"]
    assert sent == {**DATA, "ImageId": NEW, "MetadataOptions": {"HttpTokens": "required"}}
    assert create.call.parameters["ClientToken"] == "20261121T000000Z-abcdef-lt-1"
    assert len(create.call.parameters["ClientToken"]) <= 128
    version = planned.versions["lt-1"]
    assert isinstance(version, Output)
    assert version.predicted == "2"
    assert default.call.parameters["DefaultVersion"] is version
    assert default.undo[0].parameters["DefaultVersion"] == "1"


def test_what_is_shown_holds_no_user_data():
    for step in steps("lt gpu", template(DATA), context()).steps:
        readable = [shown(dict(call.changed), {}) for call in (*step.calls, *step.undo)]
        assert "c2VjcmV0" not in f"{readable} {step.before} {step.after} {step.title}"


def test_the_source_is_the_default_version_and_the_number_follows_the_latest():
    create, _ = steps("lt gpu", template(DATA, {"ImageId": "ami-trial"}, default=1), context()).steps
    assert create.call.parameters["LaunchTemplateData"]["UserData"] == "c2VjcmV0"
    assert shown(create.after["version"], {}) == "3 (predicted)"


def test_a_default_with_the_ami_needs_nothing():
    planned = steps("lt gpu", template({**DATA, "ImageId": NEW}), context())
    assert planned.steps == ()
    assert planned.versions == {"lt-1": "1"}


def test_an_equal_version_of_a_failed_release_is_used_again():
    planned = steps("lt gpu", template(DATA, {"ImageId": NEW}, {**DATA, "ImageId": NEW}), context())
    (default,) = planned.steps
    assert (default.phase, planned.versions) == (Phase.DEFAULT, {"lt-1": "3"})


@pytest.mark.parametrize(
    ("mapping", "what"),
    [
        ({"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 39}}, "gets 39 GiB, the new AMI needs 40 GiB"),
        ({"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": "snap-9"}}, "would not boot from the new AMI"),
    ],
)
def test_a_root_device_that_cannot_boot_the_ami_is_refused(mapping, what):
    with pytest.raises(ReleaseError, match=what):
        steps("lt gpu", template({**DATA, "BlockDeviceMappings": [mapping]}), context())


def test_an_ami_that_a_parameter_names_is_refused():
    with pytest.raises(ReleaseError, match="resolve:ssm:/gpu/ami"):
        steps("lt gpu", template({**DATA, "ImageId": "resolve:ssm:/gpu/ami"}), context())
