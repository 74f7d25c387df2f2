"""One thing of each kind is changed, and the plan names exactly the half that it is for, and why.

Each test leaves the project as it was; what a test took away is there again before the next one.
"""

from __future__ import annotations

import datetime
import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from splitbake.project import Project

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

EXAMPLE = "examples/video-analysis"
BUCKET, MODEL = "video-analysis-models", "experiments/faces.yaml"
SOON = datetime.timedelta(seconds=2)
REUSE = ("reuse", "nothing changed")
STRICTER = ("verify", "what verification demands has changed since")

Plan = Callable[..., dict[str, tuple[str, str]]]


def done(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.err + outcome.out
    return outcome


@pytest.fixture
def plan(world) -> Iterator[Plan]:
    """Both halves are built and verified; ``plan()`` says what is to do now: half -> action, reasons."""

    def plan(**variables: str) -> dict[str, tuple[str, str]]:
        found = done(world.splitbake("plan", "--json", **variables)).json
        return {half: (found[half]["action"], "; ".join(found[half]["reasons"])) for half in ("ami", "image")}

    if not world.project.lock_path.exists():
        done(world.splitbake("lock"))
        done(world.splitbake("generate"))
    if world.splitbake("plan", "--exit-code").code:
        done(world.splitbake("build"))
        done(world.splitbake("verify"))
    yield plan
    done(world.splitbake("generate"))


def is_like(found: tuple[str, str], action: str, *words: str) -> bool:
    return found[0] == action and all(word in found[1] for word in words)


@pytest.fixture
def relocked(world, edited) -> Callable[[], None]:
    """Lock again, for one test."""

    def relock() -> None:
        edited("splitbake.lock", "{", "{")
        done(world.splitbake("lock"))

    return relock


def test_nothing_changed(world, plan, tmp_path):
    found = plan(GITHUB_OUTPUT=str(tmp_path / "output"), GITHUB_STEP_SUMMARY=str(tmp_path / "summary"))
    assert is_like(found["ami"], *REUSE)
    assert is_like(found["image"], *REUSE)
    assert world.splitbake("plan", "--exit-code").code == 0
    lines = (tmp_path / "output").read_text().splitlines()
    built = done(world.splitbake("build", "--json")).json
    assert {"false", "reuse", built["ami"]["uri"], built["image"]["uri"]} <= set(lines)
    assert "| reuse |" in (tmp_path / "summary").read_text()


def test_another_checkout_knows_what_this_one_built(world, plan, tmp_path):
    """A runner that starts with nothing but the repository and credentials."""
    ours = shutil.ignore_patterns("build", ".splitbake")
    shutil.copytree(world.project.root, tmp_path / "clone", ignore=ours)
    clone = replace(world, project=Project(tmp_path / "clone/splitbake.yaml"))
    found = done(clone.splitbake("plan", "--json")).json
    assert (found["ami"]["action"], found["image"]["action"]) == ("reuse", "reuse")


def test_code(world, plan, edited):
    edited(f"{EXAMPLE}/run.py", "import argparse\n", "import argparse  # by hand\n")
    found = plan()
    assert is_like(found["ami"], *REUSE)
    assert found["image"] == ("build", "file run.py changed")
    assert world.splitbake("plan", "--exit-code").code == 2


def test_a_requirement(plan, edited):
    edited(f"{EXAMPLE}/requirements.txt", "\n", " \n")
    found = plan()
    assert is_like(found["ami"], *REUSE)
    assert found["image"] == ("build", "file requirements.txt changed")


def test_how_the_code_is_run(plan, edited):
    edited("splitbake.yaml", "command: [python, run.py]", "command: [python, -O, run.py]")
    found = plan()
    assert is_like(found["ami"], *REUSE)
    assert is_like(found["image"], "build", 'image.command changed from ["python", "run.py"] to ["python", "-O"')


def test_the_base_image(world, plan, edited):
    digest = world.project.lock.base_image.digest
    edited("splitbake.lock", digest, f"sha256:{'0' * 64}")
    found = plan()
    assert is_like(found["ami"], *REUSE)
    assert is_like(found["image"], "build", f"base image moved from {digest} to sha256:0000")


def test_the_base_ami(world, plan, edited):
    ami = world.project.lock.base_ami.id
    edited("splitbake.lock", ami, "ami-0123456789abcdef0")
    found = plan()
    assert found["ami"] == ("build", f"base AMI moved from {ami} to ami-0123456789abcdef0")
    assert is_like(found["image"], *REUSE)


def test_a_provision_script(world, plan, edited):
    script = world.project.root / "setup.sh"
    edited("splitbake.yaml", "  builder: {instance_type", "  provision: [setup.sh]\n  builder: {instance_type")
    try:
        script.write_text("#!/bin/sh\necho 1\n", encoding="utf-8")
        found = plan()
        assert is_like(found["ami"], "build", "the Packer template changed: ", "script setup.sh added")
        assert is_like(found["image"], *REUSE)
    finally:
        script.unlink()
    outcome = world.splitbake("plan", "--json")
    assert (outcome.code, outcome.json["error"]["code"]) == (1, "build")
    assert "setup.sh of ami.provision" in outcome.json["error"]["message"]


def test_the_content_of_a_model(world, plan, relocked):
    s3 = world.client("s3")
    original = s3.get_object(Bucket=BUCKET, Key=MODEL)["Body"].read()
    s3.put_object(Bucket=BUCKET, Key=MODEL, Body=original + b"# other\n")
    try:
        assert is_like(plan()["ami"], *REUSE)  # what is locked counts, not what lies in S3 by chance
        relocked()
        found = plan()
    finally:
        s3.put_object(Bucket=BUCKET, Key=MODEL, Body=original)
    assert found["ami"] == ("build", f"model {MODEL} changed")
    assert found["image"] == STRICTER  # it is tried with the models


def test_a_model_more(plan, edited, relocked):
    line = f'    - {{path: {MODEL}, from: "s3://{BUCKET}/{MODEL}"}}\n'
    edited("splitbake.yaml", line, line + line.replace("path: experiments/faces", "path: experiments/more"))
    relocked()
    found = plan()
    assert found["ami"] == ("build", "model experiments/more.yaml added")
    assert found["image"] == STRICTER


def test_where_it_is_released_to(plan, edited):
    edited("splitbake.yaml", "      - {launch_template: capstone-batch-gpu}\n", "")
    found = plan()
    assert is_like(found["ami"], *REUSE)
    assert is_like(found["image"], *REUSE)


@pytest.mark.parametrize(
    ("half", "old", "new"), [("ami", "budget: 3 GiB", "budget: 2 GiB"), ("image", "budget: 500 MB", "budget: 490 MB")]
)
def test_a_budget(plan, edited, half, old, new):
    edited("splitbake.yaml", old, new)
    found = plan()
    assert found.pop(half) == STRICTER
    ((_, other),) = found.items()
    assert is_like(other, *REUSE)


def test_an_ami_that_is_disabled(world, plan):
    ec2, ami = world.client("ec2"), done(world.splitbake("build", "ami", "--json")).json["ami"]["id"]
    ec2.disable_image(ImageId=ami)
    try:
        assert plan()["ami"] == ("build", f"the AMI of this fingerprint, {ami}, is disabled")
    finally:
        ec2.enable_image(ImageId=ami)
    assert is_like(plan()["ami"], *REUSE)


def test_an_ami_that_is_deprecated_once_its_time_has_come(world, plan):
    ec2, ami = world.client("ec2"), done(world.splitbake("build", "ami", "--json")).json["ami"]["id"]
    # EC2 takes no moment that has passed, but rounds to the minute: the next one to come is at most half a minute off.
    ec2.enable_image_deprecation(ImageId=ami, DeprecateAt=datetime.datetime.now(datetime.UTC) + SOON)
    try:
        moment = ec2.describe_images(ImageIds=[ami])["Images"][0]["DeprecationTime"]
        wait = datetime.datetime.fromisoformat(moment) - datetime.datetime.now(datetime.UTC)
        time.sleep(max(0, wait.total_seconds()))
        assert plan()["ami"] == ("build", f"the AMI of this fingerprint, {ami}, is deprecated since {moment}")
        ec2.enable_image_deprecation(ImageId=ami, DeprecateAt=datetime.datetime.now(datetime.UTC) + 9999 * SOON)
        assert is_like(plan()["ami"], *REUSE)
    finally:
        ec2.disable_image_deprecation(ImageId=ami)


def test_an_ami_that_was_deregistered_is_baked_again(world, plan):
    ec2, old = world.client("ec2"), done(world.splitbake("build", "ami", "--json")).json["ami"]
    assert old["reused"]
    ec2.deregister_image(ImageId=old["id"])
    for snapshot in old["snapshots"]:
        ec2.delete_snapshot(SnapshotId=snapshot)
    gone = f"the AMI of this fingerprint, {old['id']}, is gone from {world.project.cloud().environment.region}"
    found = plan()
    assert found["ami"] == ("build", gone)
    assert is_like(found["image"], *REUSE)
    expected = done(world.splitbake("plan", "ami", "--json")).json["ami"]["expected_seconds"]
    assert expected > 0
    new = done(world.splitbake("build", "ami", "--json")).json["ami"]
    assert (new["reused"], new["reasons"], new["fingerprint"]) == (False, [gone], old["fingerprint"])
    assert new["id"] != old["id"]
    assert plan()["ami"] == ("verify", "it was built, but not verified yet")


def test_an_image_that_was_deleted_is_built_again_by_one_of_two(world, plan):
    old = done(world.splitbake("build", "image", "--json")).json["image"]
    repository = world.project.manifest.image.repository
    world.client("ecr").batch_delete_image(repositoryName=repository, imageIds=[{"imageDigest": old["id"]}])
    found = plan()
    assert is_like(found["image"], "build", "the image of this fingerprint", f"is gone from repository {repository}")
    assert is_like(found["ami"], *REUSE)
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda _: world.splitbake("build", "image", "--json"), range(2)))
    one, other = (done(outcome).json["image"] for outcome in outcomes)
    assert sorted([one["reused"], other["reused"]]) == [False, True]
    assert one["uri"] == other["uri"]


def test_fingerprints_are_the_digests_of_what_lies_in_the_state(world, plan):
    built = done(world.splitbake("plan", "--json")).json
    bucket, _, prefix = world.project.manifest.state.removeprefix("s3://").partition("/")
    for half in ("ami", "image"):
        name = built[half]["fingerprint"].replace(":", "-")
        text = world.client("s3").get_object(Bucket=bucket, Key=f"{prefix}/inputs/{half}/{name}.json")["Body"].read()
        assert json.loads(text)["half"] == half
