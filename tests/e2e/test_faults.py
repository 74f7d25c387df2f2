"""Killing splitbake, and Packer, at every stage of a bake: the next run converges, and nothing is left after gc.

All points take many minutes: ``SPLITBAKE_ALL_FAULTS=1`` tries them all, a plain run some of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from splitbake import fingerprint, local
from splitbake.artifact import Artifact
from splitbake.bake import rundir
from splitbake.generate import packer
from splitbake.lock import Lock
from splitbake.project import Project
from splitbake.sources import base_ami

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("packer") is None, reason="Packer is not installed"),
]

BUCKET = "faults"
MODEL = b"a very small model"
MANIFEST: dict[str, Any] = {
    "version": 1,
    "project": "faults",
    "state": f"s3://{BUCKET}/state",
    "models": {"files": [{"path": "models/small.bin", "from": "small.bin"}], "budget": "1 MB"},
    "ami": {"base": "ecs-gpu-al2023", "provision": ["setup.sh"]},
    "image": {
        "base": "python:3.11-slim",
        "include": ["run.py"],
        "mounts": {"models": "/models"},
        "command": ["python", "run.py"],
        "repository": "faults",
        "budget": "500 MB",
    },
    "environments": {"local": {"account": "123456789012", "region": "us-east-1", "endpoint": "custom"}},
}
#: Runs splitbake and kills it as soon as AWS has answered a certain call (of S3: on a certain key).
DIE_AFTER = """
import os, signal, sys
from botocore.client import BaseClient
operation, _, key = sys.argv.pop(1).partition(" ")
call = BaseClient._make_api_call
def then_die(client, name, parameters):
    answer = call(client, name, parameters)
    if name == operation and key in parameters.get("Key", key):
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
BaseClient._make_api_call = then_die
from splitbake.cli import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Bench:
    """A small project in a local cloud, and its command line."""

    project: Project
    environment: dict[str, str]

    def start(self, *arguments: str, program: tuple[str, ...] = ("-m", "splitbake")) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=self.project.root,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> str:
        """Run ``splitbake ARGUMENTS``, which must succeed, and return what it said."""
        process = self.start(*arguments)
        said, _ = process.communicate()
        assert process.returncode == 0, said
        return said

    def kept(self) -> Artifact | None:
        project = Project(self.project.manifest_path)
        return project.catalog(project.cloud()).artifact("ami", fingerprint.inputs(project, "ami").fingerprint)

    def left(self) -> dict[str, list[str]]:
        """Everything that the account and this machine have of any run, and the AMIs with their snapshots."""
        cloud = self.project.cloud()
        ec2, iam = cloud.client("ec2"), cloud.client("iam")
        reservations = ec2.describe_instances()["Reservations"]
        instances = [one for group in reservations for one in group["Instances"]]
        groups = ec2.describe_security_groups()["SecurityGroups"]
        found = {
            "instances": [one["InstanceId"] for one in instances if one["State"]["Name"] != "terminated"],
            "volumes": [one["VolumeId"] for one in ec2.describe_volumes()["Volumes"]],
            "key pairs": [one["KeyName"] for one in ec2.describe_key_pairs()["KeyPairs"]],
            "groups": [one["GroupId"] for one in groups if one["GroupName"] != "default"],
            "roles": [one["RoleName"] for one in iam.list_roles()["Roles"]],
            "profiles": [one["InstanceProfileName"] for one in iam.list_instance_profiles()["InstanceProfiles"]],
            "images": [one["ImageId"] for one in ec2.describe_images(Owners=["self"])["Images"]],
            "snapshots": [one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]],
            "folders": [*rundir.found()],
        }
        return {kind: sorted(names) for kind, names in found.items() if names}

    def end(self) -> None:
        """Remove the AMI, and forget it."""
        cloud, kept = self.project.cloud(), self.kept()
        if kept:
            cloud.client("ec2").deregister_image(ImageId=kept.id)
            for snapshot in kept.snapshots:
                cloud.client("ec2").delete_snapshot(SnapshotId=snapshot)
        for one in cloud.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", []):
            cloud.client("s3").delete_object(Bucket=BUCKET, Key=one["Key"])


def lay_out(root: Path) -> Project:
    (root / "small.bin").write_bytes(MODEL)
    (root / "setup.sh").write_text("#!/bin/sh\nsleep 0.5\n", encoding="utf-8")
    (root / "splitbake.yaml").write_text(json.dumps(MANIFEST), encoding="utf-8")
    project = Project(root / "splitbake.yaml")
    file = {
        "path": "models/small.bin",
        "source": "small.bin",
        "size": len(MODEL),
        "sha256": hashlib.sha256(MODEL).hexdigest(),
    }
    lock = {
        "base_ami": base_ami.resolve(project.cloud(), project.manifest).model_dump(),
        "base_image": {"request": "python:3.11-slim", "digest": "sha256:" + "1" * 64},
        "models": [{"path": "models/small.bin", "source": "small.bin", "files": [file]}],
    }
    (root / "splitbake.lock").write_text(Lock.model_validate(lock).to_text(), encoding="utf-8")
    for path, text in packer.render(project.manifest, project.lock, "1.6").items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return project


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("cloud")
    cloud = local.up(directory)
    try:
        with pytest.MonkeyPatch.context() as patch:
            temporary = str(tmp_path_factory.mktemp("t"))
            patch.setattr("tempfile.tempdir", temporary)
            for name in local.foreign(os.environ):
                patch.delenv(name, raising=False)
            for name, value in cloud.environment().items():
                patch.setenv(name, value)
            project = lay_out(tmp_path_factory.mktemp("project"))
            project.cloud().client("s3").create_bucket(Bucket=BUCKET)
            yield Bench(project, {**cloud.environment(), "TMPDIR": temporary})
    finally:
        local.down(directory)


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    assert shared.left() == {}
    yield shared
    shared.end()


def children(parent: int, name: str) -> list[int]:
    """Return the processes called ``name`` whose parent is ``parent``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # others come and go
            number, _, fields = stat.read_text(encoding="utf-8").partition(f" ({name}) ")
            if fields and int(fields.split()[1]) == parent:
                found.append(int(number))
    return found


def packer_of(splitbake: int) -> int:
    (keeper,) = children(splitbake, "python")
    (process,) = children(keeper, "packer")
    return process


def until(process: subprocess.Popen[str], moment: str) -> None:
    """Read what ``process`` says until a line that begins with ``moment``."""
    assert process.stdout
    said = []
    for line in process.stdout:
        said.append(line)
        if line.strip().startswith(moment):
            return
    pytest.fail(f"it never said {moment!r}, but: {''.join(said)}")


def rest(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=200)
    return said


def await_the_end_of_all_runs() -> None:
    """A Packer whose splitbake was killed cleans up after itself."""
    deadline = time.monotonic() + 120
    while any(rundir.is_alive(run) for run in rundir.found()):
        assert time.monotonic() < deadline, "what was killed goes on"
        time.sleep(0.2)


def assert_converges(bench: Bench) -> None:
    """Run again, collect, and see one good AMI and nothing else."""
    bench.run("build", "ami")
    await_the_end_of_all_runs()
    bench.run("gc", "--runs", "--older-than", "0", "--yes")
    assert "unchanged" in bench.run("build", "ami")
    kept = bench.kept()
    assert kept is not None
    assert bench.left() == {"images": [kept.id], "snapshots": sorted(kept.snapshots)}
    tags = bench.project.cloud().client("ec2").describe_images(ImageIds=[kept.id])["Images"][0]["Tags"]
    assert {"Key": "splitbake:fingerprint", "Value": kept.fingerprint} in tags
    assert "nothing is left" in bench.run("gc", "--runs", "--older-than", "0")


AT_A_LINE = [
    "because no AMI was built yet",
    "starting the builder",
    "waiting for the builder",
    "logged in to the builder",
    "uploading",
    "running 10-settle.sh",
    "running setup.sh",
    "running 20-volumes.sh",
    "running 30-models.sh",
    "running 60-host.sh",
    "running 80-gate.sh",
    "running 90-cleanup.sh",
    "stopping the builder",
    "creating the AMI",
    "waiting for the snapshot",
    "terminating the builder",
]
AFTER_A_CALL = [
    "PutObject leases/",
    "ImportKeyPair",
    "CreateSecurityGroup",
    "DeleteKeyPair",
    "ModifyImageAttribute",
    "PutObject artifacts/",
]
#: Points of a plain run.
SOME = {
    "logged in to the builder",
    "waiting for the snapshot",
    "CreateSecurityGroup",
    "ModifyImageAttribute",
}
ALL = os.environ.get("SPLITBAKE_ALL_FAULTS") == "1"


def points(*lists: list[str]) -> list[str]:
    return [point for each in lists for point in each if ALL or point in SOME]


@pytest.mark.parametrize("moment", points(AT_A_LINE))
def test_splitbake_killed_at_a_stage(bench: Bench, moment: str) -> None:
    process = bench.start("build", "ami")
    until(process, moment)
    process.kill()
    rest(process)
    assert process.returncode == -signal.SIGKILL
    assert_converges(bench)


@pytest.mark.parametrize("call", points(AFTER_A_CALL))
def test_splitbake_killed_after_a_call(bench: Bench, call: str) -> None:
    process = bench.start(call, "build", "ami", program=("-c", DIE_AFTER))
    rest(process)
    assert process.returncode == -signal.SIGKILL
    assert_converges(bench)


@pytest.mark.parametrize("moment", [*points(AT_A_LINE[2:-1]), AT_A_LINE[-1]])
def test_packer_killed_at_a_stage(bench: Bench, moment: str) -> None:
    """splitbake lives, so nothing is left even without gc; once Packer has asked for the AMI, splitbake finishes it."""
    process = bench.start("build", "ami")
    until(process, moment)
    os.kill(packer_of(process.pid), signal.SIGKILL)
    said = rest(process)
    if process.returncode:
        assert "Packer was ended by SIGKILL" in said
        assert bench.left() == {}
    asked = AT_A_LINE.index(moment) >= AT_A_LINE.index("creating the AMI")
    assert (process.returncode == 0) == asked, said
    assert_converges(bench)


@pytest.mark.parametrize("moment", points(AT_A_LINE[2:-1]))
def test_all_of_them_killed_at_once_at_a_stage(bench: Bench, moment: str) -> None:
    """Nobody ends the builder. gc does, and needs not wait until it is old: its run was one of this machine."""
    process = bench.start("build", "ami")
    until(process, moment)
    (keeper,) = children(process.pid, "python")
    process.send_signal(signal.SIGSTOP)  # so that it does not clean up after Packer
    os.killpg(keeper, signal.SIGKILL)
    process.kill()
    rest(process)
    await_the_end_of_all_runs()
    assert bench.left().keys() >= {"instances", "volumes", "key pairs", "groups", "folders"}
    bench.run("gc", "--runs", "--yes")
    assert bench.left().keys() <= {"images", "snapshots"}, "the next build takes those up"
    assert_converges(bench)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT] if ALL else [signal.SIGTERM])
@pytest.mark.parametrize("moment", points(AT_A_LINE[1:]))
def test_a_signal_at_a_stage_leaves_nothing(bench: Bench, moment: str, number: signal.Signals) -> None:
    process = bench.start("build", "ami")
    until(process, moment)
    process.send_signal(number)
    said = rest(process)
    assert (process.returncode, bench.left()) == (130, {}), said


def test_an_ami_that_nobody_wrote_down_is_taken_up_and_verified(bench: Bench) -> None:
    """The bake was killed between the end of the AMI and the record of it: no second bake."""
    process = bench.start("ModifyImageAttribute", "build", "ami", program=("-c", DIE_AFTER))
    rest(process)
    images = bench.left()["images"]
    said = bench.run("build", "ami")
    assert f"{images[0]} was made of these inputs by an earlier run" in said
    assert "starting the builder" not in said
    kept = bench.kept()
    assert kept is not None
    assert [kept.id] == images
    bench.run("gc", "--runs", "--older-than", "0", "--yes")
    assert "0 failed" in bench.run("verify", "ami")
