"""Fingerprints of a project on disk: whatever can change an artifact's content enters, and nothing else does."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import string
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitbake import fingerprint, generate
from splitbake.contract import needed_paths
from splitbake.errors import BuildError
from splitbake.generate import packer
from splitbake.inputs import TEXTS

INCLUDED = ["app/run.py", "app/lib/faces.py", "app/lib/deep/er.py", "app/requirements.txt"]
PROVISIONS = ["setup/first.sh", "setup/second.sh"]
AMI, IMAGE, BOTH, NOTHING = {"ami"}, {"image"}, {"ami", "image"}, set()

Change = Callable[[Any], object]
Changed = Callable[[Change], set[str]]

some_name = st.text(string.ascii_letters + "é _-+#[]{}'\"$!", min_size=1, max_size=20).filter(lambda one: one != "deep")


def both(small) -> dict[str, str]:
    project = small.project
    return {half: fingerprint.inputs(project, half).fingerprint for half in ("ami", "image")}


@pytest.fixture(scope="session")
def changed(make_small) -> Changed:
    """Return which fingerprints a change of a project changes; it is made in another folder each time."""
    with tempfile.TemporaryDirectory() as folder:
        before = both(make_small(Path(folder)))

    def after(change: Change) -> set[str]:
        with tempfile.TemporaryDirectory() as folder:
            small = make_small(Path(folder) / random.choice("abc"))  # noqa: S311 - not a secret
            change(small)
            now = both(small)
        return {half for half in before if now[half] != before[half]}

    return after


# What enters.


@given(st.data())
@settings(max_examples=40)
def test_one_byte_of_a_file(changed, data):
    name = data.draw(st.sampled_from([*INCLUDED, *PROVISIONS]))

    def flip(small):
        content = bytearray((small.root / name).read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        (small.root / name).write_bytes(content)

    assert changed(flip) == (AMI if name in PROVISIONS else IMAGE)


@pytest.mark.parametrize("name", INCLUDED)
def test_a_byte_more_and_a_byte_less(changed, name):
    assert changed(lambda small: (small.root / name).write_text((small.root / name).read_text() + "\n")) == IMAGE
    assert changed(lambda small: (small.root / name).write_text((small.root / name).read_text()[:-1])) == IMAGE


@given(st.sampled_from(INCLUDED), st.integers(0, 0o777))
@settings(max_examples=40)
def test_of_the_mode_only_who_owns_it_may_execute_it(changed, name, mode):
    assert changed(lambda small: (small.root / name).chmod(mode)) == (IMAGE if mode & 0o100 else NOTHING)


@given(some_name)
@settings(max_examples=40)
def test_the_name_of_a_file(changed, name):
    assert changed(lambda small: (small.root / "app/lib/faces.py").rename(small.root / "app/lib" / name)) == IMAGE


@given(some_name)
@settings(max_examples=20)
def test_a_file_more(changed, name):
    assert changed(lambda small: (small.root / "app/lib" / name).write_bytes(b"")) == IMAGE


def test_a_file_less(changed):
    assert changed(lambda small: (small.root / "app/lib/faces.py").unlink()) == IMAGE


def test_two_files_that_change_places(changed):
    def swap(small):
        one, other = small.root / "app/lib/faces.py", small.root / "app/lib/deep/er.py"
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)

    assert changed(swap) == IMAGE


@given(st.data())
@settings(max_examples=30)
def test_the_digest_of_a_model(changed, data):
    def other_digest(small):
        file = data.draw(st.sampled_from([file for entry in small.lock["models"] for file in entry["files"]]))
        place = data.draw(st.integers(0, 63))
        digit = data.draw(st.sampled_from("0123456789abcdef").filter(lambda one: one != file["sha256"][place]))
        file["sha256"] = file["sha256"][:place] + digit + file["sha256"][place + 1 :]

    assert changed(other_digest) == AMI


@given(some_name)
@settings(max_examples=20)
def test_the_name_of_a_model(changed, name):
    def rename(small):
        small.lock["models"][1]["files"][0]["path"] = f"checkpoints/{name}"

    assert changed(rename) == (NOTHING if name == "d" else AMI)


def test_a_model_less(changed):
    assert changed(lambda small: small.lock["models"][1]["files"].pop()) == AMI


def test_the_base_of_each_half(changed):
    assert changed(lambda small: small.lock["base_ami"].update(id="ami-89abcdef")) == AMI
    assert changed(lambda small: small.lock["base_image"].update(digest="sha256:" + "d" * 64)) == IMAGE


def test_the_order_of_provision_scripts(changed):
    assert changed(lambda small: small.manifest["ami"]["provision"].reverse()) == AMI


def test_a_provision_script_under_another_name(changed):
    def rename(small):
        (small.root / "setup/second.sh").rename(small.root / "setup/third.sh")
        small.manifest["ami"]["provision"][1] = "setup/third.sh"

    assert changed(rename) == AMI


def test_the_architecture_of_the_hosts(changed):
    assert changed(lambda small: small.lock["base_ami"].update(architecture="arm64")) >= IMAGE


@pytest.mark.parametrize("name", INCLUDED)
def test_a_byte_of_a_file_that_keeps_its_size_and_time(small, name):
    """Digests are remembered between runs; that must not hide a change from anybody."""
    before, path = both(small), small.root / name
    assert both(small) == before
    status = path.stat()
    path.write_bytes(path.read_bytes().swapcase())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    now = both(small)
    assert (now["ami"], now["image"] != before["image"]) == (before["ami"], True)


# What does not.


def test_another_folder(changed):
    assert changed(lambda small: None) == NOTHING


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same with its keys in another order; lists, whose order may mean something, stay."""
    if isinstance(value, list):
        return [shuffled(one, chance) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: shuffled(value[key], chance) for key in chance.sample(list(value), len(value))}


@given(st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_the_order_of_keys_models_and_files_on_disk(changed, chance):
    def mix(small):
        small.manifest["image"]["mounts"] = shuffled(small.manifest["image"]["mounts"], chance)
        for half in (small.manifest["models"]["files"], small.lock["models"], small.lock["models"][1]["files"]):
            chance.shuffle(half)
        small.manifest, small.lock = shuffled(small.manifest, chance), shuffled(small.lock, chance)
        files = {name: (small.root / name).read_bytes() for name in [*INCLUDED, *PROVISIONS]}
        for folder in ("app", "setup"):
            shutil.rmtree(small.root / folder)
        for name in chance.sample(list(files), len(files)):  # scandir lists them as they were made, on many systems
            (small.root / name).parent.mkdir(parents=True, exist_ok=True)
            (small.root / name).write_bytes(files[name])

    assert changed(mix) == NOTHING


def test_the_order_of_mounts_of_which_one_lies_in_another(make_small, tmp_path):
    mounts = {"checkpoints": "/checkpoints", "models": "/models", "models/deep": "/deep", "models/deep/er": "/er"}
    found = set()
    for number, order in enumerate(itertools.permutations(mounts.items())):
        small = make_small(tmp_path / str(number))
        small.manifest["models"]["files"][0]["path"] = small.lock["models"][0]["path"] = "models/deep/er/a"
        small.lock["models"][0]["files"][0]["path"] = "models/deep/er/a"
        small.manifest["image"]["mounts"] = dict(order)
        found.add(fingerprint.inputs(small.project, "image").fingerprint)
    assert len(found) == 1


@given(st.integers(0, 2**31))
@settings(max_examples=10)
def test_times(changed, seconds):
    def touch(small):
        for path in small.root.rglob("*"):
            os.utime(path, (seconds, seconds))

    assert changed(touch) == NOTHING


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_clone_under_another_umask(small, tmp_path, umask):
    """What git keeps of a file is what enters: name, content, and whether it can be executed."""
    (small.root / "app/lib/tool.sh").write_text("#!/bin/sh\n")
    (small.root / "app/lib/tool.sh").chmod(0o755)
    before = both(small)

    def git(*arguments: object) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, "-C", small.root, *arguments]
        subprocess.run(command, check=True, capture_output=True, umask=umask)

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "all")
    git("clone", "--quiet", ".", tmp_path / "elsewhere")
    clone = type(small.project)(tmp_path / "elsewhere/splitbake.yaml")
    assert {half: fingerprint.inputs(clone, half).fingerprint for half in before} == before


@pytest.mark.parametrize("compat", ["1.6", "latest"])
def test_which_packer_it_is_baked_with(changed, compat):
    assert changed(lambda small: generate.write(small.project, compat)) == NOTHING


def taken_from_elsewhere(small) -> None:
    small.manifest["models"]["files"][0]["from"] = "s3://bucket/a"
    entry = small.lock["models"][0]
    entry["source"] = entry["files"][0]["source"] = "s3://bucket/a"
    entry["files"][0]["etag"] = '"1"'


def one_by_one(small) -> None:
    """Name each file of the folder: they are the same files."""
    folder = small.lock["models"].pop()
    small.manifest["models"]["files"].pop()
    for file in folder["files"]:
        small.manifest["models"]["files"].append({"path": file["path"], "from": file["source"]})
        small.lock["models"].append({"path": file["path"], "source": file["source"], "files": [file]})


def caches(small) -> None:
    (small.root / "app/lib/__pycache__").mkdir()
    (small.root / "app/lib/__pycache__/faces.cpython-311.pyc").write_bytes(b"\0")


@pytest.mark.parametrize(
    "change",
    [
        taken_from_elsewhere,
        one_by_one,
        caches,
        lambda small: (small.root / "app/notes.txt").write_text("still not included"),
        lambda small: (small.root / "app/notes.txt").unlink(),
        lambda small: (small.root / "weights/a").write_text("not what is locked: building refuses it"),
        lambda small: [(small.root / name).chmod(0o755) for name in PROVISIONS],
        lambda small: small.lock["base_ami"].update(name="renamed", owner="123456789012", created="2026-02-02"),
    ],
)
def test_what_is_no_part_of_an_artifact(changed, change):
    assert changed(change) == NOTHING


# What they consist of.


def digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def test_the_inputs_of_the_ami(small):
    found = fingerprint.inputs(small.project, "ami")
    assert {name: value for name, value in found.values.items() if name not in TEXTS} == {
        "project": "faces",
        "contract": 1,
        "base AMI": "ami-01234567",
        "models.root": "/opt/dl-models",
        "models.mode": "0755",
    }
    scripts = packer.scripts(small.project.manifest, small.project.lock)
    recipe = found.values["Packer template"]
    assert [line.strip() for line in recipe if "setup/" in line] == [
        'script          = "${path.root}/../setup/first.sh"',
        'script          = "${path.root}/../setup/second.sh"',
    ]
    assert found.files == {
        "model/models/a": digest("abc"),
        "model/checkpoints/d": "d" * 64,
        "model/checkpoints/e": "e" * 64,
        "script/setup/first.sh": digest("#!/bin/sh\necho first\n"),
        "script/setup/second.sh": digest("#!/bin/sh\necho second\n"),
        **{f"script/{name}": digest(text) for name, text in scripts.items()},
    }


def test_the_inputs_of_the_image(small):
    (small.root / "app/run.py").chmod(0o700)
    found = fingerprint.inputs(small.project, "image")
    assert {name: value for name, value in found.values.items() if name not in TEXTS} == {
        "contract": 1,
        "architecture": "x86_64",
        "base image": "sha256:" + "c" * 64,
        "image.command": ["python", "run.py"],
        "image.uid": 10001,
        "image.workdir": "/app",
        "labels": {
            "org.opencontainers.image.base.digest": "sha256:" + "c" * 64,
            "org.opencontainers.image.base.name": "docker.io/library/python:3.11-slim",
            "org.opencontainers.image.title": small.project.manifest.project,
            "splitbake.contract": "1",
            "splitbake.needs": json.dumps(needed_paths(small.project.manifest.image)),
        },
        "layers": ["splitbake-layer-1", "lib/", "run.py"],
    }
    texts = generate.render(small.project, "latest")
    assert found.files == {
        "file/lib/deep/er.py": f"644 {digest('deeper = 1' + chr(10))}",
        "file/lib/faces.py": f"644 {digest('faces = 1' + chr(10))}",
        "file/requirements.txt": f"644 {digest('numpy==2.0.0' + chr(10))}",
        "file/run.py": f"755 {digest('print()' + chr(10))}",
        "script/dockerfiles/entry.sh": digest(texts["dockerfiles/entry.sh"]),
        "script/dockerfiles/needs": digest(texts["dockerfiles/needs"]),
        "script/dockerfiles/uv.txt": digest(texts["dockerfiles/uv.txt"]),
    }


def test_the_lines_of_generated_texts_without_comments(small):
    """What is left out is what Docker and Packer leave out: what explains, and what is empty."""
    lines = fingerprint.inputs(small.project, "image").values["Dockerfile"]
    text = generate.render(small.project, "latest")["dockerfiles/Dockerfile"]
    assert [line for line in text.splitlines() if line not in lines and line and line[0] != "#"] == []
    assert lines[0].startswith("FROM docker.io/library/python:3.11-slim@sha256:ccc")
    assert not any(line.lstrip().startswith("#") or not line.strip() for line in lines)


# Errors.


@pytest.mark.parametrize("half", ["ami", "image"])
def test_a_script_or_file_that_is_gone_is_named(small, half):
    (small.root / ("setup/second.sh" if half == "ami" else "app/requirements.txt")).unlink()
    with pytest.raises(BuildError, match=r"setup/second\.sh of ami\.provision|requirements\.txt"):
        fingerprint.inputs(small.project, half)
