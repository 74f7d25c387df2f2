"""What the state remembers: which artifact belongs to which inputs, what verification found, how long work took."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from splitbake import artifact as artifacts
from splitbake.artifact import Artifact, Check, Report, Run
from splitbake.catalog import Catalog
from splitbake.errors import StateError
from splitbake.inputs import Inputs
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


def report(of: Artifact, *checks: Check, standard: str = STANDARD) -> Report:
    named = {"half": of.half, "artifact": of.id, "fingerprint": of.fingerprint}
    return Report(**named, standard=standard, created=artifacts.now(), seconds=1.0, checks=checks)


def run(created: str, seconds: float = 1.0, **changes) -> Run:
    values = {"half": "image", "work": "build", "fingerprint": FINGERPRINT, "created": created, "seconds": seconds}
    return Run(**{**values, **changes})


@pytest.fixture
def store(tmp_path) -> FolderStore:
    return FolderStore(tmp_path)


@pytest.fixture
def catalog(store) -> Catalog:
    return Catalog(store, "123456789012", "eu-west-1")


def test_leases_are_named_by_what_they_are_about(catalog):
    name = catalog.lease("build", "image", FINGERPRINT)
    assert name == f"build/123456789012/eu-west-1/image/{FINGERPRINT}"
    assert name.startswith(catalog.lease("build", "image"))


# Artifacts.


def test_what_is_kept_is_found_by_half_and_fingerprint(catalog):
    ami = image(half="ami", id="ami-0123", location="eu-west-1", snapshots=("snap-1",))
    code = image()
    assert catalog.keep(code, instead_of=None) == code
    assert catalog.keep(ami, instead_of=None) == ami
    assert catalog.artifact("image", FINGERPRINT) == code
    assert catalog.artifact("ami", FINGERPRINT) == ami
    assert catalog.artifact("ami", "sha256:" + "0" * 64) is None


def test_accounts_and_regions_have_their_own(catalog, store):
    catalog.keep(image(), instead_of=None)
    assert Catalog(store, "123456789012", "eu-west-2").artifact("image", FINGERPRINT) is None
    assert Catalog(store, "210987654321", "eu-west-1").artifact("image", FINGERPRINT) is None


def test_who_was_quicker_counts(catalog):
    first, second = image(id="sha256:first"), image(id="sha256:second")
    catalog.keep(first, instead_of=None)
    assert catalog.keep(second, instead_of=None) == first
    assert catalog.artifact("image", FINGERPRINT) == first


def test_the_old_one_is_replaced_by_who_knew_it(catalog):
    old, new, late = image(id="sha256:old"), image(id="sha256:new"), image(id="sha256:late")
    catalog.keep(old, instead_of=None)
    assert catalog.keep(new, instead_of=old) == new
    assert catalog.keep(late, instead_of=old) == new
    assert catalog.artifact("image", FINGERPRINT) == new


def test_one_whose_record_was_lost_meanwhile_is_kept(catalog):
    assert catalog.keep(image(), instead_of=image(id="sha256:lost")) == catalog.artifact("image", FINGERPRINT)


class Interrupted(FolderStore):
    """Somebody else writes between this one's look and its write, once."""

    def __init__(self, root, meanwhile: Callable[[], object]) -> None:
        super().__init__(root)
        self.meanwhile = [meanwhile]

    def create(self, key, value):
        while self.meanwhile:
            self.meanwhile.pop()()
        return super().create(key, value)

    def replace(self, key, value, version):
        while self.meanwhile:
            self.meanwhile.pop()()
        return super().replace(key, value, version)


@pytest.mark.parametrize("old", [None, image(id="sha256:old")])
def test_one_that_came_between_look_and_write_counts(catalog, tmp_path, old):
    if old:
        catalog.keep(old, instead_of=None)
    other = image(id="sha256:other")
    slow = Catalog(Interrupted(tmp_path, lambda: catalog.keep(other, instead_of=old)), catalog.account, catalog.region)
    assert slow.keep(image(id="sha256:mine"), instead_of=old) == other


def test_a_write_that_succeeded_without_an_answer_is_found(catalog, tmp_path):
    """S3's client sends a write again whose answer was lost, and then its own first try refuses it."""
    mine = image(id="sha256:mine")
    unsure = Catalog(
        Interrupted(tmp_path, lambda: catalog.keep(mine, instead_of=None)), catalog.account, catalog.region
    )
    assert unsure.keep(mine, instead_of=None) == mine


@pytest.mark.parametrize("old", [None, image(id="sha256:old")])
def test_all_who_keep_at_once_get_the_same_one(tmp_path, old):
    if old:
        Catalog(FolderStore(tmp_path), "123456789012", "eu-west-1").keep(old, instead_of=None)
    together = Barrier(8)

    def keep(number: int) -> Artifact:
        mine = Catalog(FolderStore(tmp_path), "123456789012", "eu-west-1")
        together.wait()
        return mine.keep(image(id=f"sha256:{number}"), instead_of=old)

    with ThreadPoolExecutor(8) as pool:
        kept = set(pool.map(keep, range(8)))
    assert len(kept) == 1
    assert kept.pop() == Catalog(FolderStore(tmp_path), "123456789012", "eu-west-1").artifact("image", FINGERPRINT)


# Reports.


def test_a_report_counts_for_the_very_artifact_alone(catalog):
    first, rebuilt = image(), image(id="sha256:" + "c" * 64)
    written = report(first, Check(name="size", passed=True))
    catalog.keep_report(written)
    assert catalog.report(first, STANDARD) == written
    assert catalog.report(rebuilt, STANDARD) is None
    assert catalog.report(rebuilt) is None
    assert catalog.report(first.model_copy(update={"fingerprint": "sha256:" + "0" * 64})) is None
    catalog.keep_report(report(rebuilt, Check(name="size", passed=False)))
    assert catalog.report(first, STANDARD) == written  # which may be what is released


def test_a_report_by_another_standard_counts_only_for_who_takes_any(catalog):
    written = report(image(), Check(name="size", passed=True))
    catalog.keep_report(written)
    assert catalog.report(image(), "sha256:stricter") is None
    assert catalog.report(image()) == written


def test_the_latest_report_counts(catalog):
    for passed in (True, False):
        catalog.keep_report(report(image(), Check(name="size", passed=passed)))
    assert not catalog.report(image(), STANDARD).passed


def test_a_check_that_was_skipped_is_not_counted_as_passed():
    checks = [Check(name="a", passed=True), Check(name="b", passed=True, skipped=True), Check(name="c", passed=False)]
    assert report(image(), *checks).held == 1


def test_a_report_without_checks_has_not_passed():
    assert not report(image()).passed
    assert report(image(), Check(name="a", passed=True)).passed
    assert not report(image(), Check(name="a", passed=True), Check(name="b", passed=False)).passed
    assert report(image(), Check(name="a", passed=True), Check(name="b", passed=False)).failed == ("b",)


# Runs.


def test_runs_come_newest_first(catalog):
    moments = [f"2026-01-0{day}T00:00:00+00:00" for day in (3, 1, 5, 2, 4)]
    for moment in moments:
        catalog.log(run(moment))
    assert [one.created for one in catalog.runs("image", "build", last=3)] == sorted(moments, reverse=True)[:3]
    assert len(catalog.runs("image", "build", last=9)) == 5


def test_runs_of_one_second_are_all_kept(catalog):
    for seconds in range(20):
        catalog.log(run("2026-01-01T00:00:00+00:00", seconds=seconds))
    assert {one.seconds for one in catalog.runs("image", "build", last=50)} == set(range(20))


def test_each_kind_of_work_has_its_own_runs(catalog, store):
    catalog.log(run("2026-01-01T00:00:00+00:00", work="verify"))
    catalog.log(run("2026-01-01T00:00:00+00:00", half="ami"))
    assert catalog.runs("image", "build", last=5) == []
    assert Catalog(store, "210987654321", "eu-west-1").runs("ami", "build", last=5) == []
    assert len(catalog.runs("ami", "build", last=5)) == 1


# Inputs.

INPUTS = Inputs("image", {"contract": 1}, {"file/run.py": "644 a"})


def test_inputs_are_remembered_under_their_own_digest(catalog, store):
    catalog.keep_inputs(INPUTS)
    catalog.keep_inputs(INPUTS)
    assert catalog.inputs("image", INPUTS.fingerprint) == INPUTS
    (key,) = store.keys("inputs/")
    assert hashlib.sha256(store.get(key).value).hexdigest() in key


def test_inputs_that_nobody_wrote_down_are_not_known(catalog):
    assert catalog.inputs("image", FINGERPRINT) is None


def test_inputs_of_another_scheme_are_not_known(catalog, store):
    catalog.keep_inputs(INPUTS)
    (key,) = store.keys("inputs/")
    store.put(key, b'{"scheme": "splitbake-fingerprint-4", "all": "different"}')
    assert catalog.inputs("image", INPUTS.fingerprint) is None


def test_inputs_of_another_digest_than_their_name_are_damage(catalog, store):
    catalog.keep_inputs(INPUTS)
    (key,) = store.keys("inputs/")
    store.put(key, INPUTS.text.replace(b"644", b"755"))
    with pytest.raises(StateError, match=f"{key} in the state is damaged.*: its digest is another one"):
        catalog.inputs("image", INPUTS.fingerprint)


# Damage.


@pytest.mark.parametrize("text", [b"", b'{"half": "image"', b"\xff\xfe", b'{"half": "image"}', b"[]"])
@pytest.mark.parametrize("what", ["artifacts", "reports", "runs", "inputs"])
def test_damage_is_told_with_its_place(catalog, store, what, text):
    catalog.keep(image(), instead_of=None)
    catalog.keep_report(report(image(), Check(name="size", passed=True)))
    catalog.log(run(artifacts.now()))
    catalog.keep_inputs(INPUTS)
    (key,) = store.keys(f"{what}/")
    store.put(key, text)
    look = {
        "artifacts": lambda: catalog.artifact("image", FINGERPRINT),
        "reports": lambda: catalog.report(image()),
        "runs": lambda: catalog.runs("image", "build", last=5),
        "inputs": lambda: catalog.inputs("image", INPUTS.fingerprint),
    }
    with pytest.raises(StateError, match=f"{key} in the state is damaged") as caught:
        look[what]()
    assert "splitbake build" in caught.value.hint


def test_a_damaged_record_is_not_overwritten_in_silence(catalog, store):
    catalog.keep(image(), instead_of=None)
    (key,) = store.keys("artifacts/")
    store.put(key, b"{")
    with pytest.raises(StateError, match="damaged"):
        catalog.keep(image(), instead_of=None)
    assert store.get(key).value == b"{"


# Artifacts as data.


def test_how_others_name_it():
    assert image().uri == "registry/repository@sha256:" + "b" * 64
    assert image(half="ami", id="ami-0123").uri == "ami-0123"


def test_times_are_utc_and_iso_8601():
    moment = datetime.datetime.fromisoformat(artifacts.now())
    assert moment.utcoffset() == datetime.timedelta(0)
