"""What is a leftover and what is not, and that removing one thing does not depend on another."""

from __future__ import annotations

import datetime
import json
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from splitbake import lease
from splitbake.artifact import RegionalCopy
from splitbake.bake import leftovers, rundir
from splitbake.bake.things import Thing
from splitbake.cli import gc
from splitbake.errors import GuardError, UsageError
from splitbake.ui import silent

REGION, OTHER = "eu-west-1", "us-west-2"
RUN, FINGERPRINT = "0123456789ab", "sha256:" + "f" * 64
NAME = f"faces-{'f' * 12}-{RUN}"


def ec2(region: str = REGION) -> Any:
    return boto3.client("ec2", region_name=region)


def marks(project: str = "faces", run: str = RUN, **more: str) -> list[dict[str, str]]:
    tags = {"splitbake:project": project, "splitbake:run": run, "splitbake:fingerprint": FINGERPRINT, **more}
    return [{"Key": key, "Value": value} for key, value in tags.items() if value]


def tagged(kind: str, **options: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": marks(**options)}]


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    return tmp_path / "t"


@pytest.fixture
def wreck(small, cloud, temporary) -> dict[str, str]:
    """Everything that a killed bake can leave: kind -> id."""
    small.manifest["ami"]["builder"] = {"permissions_boundary": "arn:aws:iam::123456789012:policy/boundary"}
    instance = ec2().run_instances(
        ImageId="ami-12c6146b", MinCount=1, MaxCount=1, TagSpecifications=tagged("instance")
    )["Instances"][0]["InstanceId"]
    volume = ec2().create_volume(AvailabilityZone=f"{REGION}a", Size=1, TagSpecifications=tagged("volume"))["VolumeId"]
    subnet = ec2().describe_subnets()["Subnets"][0]["SubnetId"]
    interface = ec2().create_network_interface(SubnetId=subnet, TagSpecifications=tagged("network-interface"))
    ec2().create_key_pair(KeyName=f"splitbake-{RUN}", TagSpecifications=tagged("key-pair"))
    started = {"splitbake:started": "2026-01-02T03:04:05+00:00"}
    group = ec2().create_security_group(
        GroupName=f"splitbake-{RUN}",
        Description="x",
        TagSpecifications=[{"ResourceType": "security-group", "Tags": marks(**started)}],
    )["GroupId"]
    role = {"Tags": marks(**{"splitbake:region": REGION})}
    iam = boto3.client("iam")
    iam.create_role(RoleName=f"splitbake-{RUN}", AssumeRolePolicyDocument="{}", **role)
    iam.create_instance_profile(InstanceProfileName=f"splitbake-{RUN}", **role)
    iam.add_role_to_instance_profile(InstanceProfileName=f"splitbake-{RUN}", RoleName=f"splitbake-{RUN}")
    source = ec2().create_volume(AvailabilityZone=f"{REGION}a", Size=1)["VolumeId"]
    snapshot = ec2().create_snapshot(VolumeId=source, TagSpecifications=tagged("snapshot"))["SnapshotId"]
    folder = temporary / f"splitbake-{RUN}"
    folder.mkdir()
    (folder / "id_ed25519").write_text("secret")
    return {
        "instance": instance,
        "volume": volume,
        "network interface": interface["NetworkInterface"]["NetworkInterfaceId"],
        "key pair": f"splitbake-{RUN}",
        "security group": group,
        "role": f"splitbake-{RUN}",
        "instance profile": f"splitbake-{RUN}",
        "AMI": ami(),
        "snapshot": snapshot,
        "folder": str(folder),
    }


def ami(name: str = NAME, region: str = REGION, tags: list[dict[str, str]] | None = None) -> str:
    disk = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 1}}
    name = ec2(region).register_image(Name=name, RootDeviceName="/dev/xvda", BlockDeviceMappings=[disk])["ImageId"]
    if tags:
        ec2(region).create_tags(Resources=[name], Tags=tags)
    return name


def found(small, cloud, older_than: float = 0) -> dict[str, str]:
    things = leftovers.find(small.project, cloud, older_than=older_than)
    assert len({one.kind for one in things}) == len(things)
    assert {one.run for one in things} <= {RUN}
    return {one.kind: one.id for one in things}


def test_everything_that_a_killed_run_left_is_found_and_removed(small, cloud, wreck):
    assert found(small, cloud) == wreck
    assert leftovers.remove(cloud, leftovers.find(small.project, cloud, older_than=0), silent) == []
    assert found(small, cloud) == {}
    assert [one["VolumeId"] for one in ec2().describe_volumes()["Volumes"]] != [wreck["volume"]]
    assert ec2().describe_key_pairs()["KeyPairs"] == []
    interfaces = ec2().describe_network_interfaces()["NetworkInterfaces"]
    assert wreck["network interface"] not in [one["NetworkInterfaceId"] for one in interfaces]
    assert boto3.client("iam").list_roles()["Roles"] == []
    assert boto3.client("iam").list_instance_profiles()["InstanceProfiles"] == []


def test_without_temporary_roles_iam_is_not_asked(small, cloud, wreck):
    """The least policy of the builder allows it only where the manifest has a boundary."""
    del small.manifest["ami"]["builder"]
    assert wreck.keys() - found(small, cloud).keys() == {"role", "instance profile"}


def test_instances_go_first_and_groups_last(small, cloud, wreck, monkeypatch):
    called: list[str] = []
    call = type(cloud.client("ec2"))._make_api_call

    def recorded(client, operation, parameters):
        if operation.startswith(("Terminate", "Delete", "Deregister")):
            called.append(operation)
        return call(client, operation, parameters)

    things = leftovers.find(small.project, cloud, older_than=0)
    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", recorded)
    leftovers.remove(cloud, things, silent)
    assert called[0] == "TerminateInstances"
    assert called[-1] == "DeleteSecurityGroup"


def test_what_is_young_stays(small, cloud, wreck):
    """A bake may be running on another machine."""
    assert found(small, cloud, older_than=3600).keys() == {"security group"}, "its tag says that it is old"


def test_what_does_not_say_its_age_is_as_old_as_its_run(small, cloud):
    """EC2 keeps no time of groups and interfaces."""
    subnet = ec2().describe_subnets()["Subnets"][0]["SubnetId"]
    ec2().create_network_interface(SubnetId=subnet, TagSpecifications=tagged("network-interface"))
    assert found(small, cloud, older_than=3600) == {}
    assert found(small, cloud, older_than=0).keys() == {"network interface"}
    started = {"splitbake:started": "2026-01-02T03:04:05+00:00"}
    specification = [{"ResourceType": "security-group", "Tags": marks(**started)}]
    ec2().create_security_group(GroupName=f"splitbake-{RUN}", Description="x", TagSpecifications=specification)
    assert found(small, cloud, older_than=3600).keys() == {"network interface", "security group"}


def test_what_is_of_another_project_stays(small, cloud):
    ec2().create_key_pair(KeyName="splitbake-" + "1" * 12, TagSpecifications=tagged("key-pair", project="people"))
    ami(f"faces-more-{'f' * 12}-{RUN}")
    ami(f"faces-{'f' * 12}-release")
    ec2().create_key_pair(KeyName="splitbake-by-hand")
    ec2().create_security_group(GroupName="mine", Description="x", TagSpecifications=[
        {"ResourceType": "security-group", "Tags": marks(run="")}
    ])  # fmt: skip
    assert found(small, cloud) == {}


def test_what_a_run_on_this_machine_needs_stays(small, cloud):
    ec2().create_key_pair(KeyName=f"splitbake-{RUN}", TagSpecifications=tagged("key-pair"))
    with rundir.opened(RUN):
        assert found(small, cloud) == {}
    assert found(small, cloud).keys() == {"key pair"}


def test_what_a_lease_names_stays(small, cloud, wreck):
    project = small.project
    name = f"build/123456789012/{REGION}/ami/{FINGERPRINT}"
    with lease.held(project.store(cloud), name, who="somebody", doing="building the ami"):
        assert found(small, cloud).keys() == {"folder"}, "a folder needs no lease: its own process is gone"
    assert found(small, cloud) == wreck


def test_another_lease_protects_nothing(small, cloud, wreck):
    name = f"build/123456789012/{REGION}/ami/sha256:{'e' * 64}"
    with lease.held(small.project.store(cloud), name, who="somebody", doing="building the ami"):
        assert found(small, cloud) == wreck


def test_an_ami_that_is_complete_or_known_is_no_leftover(small, cloud, made):
    ami(tags=marks())
    assert found(small, cloud) == {}
    untagged = ami(f"faces-{'f' * 12}-{'2' * 12}")
    from splitbake import build

    kept = build.build(small.project, cloud, "ami", force=False, say=silent).artifact
    catalog = small.project.catalog(cloud)
    catalog.keep(kept.model_copy(update={"id": untagged}), instead_of=kept)
    assert found(small, cloud) == {}


def test_copies_in_other_regions_are_looked_for(small, cloud, made):
    small.manifest["ami"]["copies"] = [{"region": OTHER}]
    copy = ami(region=OTHER)
    assert found(small, cloud) == {"AMI": copy}
    from splitbake import build

    kept = build.build(small.project, cloud, "ami", force=False, say=silent).artifact
    known = kept.model_copy(update={"copies": (RegionalCopy(region=OTHER, id=copy),)})
    small.project.catalog(cloud).keep(known, instead_of=kept)
    assert found(small, cloud) == {}


def test_an_untagged_snapshot_is_known_by_its_builder(small, cloud):
    instance = ec2().run_instances(
        ImageId="ami-12c6146b", MinCount=1, MaxCount=1, TagSpecifications=tagged("instance")
    )["Instances"][0]["InstanceId"]
    volume = ec2().create_volume(AvailabilityZone=f"{REGION}a", Size=1)["VolumeId"]
    for builder in (instance, "i-0123456789abcdef0"):
        words = f"Created by CreateImage({builder}) for ami-0123456789abcdef0"
        snapshot = ec2().create_snapshot(VolumeId=volume, Description=words)["SnapshotId"]
        if builder == instance:
            ours = snapshot
    assert found(small, cloud)["snapshot"] == ours


def test_a_folder_that_nobody_works_in_goes_with_its_registry_login(small, cloud, temporary):
    (temporary / "splitbake-docker-abcd1234").mkdir()
    (temporary / "splitbake-notes").mkdir()
    things = leftovers.find(small.project, cloud, older_than=0)
    assert [one.id for one in things] == [str(temporary / "splitbake-docker-abcd1234")]
    assert leftovers.remove(cloud, things, silent) == []
    assert [path.name for path in temporary.iterdir()] == ["splitbake-notes"]


def test_what_cannot_be_removed_stops_nothing_else(small, cloud, wreck, monkeypatch):
    def denied(*_: Any, **__: Any) -> None:
        raise ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}, "DeleteKeyPair")

    things = leftovers.find(small.project, cloud, older_than=0)
    with monkeypatch.context() as patch:
        patch.setattr(cloud.client("ec2"), "delete_key_pair", denied)
        (failure,) = leftovers.remove(cloud, things, silent)
    assert failure.thing.kind == "key pair"
    assert "UnauthorizedOperation" in failure.problem.message
    assert found(small, cloud) == {"key pair": f"splitbake-{RUN}"}


def test_what_is_gone_meanwhile_is_fine(cloud):
    since = datetime.datetime.now(datetime.UTC)
    names = {"volume": "vol-0123456789abcdef0", "key pair": "splitbake-x", "security group": "sg-0123456789abcdef0"}
    names |= {"AMI": "ami-0123456789abcdef0", "snapshot": "snap-0123456789abcdef0", "folder": "/nowhere/at/all"}
    names |= {"instance": "i-0123456789abcdef0", "role": "splitbake-x", "instance profile": "splitbake-x"}
    things = [Thing(kind, name, REGION, RUN, since) for kind, name in names.items()]
    assert leftovers.remove(cloud, things, silent) == []


# The command.


def call(small, *arguments: str) -> Any:
    manifest = str(small.project.manifest_path)
    return CliRunner().invoke(gc.command, ["--manifest", manifest, *arguments])


def test_the_command_lists_and_removes_nothing_by_itself(small, cloud, wreck):
    shown = call(small, "--runs", "--older-than", "0")
    assert shown.exit_code == 0
    assert "account 123456789012, region eu-west-1, endpoint AWS" in shown.stderr
    assert "10 things found" in shown.stdout
    assert "nothing was removed: --yes does" in shown.stdout
    for name in (wreck["instance"], wreck["AMI"], RUN, "it is of no AMI"):
        assert name in shown.stdout
    assert found(small, cloud) == wreck


def test_the_command_removes_with_yes(small, cloud, wreck):
    shown = call(small, "--runs", "--older-than", "0 s", "--yes")
    assert (shown.exit_code, "10 things found, and removed" in shown.stdout) == (0, True)
    assert "nothing is left" in call(small, "--runs", "--older-than", "0").stdout


def test_the_command_leaves_young_things_alone_unless_told(small, cloud, wreck):
    assert "1 thing found" in call(small, "--runs").stdout


def test_the_command_gives_json(small, cloud, wreck):
    shown = call(small, "--runs", "--older-than", "0", "--json")
    body = json.loads(shown.stdout)
    assert body["removed"] is False
    assert {one["kind"]: one["id"] for one in body["things"]} == wreck
    (group,) = (one for one in body["things"] if one["kind"] == "security group")
    assert group == {
        "kind": "security group",
        "id": wreck["security group"],
        "region": REGION,
        "run": RUN,
        "since": "2026-01-02T03:04:05+00:00",
        "why": "its run ended without removing it",
        "problem": None,
    }


def test_the_command_ends_in_1_where_something_is_left(small, cloud, wreck, monkeypatch):
    def denied(*_: Any, **__: Any) -> None:
        raise ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}, "DeleteKeyPair")

    call_api = type(cloud.client("ec2"))._make_api_call
    monkeypatch.setattr(
        "botocore.client.BaseClient._make_api_call",
        lambda client, name, given: denied() if name == "DeleteKeyPair" else call_api(client, name, given),
    )
    shown = CliRunner().invoke(
        gc.command,
        ["--manifest", str(small.project.manifest_path), "--runs", "--older-than", "0", "--yes"],
        standalone_mode=False,
    )
    assert shown.return_value == 1
    assert "left: could not remove key pair" in shown.stderr
    assert "and removed" not in shown.stdout


def test_the_command_says_what_it_collects(small, cloud):
    assert isinstance(call(small).exception, UsageError)
    assert "expected" in call(small, "--runs", "--older-than", "yesterday").stderr


def test_the_wrong_account_is_refused(small, cloud, wreck):
    small.manifest["environments"]["dev"]["account"] = "210987654321"
    assert isinstance(call(small, "--runs", "--yes").exception, GuardError)
    small.manifest["environments"]["dev"]["account"] = "123456789012"
    assert found(small, cloud) == wreck
