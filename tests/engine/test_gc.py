"""What a killed run has left in the local cloud goes: real instances with volumes, AMIs, roles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splitbake.bake import access, leftovers
from splitbake.bake.things import as_tags
from splitbake.project import Project
from splitbake.ui import silent

pytestmark = pytest.mark.engine

RUN, FINGERPRINT = "0123456789ab", "sha256:" + "f" * 64
TAGS = {"splitbake:project": "wreck", "splitbake:run": RUN, "splitbake:fingerprint": FINGERPRINT}
BOUNDARY = "arn:aws:iam::123456789012:policy/boundary"


@pytest.fixture
def project(cloud: Any, base_ami: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    manifest = {
        "version": 1,
        "project": "wreck",
        "state": "state",
        "models": {"files": [{"path": "models/a", "from": "a"}], "budget": "1 MB"},
        "ami": {"base": base_ami, "builder": {"connect": "session-manager", "permissions_boundary": BOUNDARY}},
        "image": {
            "base": "python:3.11-slim",
            "include": ["run.py"],
            "mounts": {"models": "/models"},
            "command": ["python", "run.py"],
            "repository": "wreck",
            "budget": "500 MB",
        },
        "environments": {"local": {"account": "123456789012", "region": "us-east-1", "endpoint": "custom"}},
    }
    (tmp_path / "splitbake.yaml").write_text(json.dumps(manifest), encoding="utf-8")
    return Project(tmp_path / "splitbake.yaml")


@pytest.fixture
def boundary(aws: Any) -> Any:
    """The policy within which temporary roles are made."""
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ssm:*", "Resource": "*"}]}
    policy = aws("iam").create_policy(PolicyName="boundary", PolicyDocument=json.dumps(document))["Policy"]["Arn"]
    yield policy
    aws("iam").delete_policy(PolicyArn=policy)


def specification(*kinds: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": as_tags(TAGS)} for kind in kinds]


def standing(ec2: Any) -> set[str]:
    """The snapshots, security groups and volumes that are there, by id."""
    snapshots = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    groups, volumes = ec2.describe_security_groups()["SecurityGroups"], ec2.describe_volumes()["Volumes"]
    return {
        one[key]
        for key, ones in (("SnapshotId", snapshots), ("GroupId", groups), ("VolumeId", volumes))
        for one in ones
    }


def test_a_wreck_is_cleared(project: Project, aws: Any, base_ami: str) -> None:
    ec2, cloud = aws("ec2"), project.cloud()
    others = standing(ec2)  # the cloud is other tests', too
    group = ec2.create_security_group(
        GroupName=f"splitbake-{RUN}", Description="x", TagSpecifications=specification("security-group")
    )["GroupId"]
    ec2.create_key_pair(KeyName=f"splitbake-{RUN}", TagSpecifications=specification("key-pair"))
    kept = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": False}}
    instance = ec2.run_instances(
        ImageId=base_ami,
        MinCount=1,
        MaxCount=1,
        SecurityGroupIds=[group],
        BlockDeviceMappings=[kept],
        TagSpecifications=specification("instance", "volume"),
    )["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    ami = ec2.create_image(InstanceId=instance, Name=f"wreck-{'f' * 12}-{RUN}")["ImageId"]
    ec2.get_waiter("image_available").wait(ImageIds=[ami], WaiterConfig={"Delay": 1})

    things = leftovers.find(project, cloud, older_than=0)
    kinds = [one.kind for one in things]
    assert {*kinds} == {"instance", "volume", "key pair", "security group", "AMI"}
    assert kinds.count("volume") == 2
    assert leftovers.remove(project, cloud, things, silent) == []
    assert leftovers.find(project, cloud, older_than=0) == []
    assert standing(ec2) == others


def test_a_temporary_role_is_made_found_and_removed(project: Project, aws: Any, boundary: str, tmp_path: Path) -> None:
    cloud = project.cloud()
    assert boundary == BOUNDARY
    with access.granted(
        cloud,
        RUN,
        folder=tmp_path,
        subnet=None,
        tags={"splitbake:project": "wreck"},
        connect="session-manager",
        boundary=boundary,
    ) as way_in:
        assert way_in.profile == f"splitbake-{RUN}"
        found = {one.kind for one in leftovers.find(project, cloud, older_than=0)}
        assert found == {"key pair", "security group", "role", "instance profile"}
    assert leftovers.find(project, cloud, older_than=0) == []
    names = [one["RoleName"] for one in aws("iam").list_roles()["Roles"]]
    assert [name for name in names if name.startswith("splitbake-")] == []


def test_a_role_that_a_killed_run_left_goes(project: Project, boundary: str, tmp_path: Path) -> None:
    cloud = project.cloud()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access, "sweep", lambda *_, **__: None)  # nobody is left to do it
        with access.granted(
            cloud, RUN, folder=tmp_path, subnet=None, tags={"splitbake:project": "wreck"}, boundary=boundary
        ):
            pass
    things = leftovers.find(project, cloud, older_than=0)
    assert [one.kind for one in things] == ["key pair", "security group", "instance profile", "role"]
    assert leftovers.remove(project, cloud, things, silent) == []
    assert leftovers.find(project, cloud, older_than=0) == []
