"""A launch template's part of a plan: everything is carried, only the AMI changes, nothing is made twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from splitbake.artifact import Artifact
from splitbake.errors import ReleaseError
from splitbake.release.steps import Output, Phase, shown
from splitbake.release.targets import Context, DataVolume, Pair, RootVolume
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


MODELS = DataVolume("/dev/sdf", "snap-new", 5)


def mapped(data: dict, volume: DataVolume) -> list[dict]:
    create, _ = steps("lt gpu", template(data), context(data=(volume,))).steps
    return create.call.parameters["LaunchTemplateData"]["BlockDeviceMappings"]


def test_the_models_volume_of_the_ami_serves_where_the_template_says_nothing_of_it():
    assert mapped(DATA, MODELS) == DATA["BlockDeviceMappings"]


def test_a_rate_of_initialization_is_said_in_the_template():
    volume = replace(MODELS, initialize=300)
    ebs = {"VolumeType": "gp3", "DeleteOnTermination": True, "SnapshotId": "snap-new", "VolumeInitializationRate": 300}
    assert mapped(DATA, volume)[-1] == {"DeviceName": "/dev/sdf", "Ebs": ebs}
    assert mapped({"ImageId": OLD}, volume) == [{"DeviceName": "/dev/sdf", "Ebs": ebs}]


def test_a_mapping_of_the_old_models_names_the_new_ones():
    old = {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-old", "VolumeSize": 2, "Iops": 4000}}
    (found,) = mapped({"ImageId": OLD, "BlockDeviceMappings": [old]}, MODELS)
    assert found["Ebs"] == {"SnapshotId": "snap-new", "VolumeSize": 5, "Iops": 4000}


def test_a_template_that_already_has_ami_and_models_needs_nothing():
    mapping = {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-new"}}
    planned = steps("lt gpu", template({"ImageId": NEW, "BlockDeviceMappings": [mapping]}), context(data=(MODELS,)))
    assert planned.steps == ()


def test_a_template_that_takes_the_models_away_is_refused():
    data = {"ImageId": OLD, "BlockDeviceMappings": [{"DeviceName": "/dev/sdf", "NoDevice": ""}]}
    with pytest.raises(ReleaseError, match="/dev/sdf takes away the volume with the models") as caught:
        steps("lt gpu", template(data), context(data=(MODELS,)))
    assert caught.value.hint


def test_what_is_shown_tells_the_new_volumes():
    create, _ = steps("lt gpu", template({"ImageId": OLD}), context(data=(replace(MODELS, initialize=300),))).steps
    assert "snap-new" in str(shown(dict(create.call.changed), {}))
