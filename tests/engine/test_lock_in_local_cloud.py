"""``splitbake lock`` against the local cloud: base AMI, base image and models as they are there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from splitbake.cli.lock import command
from splitbake.errors import LockError, SourceError

pytestmark = pytest.mark.engine

BUCKET = "lock-test-models"


@pytest.fixture(scope="module")
def bucket(aws):
    s3 = aws("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key="x/a", Body=os.urandom(9_000_000))
    s3.put_object(Bucket=BUCKET, Key="x/b", Body=b"b")
    yield s3
    for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]:
        s3.delete_object(Bucket=BUCKET, Key=item["Key"])
    s3.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def manifest(tmp_path, cloud, bucket) -> Path:
    data = {
        "version": 1,
        "project": "lock-test",
        "state": ".splitbake/state",
        "models": {"files": [{"path": "models/x/", "from": f"s3://{BUCKET}/x/"}], "budget": "10 MB"},
        "ami": {"base": "ecs-gpu-al2023"},
        "image": {
            "base": "ecr://docker-hub/library/python:3.11-slim",
            "include": ["run.py"],
            "mounts": {"models": "/workspace/models"},
            "command": ["python", "run.py"],
            "repository": "lock-test",
            "budget": "500 MB",
        },
        "environments": {"local": {"account": cloud.account, "region": cloud.region, "endpoint": "custom"}},
    }
    path = tmp_path / "splitbake.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def lock(manifest: Path, *options: str) -> Result:
    return CliRunner().invoke(command, ["--manifest", str(manifest), *options], standalone_mode=False)


def test_a_lock_pins_everything_and_twice_gives_the_same_bytes(manifest):
    first = lock(manifest)
    assert first.exception is None, first.output
    path = manifest.with_name("splitbake.lock")
    text = path.read_text()
    body = json.loads(text)
    assert body["base_ami"]["id"].startswith("ami-")
    assert body["base_image"]["digest"].startswith("sha256:")
    assert [file["size"] for file in body["models"][0]["files"]] == [9_000_000, 1]
    assert "model new: models/x/a" in first.stdout

    again = lock(manifest)
    assert again.exception is None
    assert path.read_text() == text
    assert "up to date" in again.stdout
    path.unlink()
    lock(manifest)
    assert path.read_text() == text


def test_check_tells_drift_and_writes_nothing(manifest, bucket):
    assert lock(manifest).exception is None
    path = manifest.with_name("splitbake.lock")
    text = path.read_text()
    assert lock(manifest, "--check").return_value == 0
    bucket.put_object(Bucket=BUCKET, Key="x/b", Body=b"c")
    drift = lock(manifest, "--check", "--json")
    assert drift.return_value == 2
    (moved,) = json.loads(drift.stdout)["moved"]
    assert moved.startswith("model changed (sha256 ")
    assert moved.endswith("1 -> 1 bytes): models/x/b")
    assert path.read_text() == text
    assert lock(manifest).return_value == 0
    assert path.read_text() != text


def test_offline_check_needs_no_network(manifest, monkeypatch):
    assert lock(manifest).exception is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert lock(manifest, "--check", "--offline").return_value == 0
    data = yaml.safe_load(manifest.read_text())
    data["ami"]["base"] = {"ssm": "/other"}
    manifest.write_text(yaml.safe_dump(data, sort_keys=False))
    found = lock(manifest, "--check", "--offline")
    assert found.return_value == 2
    assert "ami.base is ssm:/other, locked is ecs-gpu-al2023" in found.stdout


def test_a_failure_leaves_the_old_lock_as_it_was(manifest):
    assert lock(manifest).exception is None
    path = manifest.with_name("splitbake.lock")
    text = path.read_text()
    data = yaml.safe_load(manifest.read_text())
    data["models"]["files"].append({"path": "models/y", "from": f"s3://{BUCKET}/none"})
    manifest.write_text(yaml.safe_dump(data, sort_keys=False))
    with pytest.raises(SourceError, match="none does not exist"):
        raise lock(manifest).exception
    data["models"] = {**data["models"], "files": data["models"]["files"][:1], "budget": "8 MB"}
    manifest.write_text(yaml.safe_dump(data, sort_keys=False))
    with pytest.raises(LockError, match=r"models.budget is 8.0 MB"):
        raise lock(manifest).exception
    assert path.read_text() == text
    assert sorted(entry.name for entry in manifest.parent.iterdir()) == ["splitbake.lock", "splitbake.yaml"]


def test_check_without_a_lock_says_so(manifest):
    with pytest.raises(LockError, match="does not exist"):
        raise lock(manifest, "--check").exception
