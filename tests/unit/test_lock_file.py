"""The lock as a file: the same content gives the same bytes, and what does not belong is told."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake import fingerprint
from splitbake import lock as locks
from splitbake.errors import LockError
from splitbake.lock import Lock, LockedBaseAmi, LockedBaseImage, LockedFile, LockedModels
from splitbake.manifest import Manifest

MANIFEST = {
    "version": 1,
    "project": "video-analysis",
    "state": ".splitbake/state",
    "models": {
        "files": [{"path": "models/a", "from": "weights/a"}, {"path": "x/", "from": "s3://bucket/x/"}],
        "budget": "3 GiB",
    },
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

A = LockedFile(path="models/a", source="weights/a", size=3, sha256="a" * 64)
B = LockedFile(path="x/b", source="s3://bucket/x/b", size=5, sha256="b" * 64, etag="tag")
BASE_AMI = LockedBaseAmi(
    request="ecs-gpu-al2023",
    id="ami-01234567",
    name="base",
    owner="self",
    created="2026-01-01T00:00:00Z",
    architecture="x86_64",
    region="eu-west-1",
    root_device="/dev/xvda",
    root_size=1,
)
BASE_IMAGE = LockedBaseImage(request="python:3.11-slim", digest="sha256:" + "c" * 64)


def lock_of(*models: LockedModels, ami: LockedBaseAmi = BASE_AMI, image: LockedBaseImage = BASE_IMAGE) -> Lock:
    models = models or (
        LockedModels(path="models/a", source="weights/a", files=(A,)),
        LockedModels(path="x/", source="s3://bucket/x/", files=(B,)),
    )
    return Lock(base_ami=ami, base_image=image, models=models)


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "splitbake.lock"
    locks.write(path, lock_of())
    assert locks.read(path) == lock_of()
    assert locks.read_for(Manifest.model_validate(MANIFEST), path) == lock_of()
    assert [entry.name for entry in tmp_path.iterdir()] == ["splitbake.lock"]


def test_the_same_lock_is_not_written_again(tmp_path):
    path = tmp_path / "splitbake.lock"
    locks.write(path, lock_of())
    before = path.stat()
    locks.write(path, lock_of())
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_lock_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "splitbake.lock"
    path.mkdir()
    with pytest.raises(LockError, match=f"cannot write {path}: Is a directory"):
        locks.write(path, lock_of())
    assert [entry.name for entry in tmp_path.iterdir()] == ["splitbake.lock"]


@pytest.mark.parametrize("content", ["", "<<<<<<< HEAD\n{}", "{}", "[]", '{"version": 2}'])
def test_a_damaged_lock_is_told_and_can_be_replaced(tmp_path, content):
    path = tmp_path / "splitbake.lock"
    path.write_text(content)
    with pytest.raises(LockError, match="cannot be used") as caught:
        locks.read(path)
    assert "splitbake lock" in caught.value.hint
    assert locks.read_if_usable(path) is None


def test_a_missing_lock_is_told(tmp_path):
    with pytest.raises(LockError, match="does not exist") as caught:
        locks.read(tmp_path / "splitbake.lock")
    assert caught.value.hint == "run splitbake lock"


def test_an_unknown_key_in_a_lock_is_not_passed_over(tmp_path):
    path = tmp_path / "splitbake.lock"
    path.write_text(json.dumps({**json.loads(lock_of().to_text()), "extra": 1}))
    with pytest.raises(LockError, match="extra"):
        locks.read(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ami": {"base": {"ssm": "/x"}}}, "ami.base is ssm:/x, locked is ecs-gpu-al2023"),
        (
            {"image": {**MANIFEST["image"], "base": "python:3.12-slim"}},
            "image.base is python:3.12-slim, locked is python:3.11-slim",
        ),
        (
            {"models": {"files": [{"path": "models/a", "from": "weights/a"}], "budget": "3 GiB"}},
            "x/ from s3://bucket/x/ is locked, but the manifest does not name it",
        ),
        (
            {"models": {"files": [*MANIFEST["models"]["files"], {"path": "c", "from": "c"}], "budget": "3 GiB"}},
            "c from c is not locked",
        ),
        (
            {
                "models": {
                    "files": [
                        {"path": "models/a", "from": "weights/a", "sha256": "f" * 64},
                        MANIFEST["models"]["files"][1],
                    ],
                    "budget": "3 GiB",
                }
            },
            f"models/a must have sha256 {'f' * 64}, locked is {'a' * 64}",
        ),
    ],
)
def test_what_the_manifest_asks_and_the_lock_does_not_answer_is_told(tmp_path, change, expected):
    manifest = Manifest.model_validate({**MANIFEST, **change})
    assert list(locks.mismatches(manifest, lock_of(), Path())) == [expected]
    locks.write(tmp_path / "splitbake.lock", lock_of())
    with pytest.raises(LockError, match="does not belong to the manifest any more"):
        locks.read_for(manifest, tmp_path / "splitbake.lock")


files = st.lists(
    st.builds(
        LockedFile,
        path=st.from_regex("[a-z]{1,5}", fullmatch=True),
        source=st.just("s"),
        size=st.integers(0, 9),
        sha256=st.from_regex("[0-9a-f]{64}", fullmatch=True),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda file: file.path,
)


@st.composite
def packings(draw, found: list[LockedFile]) -> tuple[LockedModels, ...]:
    """Divide files into entries, in any order, each with origins of its own."""
    shuffled = draw(st.permutations(found))
    cuts = sorted(draw(st.sets(st.integers(1, max(len(found) - 1, 1)))) | {0, len(found)})
    entries = [shuffled[start:end] for start, end in itertools.pairwise(cuts)]
    origins = st.sampled_from(["s3://bucket/x", "hf://org/repository@main/x", "https://host/x"])
    signs = st.none() | st.sampled_from(["one", "other"])
    return tuple(
        LockedModels(
            path=f"entry-{number}/",
            source=draw(origins),
            files=tuple(
                file.model_copy(update={"source": draw(origins), "etag": draw(signs), "version": draw(signs)})
                for file in entry
            ),
        )
        for number, entry in enumerate(entries)
    )


@given(st.data(), files)
def test_the_digest_of_the_models_does_not_know_their_order_packing_or_origin(data, found):
    one, other = data.draw(packings(found)), data.draw(packings(found))
    assert lock_of(*one).models_digest == lock_of(*other).models_digest


@given(files, st.sampled_from(["path", "size", "sha256"]))
def test_the_digest_of_the_models_knows_path_size_and_content(found, field):
    last = "0" if found[0].sha256[-1] != "0" else "1"
    values = {"path": found[0].path + "x", "size": found[0].size + 1, "sha256": found[0].sha256[:-1] + last}
    changed = values[field]
    other = [found[0].model_copy(update={field: changed}), *found[1:]]
    first, second = (lock_of(LockedModels(path="all/", source="s/", files=tuple(each))) for each in (found, other))
    assert first.models_digest != second.models_digest


def test_the_digest_of_the_models_is_the_one_that_anybody_can_compute():
    lines = f"{'a' * 64} 3 models/a\n{'b' * 64} 5 x/b\n"
    assert lock_of().models_digest == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def test_a_lock_of_an_earlier_splitbake_is_read_and_written_as_it_was(tmp_path):
    path = tmp_path / "splitbake.lock"
    path.write_text(lock_of().to_text())
    body = json.loads(path.read_text())
    assert set(body["models"][0]["files"][0]) == {"path", "source", "size", "sha256"}
    assert "deprecated" not in body["base_ami"]
    assert locks.read(path).to_text() == path.read_text()


def test_only_the_parts_that_are_asked_for_are_compared_with_the_manifest():
    manifest = Manifest.model_validate({**MANIFEST, "ami": {"base": {"ssm": "/x"}}})
    assert list(locks.mismatches(manifest, lock_of(), Path(), ["models"])) == []
    assert list(locks.mismatches(manifest, lock_of(), Path(), ["base"])) == list(
        locks.mismatches(manifest, lock_of(), Path())
    )


@pytest.mark.parametrize("half", ["ami", "image"])
def test_how_a_model_is_reached_is_no_input_of_a_half(small, half):
    """An AMI holds paths and contents; a lock that only says more of their origins bakes nothing anew."""
    before = fingerprint.inputs(small.project, half).fingerprint
    small.lock["base_ami"]["deprecated"] = "2028-01-01T00:00:00Z"
    for file in small.lock["models"][1]["files"]:
        file.update(dict.fromkeys(("etag", "modified", "version", "resolved", "checksum"), "other"))
    assert fingerprint.inputs(small.project, half).fingerprint == before
