"""The whole loop on the reference project: each test is one step and stands on those before it."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

TERRAFORM = "examples/video-analysis/terraform/launch-template.tf"


def instances(world) -> list[str]:
    pages = world.client("ec2").describe_instances()["Reservations"]
    return [
        instance["InstanceId"]
        for page in pages
        for instance in page["Instances"]
        if instance["State"]["Name"] not in {"terminated", "shutting-down"}
    ]


def host_side(world) -> str:
    """What a release could change of the hosts, as one text."""
    found = [
        world.client("ec2").describe_launch_templates()["LaunchTemplates"],
        world.client("batch").describe_compute_environments()["computeEnvironments"],
        (world.project.root / TERRAFORM).read_text(encoding="utf-8"),
    ]
    return json.dumps(found, default=str, sort_keys=True)


def job_definitions(world, **which: str) -> list[dict[str, Any]]:
    return world.client("batch").describe_job_definitions(**which)["jobDefinitions"]


def newest_job_definition(world) -> dict[str, Any]:
    """What a job gets that is submitted by the bare name."""
    active = job_definitions(world, jobDefinitionName="capstone-dev-video-analysis", status="ACTIVE")
    return max(active, key=lambda one: one["revision"])


def live(world) -> str:
    """Everything that a release could change, as one text."""
    return host_side(world) + json.dumps(job_definitions(world), default=str, sort_keys=True)


def test_lock_twice_gives_the_same_bytes(world):
    assert world.splitbake("lock").code == 0
    first = world.project.lock_path.read_bytes()
    assert world.splitbake("lock").code == 0
    assert world.project.lock_path.read_bytes() == first
    assert world.splitbake("lock", "--check").code == 0
    assert world.splitbake("lock", "--check", "--offline").code == 0


def test_lock_check_tells_drift(world):
    s3 = world.client("s3")
    key = {"Bucket": "video-analysis-models", "Key": "experiments/faces.yaml"}
    original = s3.get_object(**key)["Body"].read()
    s3.put_object(**key, Body=original + b"# drift\n")
    try:
        outcome = world.splitbake("lock", "--check")
    finally:
        s3.put_object(**key, Body=original)
    assert outcome.code == 2
    assert "experiments/faces.yaml" in outcome.out


def test_generate_is_deterministic_and_checked(world):
    assert world.splitbake("generate").code == 0
    assert world.splitbake("generate", "--check").code == 0
    script = next((world.project.root / "packer/scripts").glob("*.sh"))
    original = script.read_bytes()
    script.write_bytes(original + b"echo by hand\n")
    outcome = world.splitbake("generate", "--check")
    assert outcome.code == 2
    assert "echo by hand" in outcome.out
    assert world.splitbake("generate").code == 0
    assert script.read_bytes() == original


def test_generated_hcl_is_valid_to_packer(world):
    done = subprocess.run(
        ["packer", "validate", "-var", "run_id=x", "main.pkr.hcl"],
        cwd=world.project.root / "packer",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "main.pkr.hcl" not in done.stdout or done.returncode == 0, done.stdout


def test_release_refuses_what_was_not_built(world):
    outcome = world.splitbake("release", "--yes")
    assert outcome.code == 1
    assert "splitbake build" in outcome.err


def test_build_ami(world):
    outcome = world.splitbake("build", "ami", "--json")
    assert outcome.code == 0, outcome.err + outcome.out
    ami = outcome.json["ami"]
    image = world.client("ec2").describe_images(ImageIds=[ami["id"]])["Images"][0]
    tags = {tag["Key"]: tag["Value"] for tag in image["Tags"]}
    assert image["State"] == "available"
    assert tags["splitbake:fingerprint"] == ami["fingerprint"]
    assert ami["size"] == world.project.lock.models_size
    snapshot = world.client("ec2").describe_snapshots(SnapshotIds=ami["snapshots"])["Snapshots"][0]
    assert {"Key": "splitbake:fingerprint", "Value": ami["fingerprint"]} in snapshot["Tags"]
    assert instances(world) == []
    assert not any("packer" in pair["KeyName"] for pair in world.client("ec2").describe_key_pairs()["KeyPairs"])


def test_build_image(world):
    outcome = world.splitbake("build", "image", "--json")
    assert outcome.code == 0, outcome.err + outcome.out
    image = outcome.json["image"]
    found = world.client("ecr").describe_images(
        repositoryName=world.project.manifest.image.repository, imageIds=[{"imageDigest": image["id"]}]
    )["imageDetails"]
    assert [detail["imageDigest"] for detail in found] == [image["id"]]
    assert image["size"] < world.project.manifest.image.budget


def test_release_refuses_an_unverified_pair(world):
    before = live(world)
    outcome = world.splitbake("release", "--yes")
    assert outcome.code == 1
    assert "splitbake verify" in outcome.err
    assert live(world) == before


def test_verify_both_halves(world, tmp_path):
    outcome = world.splitbake("verify", "--json", "--junit", str(tmp_path))
    assert outcome.code == 0, outcome.err + outcome.out
    for half in ("ami", "image"):
        assert outcome.json[half]["passed"]
        assert len(outcome.json[half]["checks"]) >= 8
        assert "<testsuite" in (tmp_path / f"{half}.xml").read_text(encoding="utf-8")
    assert instances(world) == []


def test_a_report_by_a_laxer_standard_does_not_count(world, edited):
    edited("splitbake.yaml", "budget: 500 MB", "budget: 450 MB")
    before = live(world)
    outcome = world.splitbake("release", "--yes")
    assert outcome.code == 1
    assert "splitbake verify" in outcome.err
    assert live(world) == before


def test_dry_run_shows_everything_and_changes_nothing(world):
    before = live(world)
    outcome = world.splitbake("release", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "+++" in outcome.out
    assert live(world) == before


def test_release_moves_every_target(world):
    text = (world.project.root / TERRAFORM).read_text(encoding="utf-8").splitlines()
    outcome = world.splitbake("release", "--yes", "--json")
    assert outcome.code == 0, outcome.err + outcome.out
    ami = world.splitbake("build", "ami", "--json").json["ami"]["id"]
    image = world.splitbake("build", "image", "--json").json["image"]["uri"]
    template = world.client("ec2").describe_launch_template_versions(
        LaunchTemplateName="capstone-batch-gpu", Versions=["$Default"]
    )["LaunchTemplateVersions"][0]
    assert template["LaunchTemplateData"]["ImageId"] == ami
    assert template["LaunchTemplateData"]["BlockDeviceMappings"]
    environment = world.client("batch").describe_compute_environments()["computeEnvironments"][0]
    assert environment["status"] == "VALID"
    assert environment["computeResources"]["launchTemplate"]["version"] == str(template["VersionNumber"])
    newest = newest_job_definition(world)
    assert newest["containerProperties"]["image"] == image
    assert all(mount["readOnly"] for mount in newest["containerProperties"]["mountPoints"])
    after = (world.project.root / TERRAFORM).read_text(encoding="utf-8").splitlines()
    changed = [(old, new) for old, new in zip(text, after, strict=True) if old != new]
    assert len(changed) == 1
    assert ami in changed[0][1]


def test_second_release_changes_nothing(world):
    before = live(world)
    outcome = world.splitbake("release", "--yes")
    assert outcome.code == 0, outcome.err
    assert live(world) == before


def test_smoke_finds_faces(world):
    outcome = world.splitbake("smoke", "--json")
    assert outcome.code == 0, outcome.err + outcome.out
    job = outcome.json
    assert job["status"] == "SUCCEEDED"
    assert job["result"]["frames"] == len(job["result"]["faces_per_frame"]) > 0
    assert job["result"]["faces"] > 0


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ({}, "splitbake: this host offers no models: there is no /opt/splitbake/host/contract, so it was not booted"),
        (
            {".splitbake": "/opt/splitbake/host", "models": "/elsewhere"},
            "splitbake: the AMI of this host offers checkpoints/ocr-det/ch_PP-OCRv4_det_infer.onnx, but it is not at",
        ),
    ],
)
def test_a_job_on_a_host_without_its_models_is_tried_again_and_tells_why(world, shown, said):
    batch, latest = world.client("batch"), newest_job_definition(world)
    mounts = {
        "volumes": [
            {"name": f"v{n}", "host": {"sourcePath": f"/opt/dl-models/{path}"}} for n, path in enumerate(shown)
        ],
        "mountPoints": [
            {"sourceVolume": f"v{n}", "containerPath": path, "readOnly": True} for n, path in enumerate(shown.values())
        ],
    }
    definition = batch.register_job_definition(
        jobDefinitionName="mismatched",
        type="container",
        containerProperties=latest["containerProperties"] | mounts,
        retryStrategy=latest["retryStrategy"],
    )["jobDefinitionArn"]
    queue = "capstone-dev-video-analysis-gpu"
    name = batch.submit_job(jobName="mismatched", jobQueue=queue, jobDefinition=definition)["jobId"]
    deadline = time.monotonic() + 60
    while (job := batch.describe_jobs(jobs=[name])["jobs"][0])["status"] not in {"SUCCEEDED", "FAILED"}:
        assert time.monotonic() < deadline, job["status"]
        time.sleep(0.5)
    assert (job["status"], job["container"]["exitCode"], len(job["attempts"])) == ("FAILED", 78, 3)
    stream = job["container"]["logStreamName"]
    events = world.client("logs").get_log_events(logGroupName="/aws/batch/job", logStreamName=stream)["events"]
    lines = [event["message"] for event in events if event["message"].startswith("splitbake: ")]
    assert len(lines) == 1
    assert lines[0].startswith(said)


def test_nothing_changed_builds_nothing(world):
    outcome = world.splitbake("build", "--json")
    assert outcome.code == 0
    assert outcome.json["ami"]["reused"]
    assert outcome.json["image"]["reused"]


@pytest.fixture
def other_code(edited):
    """One line of code is another one, for one test."""
    edited("examples/video-analysis/run.py", "import argparse\n", "import argparse  # changed\n")


def test_one_line_of_code_rebuilds_only_the_image(world, other_code):
    outcome = world.splitbake("build", "--json")
    assert outcome.code == 0, outcome.err + outcome.out
    assert outcome.json["ami"]["reused"]
    assert not outcome.json["image"]["reused"]


def test_one_half_alone_is_refused_before_it_is_verified(world, other_code):
    before = live(world)
    outcome = world.splitbake("release", "image", "--yes")
    assert outcome.code == 1
    assert "splitbake verify image" in outcome.err
    assert live(world) == before


def test_the_code_goes_alone_and_the_hosts_stay(world, other_code):
    hosts = host_side(world)
    ami = world.splitbake("build", "ami", "--json").json["ami"]["id"]
    image = world.splitbake("build", "image", "--json").json["image"]["uri"]
    assert world.splitbake("verify", "image").code == 0
    outcome = world.splitbake("release", "image", "--yes", "--json")
    assert outcome.code == 0, outcome.err + outcome.out
    assert (outcome.json["status"], outcome.json["ami"], outcome.json["image"]) == ("good", ami, image)
    assert [step["phase"] for step in outcome.json["steps"]] == ["TAG", "JOB"]
    assert newest_job_definition(world)["containerProperties"]["image"] == image
    assert host_side(world) == hosts
    assert world.splitbake("smoke", "--json").json["status"] == "SUCCEEDED"


def test_the_code_goes_back_alone(world):
    """Built anew: plans explain themselves by the latest build, and the next tests change the code as it is."""
    hosts = host_side(world)
    image = world.splitbake("build", "image", "--force", "--json").json["image"]["uri"]
    assert world.splitbake("verify", "image").code == 0
    outcome = world.splitbake("release", "image", "--yes", "--json")
    assert outcome.code == 0, outcome.err + outcome.out
    assert outcome.json["image"] == image
    assert newest_job_definition(world)["containerProperties"]["image"] == image
    assert host_side(world) == hosts
    assert world.splitbake("release", "--yes", "--json").json["status"] == "unchanged"
