"""This repository is its own first user: what is committed belongs together."""

from __future__ import annotations

import subprocess
from pathlib import Path

from splitbake import generate, lock
from splitbake.project import Project

REPOSITORY = Path(__file__).parents[2]
PROJECT = Project(REPOSITORY / "splitbake.yaml")


def test_the_committed_lock_answers_the_manifest():
    assert list(lock.mismatches(PROJECT.manifest, PROJECT.lock, PROJECT.root)) == []


def test_the_committed_texts_are_generated_from_manifest_and_lock():
    compat = generate.committed_compat(PROJECT)
    assert compat is not None
    assert generate.differences(PROJECT, compat) == []


def test_generated_scripts_can_be_executed():
    scripts = list((REPOSITORY / "packer/scripts").glob("*.sh"))
    assert scripts
    assert all(script.stat().st_mode & 0o111 for script in scripts)


def test_no_weights_in_git():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    names = [Path(name.decode()) for name in listed.split(b"\0") if name]
    assert names
    assert [name for name in names if name.suffix in {".onnx", ".pt", ".pth", ".tar", ".mp4", ".png"}] == []
    assert max((REPOSITORY / name).stat().st_size for name in names if (REPOSITORY / name).exists()) < 1_000_000
