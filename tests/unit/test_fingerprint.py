"""Fingerprints: everything that changes an artifact's content enters, and nothing else does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from splitbake import fingerprint
from splitbake import lock as locks
from splitbake.lock import Lock
from splitbake.project import Project

MANIFEST: dict[str, Any] = {
    "version": 1,
    "project": "faces",
    "state": "state",
    "models": {"files": [{"path": "models/a", "from": "weights/a"}], "budget": "1 GB"},
    "ami": {"base": "ecs-gpu-al2023", "provision": ["setup.sh"]},
    "image": {
        "base": "python:3.11-slim",
        "context": "app",
        "requirements": "requirements.txt",
        "include": ["run.py"],
        "mounts": {"models": "/models"},
        "command": ["python", "run.py"],
        "repository": "faces",
        "budget": "500 MB",
    },
    "environments": {"dev": {"account": "123456789012", "region": "eu-west-1"}},
}
LOCK: dict[str, Any] = {
    "base_ami": {
        "request": "ecs-gpu-al2023",
        "id": "ami-01234567",
        "name": "base",
        "owner": "self",
        "created": "2026-01-01T00:00:00Z",
        "architecture": "x86_64",
        "region": "eu-west-1",
        "root_device": "/dev/xvda",
        "root_size": 1,
    },
    "base_image": {"request": "python:3.11-slim", "digest": "sha256:" + "c" * 64},
    "models": [
        {
            "path": "models/a",
            "source": "weights/a",
            "files": [{"path": "models/a", "source": "weights/a", "size": 3, "sha256": "a" * 64}],
        }
    ],
}
Change = Callable[[dict[str, Any], dict[str, Any], Path], object]


def both(root: Path, change: Change = lambda manifest, lock, root: None) -> tuple[str, str]:
    """Write the project below ``root``, changed, and return its fingerprints: AMI, image."""
    (root / "app").mkdir(parents=True)
    (root / "setup.sh").write_text("#!/bin/sh\n")
    (root / "app/run.py").write_text("print()\n")
    (root / "app/requirements.txt").write_text("numpy==2.0.0\n")
    (root / "app/notes.txt").write_text("not included")
    manifest, lock = copy.deepcopy(MANIFEST), copy.deepcopy(LOCK)
    change(manifest, lock, root)
    (root / "splitbake.yaml").write_text(yaml.safe_dump(manifest))
    locks.write(root / locks.FILE_NAME, Lock.model_validate(lock))
    project = Project(root / "splitbake.yaml")
    return fingerprint.ami(project), fingerprint.image(project)


def moved(manifest: dict[str, Any], lock: dict[str, Any], root: Path) -> None:
    """Take the same model from another place."""
    manifest["models"]["files"][0]["from"] = "s3://bucket/a"
    entry = lock["models"][0]
    entry["source"] = entry["files"][0]["source"] = "s3://bucket/a"
    entry["files"][0]["etag"] = "1"


def renamed_model(manifest: dict[str, Any], lock: dict[str, Any], root: Path) -> None:
    manifest["models"]["files"][0]["path"] = "models/b"
    entry = lock["models"][0]
    entry["path"] = entry["files"][0]["path"] = "models/b"


@pytest.mark.parametrize(
    "change",
    [
        lambda m, k, root: None,  # another folder on another machine
        moved,
        lambda m, k, root: m["ami"].update(builder={"instance_type": "m7i.large", "ssh_user": "admin"}),
        lambda m, k, root: m["ami"].update(builder={"subnet": "subnet-12345678", "connect": "private-ip"}),
        lambda m, k, root: m["models"].update(budget="2 GB"),
        lambda m, k, root: m.update(verify={"within": "9 min"}),
        lambda m, k, root: m["environments"].update(prod={"account": "210987654321", "region": "eu-west-1"}),
        lambda m, k, root: m["image"].update(repository="elsewhere", budget="1 GB"),
        lambda m, k, root: (root / "app/notes.txt").write_text("still not included"),
        lambda m, k, root: (root / "app/run.py").chmod(0o600),  # who may read it here is no part of it
        lambda m, k, root: (root / "setup.sh").chmod(0o755),
    ],
)
def test_what_changes_neither_half(tmp_path: Path, change: Change) -> None:
    assert both(tmp_path / "one") == both(tmp_path / "two", change)


@pytest.mark.parametrize(
    "change",
    [
        lambda m, k, root: k["base_ami"].update(id="ami-89abcdef"),
        lambda m, k, root: k["models"][0]["files"][0].update(sha256="b" * 64),
        renamed_model,
        lambda m, k, root: m["models"].update(root="/opt/models"),
        lambda m, k, root: m["models"].update(mode="0555"),
        lambda m, k, root: m["ami"].update(volume={"throughput": "500 MiB/s"}),
        lambda m, k, root: (root / "setup.sh").write_text("#!/bin/bash\n"),
    ],
)
def test_what_changes_the_ami_alone(tmp_path: Path, change: Change) -> None:
    (ami, image), (changed_ami, changed_image) = both(tmp_path / "one"), both(tmp_path / "two", change)
    assert ami != changed_ami
    assert image == changed_image


@pytest.mark.parametrize(
    "change",
    [
        lambda m, k, root: k["base_image"].update(digest="sha256:" + "d" * 64),
        lambda m, k, root: (root / "app/run.py").write_text("print(1)\n"),
        lambda m, k, root: (root / "app/run.py").chmod(0o755),
        lambda m, k, root: (root / "app/requirements.txt").write_text("numpy==2.0.1\n"),
        lambda m, k, root: m["image"].update(command=["python", "-O", "run.py"]),
        lambda m, k, root: m["image"].update(uid=1234),
        lambda m, k, root: m["image"].update(include=["run.py", "notes.txt"]),
    ],
)
def test_what_changes_the_image_alone(tmp_path: Path, change: Change) -> None:
    (ami, image), (changed_ami, changed_image) = both(tmp_path / "one"), both(tmp_path / "two", change)
    assert ami == changed_ami
    assert image != changed_image
