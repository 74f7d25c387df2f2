"""Launch templates in the local cloud: the facts of AWS that a release relies on."""

from __future__ import annotations

import uuid

import pytest
from botocore.exceptions import ClientError

pytestmark = pytest.mark.engine

DEVICES = [{"DeviceName": "/dev/xvdb", "Ebs": {"SnapshotId": "snap-0123456789abcdef0", "VolumeSize": 20}}]


@pytest.fixture
def ec2(aws):
    return aws("ec2")


@pytest.fixture
def template(ec2, base_ami):
    """A launch template with one version."""
    data = {"ImageId": base_ami, "InstanceType": "g5.xlarge", "UserData": "aGk=", "BlockDeviceMappings": DEVICES}
    tags = [{"ResourceType": "launch-template", "Tags": [{"Key": "a", "Value": "b"}]}]
    return ec2.create_launch_template(
        LaunchTemplateName=f"t-{uuid.uuid4().hex}", LaunchTemplateData=data, TagSpecifications=tags
    )["LaunchTemplate"]["LaunchTemplateId"]


def add(ec2, template, data, **options):
    answer = ec2.create_launch_template_version(LaunchTemplateId=template, LaunchTemplateData=data, **options)
    return answer["LaunchTemplateVersion"]


def data_of(ec2, template, version):
    found = ec2.describe_launch_template_versions(LaunchTemplateId=template, Versions=[str(version)])
    return found["LaunchTemplateVersions"][0]["LaunchTemplateData"]


def test_a_source_version_is_inherited_but_for_its_snapshots(ec2, template):
    version = add(ec2, template, {"ImageId": "ami-new"}, SourceVersion="1", VersionDescription="new")
    assert version["VersionNumber"] == 2
    assert data_of(ec2, template, 2) == {
        "ImageId": "ami-new",
        "InstanceType": "g5.xlarge",
        "UserData": "aGk=",
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvdb", "Ebs": {"VolumeSize": 20}}],
    }
    assert data_of(ec2, template, 1)["BlockDeviceMappings"] == DEVICES, "the source stays as it is"


def test_given_block_devices_replace_the_inherited_ones(ec2, template):
    add(ec2, template, {"BlockDeviceMappings": DEVICES}, SourceVersion="1")
    assert data_of(ec2, template, 2)["BlockDeviceMappings"] == DEVICES


def test_an_initialization_rate_is_told_back_and_has_its_bounds(ec2, template):
    """EC2 API model, ``VolumeInitializationRate``: "Valid range: 100 - 300 MiB/s"."""
    device = {
        "DeviceName": "/dev/sdf",
        "Ebs": {"SnapshotId": "snap-0123456789abcdef0", "VolumeInitializationRate": 300},
    }
    add(ec2, template, {"BlockDeviceMappings": [device]})
    assert data_of(ec2, template, 2)["BlockDeviceMappings"] == [device]
    device["Ebs"]["VolumeInitializationRate"] = 301
    with pytest.raises(ClientError, match=r"InvalidParameterValue.*between 100 and 300"):
        add(ec2, template, {"BlockDeviceMappings": [device]})
    with pytest.raises(ClientError, match=r"InvalidParameterValue.*between 100 and 300"):
        ec2.create_launch_template(LaunchTemplateName="fast", LaunchTemplateData={"BlockDeviceMappings": [device]})
    left_out = {"DeviceName": "/dev/sdf", "NoDevice": ""}
    add(ec2, template, {"BlockDeviceMappings": [left_out]})
    assert data_of(ec2, template, 3)["BlockDeviceMappings"] == [left_out]


def test_without_a_source_version_nothing_is_inherited(ec2, template):
    add(ec2, template, {"ImageId": "ami-new"})
    assert data_of(ec2, template, 2) == {"ImageId": "ami-new"}


def test_a_client_token_makes_one_version(ec2, template):
    first = add(ec2, template, {"ImageId": "ami-new"}, ClientToken="release-1")
    again = add(ec2, template, {"ImageId": "ami-new"}, ClientToken="release-1")
    assert first["VersionNumber"] == again["VersionNumber"] == 2
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        add(ec2, template, {"ImageId": "ami-other"}, ClientToken="release-1")


def test_a_client_token_makes_one_template(ec2, base_ami):
    asked = {"LaunchTemplateData": {"ImageId": base_ami}, "ClientToken": uuid.uuid4().hex}
    first = ec2.create_launch_template(LaunchTemplateName="once", **asked)["LaunchTemplate"]
    assert ec2.create_launch_template(LaunchTemplateName="once", **asked)["LaunchTemplate"] == first
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        ec2.create_launch_template(LaunchTemplateName="twice", **asked)
    ec2.delete_launch_template(LaunchTemplateName="once")


def test_templates_are_found_by_their_tags_as_they_are_now(ec2, base_ami):
    def found(name, *values):
        filters = [{"Name": name, "Values": [*values]}]
        return ec2.describe_launch_templates(Filters=filters)["LaunchTemplates"]

    tags = [{"ResourceType": "launch-template", "Tags": [{"Key": "of", "Value": "many"}]}]
    names = [f"tagged-{number:02}" for number in range(20)]
    for name in names:
        ec2.create_launch_template(
            LaunchTemplateName=name, LaunchTemplateData={"ImageId": base_ami}, TagSpecifications=tags
        )
    assert [one["LaunchTemplateName"] for one in found("tag:of", "many")] == names
    assert found("tag:of", "few") == []
    (first, *_) = found("launch-template-name", names[0])
    ec2.create_tags(Resources=[first["LaunchTemplateId"]], Tags=[{"Key": "late", "Value": "yes"}])
    (tagged,) = found("tag:late", "yes", "maybe")
    assert (tagged["LaunchTemplateName"], len(tagged["Tags"])) == (names[0], 2)
    for name in names:
        ec2.delete_launch_template(LaunchTemplateName=name)


def test_modify_moves_only_the_default(ec2, template):
    add(ec2, template, {"ImageId": "ami-new"})
    changed = ec2.modify_launch_template(LaunchTemplateId=template, DefaultVersion="2")["LaunchTemplate"]
    assert (changed["DefaultVersionNumber"], changed["LatestVersionNumber"]) == (2, 2)
    assert data_of(ec2, template, "$Default") == {"ImageId": "ami-new"}


def test_the_default_version_is_not_deleted_and_numbers_are_never_reused(ec2, template):
    for image in ("ami-2", "ami-3"):
        add(ec2, template, {"ImageId": image})
    answer = ec2.delete_launch_template_versions(LaunchTemplateId=template, Versions=["1", "3", "9"])
    assert [one["VersionNumber"] for one in answer["SuccessfullyDeletedLaunchTemplateVersions"]] == [3]
    refused = {
        one["VersionNumber"]: one["ResponseError"] for one in answer["UnsuccessfullyDeletedLaunchTemplateVersions"]
    }
    assert refused[9]["Code"] == "launchTemplateVersionDoesNotExist"
    assert "default version" in refused[1]["Message"]
    assert add(ec2, template, {"ImageId": "ami-4"})["VersionNumber"] == 4
    found = ec2.describe_launch_template_versions(LaunchTemplateId=template, MinVersion="2")["LaunchTemplateVersions"]
    assert [one["VersionNumber"] for one in found] == [2, 4]
    with pytest.raises(ClientError, match=r"InvalidLaunchTemplateId\.VersionNotFound"):
        data_of(ec2, template, 3)


def test_all_versions_are_described(ec2, template):
    for number in range(2, 21):
        add(ec2, template, {"ImageId": f"ami-{number}"})
    found = ec2.describe_launch_template_versions(LaunchTemplateId=template)["LaunchTemplateVersions"]
    assert len(found) == 20


def test_a_refused_launch_leaves_no_instance(ec2, template):
    before = ec2.describe_instances()["Reservations"]
    with pytest.raises(ClientError, match=r"InvalidSnapshot\.NotFound"):
        ec2.run_instances(LaunchTemplate={"LaunchTemplateId": template, "Version": "1"}, MinCount=1, MaxCount=1)
    assert ec2.describe_instances()["Reservations"] == before


def test_an_instance_starts_from_a_template(ec2, template, base_ami):
    add(ec2, template, {}, SourceVersion="1")
    chosen = {"LaunchTemplateId": template, "Version": "2"}
    instance = ec2.run_instances(LaunchTemplate=chosen, MinCount=1, MaxCount=1)["Instances"][0]
    assert (instance["ImageId"], instance["InstanceType"]) == (base_ami, "g5.xlarge")
    ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    add(ec2, template, {"ImageId": "ami-0123456789abcdef0"})
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        ec2.run_instances(LaunchTemplate=chosen | {"Version": "3"}, MinCount=1, MaxCount=1)
