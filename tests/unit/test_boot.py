"""Booting instances of an AMI, in an account of moto's: what is asked for, and that everything ends."""

from __future__ import annotations

import base64
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import boto3
import pytest

from splitbake.bake import ingress
from splitbake.errors import VerifyError
from splitbake.manifest.ami import Builder
from splitbake.ui import silent
from splitbake.verify import ssh, tunnel
from splitbake.verify.boot import booted

REGION = "eu-west-1"


@pytest.fixture
def ec2(cloud: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The account's EC2; nothing asks the internet, and temporary folders are ours."""
    monkeypatch.setattr(ingress, "public_address", lambda: "192.0.2.1")
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    return boto3.client("ec2", region_name=REGION)


@pytest.fixture
def ami(ec2: Any) -> str:
    volume = ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=8)["VolumeId"]
    disks = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": ec2.create_snapshot(VolumeId=volume)["SnapshotId"]}}]
    ec2.delete_volume(VolumeId=volume)
    made: str = ec2.register_image(Name="an ami", RootDeviceName="/dev/xvda", BlockDeviceMappings=disks)["ImageId"]
    return made


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``answers("instance", …)``: these hosts answer by SSH, no other one does."""

    def set_(*hosts: str) -> None:
        def run(_config: Path, host: str, argv: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
            return subprocess.CompletedProcess(argv, 0 if host in hosts else 255, "", "no route to host")

        monkeypatch.setattr(ssh, "run", run)

    return set_


def boot(cloud: Any, ami: str, *, within: float = 20, **options: Any) -> Any:
    builder = options.pop("builder", Builder())
    values = {"instance_type": "m6i.large", "tags": {"Name": "verification"}, "say": silent, **options}
    return booted(cloud, ami, builder=builder, within=within, **values)


def instances(ec2: Any) -> list[dict[str, Any]]:
    return [one for group in ec2.describe_instances()["Reservations"] for one in group["Instances"]]


def left(ec2: Any, folder: Path) -> list[str]:
    alive = [one["InstanceId"] for one in instances(ec2) if one["State"]["Name"] != "terminated"]
    keys = [one["KeyName"] for one in ec2.describe_key_pairs()["KeyPairs"]]
    groups = [one["GroupName"] for one in ec2.describe_security_groups()["SecurityGroups"]]
    return [*alive, *keys, *(set(groups) - {"default"}), *(path.name for path in (folder / "t").iterdir())]


def test_all_are_asked_for_at_once_and_end_with_the_block(
    cloud: Any, ec2: Any, ami: str, answers: Any, tmp_path: Path
) -> None:
    answers("instance", "instance-2", "instance-3")
    with boot(cloud, ami, count=3) as found:
        assert [one.host for one in found] == ["instance", "instance-2", "instance-3"]
        running = {one["InstanceId"]: one for one in instances(ec2)}
        assert running.keys() == {one.instance for one in found}
        assert len(ec2.describe_instances()["Reservations"]) == 1
        for one in found:
            address = running[one.instance]["PublicIpAddress"]
            shown = subprocess.run(["ssh", "-G", "-F", str(one.ssh_config), one.host], capture_output=True, check=True)
            assert f"hostname {address}\n" in shown.stdout.decode()
            assert "IamInstanceProfile" not in running[one.instance], "what is looked at needs no role"
            assert one.seconds >= 0
    assert {one["State"]["Name"] for one in instances(ec2)} == {"terminated"}
    assert left(ec2, tmp_path) == []


def test_an_instance_ends_itself_and_that_terminates_it(cloud: Any, ec2: Any, ami: str, answers: Any) -> None:
    answers("instance")
    with boot(cloud, ami, lifetime=1234.5) as (one,):
        named = {"InstanceId": one.instance}
        data = ec2.describe_instance_attribute(**named, Attribute="userData")["UserData"]["Value"]
        script = base64.b64decode(data).decode()
        assert script.startswith("#!/bin/sh\n")
        assert "--on-active=1235s" in script
        assert subprocess.run(["sh", "-n"], input=script.encode(), check=False).returncode == 0
        behaviour = ec2.describe_instance_attribute(**named, Attribute="instanceInitiatedShutdownBehavior")
        assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"


def test_one_that_does_not_answer_ends_all(cloud: Any, ec2: Any, ami: str, answers: Any, tmp_path: Path) -> None:
    answers("instance")
    with (
        pytest.raises(VerifyError, match=r"does not answer by SSH in the time of verify\.within: no route to host"),
        boot(cloud, ami, count=2, within=1),
    ):
        pytest.fail("it must not be entered")
    assert left(ec2, tmp_path) == []


def test_an_error_while_looking_ends_all(cloud: Any, ec2: Any, ami: str, answers: Any, tmp_path: Path) -> None:
    answers("instance", "instance-2")
    with pytest.raises(KeyboardInterrupt), boot(cloud, ami, count=2):
        raise KeyboardInterrupt
    assert left(ec2, tmp_path) == []


def test_session_manager_needs_a_role_and_no_open_port(
    cloud: Any, ec2: Any, ami: str, answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers("instance")
    monkeypatch.setattr(tunnel, "require_plugin", lambda: None)
    boto3.client("iam", region_name=REGION).create_instance_profile(InstanceProfileName="ours")
    builder = Builder(connect="session-manager", profile="ours")
    with boot(cloud, ami, builder=builder) as (one,):
        (running,) = instances(ec2)
        assert running["IamInstanceProfile"]["Arn"].endswith("/ours")
        group = running["SecurityGroups"][0]["GroupId"]
        assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"] == []
        shown = subprocess.run(["ssh", "-G", "-F", str(one.ssh_config), one.host], capture_output=True, check=True)
        assert f"-m splitbake.verify.tunnel {one.instance} {REGION}\n" in shown.stdout.decode()
        assert "connecttimeout 30\n" in shown.stdout.decode()
