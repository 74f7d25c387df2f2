"""Booting instances of an AMI, in an account of moto's: what is asked for, and that everything ends."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from splitbake.bake import ingress, roles
from splitbake.errors import CloudError, VerifyError
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


@pytest.fixture
def refused(cloud: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], list[Any]]:
    """``refused("run_instances", code)``: EC2 answers the first such call by ``code``; the list gets each call."""

    def set_(operation: str, code: str) -> list[Any]:
        client, calls = cloud.client("ec2"), []
        real = getattr(client, operation)

        def answer(**values: Any) -> Any:
            calls.append(values)
            if len(calls) == 1:
                raise ClientError({"Error": {"Code": code, "Message": "no"}}, operation)
            return real(**values)

        monkeypatch.setattr(client, operation, answer)
        monkeypatch.setattr(roles, "PAUSE", 0.5)
        return calls

    return set_


@pytest.mark.parametrize("code", ["InvalidGroup.NotFound", "InvalidKeyPair.NotFound"])
def test_what_ec2_does_not_know_yet_is_asked_for_again_and_time_begins_there(
    cloud: Any, ami: str, answers: Any, refused: Any, code: str
) -> None:
    answers("instance")
    calls, began = refused("run_instances", code), time.time()
    with boot(cloud, ami) as (one,):
        assert len(calls) == 2
        assert one.asked >= began + roles.PAUSE


def test_an_order_that_ec2_refuses_is_not_given_again(
    cloud: Any, ec2: Any, ami: str, refused: Any, tmp_path: Path
) -> None:
    calls = refused("run_instances", "InstanceLimitExceeded")
    with pytest.raises(CloudError, match="InstanceLimitExceeded"), boot(cloud, ami):
        pytest.fail("it must not be entered")
    assert len(calls) == 1
    assert left(ec2, tmp_path) == []


def test_time_until_an_answer_counts_the_order_itself(
    cloud: Any, ami: str, answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers("instance")
    real = cloud.client("ec2").run_instances

    def slow(**values: Any) -> Any:
        time.sleep(1)
        return real(**values)

    monkeypatch.setattr(cloud.client("ec2"), "run_instances", slow)
    with boot(cloud, ami) as (one,):
        assert one.seconds >= 1


def test_an_instance_that_ec2_does_not_know_yet_is_waited_for(cloud: Any, ami: str, answers: Any, refused: Any) -> None:
    answers("instance")
    calls = refused("describe_instances", "InvalidInstanceID.NotFound")
    with boot(cloud, ami) as (one,):
        assert calls[0] == calls[1] == {"InstanceIds": [one.instance]}


def test_an_instance_that_is_in_no_answer_is_waited_for_as_long_as_any(
    cloud: Any, ami: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.client("ec2"), "describe_instances", lambda **_: {"Reservations": []})
    with (
        pytest.raises(VerifyError, match=r"is pending and has no public-ip address in the time of verify\.within"),
        boot(cloud, ami, within=1),
    ):
        pytest.fail("it must not be entered")


def test_a_cancel_does_not_wait_for_an_answer(
    cloud: Any, ec2: Any, ami: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The ssh of this test answers late: nobody listens to it any more then."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    asked, late = tmp_path / "asked", tmp_path / "late"
    wait = f"open({str(asked)!r}, 'w').close(); time.sleep(20); open({str(late)!r}, 'w').close(); sys.exit(255)"
    program.write_text(f"#!{sys.executable}\nimport sys, time\nif 'true' in sys.argv: {wait}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    def cancel() -> None:
        while not asked.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=cancel, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt), boot(cloud, ami, count=2):
        pytest.fail("it must not be entered")
    thread.join()
    assert not late.exists()
    assert left(ec2, tmp_path) == []


@pytest.mark.parametrize(
    ("connect", "wanted"),
    [
        ("public-ip", {"AssociatePublicIpAddress": True}),
        ("private-ip", {"AssociatePublicIpAddress": False}),
        ("session-manager", {}),
    ],
)
def test_a_public_address_in_a_given_subnet_is_as_the_builders(
    cloud: Any, ec2: Any, monkeypatch: pytest.MonkeyPatch, connect: Any, wanted: dict[str, bool]
) -> None:
    """Session Manager needs a way out: whether an address is that, the subnet knows."""
    monkeypatch.setattr(tunnel, "require_plugin", lambda: None)
    orders: list[dict[str, Any]] = []

    def run_instances(**values: Any) -> Any:
        orders.append(values)
        raise ClientError({"Error": {"Code": "InstanceLimitExceeded", "Message": "no"}}, "RunInstances")

    monkeypatch.setattr(cloud.client("ec2"), "run_instances", run_instances)
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    builder = Builder(connect=connect, subnet=subnet, profile="ours" if connect == "session-manager" else None)
    with pytest.raises(CloudError), boot(cloud, "ami-0aaaaaaaaaaaaaaaa", builder=builder):
        pytest.fail("it must not be entered")
    (interface,) = orders[0]["NetworkInterfaces"]
    assert interface.pop("Groups")
    assert interface == {"DeviceIndex": 0, "SubnetId": subnet, **wanted}


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
        assert f"-P -m splitbake.verify.tunnel {one.instance} {REGION}\n" in shown.stdout.decode()
        assert "connecttimeout 30\n" in shown.stdout.decode()
