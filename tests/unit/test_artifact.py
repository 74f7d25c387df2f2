"""What the state remembers of artifacts and reports."""

from __future__ import annotations

import datetime

import pytest

from splitbake import artifact as artifacts
from splitbake.artifact import Artifact, Check, Report
from splitbake.errors import StateError
from splitbake.state import FolderStore

STANDARD = "sha256:standard"
FINGERPRINT = "sha256:" + "a" * 64


def image(**changes) -> Artifact:
    values = {
        "half": "image",
        "id": "sha256:" + "b" * 64,
        "location": "registry/repository",
        "fingerprint": FINGERPRINT,
        "created": artifacts.now(),
        "seconds": 1.5,
        "size": 10,
    }
    return Artifact(**{**values, **changes})


def report(of: Artifact, *checks: Check) -> Report:
    named = {"half": of.half, "artifact": of.id, "fingerprint": of.fingerprint}
    return Report(**named, standard=STANDARD, created=artifacts.now(), seconds=1.0, checks=checks)


@pytest.fixture
def store(tmp_path) -> FolderStore:
    return FolderStore(tmp_path)


def test_what_is_saved_is_found_by_half_and_fingerprint(store):
    ami = image(half="ami", id="ami-0123", location="eu-west-1", snapshots=("snap-1",))
    code = image()
    artifacts.save(store, code)
    artifacts.save(store, ami)
    assert artifacts.find_artifact(store, "image", FINGERPRINT) == code
    assert artifacts.find_artifact(store, "ami", FINGERPRINT) == ami
    assert artifacts.find_artifact(store, "ami", "sha256:" + "0" * 64) is None


def test_the_latest_of_one_fingerprint_counts(store):
    artifacts.save(store, image())
    later = image(id="sha256:" + "c" * 64)
    artifacts.save(store, later)
    assert artifacts.find_artifact(store, "image", FINGERPRINT) == later


def test_a_report_counts_for_the_very_artifact_alone(store):
    first, rebuilt = image(), image(id="sha256:" + "c" * 64)
    written = report(first, Check(name="size", passed=True))
    artifacts.save(store, written)
    assert artifacts.find_report(store, first, STANDARD) == written
    assert artifacts.find_report(store, rebuilt, STANDARD) is None


def test_a_report_by_another_standard_does_not_count(store):
    artifacts.save(store, report(image(), Check(name="size", passed=True)))
    assert artifacts.find_report(store, image(), "sha256:stricter") is None


def test_damage_is_told_with_its_place(store):
    artifacts.save(store, image())
    (key,) = store.keys("artifacts/")
    store.put(key, b'{"half": "image"')
    with pytest.raises(StateError, match=f"{key} in the state is damaged") as caught:
        artifacts.find_artifact(store, "image", FINGERPRINT)
    assert "splitbake build image" in caught.value.hint


def test_a_report_without_checks_has_not_passed():
    assert not report(image()).passed
    assert report(image(), Check(name="a", passed=True)).passed
    assert not report(image(), Check(name="a", passed=True), Check(name="b", passed=False)).passed


def test_how_others_name_it():
    assert image().uri == "registry/repository@sha256:" + "b" * 64
    assert image(half="ami", id="ami-0123").uri == "ami-0123"


def test_times_are_utc_and_iso_8601():
    moment = datetime.datetime.fromisoformat(artifacts.now())
    assert moment.utcoffset() == datetime.timedelta(0)
