"""``splitbake lock``: without a cloud, and in an account of moto's."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from click.testing import CliRunner, Result
from moto import mock_aws

from splitbake import lock as locks
from splitbake.cli.lock import command
from splitbake.errors import LockError, ManifestError, UsageError
from splitbake.lock import Lock, LockedBaseAmi, LockedBaseImage, LockedFile, LockedModels

MANIFEST = {
    "version": 1,
    "project": "video-analysis",
    "state": ".splitbake/state",
    "models": {"files": [{"path": "models/a", "from": "weights/a"}], "budget": "3 GiB"},
    "ami": {"base": "ecs-gpu-al2023"},
    "image": {
        "base": "python:3.11-slim",
        "include": ["run.py"],
        "mounts": {"models": "/workspace/models"},
        "command": ["python", "run.py"],
        "repository": "processor",
        "budget": "500 MB",
    },
    "environments": {"dev": {"account": "123456789012", "region": "eu-west-1"}},
}
LOCK = Lock(
    base_ami=LockedBaseAmi(
        request="ecs-gpu-al2023",
        id="ami-01234567",
        name="base",
        owner="self",
        created="2026-01-01T00:00:00Z",
        architecture="x86_64",
        region="eu-west-1",
        root_device="/dev/xvda",
        root_size=1,
    ),
    base_image=LockedBaseImage(request="python:3.11-slim", digest="sha256:" + "c" * 64),
    models=(
        LockedModels(
            path="models/a",
            source="weights/a",
            files=(LockedFile(path="models/a", source="weights/a", size=3, sha256=hashlib.sha256(b"abc").hexdigest()),),
        ),
    ),
)


@pytest.fixture
def manifest(tmp_path) -> Path:
    path = tmp_path / "splitbake.yaml"
    path.write_text(yaml.safe_dump(MANIFEST))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/a").write_text("abc")
    return path


def lock(manifest: Path, *options: str) -> Result:
    return CliRunner().invoke(command, ["--manifest", str(manifest), *options], standalone_mode=False)


def test_a_lock_that_answers_the_manifest_is_up_to_date(manifest):
    locks.write(manifest.with_name("splitbake.lock"), LOCK)
    result = lock(manifest, "--check", "--offline")
    assert result.return_value == 0
    assert "answers the manifest" in result.stdout
    assert "1 model file, 3 B" in result.stderr


def test_a_model_in_the_project_that_left_its_lock_behind_is_a_finding(manifest):
    locks.write(manifest.with_name("splitbake.lock"), LOCK)
    manifest.with_name("weights").joinpath("a").write_text("xyz")
    result = lock(manifest, "--check", "--offline")
    assert result.return_value == 2
    assert "model changed: weights/a" in result.stdout


def test_a_lock_that_does_not_is_a_finding_and_stays(manifest):
    path = manifest.with_name("splitbake.lock")
    locks.write(path, LOCK)
    before = path.read_bytes()
    manifest.write_text(manifest.read_text().replace("python:3.11-slim", "python:3.12-slim"))
    result = lock(manifest, "--check", "--offline", "--json")
    assert result.return_value == 2
    assert json.loads(result.stdout) == {
        "check": True,
        "changed": True,
        "moved": ["image.base is python:3.12-slim, locked is python:3.11-slim"],
        "warnings": [],
        "models": {"files": 1, "bytes": 3},
    }
    assert path.read_bytes() == before


def test_what_cannot_be_checked_is_an_error(manifest):
    with pytest.raises(LockError, match="does not exist"):
        raise lock(manifest, "--check", "--offline").exception
    with pytest.raises(UsageError, match="can only be checked"):
        raise lock(manifest, "--offline").exception
    with pytest.raises(UsageError, match="only all of it"):
        raise lock(manifest, "--check", "--offline", "--update", "base").exception
    with pytest.raises(ManifestError, match="does not exist"):
        raise lock(manifest.with_name("other.yaml")).exception


GPU = "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"
CPU = "/aws/service/ecs/optimized-ami/amazon-linux-2023/recommended/image_id"
OLD = "/aws/service/ecs/optimized-ami/amazon-linux-2/kernel-5.10/gpu/recommended/image_id"


class World:
    """An account with a base AMI, a base image and three models, of which one is in the project."""

    def __init__(self, root: Path) -> None:
        self.s3, self.ssm, self.ecr = (boto3.client(name, region_name="us-east-1") for name in ("s3", "ssm", "ecr"))
        self.s3.create_bucket(Bucket="models")
        self.s3.put_object(Bucket="models", Key="x/a", Body=b"a" * 2000)
        self.s3.put_object(Bucket="models", Key="x/b", Body=b"b" * 5000, ChecksumAlgorithm="SHA256")
        self.ecr.create_repository(repositoryName="base")
        self.image("1")
        self.base(GPU)
        self.lock = root / "splitbake.lock"
        self.manifest = root / "splitbake.yaml"
        data: dict[str, Any] = copy.deepcopy(MANIFEST)
        data["models"]["files"].append({"path": "models/x/", "from": "s3://models/x/"})
        data["ami"]["base"] = {"ssm": "/base"}
        data["image"]["base"] = "ecr://base:1"
        data["environments"]["dev"]["region"] = "us-east-1"
        self.write(data)

    def write(self, data: dict[str, Any]) -> None:
        self.data = data
        self.manifest.write_text(yaml.safe_dump(data))

    def base(self, parameter: str) -> None:
        """Let /base name the AMI that ``parameter`` names."""
        ami = self.ssm.get_parameter(Name=parameter)["Parameter"]["Value"]
        self.ssm.put_parameter(Name="/base", Value=ami, Type="String", Overwrite=True)

    def image(self, content: str) -> None:
        """Push another base image under the same tag."""
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        body = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": {"digest": content}, "layers": []})
        digest = f"sha256:{hashlib.sha256(body.encode()).hexdigest()}"
        self.ecr.put_image(repositoryName="base", imageTag="1", imageManifest=body, imageDigest=digest)


@pytest.fixture
def world(manifest, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "true")  # which moto's SSM parameters name
    with mock_aws():
        yield World(manifest.parent)


def done(world: World, *options: str) -> Result:
    result = lock(world.manifest, *options)
    assert result.exception is None, result.output
    return result


def test_a_lock_says_what_was_downloaded_and_what_was_not(world):
    first = done(world)
    assert first.return_value == 0
    assert (
        "3 model files, 7.0 kB: 1 downloaded (2.0 kB), 1 by the checksum of their source (5.0 kB), "
        "1 in the project (3 B)" in first.stderr
    )
    assert "0 B of 2.0 kB, 0 of 1 file: s3://models/x/a" in first.stderr
    again = json.loads(done(world, "--json").stdout)
    assert again["models"] == {
        "files": 3,
        "bytes": 7003,
        "unchanged": {"files": 2, "bytes": 7000},
        "project": {"files": 1, "bytes": 3},
    }
    assert again["moved"] == []


@pytest.mark.parametrize("part", ["base", "models"])
def test_one_part_moves_and_the_other_stays_as_it_is(world, part):
    done(world)
    before = json.loads(world.lock.read_text())
    world.base(CPU)
    world.image("2")
    world.s3.put_object(Bucket="models", Key="x/a", Body=b"c")
    found = done(world, "--check", "--update", part)
    assert found.return_value == 2
    assert json.loads(world.lock.read_text()) == before
    moved = done(world, "--update", part)
    assert moved.return_value == 0
    assert moved.stdout == found.stdout
    after = json.loads(world.lock.read_text())
    if part == "base":
        assert after["models"] == before["models"]
        assert after["base_ami"]["id"] != before["base_ami"]["id"]
        assert after["base_image"]["digest"] != before["base_image"]["digest"]
        ami, image = moved.stdout.splitlines()
        assert ami.startswith(f"base AMI: {before['base_ami']['id']} (al2023-ami-ecs-gpu-")
        assert f" -> {after['base_ami']['id']} (al2023-ami-ecs-hvm-" in ami
        assert f", of {after['base_ami']['created'][:10]}, us-east-1, from ssm:/base)" in ami
        assert image.startswith("base image: ")
        assert "3 model files, 7.0 kB\n" in moved.stderr
    else:
        assert (after["base_ami"], after["base_image"]) == (before["base_ami"], before["base_image"])
        assert moved.stdout.startswith("model changed (sha256 ")
        assert moved.stdout.endswith("2000 -> 1 bytes): models/x/a\n")
    other = {"base": "models", "models": "base"}[part]
    assert done(world, "--check", "--update", part).return_value == 0
    assert done(world, "--check", "--update", other).return_value == 2
    assert done(world, "--update", "base", "--update", "models").return_value == 0
    assert done(world, "--check").return_value == 0


def test_a_part_that_moves_leaves_the_bytes_of_the_other(world):
    """Also where this splitbake would say more of it than an earlier one did."""
    done(world)
    body = json.loads(world.lock.read_text())
    for entry in body["models"]:
        for file in entry["files"]:
            file.pop("etag", None)
    world.lock.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")
    models = world.lock.read_text().partition('"models"')[2]
    world.base(CPU)
    done(world, "--update", "base")
    assert world.lock.read_text().partition('"models"')[2] == models
    assert "is described more closely (etag): models/x/a, models/x/b" in done(world, "--update", "models").stdout


def test_a_part_cannot_be_updated_where_there_is_no_lock_or_where_the_rest_would_be_stale(world):
    with pytest.raises(LockError, match="does not exist"):
        raise lock(world.manifest, "--update", "base").exception
    done(world)
    before = world.lock.read_bytes()
    world.write({**world.data, "image": {**world.data["image"], "base": "ecr://base:2"}})
    with pytest.raises(LockError, match=r"image\.base is ecr://base:2, locked is ecr://base:1"):
        raise lock(world.manifest, "--update", "models").exception
    assert world.lock.read_bytes() == before


def test_a_base_at_its_end_is_warned_of_on_stderr_and_in_json(world):
    world.base(OLD)
    shown = done(world)
    assert "warning: the base AMI ami-" in shown.stderr
    assert "Amazon Linux 2" in shown.stderr
    assert "warning" not in shown.stdout
    for options in ([], ["--check"], ["--check", "--offline"]):
        result = done(world, "--json", *options)
        (said,) = json.loads(result.stdout)["warnings"]
        assert "has got no updates after 2026-06-30" in said
        assert result.return_value == 0


def test_a_moved_base_does_not_wait_for_models(world):
    """A part that is not asked for is not even looked at."""
    done(world)
    world.s3.delete_object(Bucket="models", Key="x/a")
    world.base(CPU)
    assert done(world, "--update", "base").return_value == 0
