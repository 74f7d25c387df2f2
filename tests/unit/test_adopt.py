"""An AMI that comes to be although nobody waited for it, or nobody wrote it down, is no lost work."""

from __future__ import annotations

import datetime
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from splitbake import build, fingerprint, plan
from splitbake.artifact import Artifact
from splitbake.bake import access, adopt, ami, amis, finish, packer, rundir
from splitbake.bake.access import Access
from splitbake.bake.progress import Output
from splitbake.errors import BuildError, CloudError, SplitbakeError, StateError
from splitbake.generate import packer as generated
from splitbake.ui import silent

REGION, OTHER = "eu-west-1", "us-west-2"
RUN = "0123456789ab"


def ec2(region: str = REGION) -> Any:
    return boto3.client("ec2", region_name=region)


def tags_of(resource: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in resource.get("Tags", [])}


def wanted(small) -> str:
    return fingerprint.inputs(small.project, "ami").fingerprint


def left(small, *, run: str = RUN, region: str = REGION, **tags: str) -> str:
    """Put an AMI there as a killed bake leaves it."""
    volume = ec2(region).create_volume(AvailabilityZone=f"{region}a", Size=1)["VolumeId"]
    snapshot = ec2(region).create_snapshot(VolumeId=volume)["SnapshotId"]
    name = generated.ami_name(small.project.manifest, wanted(small), run)
    disks = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}]
    image = ec2(region).register_image(Name=name, RootDeviceName="/dev/xvda", BlockDeviceMappings=disks)["ImageId"]
    if tags:
        marks = [{"Key": key.replace("_", ":"), "Value": value} for key, value in tags.items()]
        ec2(region).create_tags(Resources=[image], Tags=marks)
    return str(image)


@pytest.fixture(autouse=True)
def at_once(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))


@pytest.fixture
def set_by_api(cloud, monkeypatch) -> list[tuple[str, dict[str, Any]]]:
    """The settings of AMIs, which moto forgets: what was asked for, in this order."""
    asked: list[tuple[str, dict[str, Any]]] = []
    call = type(cloud.client("ec2"))._make_api_call

    def recorded(client: Any, operation: str, given: dict[str, Any]) -> Any:
        if operation in {"ModifyImageAttribute", "EnableImageDeprecation"}:
            asked.append((f"{operation} {client.meta.region_name}", given))
            return {}
        return call(client, operation, given)

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", recorded)
    return asked


def earlier(small, cloud, say=silent):
    project = small.project
    return adopt.earlier(project, cloud, project.catalog(cloud), wanted(small), say)


# The next build takes up what was not written down.


def test_a_build_takes_up_what_an_earlier_run_has_made(small, cloud, made):
    there, said = left(small), []
    result = build.build(small.project, cloud, "ami", force=False, say=said.append)
    assert (result.artifact.id, result.reused, made) == (there, True, [])
    assert small.project.catalog(cloud).artifact("ami", wanted(small)) == result.artifact
    assert small.project.catalog(cloud).runs("ami", "build", last=5) == [], "it says nothing of how long a bake takes"
    assert f"{there} was made of these inputs by an earlier run, which did not write it down" in said
    (image,) = ec2().describe_images(ImageIds=[there])["Images"]
    assert tags_of(image) == generated.tags(small.project.manifest, wanted(small), RUN)
    for snapshot in ec2().describe_snapshots(SnapshotIds=list(result.artifact.snapshots))["Snapshots"]:
        assert tags_of(snapshot) == tags_of(image)
    assert result.artifact.offers is not None


def test_a_forced_build_takes_up_nothing(small, cloud, made):
    left(small)
    assert build.build(small.project, cloud, "ami", force=True, say=silent).artifact == made[0]


def test_other_inputs_take_up_nothing(small, cloud, made):
    left(small)
    (small.root / "setup/first.sh").write_text("#!/bin/sh\necho other\n")
    assert build.build(small.project, cloud, "ami", force=False, say=silent).artifact == made[0]


@pytest.mark.parametrize(
    "tags",
    [
        {"splitbake_fingerprint": "sha256:" + "0" * 64},  # the name has twelve digits of it
        {"splitbake_promoted-from": "ami-0123456789abcdef0"},
    ],
)
def test_an_ami_that_is_something_else_is_not_taken_up(small, cloud, tags):
    left(small, **tags)
    assert earlier(small, cloud) is None


def test_the_tags_of_the_same_inputs_are_no_hindrance(small, cloud):
    there = left(small, splitbake_fingerprint=wanted(small))
    assert earlier(small, cloud).id == there


def test_what_failed_its_verification_is_not_taken_up_again(small, cloud, made, report_on):
    project = small.project
    first = left(small)
    artifact = build.build(project, cloud, "ami", force=False, say=silent).artifact
    project.catalog(cloud).keep_report(report_on(project, artifact, failed="boots"))
    second = build.build(project, cloud, "ami", force=False, say=silent)
    assert (second.artifact, second.reasons) == (made[0], (f"{first} failed its verification: boots",))
    project.catalog(cloud).keep_report(report_on(project, made[0], failed="boots"))
    again = build.build(project, cloud, "ami", force=False, say=silent).artifact
    assert again == made[1]
    assert again.id != first


def test_a_copy_that_is_wanted_later_is_made_of_the_ami_that_is_there(small, cloud, set_by_api, report_on):
    there = left(small)
    artifact = build.build(small.project, cloud, "ami", force=False, say=silent).artifact
    catalog = small.project.catalog(cloud)
    catalog.keep_report(report_on(small.project, artifact))
    small.manifest["ami"]["copies"] = [{"region": OTHER}]
    again = build.build(small.project, cloud, "ami", force=False, say=silent)
    assert (again.artifact.id, again.reused) == (there, True)
    assert again.reasons == (f"{there} has no copy in {OTHER} yet",)
    (copy,) = again.artifact.copies
    assert ec2(OTHER).describe_images(ImageIds=[copy.id])["Images"][0]["Name"].startswith("faces-")
    planned = plan.plan_half(small.project, cloud, catalog, fingerprint.inputs(small.project, "ami"))
    assert planned.action == "reuse", "its disks are those that were verified"


def test_the_newest_of_several_is_taken(small, cloud, monkeypatch):
    there = [left(small, run=f"{number}" * 12) for number in range(3)]
    find = amis.own

    def dated(*arguments: Any) -> list[dict[str, Any]]:
        order = {name: f"2026-01-0{day}" for day, name in zip((2, 3, 1), there, strict=True)}
        images = [{**image, "CreationDate": order[image["ImageId"]]} for image in find(*arguments)]
        return sorted(images, key=lambda image: image["CreationDate"], reverse=True)

    monkeypatch.setattr(amis, "own", dated)
    assert earlier(small, cloud).id == there[1]


def test_one_that_ec2_cannot_make_is_passed_over(small, cloud, monkeypatch):
    left(small)

    def fail(_cloud: Any, name: str, **_: Any) -> None:
        raise BuildError(f"{name} is failed: Client.InternalError")

    said: list[str] = []
    monkeypatch.setattr(amis, "wait", fail)
    assert earlier(small, cloud, said.append) is None
    assert any("it cannot be used" in line and "Client.InternalError" in line for line in said)


def test_what_a_dying_packer_removes_is_not_taken_up(small, cloud, monkeypatch):
    """A Packer that outlives its splitbake cleans up: it may deregister its AMI."""
    there = left(small)
    with rundir.opened(RUN):
        alive, is_alive = iter([True, True]), rundir.is_alive

        def ending(run: str) -> bool:
            if next(alive, False):
                return is_alive(run)
            ec2().deregister_image(ImageId=there)
            return False

        monkeypatch.setattr(rundir, "is_alive", ending)
        said: list[str] = []
        assert earlier(small, cloud, said.append) is None
    assert said == [f"waiting for what is left of run {RUN} on this machine"] * 2


def test_an_error_while_it_is_finished_leaves_it_for_the_next_build(small, cloud, monkeypatch):
    there = left(small)

    def fail(*_: Any) -> None:
        raise CloudError("could not tag it", hint="the role lacks this permission")

    with monkeypatch.context() as patch:
        patch.setattr(finish, "_tag", fail)
        with pytest.raises(CloudError) as caught:
            earlier(small, cloud)
    assert caught.value.message == f"{there} is baked, but not finished: could not tag it"
    assert caught.value.hint == "the role lacks this permission; splitbake build ami takes this AMI up"
    assert earlier(small, cloud).id == there


# Packer gives up while AWS goes on.

WAITS = (
    "==> x.amazon-ebs.ami: Stopping the source instance...",
    "==> x.amazon-ebs.ami: Creating AMI faces-1 from instance i-1",
    "    x.amazon-ebs.ami: AMI: ami-1",
    "==> x.amazon-ebs.ami: Waiting for AMI to become ready...",
)
#: What Packer 1.6.6 writes; the first two are from hashicorp/packer#9705 and packer-plugin-amazon#502.
GIVES_UP = [
    "==> x.amazon-ebs.ami: Error waiting for AMI. Reason: <nil>",
    "==> x.amazon-ebs.ami: Error waiting for AMI: Failed with ResourceNotReady error, which can have",
    "==> x.amazon-ebs.ami: Error waiting for AMI: ResourceNotReady: exceeded wait attempts",
    "==> x.amazon-ebs.ami: Error waiting for AMI: RequestError: send request failed",
    "==> x.amazon-ebs.ami: Unknown error waiting for AMI; RequestError. DescribeImages returned an error: RequestError",
]
CLEANS = (
    "==> x.amazon-ebs.ami: Terminating the source AWS instance...",
    "==> x.amazon-ebs.ami: Cleaning up any extra volumes...",
    "==> x.amazon-ebs.ami: No volumes to clean up, skipping",
    "Build 'x.amazon-ebs.ami' errored after 1 hour: timeout",
)


def failure(status: int, *lines: str) -> BuildError:
    log = io.StringIO()
    log.name = "packer.log"  # type: ignore[misc]
    output = Output(log, silent)
    for line in lines:
        text = line.replace(",", "%!(PACKER_COMMA)")
        output.take(f"1700000000,,ui,say,{text}\n")
    return packer._failure(status, output)


@pytest.mark.parametrize("line", GIVES_UP)
def test_a_time_out_while_aws_makes_the_ami_leaves_it(line):
    assert isinstance(failure(1, *WAITS, line, *CLEANS), packer.AbandonedError)


TAGS = (
    "==> x.amazon-ebs.ami: Adding tags to AMI (ami-1)...",
    "==> x.amazon-ebs.ami: Tagging snapshot: snap-1",
    "==> x.amazon-ebs.ami: Creating AMI tags",
)


@pytest.mark.parametrize("status", [137, -9, 1])
@pytest.mark.parametrize("said", [(*WAITS[:2],), (*WAITS[:3],), WAITS, (*WAITS, *TAGS), (*WAITS, *TAGS, *CLEANS)])
def test_so_does_a_packer_that_dies_or_fails_later(status, said):
    """Killed, its keeper killed, or a plugin of it; or EC2 refuses its tags, and it removes the AMI itself."""
    problem = failure(status, *said)
    assert isinstance(problem, packer.AbandonedError)
    assert "90-cleanup.sh" not in problem.message


def test_what_a_script_said_has_nothing_to_do_with_it():
    said = (
        "==> x.amazon-ebs.ami: Provisioning with shell script: packer/scripts/90-cleanup.sh",
        "splitbake: tool: odd",
    )
    assert isinstance(failure(1, *said, *WAITS, *CLEANS), packer.AbandonedError)
    assert type(failure(1, *said, *CLEANS)) is BuildError


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (137, WAITS[:1]),
        (137, TAGS),
        (1, ("==> x.amazon-ebs.ami: Error waiting for AMI: somebody's script says so", *CLEANS)),
        (1, ("    x.amazon-ebs.ami: Waiting for AMI to become ready...", *CLEANS)),
    ],
)
def test_nothing_else_is_taken_for_it(status, lines):
    assert type(failure(status, *lines)) is BuildError


@pytest.fixture
def abandoned() -> packer.AbandonedError:
    return packer.AbandonedError("Packer failed: it waited too long")


def test_an_ami_that_becomes_available_is_waited_for(small, cloud, abandoned, monkeypatch):
    there = left(small)
    states = iter(["pending", "pending", "available"])
    monkeypatch.setattr(type(cloud), "client", lambda *_, **__: Described(there, states))
    said: list[str] = []
    name = generated.ami_name(small.project.manifest, wanted(small), RUN)
    monkeypatch.setattr(amis, "own", lambda *_: [{"ImageId": there, "Name": name}])
    assert ami._awaited(small.project, cloud, name, abandoned, drop=pytest.fail, say=said.append) == there
    assert said == [f"Packer did not finish {there}; splitbake does"]


class Described:
    """An EC2 whose AMI goes through states; an exception is a call without an answer."""

    def __init__(self, name: str, states: Iterator[Any]) -> None:
        self.name, self.states = name, states

    def describe_images(self, **_: Any) -> dict[str, Any]:
        state = next(self.states)
        if isinstance(state, Exception):
            raise state
        return {"Images": [{"ImageId": self.name, "State": state, "StateReason": {"Message": "no space"}}]}


def waited(cloud, monkeypatch, *states: Any, within: float = 1000) -> Any:
    answers = Described("ami-1", iter(states))
    monkeypatch.setattr(type(cloud), "client", lambda *_, **__: answers)
    return amis.wait(cloud, "ami-1", within=within)


def test_a_lost_connection_is_waited_out(cloud, monkeypatch):
    lost = EndpointConnectionError(endpoint_url="https://ec2")
    assert waited(cloud, monkeypatch, "pending", lost, lost, "available")["State"] == "available"
    with pytest.raises(CloudError, match="wait for ami-1"):
        waited(cloud, monkeypatch, lost, within=0)


def test_one_that_fails_or_takes_too_long_is_said(cloud, monkeypatch):
    with pytest.raises(amis.FailedError, match="ami-1 is failed: no space"):
        waited(cloud, monkeypatch, "pending", "failed")
    with pytest.raises(BuildError, match="ami-1 is still pending after") as caught:
        waited(cloud, monkeypatch, "pending", within=-1)
    assert "takes up this AMI" in caught.value.hint
    assert not isinstance(caught.value, amis.FailedError), "it may come to be"


class Baking:
    """A bake without any tool: ``packer`` is called in the place of Packer, ``sweep`` when the way in is closed."""

    def __init__(self, small: Any, cloud: Any) -> None:
        self.small, self.cloud = small, cloud
        self.made: list[str] = []
        self.packer = self.make
        self.sweep: Callable[[], None] = lambda: None
        self.require: Callable[[], None] = lambda: None

    def make(self, *, record: bool = True) -> None:
        """Make the AMI, and write down that it was made."""
        self.made.append(left(self.small))
        if record:
            build = {"packer_run_uuid": "1", "artifact_id": f"{REGION}:{self.made[0]}"}
            path = Path(tempfile.gettempdir()) / f"splitbake-{RUN}" / "record.json"
            path.write_text(json.dumps({"last_run_uuid": "1", "builds": [build]}))

    def fail(self, problem: BaseException, *, made: bool = True) -> None:
        """Let Packer fail when EC2 has made the AMI, or not."""

        def packer() -> None:
            if made:
                self.make(record=False)
            raise problem

        self.packer = packer

    def bake(self) -> Artifact:
        project = self.small.project
        return ami.bake(project, self.cloud, fingerprint=wanted(self.small), say=silent, require=self.require)

    @property
    def there(self) -> list[str]:
        return [image["ImageId"] for image in ec2().describe_images(Owners=["self"])["Images"]]


@pytest.fixture
def baking(small, cloud, monkeypatch) -> Baking:
    baking = Baking(small, cloud)

    @contextmanager
    def granted(*_: Any, folder: Path, **__: Any) -> Iterator[Access]:
        try:
            yield Access("splitbake", folder / "key", "ssh-ed25519 AAAA", "sg-1", None, {})
        finally:
            baking.sweep()

    monkeypatch.setattr(access, "new_run", lambda: RUN)
    monkeypatch.setattr(access, "granted", granted)
    monkeypatch.setattr(ami, "_checked", lambda _: "1.6")
    monkeypatch.setattr(ami, "_packer", lambda *_, **__: baking.packer())
    monkeypatch.setattr(ami.uploads, "lay_out", lambda *_: [])
    monkeypatch.setattr(ami.recipe, "stage", lambda *_: Path("main.pkr.hcl"))
    monkeypatch.setattr(ami.gate, "prepare", lambda *_, **__: {})
    return baking


def refuse(*_: Any, **__: Any) -> None:
    raise CloudError("it was refused", hint="the role lacks this permission")


def test_what_packer_left_unfinished_is_finished(baking, abandoned):
    baking.fail(abandoned)
    artifact = baking.bake()
    assert [artifact.id] == baking.made == baking.there
    (image,) = ec2().describe_images(ImageIds=[artifact.id])["Images"]
    assert tags_of(image)["splitbake:fingerprint"] == artifact.fingerprint


def test_without_an_ami_it_is_the_failure_that_it_was(baking, abandoned):
    baking.fail(abandoned, made=False)
    with pytest.raises(packer.AbandonedError) as caught:
        baking.bake()
    assert (caught.value, caught.value.message) == (abandoned, "Packer failed: it waited too long")


def test_one_that_ec2_cannot_make_is_removed(baking, abandoned, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise amis.FailedError("ami-1 is failed")

    baking.fail(abandoned)
    monkeypatch.setattr(amis, "wait", fail)
    with pytest.raises(packer.AbandonedError) as caught:
        baking.bake()
    assert (caught.value, baking.there) == (abandoned, [])


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (BuildError("it is still pending after 90 minutes"), "it is still pending"),
        (CloudError("AWS does not answer"), "AWS does not answer"),
    ],
)
def test_one_that_may_come_to_be_stays_and_is_named(baking, abandoned, monkeypatch, problem, told):
    def fail(*_: Any, **__: Any) -> None:
        raise problem

    baking.fail(abandoned)
    monkeypatch.setattr(amis, "wait", fail)
    with pytest.raises(type(problem)) as caught:
        baking.bake()
    assert baking.there == baking.made
    assert caught.value.message.startswith(f"{baking.made[0]} is baked, but not finished: {told}")


def test_a_sweep_that_fails_names_the_ami_that_stays(baking):
    baking.sweep = refuse
    with pytest.raises(CloudError) as caught:
        baking.bake()
    assert baking.there == baking.made
    assert caught.value.message == f"{baking.made[0]} is baked, but not finished: it was refused"
    assert caught.value.hint == "the role lacks this permission; splitbake build ami takes this AMI up"


def test_an_ami_without_a_record_stays(baking):
    baking.packer = partial(baking.make, record=False)
    with pytest.raises(BuildError, match="no readable record"):
        baking.bake()
    assert baking.there == baking.made


def test_a_bake_that_came_not_so_far_leaves_none(baking):
    """Packer asked for none, but by that name there may be what it hides."""
    baking.fail(BuildError("Packer failed in setup.sh"))
    with pytest.raises(BuildError, match=r"setup\.sh"):
        baking.bake()
    assert baking.there == []


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), BuildError("Packer failed in setup.sh", hint="look there")])
def test_what_another_run_may_have_taken_up_is_not_removed(baking, problem):
    """The lease was lost: its next holder finds the AMI by its name."""

    def lost() -> None:
        raise StateError("the lease is lost")

    baking.fail(problem)
    baking.require = lost
    with pytest.raises(SplitbakeError) as caught:
        baking.bake()
    assert baking.there == baking.made
    assert "the lease is lost" in caught.value.message + caught.value.hint


def test_an_interrupt_removes_it(baking):
    baking.fail(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        baking.bake()
    assert baking.there == []


# What is set through the API.


def test_instances_answer_imdsv2_only_and_it_is_said(small, cloud, set_by_api):
    there, said = left(small), []
    earlier(small, cloud, said.append)
    assert set_by_api == [("ModifyImageAttribute eu-west-1", {"ImageId": there, "ImdsSupport": {"Value": "v2.0"}})]
    assert f"{there}: its instances answer IMDSv2 only (set through the API)" in said


def test_what_packer_has_set_is_not_set_again(small, cloud, set_by_api, monkeypatch):
    left(small)
    wait = amis.wait
    monkeypatch.setattr(amis, "wait", lambda *some, **more: {**wait(*some, **more), "ImdsSupport": "v2.0"})
    earlier(small, cloud)
    assert set_by_api == []


def test_deprecation_is_so_many_days_after_the_bake(small, cloud, set_by_api):
    small.manifest["ami"]["deprecate"] = "180 days"
    there = left(small)
    earlier(small, cloud)
    (asked,) = (given for name, given in set_by_api if name.startswith("EnableImageDeprecation"))
    assert asked["ImageId"] == there
    days = (asked["DeprecateAt"] - datetime.datetime.now(datetime.UTC)) / datetime.timedelta(days=1)
    assert 179.9 < days <= 180


def test_copies_in_other_regions_are_completed_and_remembered(small, cloud, set_by_api):
    small.manifest["ami"] |= {"copies": [{"region": OTHER}, {"region": "us-east-2"}], "deprecate": "30 days"}
    left(small)
    by_packer = left(small, region="us-east-2")
    artifact = earlier(small, cloud)
    copies = {copy.region: copy.id for copy in artifact.copies}
    assert copies.keys() == {OTHER, "us-east-2"}
    assert copies["us-east-2"] == by_packer, "what Packer has copied is not copied again"
    for region, copy in copies.items():
        (image,) = ec2(region).describe_images(ImageIds=[copy])["Images"]
        assert image["Name"] == generated.ami_name(small.project.manifest, wanted(small), RUN)
        assert tags_of(image) == generated.tags(small.project.manifest, wanted(small), RUN)
        named = [name for name, given in set_by_api if given["ImageId"] == copy]
        assert named == [f"ModifyImageAttribute {region}", f"EnableImageDeprecation {region}"]
    assert earlier(small, cloud).copies == artifact.copies, "they are made once"
    ami.discard(cloud, artifact)
    for region in copies:
        assert ec2(region).describe_images(Owners=["self"])["Images"] == []


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"copies": [{"region": OTHER}]}, {}),
        ({"copies": [{"region": OTHER}], "encrypt": True}, {"Encrypted": True}),
        ({"copies": [{"region": OTHER, "kms_key": "alias/a"}]}, {"Encrypted": True, "KmsKeyId": "alias/a"}),
    ],
)
def test_copies_are_encrypted_as_the_manifest_says(small, cloud, monkeypatch, settings, asked):
    small.manifest["ami"] |= settings
    left(small)
    seen: list[dict[str, Any]] = []
    copy = type(cloud.client("ec2", region=OTHER)).copy_image
    client = cloud.client("ec2", region=OTHER)
    monkeypatch.setattr(client, "copy_image", lambda **given: (seen.append(given), copy(client, **given))[1])
    earlier(small, cloud)
    (given,) = seen
    assert {name: given[name] for name in ("Encrypted", "KmsKeyId") if name in given} == asked
    assert given["SourceRegion"] == REGION


def test_a_copy_carries_its_run_at_once_and_its_fingerprint_when_it_is_finished(small, cloud, monkeypatch):
    """Whoever is killed while it is pending leaves what gc knows as unfinished."""
    small.manifest["ami"]["copies"] = [{"region": OTHER}]
    left(small)
    client, unfinished = cloud.client("ec2", region=OTHER), []
    copy = client.copy_image

    def copied(**given: Any) -> Any:
        answer = copy(**given)
        unfinished.extend(one.id for one in amis.unfinished(cloud, "faces", OTHER))
        image, snapshot = given["TagSpecifications"]
        assert (image["ResourceType"], snapshot["ResourceType"]) == ("image", "snapshot")
        tags = {tag["Key"]: tag["Value"] for tag in snapshot["Tags"]}
        assert tags == generated.tags(small.project.manifest, wanted(small), RUN)
        assert [tag for tag in snapshot["Tags"] if tag not in image["Tags"]] == [
            {"Key": "splitbake:fingerprint", "Value": wanted(small)}
        ]
        return answer

    monkeypatch.setattr(client, "copy_image", copied)
    artifact = earlier(small, cloud)
    assert unfinished == [artifact.copies[0].id]
    assert amis.unfinished(cloud, "faces", OTHER) == []


def test_a_copy_that_failed_is_made_anew(small, cloud, monkeypatch):
    """EC2 answers a token that it knows with the AMI of before."""
    small.manifest["ami"]["copies"] = [{"region": OTHER}]
    left(small)
    client, tokens = cloud.client("ec2", region=OTHER), []
    client.meta.events.register(
        "before-call.ec2.CopyImage", lambda params, **_: tokens.append(params["body"]["ClientToken"])
    )
    wait = amis.wait

    def failing(cloud: Any, name: str, **more: Any) -> Any:
        if more.get("region") == OTHER:
            raise amis.FailedError(f"{name} is failed: its KMS key is gone")
        return wait(cloud, name, **more)

    monkeypatch.setattr(amis, "wait", failing)
    for _ in range(2):
        with pytest.raises(BuildError, match="its KMS key is gone"):
            earlier(small, cloud)
        for image in client.describe_images(Owners=["self"])["Images"]:
            client.deregister_image(ImageId=image["ImageId"])  # moto's never fail; a failed one counts as none
    assert len({*tokens}) == 2


@pytest.mark.parametrize(
    "words",
    [
        "Created by CreateImage(i-0123456789abcdef0) for {ami}",
        "Copied for DestinationAmi {ami} from SourceAmi ami-0fedcba9876543210 for SourceSnapshot snap-0123.",
    ],
)
def test_the_snapshots_of_a_pending_ami_are_known_by_what_ec2_says_of_them(small, cloud, words):
    """It does not name them yet."""
    there = left(small)
    volume = ec2().create_volume(AvailabilityZone=f"{REGION}a", Size=1)["VolumeId"]
    made = [
        ec2().create_snapshot(VolumeId=volume, Description=words.format(ami=name), TagSpecifications=[
            {"ResourceType": "snapshot", "Tags": [{"Key": "splitbake:project", "Value": "faces"},
                                                  {"Key": "splitbake:run", "Value": RUN}]}
        ])["SnapshotId"]
        for name in (there, "ami-0123456789abcdef0")
    ]  # fmt: skip
    assert [one.id for one in amis.strays(cloud, "faces", REGION)] == made[1:], "of the other there is no AMI"
    amis.discard(cloud, there)
    assert [one["SnapshotId"] for one in ec2().describe_snapshots(SnapshotIds=made[1:])["Snapshots"]] == made[1:]
    with pytest.raises(ClientError, match="NotFound"):
        ec2().describe_snapshots(SnapshotIds=made[:1])


def test_what_is_to_be_removed_carries_its_project_first(small, cloud, monkeypatch):
    """A role may remove only what does; and an AMI that carries its fingerprint counts as finished."""
    there, asked = left(small), []
    call = type(cloud.client("ec2"))._make_api_call

    def recorded(client: Any, operation: str, given: dict[str, Any]) -> Any:
        if operation in {"CreateTags", "DeregisterImage", "DeleteSnapshot"}:
            asked.append((operation, given))
        return call(client, operation, given)

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", recorded)
    (snapshot,) = amis.snapshots(amis.own(cloud, "faces-*")[0])
    amis.discard(cloud, there, tags=generated.tags(small.project.manifest, wanted(small), RUN))
    names = [(name, given.get("Resources", [given.get("ImageId", given.get("SnapshotId"))])) for name, given in asked]
    assert names == [
        ("CreateTags", [snapshot]),
        ("CreateTags", [there]),
        ("DeregisterImage", [there]),
        ("DeleteSnapshot", [snapshot]),
    ]
    tags = [{tag["Key"] for tag in given["Tags"]} for _, given in asked[:2]]
    assert tags[0] - tags[1] == {"splitbake:fingerprint"}
    assert tags[1] >= {"splitbake:project", "splitbake:run"}
    amis.discard(cloud, there, tags=generated.tags(small.project.manifest, wanted(small), RUN))  # gone is fine


def test_an_artifact_of_an_older_version_is_read(small, cloud, made):
    project = small.project
    artifact = build.build(project, cloud, "ami", force=False, say=silent).artifact
    body = json.loads(artifact.model_dump_json(exclude_none=True))
    del body["copies"]
    assert type(artifact).model_validate_json(json.dumps(body)) == artifact
