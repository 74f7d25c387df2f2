"""``splitbake lock`` where no cloud is needed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

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
        "models": {"files": 1, "bytes": 3},
    }
    assert path.read_bytes() == before


def test_what_cannot_be_checked_is_an_error(manifest):
    with pytest.raises(LockError, match="does not exist"):
        raise lock(manifest, "--check", "--offline").exception
    with pytest.raises(UsageError, match="can only be checked"):
        raise lock(manifest, "--offline").exception
    with pytest.raises(ManifestError, match="does not exist"):
        raise lock(manifest.with_name("other.yaml")).exception
