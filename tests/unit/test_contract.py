"""What halves say of the contract, and what is said of a pair that does not fit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake import contract
from splitbake.contract import Need, Offer
from splitbake.errors import BuildError
from splitbake.lock import Lock, LockedFile, LockedModels
from splitbake.manifest import Manifest
from splitbake.manifest.image import Image

SHA256 = "0" * 64

names = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/"), min_size=1, max_size=5).filter(
    lambda name: name not in {".", ".."}
)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)


def offering(*paths: str, **changes: Any) -> Offer:
    plain = {"version": 1, "root": "/opt/dl-models", "architecture": "x86_64"}
    return Offer.model_validate(plain | {"files": dict.fromkeys(paths, SHA256)} | changes)


def needing(*paths: str, **changes: Any) -> Need:
    plain = {"version": 1, "architecture": "x86_64", "mounts": {"models": "/workspace/models"}}
    return Need.model_validate(plain | {"paths": paths} | changes)


def locked(*files: str, architecture: str = "x86_64") -> Lock:
    entries = [LockedFile(path=path, source="x", size=size, sha256=SHA256) for size, path in enumerate(files)]
    return Lock.model_construct(
        base_ami=SimpleNamespace(id="ami-1", architecture=architecture),
        models=(LockedModels(path="x/", source="x/", files=tuple(entries)),),
    )


def project(needs: list[str] | None = None, mounts: dict[str, str] | None = None, **changes: Any) -> Manifest:
    image = Image.model_validate(
        {
            "base": "python:3.11-slim",
            "include": ["run.py"],
            "mounts": mounts or {"models": "/workspace/models"},
            "needs": needs,
            "command": ["python", "run.py"],
            "repository": "x",
            "budget": "1 GB",
        }
    )
    return Manifest.model_construct(image=image, models=SimpleNamespace(root="/opt/dl-models"), **changes)


def test_what_fits_has_no_words():
    assert contract.misfits(needing("models/a.onnx", "models/"), offering("models/a.onnx", "else")) == []


def test_each_difference_is_named():
    need = needing("models/a.onnx", "ocr/", "else", version=2, architecture="arm64")
    assert contract.misfits(need, offering("else", "ocr")) == [
        "the image is for contract 2, the AMI offers 1",
        "the image is for arm64, the AMI is x86_64",
        "the image needs models/a.onnx, the AMI does not have it",
        "the image needs ocr/, the AMI does not have it",
    ]


@given(st.sets(paths, min_size=1, max_size=6), st.sets(paths, max_size=6), st.data())
def test_more_than_needed_fits_and_less_is_named(needed, more, data):
    """A name that is a file here and a folder there is no file system: such draws are made into folders."""
    needed = {f"{path}/" if data.draw(st.booleans()) else path for path in needed}
    files = {f"{path}file" if path.endswith("/") else path for path in needed} | more
    need = needing(*sorted(needed))
    assert contract.misfits(need, offering(*files)) == []
    gone = data.draw(st.sampled_from(sorted(needed)))
    rest = {path for path in files if not (path.startswith(gone) if gone.endswith("/") else path == gone)}
    assert f"the image needs {gone}, the AMI does not have it" in contract.misfits(need, offering(*rest))


def test_by_default_every_folder_of_the_mounts_is_needed():
    manifest = project(mounts={"models": "/m", "checkpoints/": "/c"})
    assert contract.need(manifest, locked()).paths == ("checkpoints/", "models/")


def test_needs_are_sorted():
    assert contract.needed_paths(project(needs=["b", "a/"]).image) == ["a/", "b"]


def test_halves_of_one_manifest_and_lock_fit():
    manifest, lock = project(needs=["models/b"], contract=3), locked("models/a", "models/b")
    offer, need = contract.offer(manifest, lock), contract.need(manifest, lock)
    assert (offer.version, need.version) == (3, 3)
    assert offer.files == {"models/a": SHA256, "models/b": SHA256}
    assert contract.misfits(need, offer) == []
    contract.insist(manifest, lock)


def test_a_need_that_a_folder_turned_out_not_to_hold_is_told_before_building():
    with pytest.raises(BuildError, match="no AMI of this manifest and lock would do: the image needs models/b"):
        contract.insist(project(needs=["models/a", "models/b"]), locked("models/a"))


def test_the_file_of_the_ami():
    text = contract.offer_text(project(contract=2), locked("models/b", "models/a x"))
    assert text == "contract\t2\narchitecture\tx86_64\nfile\t1\tmodels/a x\nfile\t0\tmodels/b\n"


def test_the_file_of_the_image_names_every_place_of_a_need():
    mounts = {"models/": "/m", "models/sub": "/s", "else": "/e"}
    text = contract.need_text(project(needs=["models/sub/a", "else/"], mounts=mounts), locked())
    assert text == (
        "contract\t1\narchitecture\tx86_64\nneed\telse/\t/e/\nneed\tmodels/sub/a\t/m/sub/a\nneed\tmodels/sub/a\t/s/a\n"
    )


@pytest.mark.parametrize(("architecture", "platform"), [("x86_64", "linux/amd64"), ("arm64", "linux/arm64")])
def test_the_image_is_for_the_hosts_of_the_base_ami(architecture, platform):
    assert contract.platform(locked(architecture=architecture)) == platform


def test_hosts_without_containers_are_refused():
    with pytest.raises(BuildError, match="ami-1 is x86_64_mac: images are built for x86_64 and arm64"):
        contract.platform(locked(architecture="x86_64_mac"))
