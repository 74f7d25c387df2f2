"""What is a leftover and what is not, and that removing one thing does not depend on another."""

from __future__ import annotations

import datetime
import json
import os
import re
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from splitbake import build, fingerprint, lease
from splitbake.artifact import RegionalCopy
from splitbake.bake import access, amis, leftovers, rundir
from splitbake.bake.things import Failure, Thing
from splitbake.cli import gc
from splitbake.errors import GuardError, HeldError, UsageError
from splitbake.generate import packer as generated
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


def removed(small, cloud, things: list[Thing]) -> list[Failure]:
    return leftovers.remove(small.project, cloud, things, silent)


def test_everything_that_a_killed_run_left_is_found_and_removed(small, cloud, wreck):
    assert found(small, cloud) == wreck
    assert removed(small, cloud, leftovers.find(small.project, cloud, older_than=0)) == []
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
    removed(small, cloud, things)
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


def test_the_own_region_among_the_copies_doubles_nothing(small, cloud, wreck):
    small.manifest["ami"]["copies"] = [{"region": REGION}, {"region": OTHER}]
    assert found(small, cloud) == wreck


def test_what_spot_leaves_is_found(small, cloud):
    """A launch template of Packer's, and an instance of a fleet, which has no tags before Packer gives them."""
    small.manifest["ami"]["builder"] = {"spot": True}
    ec2().create_key_pair(KeyName=f"splitbake-{RUN}", TagSpecifications=tagged("key-pair"))
    for key in (f"splitbake-{RUN}", "mine"):
        instance = ec2().run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, KeyName=key)["Instances"][0]
        if key != "mine":
            ours = instance["InstanceId"]
    template = ec2().create_launch_template(
        LaunchTemplateName="packer-fleet",
        LaunchTemplateData={"ImageId": "ami-12c6146b"},
        TagSpecifications=tagged("launch-template"),
    )["LaunchTemplate"]["LaunchTemplateId"]
    assert found(small, cloud) == {
        "instance": ours,
        "launch template": template,
        "key pair": f"splitbake-{RUN}",
    }
    assert removed(small, cloud, leftovers.find(small.project, cloud, older_than=0)) == []
    assert found(small, cloud) == {}


def here(run: str = RUN) -> list[dict[str, Any]]:
    """The tags of a key pair whose run began on this machine."""
    return [{"ResourceType": "key-pair", "Tags": marks(run=run, **access.machine_tag())}]


def test_what_a_dead_run_of_this_machine_left_need_not_be_old(small, cloud, wreck):
    """Its lock is free: it does not live on another machine. But an AMI of it may be taken up."""
    ec2().delete_key_pair(KeyName=f"splitbake-{RUN}")
    ec2().create_key_pair(KeyName=f"splitbake-{RUN}", TagSpecifications=here())
    kinds = found(small, cloud, older_than=3600).keys()
    assert kinds == wreck.keys() - {"AMI", "snapshot"}
    with rundir.opened("1" * 12):
        ec2().create_key_pair(KeyName=f"splitbake-{'1' * 12}", TagSpecifications=here("1" * 12))
        assert found(small, cloud, older_than=3600).keys() == kinds


def test_of_what_another_user_left_here_its_age_decides(small, cloud, wreck, monkeypatch):
    """Nobody else can look at the lock: neither does the run live for ever, nor is it known to be over."""
    ec2().delete_key_pair(KeyName=f"splitbake-{RUN}")
    ec2().create_key_pair(KeyName=f"splitbake-{RUN}", TagSpecifications=here())
    opened = os.open

    def closed(path: Any, *arguments: Any, **options: Any) -> int:
        if path == Path(wreck["folder"]):
            raise PermissionError
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", closed)
    assert found(small, cloud, older_than=3600).keys() == {"security group"}, "its tag says that it is old"
    assert found(small, cloud) == wreck


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


def test_what_a_verification_needs_stays(small, cloud, wreck):
    name = f"verify/123456789012/{REGION}/ami/{FINGERPRINT}"
    with lease.held(small.project.store(cloud), name, who="somebody", doing="verifying the ami"):
        assert found(small, cloud).keys() == {"folder"}
    assert found(small, cloud) == wreck


def test_another_lease_protects_nothing(small, cloud, wreck):
    name = f"build/123456789012/{REGION}/ami/sha256:{'e' * 64}"
    with lease.held(small.project.store(cloud), name, who="somebody", doing="building the ami"):
        assert found(small, cloud) == wreck


def test_an_ami_that_is_complete_or_known_is_no_leftover(small, cloud, made):
    ami(tags=marks())
    assert found(small, cloud) == {}
    untagged = ami(f"faces-{'f' * 12}-{'2' * 12}")
    kept = build.build(small.project, cloud, "ami", force=False, say=silent).artifact
    catalog = small.project.catalog(cloud)
    catalog.keep(kept.model_copy(update={"id": untagged}), instead_of=kept)
    assert found(small, cloud) == {}


def test_copies_in_other_regions_are_looked_for(small, cloud, made):
    small.manifest["ami"]["copies"] = [{"region": OTHER}]
    copy = ami(region=OTHER)
    assert found(small, cloud) == {"AMI": copy}
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


def test_a_file_that_nobody_needs_goes_as_well(small, cloud, temporary):
    (temporary / "splitbake-runtime-abcd1234.txt").write_text("numpy==2.0.0")
    (temporary / "splitbake-runtime-abcd1235.txt").symlink_to("elsewhere")
    things = leftovers.find(small.project, cloud, older_than=0)
    assert removed(small, cloud, things) == []
    assert [path.name for path in temporary.iterdir()] == ["splitbake-runtime-abcd1235.txt"]


def test_gc_knows_every_kind_of_scratch_that_there_is():
    sources = Path(rundir.__file__).parents[1].rglob("*.py")
    literals = (re.findall(r"""prefix=f?["']splitbake-([^"']*)["']""", path.read_text()) for path in sources)
    kinds = {kind for found in literals for kind in found}
    assert kinds == {f"{kind}-" for kind in rundir.SCRATCH}


@pytest.mark.parametrize("kind", rundir.SCRATCH)
def test_a_folder_that_nobody_works_in_goes_with_its_registry_login(small, cloud, temporary, kind):
    (temporary / f"splitbake-{kind}-abcd1234").mkdir()
    (temporary / "splitbake-notes").mkdir()
    things = leftovers.find(small.project, cloud, older_than=0)
    assert [one.id for one in things] == [str(temporary / f"splitbake-{kind}-abcd1234")]
    assert removed(small, cloud, things) == []
    assert [path.name for path in temporary.iterdir()] == ["splitbake-notes"]


def test_what_cannot_be_removed_stops_nothing_else(small, cloud, wreck, monkeypatch):
    def denied(*_: Any, **__: Any) -> None:
        raise ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}, "DeleteKeyPair")

    things = leftovers.find(small.project, cloud, older_than=0)
    with monkeypatch.context() as patch:
        patch.setattr(cloud.client("ec2"), "delete_key_pair", denied)
        (failure,) = removed(small, cloud, things)
    assert failure.thing.kind == "key pair"
    assert "UnauthorizedOperation" in failure.problem.message
    assert found(small, cloud) == {"key pair": f"splitbake-{RUN}"}


def test_what_is_gone_meanwhile_is_fine(small, cloud):
    since = datetime.datetime.now(datetime.UTC)
    names = {"volume": "vol-0123456789abcdef0", "key pair": "splitbake-x", "security group": "sg-0123456789abcdef0"}
    names |= {"AMI": "ami-0123456789abcdef0", "snapshot": "snap-0123456789abcdef0", "folder": "/nowhere/at/all"}
    names |= {"instance": "i-0123456789abcdef0", "role": "splitbake-x", "instance profile": "splitbake-x"}
    things = [Thing(kind, name, REGION, RUN, since) for kind, name in names.items()]
    assert removed(small, cloud, things) == []


# What another run does between the look and the removal.


def test_a_run_that_ends_meanwhile_takes_its_role_along(small, cloud, monkeypatch):
    small.manifest["ami"]["builder"] = {"permissions_boundary": "arn:aws:iam::123456789012:policy/boundary"}
    iam, runs = boto3.client("iam"), (RUN, "1" * 12)
    for run in runs:
        iam.create_role(
            RoleName=f"splitbake-{run}",
            AssumeRolePolicyDocument="{}",
            Tags=marks(run=run, **{"splitbake:region": REGION}),
        )
    client = cloud.client("iam")
    list_tags = client.list_role_tags

    def ending(RoleName: str) -> Any:  # noqa: N803 - as boto3 calls it
        if RoleName == f"splitbake-{RUN}":
            iam.delete_role(RoleName=RoleName)
        return list_tags(RoleName=RoleName)

    monkeypatch.setattr(client, "list_role_tags", ending)
    assert [one.run for one in leftovers.find(small.project, cloud, older_than=0)] == ["1" * 12]


def wanted(small) -> str:
    return fingerprint.inputs(small.project, "ami").fingerprint


def unwritten(small) -> str:
    """An AMI of the project as it is now, which the next build takes up."""
    return ami(generated.ami_name(small.project.manifest, wanted(small), RUN))


def there() -> list[str]:
    return [image["ImageId"] for image in ec2().describe_images(Owners=["self"])["Images"]]


def test_an_ami_that_a_build_has_taken_up_meanwhile_stays(small, cloud, made):
    name = unwritten(small)
    things = leftovers.find(small.project, cloud, older_than=0)
    assert [one.id for one in things] == [name]
    assert build.build(small.project, cloud, "ami", force=False, say=silent).artifact.id == name
    (failure,) = removed(small, cloud, things)
    assert isinstance(failure.problem, HeldError)
    assert failure.problem.message == f"{name} stays: a build has taken it up"
    assert there() == [name]


def test_an_ami_that_a_build_is_taking_up_stays(small, cloud, made, monkeypatch):
    """It waits for it, or completes its tags: the state does not know it yet."""
    name = unwritten(small)
    things = leftovers.find(small.project, cloud, older_than=0)
    wait, failures = amis.wait, []

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        failures.extend(removed(small, cloud, things))
        return wait(*arguments, **options)

    monkeypatch.setattr(amis, "wait", meanwhile)
    assert build.build(small.project, cloud, "ami", force=False, say=silent).artifact.id == name
    assert "building the ami" in failures[0].problem.message
    assert {type(failure.problem) for failure in failures} == {HeldError}
    assert there() == [name]


def test_while_an_ami_is_removed_no_build_takes_it_up(small, cloud, made, monkeypatch):
    project, doing = small.project, []
    build.build(project, cloud, "ami", force=False, say=silent)  # so that somebody has baked these inputs
    name, discard = unwritten(small), amis.discard

    def meanwhile(*arguments: Any, **options: Any) -> None:
        key = f"build/123456789012/{REGION}/ami/{wanted(small)}"
        doing.append(lease.last(project.store(cloud), key))
        discard(*arguments, **options)

    monkeypatch.setattr(amis, "discard", meanwhile)
    things = leftovers.find(project, cloud, older_than=0)
    assert [one.id for one in things] == [name]
    assert removed(small, cloud, things) == []
    assert [holding.doing for holding in doing] == ["removing what runs have left"]
    assert name not in there()


def test_what_was_listed_before_its_run_came_to_its_end_stays(small, cloud, made, monkeypatch):
    """First is asked what there is, then who needs it: the other way round neither would be seen."""
    name, unfinished = unwritten(small), amis.unfinished

    def then_taken_up(*arguments: Any) -> list[Thing]:
        seen = unfinished(*arguments)
        build.build(small.project, cloud, "ami", force=False, say=silent)
        return seen

    monkeypatch.setattr(amis, "unfinished", then_taken_up)
    assert [one.id for one in leftovers.find(small.project, cloud, older_than=0)] == []
    assert there() == [name]


def test_what_is_removed_carries_its_project_first(small, cloud, wreck, monkeypatch):
    """A role may remove only what does; an AMI of a killed Packer, and its snapshots, do not yet."""
    asked: list[tuple[str, str]] = []
    call = type(cloud.client("ec2"))._make_api_call

    def recorded(client: Any, operation: str, given: dict[str, Any]) -> Any:
        if operation == "CreateTags":
            assert given["Tags"] == marks()[:2]
            asked.extend((operation, name) for name in given["Resources"])
        if operation in {"DeregisterImage", "DeleteSnapshot"}:
            asked.append((operation, given.get("ImageId") or given["SnapshotId"]))
        return call(client, operation, given)

    things = leftovers.find(small.project, cloud, older_than=0)
    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", recorded)
    assert removed(small, cloud, things) == []
    for kind, operation in (("AMI", "DeregisterImage"), ("snapshot", "DeleteSnapshot")):
        assert asked.index(("CreateTags", wreck[kind])) < asked.index((operation, wreck[kind]))


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


def test_the_command_ends_in_0_where_a_build_has_taken_something_up(small, cloud, monkeypatch):
    ami()

    def taken_up(*_: Any, **__: Any) -> None:
        raise HeldError("build/x is held by arn:somebody")

    monkeypatch.setattr(leftovers, "_remove_ami", taken_up)
    arguments = ["--manifest", str(small.project.manifest_path), "--runs", "--older-than", "0", "--yes"]
    shown = CliRunner().invoke(gc.command, arguments, standalone_mode=False)
    assert shown.return_value == 0
    assert "left: build/x is held by arn:somebody" in shown.stderr
    assert "and removed" not in shown.stdout


def test_the_command_says_what_it_collects(small, cloud):
    assert isinstance(call(small).exception, UsageError)
    assert "expected" in call(small, "--runs", "--older-than", "yesterday").stderr


def test_the_wrong_account_is_refused(small, cloud, wreck):
    small.manifest["environments"]["dev"]["account"] = "210987654321"
    assert isinstance(call(small, "--runs", "--yes").exception, GuardError)
    small.manifest["environments"]["dev"]["account"] = "123456789012"
    assert found(small, cloud) == wreck
