"""``splitbake lock`` against the local cloud: base AMI, base image and models as they are there."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from click.testing import CliRunner, Result

from splitbake.cli.lock import command
from splitbake.errors import LockError, SourceError
from splitbake.project import Project
from splitbake.sources import opener

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


@pytest.fixture
def versioned(aws, manifest):
    """A bucket that keeps versions, of which the manifest takes one file."""
    s3 = aws("s3")
    bucket = f"{BUCKET}-versions"
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    data = yaml.safe_load(manifest.read_text())
    data["models"]["files"] = [{"path": "models/x/a", "from": f"s3://{bucket}/a"}]
    manifest.write_text(yaml.safe_dump(data, sort_keys=False))
    yield s3, bucket
    for item in s3.list_object_versions(Bucket=bucket).get("Versions", []):
        s3.delete_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])
    s3.delete_bucket(Bucket=bucket)


def test_a_locked_version_outlives_what_is_uploaded_after_it(manifest, versioned):
    """The address that the builder gets gives the locked bytes, and the lock is not broken before the next one."""
    s3, bucket = versioned
    content = os.urandom(100_000)
    version = s3.put_object(Bucket=bucket, Key="a", Body=content)["VersionId"]
    assert lock(manifest).exception is None
    project = Project(manifest)
    (file,) = project.lock.files
    assert file.version == version
    s3.put_object(Bucket=bucket, Key="a", Body=b"another")
    url = opener(project.cloud(), project.root)(file.source).url(file)
    with urlopen(str(url), timeout=30) as answer:  # noqa: S310 - the local cloud's own address
        assert hashlib.sha256(answer.read()).hexdigest() == file.sha256
    drift = lock(manifest, "--check", "--json")
    assert drift.return_value == 2
    assert json.loads(drift.stdout)["moved"][0].startswith("model changed (sha256 ")


def test_a_checksum_of_s3_spares_the_download(manifest, versioned):
    s3, bucket = versioned
    content = os.urandom(1_000_000)
    s3.put_object(Bucket=bucket, Key="a", Body=content, ChecksumAlgorithm="SHA256")
    found = lock(manifest, "--json")
    assert json.loads(found.stdout)["models"] == {
        "files": 1,
        "bytes": 1_000_000,
        "told": {"files": 1, "bytes": 1_000_000},
    }
    assert Project(manifest).lock.files[0].sha256 == hashlib.sha256(content).hexdigest()


def test_the_base_alone_is_updated_and_says_when_it_is_deprecated(manifest, aws, cloud, base_ami):
    ec2, ssm = aws("ec2"), aws("ssm")
    data = yaml.safe_load(manifest.read_text())
    data["ami"]["base"] = {"ssm": "/lock-test/base"}
    manifest.write_text(yaml.safe_dump(data, sort_keys=False))
    ssm.put_parameter(Name="/lock-test/base", Value=base_ami, Type="String")
    copy = ec2.copy_image(Name="lock-test-base", SourceImageId=base_ami, SourceRegion=cloud.region)["ImageId"]
    try:
        ec2.get_waiter("image_available").wait(ImageIds=[copy], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=700)
        ec2.enable_image_deprecation(ImageId=copy, DeprecateAt=moment)
        assert lock(manifest).exception is None
        path = manifest.with_name("splitbake.lock")
        before = json.loads(path.read_text())
        ssm.put_parameter(Name="/lock-test/base", Value=copy, Type="String", Overwrite=True)
        found = lock(manifest, "--update", "base")
        assert found.exception is None
        after = json.loads(path.read_text())
        assert after["base_ami"]["id"] == copy
        assert after["base_ami"]["deprecated"].startswith(f"{moment:%Y-%m-%d}")
        assert f"base AMI: {base_ami} (" in found.stdout
        assert f"-> {copy} (lock-test-base, of " in found.stdout
        assert {**after, "base_ami": None} == {**before, "base_ami": None}
    finally:
        ec2.deregister_image(ImageId=copy)
        ssm.delete_parameter(Name="/lock-test/base")


def test_ctrl_c_ends_it_soon_and_leaves_the_old_lock(manifest, versioned):
    s3, bucket = versioned
    s3.put_object(Bucket=bucket, Key="a", Body=b"small")
    assert lock(manifest).exception is None
    path = manifest.with_name("splitbake.lock")
    before = path.read_bytes()
    data = yaml.safe_load(manifest.read_text())
    data["models"]["budget"] = "1 GB"
    manifest.write_text(yaml.safe_dump(data, sort_keys=False))
    s3.put_object(Bucket=bucket, Key="a", Body=bytes(400_000_000))
    process = subprocess.Popen(
        [sys.executable, "-m", "splitbake", "lock"], cwd=manifest.parent, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert any(f"of 400.0 MB, 0 of 1 file: s3://{bucket}/a" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=30)[1]
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, "error: interrupted" in rest) == (130, True)
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in manifest.parent.iterdir()) == ["splitbake.lock", "splitbake.yaml"]
