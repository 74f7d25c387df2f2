"""What moved between two locks, in words."""

from __future__ import annotations

from typing import Any

import pytest

from splitbake import moves
from splitbake.lock import Lock, LockedBaseAmi, LockedBaseImage, LockedFile, LockedModels

BASE_AMI = LockedBaseAmi(
    request="ecs-gpu-al2023",
    id="ami-01234567",
    name="base-1",
    owner="self",
    created="2026-01-01T00:00:00Z",
    architecture="x86_64",
    region="eu-west-1",
    root_device="/dev/xvda",
    root_size=1,
)
NEWER = BASE_AMI.model_copy(update={"id": "ami-76543210", "name": "base-2", "created": "2026-02-03T00:00:00Z"})
BASE_IMAGE = LockedBaseImage(request="python:3.11-slim", digest="sha256:" + "c" * 64)
FILE = LockedFile(path="models/a", source="s3://bucket/a", size=3, sha256="a" * 64)


def lock(
    *files: LockedFile, ami: LockedBaseAmi = BASE_AMI, image: LockedBaseImage = BASE_IMAGE, entry: str = "models/"
) -> Lock:
    models = LockedModels(path=entry, source="s3://bucket/", files=files or (FILE,))
    return Lock(base_ami=ami, base_image=image, models=(models,))


def but(**changes: Any) -> LockedFile:
    return FILE.model_copy(update=changes)


def test_nothing_moved():
    assert moves.differences(lock(), lock()) == []


def test_the_first_lock_names_everything():
    assert moves.differences(None, lock()) == [
        "base AMI: ami-01234567 (base-1, of 2026-01-01, eu-west-1, from ecs-gpu-al2023)",
        f"base image: {BASE_IMAGE.digest} (python:3.11-slim)",
        "model new: models/a",
    ]


def test_bases_are_named_with_their_dates():
    (line,) = moves.differences(lock(), lock(ami=NEWER))
    before, after = line.split(" -> ")
    assert before == "base AMI: ami-01234567 (base-1, of 2026-01-01, eu-west-1, from ecs-gpu-al2023)"
    assert after == "ami-76543210 (base-2, of 2026-02-03, eu-west-1, from ecs-gpu-al2023)"
    image = LockedBaseImage(request="python:3.11-slim", digest="sha256:" + "d" * 64)
    (line,) = moves.differences(lock(), lock(image=image))
    assert line == f"base image: {BASE_IMAGE.digest} (python:3.11-slim) -> {image.digest} (python:3.11-slim)"


def test_what_is_said_newly_of_the_same_base_is_named():
    ami = BASE_AMI.model_copy(update={"deprecated": "2028-01-01T00:00:00Z"})
    (line,) = moves.differences(lock(), lock(ami=ami))
    assert line == "base AMI: ami-01234567 is the same, but deprecated None -> 2028-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("old", "new", "how"),
    [
        ({}, {"sha256": "d" * 64, "size": 7}, "changed (sha256 aaaaaaaaaaaa -> dddddddddddd, 3 -> 7 bytes)"),
        ({}, {"source": "other"}, "comes from elsewhere with equal content (s3://bucket/a -> other)"),
        (
            {"source": "hf://o/r@1/x/a"},
            {"source": "hf://o/r@2/x/a"},
            "comes from another commit of hf://o/r with equal content (1 -> 2)",
        ),
        (
            {"source": "hf://o/r@1/x/a"},
            {"source": "hf://o/r@2/y/a"},
            "comes from elsewhere with equal content (hf://o/r@1/x/a -> hf://o/r@2/y/a)",
        ),
        ({}, {"etag": "new", "version": "1"}, "is described more closely (version, etag)"),
        ({"etag": "1"}, {"etag": "2"}, "was written anew with equal content (another entity tag)"),
        (
            {"version": "1", "etag": "1"},
            {"version": "2", "etag": "1"},
            "was written anew with equal content (another version)",
        ),
        ({"modified": "1"}, {"modified": "2"}, "was written anew with equal content (another time of change)"),
        ({"version": "1"}, {}, "was written anew with equal content (another version)"),
        (
            {"resolved": "https://a/"},
            {"resolved": "https://b/"},
            "is reached at another address (https://a/ -> https://b/)",
        ),
        ({"resolved": "https://a/"}, {}, "is reached at another address (https://a/ -> s3://bucket/a)"),
    ],
)
def test_a_file_that_moved_says_how(old, new, how):
    assert moves.differences(lock(but(**old)), lock(but(**new))) == [f"model {how}: models/a"]


def test_files_of_which_the_same_is_to_be_said_share_a_line():
    old = [but(path=f"models/{n}", source=f"hf://o/r@1/{n}") for n in range(7)]
    new = [but(path=f"models/{n}", source=f"hf://o/r@2/{n}") for n in range(7)]
    (line,) = moves.differences(lock(*old), lock(*new))
    assert line.endswith("(1 -> 2): models/0, models/1, models/2, models/3, models/4 and 2 more")


def test_files_come_and_go():
    new = lock(but(path="models/b"), but(path="models/c"))
    assert moves.differences(lock(), new) == ["model gone: models/a", "model new: models/b", "model new: models/c"]


def test_no_difference_goes_unsaid():
    """Whatever part of a lock changes, something is said."""
    assert moves.differences(lock(), lock(entry="models/a")) == [
        "models.files is divided into other entries; the files are the same"
    ]
    for name in set(LockedFile.model_fields) - {"path", "source", "size", "sha256"}:
        assert len(moves.differences(lock(), lock(but(**{name: "x"})))) == 1
