"""Which pair is released: that of the project, or one half of it beside what the last good release has."""

from __future__ import annotations

import pytest

from splitbake import build, fingerprint, health
from splitbake.artifact import Artifact, Check, Report
from splitbake.contract import Need, Offer
from splitbake.errors import ReleaseError
from splitbake.project import Project
from splitbake.release import pair as pairs
from splitbake.release import record as records

MANIFEST = """\
version: 1
project: analysis
state: .state
models: {files: [{path: m/x, from: x}], budget: 1 MB}
ami: {base: ami-0123456789abcdef0}
image:
  {base: "python:3.11-slim", include: [run.py], mounts: {m: /m}, command: [run], repository: app, budget: 1 MB}
environments:
  dev: {account: "123456789012", region: us-east-1}
"""
OFFER = Offer(version=1, root="/opt/dl-models", architecture="x86_64", files={"m/x": "a" * 64})
NEED = Need(version=1, architecture="x86_64", paths=("m/",), mounts={"m": "/m"})


def artifact(half: str, number: int) -> Artifact:
    name = f"ami-{number}" if half == "ami" else f"sha256:{number}"
    where = {"id": name, "location": "here", "fingerprint": f"f{number}"}
    says = {"offers": OFFER} if half == "ami" else {"needs": NEED}
    return Artifact(half=half, created="then", seconds=1.0, size=1, **where, **says)


class Site:
    """A project where number 2 of each half is what is there now; what is gone is in ``gone``."""

    def __init__(self, folder, monkeypatch) -> None:
        (folder / "splitbake.yaml").write_text(MANIFEST)
        self.project = Project(folder / "splitbake.yaml")
        self.cloud = self.project.cloud("dev")
        self.catalog = self.project.catalog(self.cloud)
        self.gone: set[str] = set()
        monkeypatch.setattr(build, "current", lambda project, cloud, half: artifact(half, 2))
        monkeypatch.setattr(Project, "standard", lambda project, half: f"today's {half}")
        monkeypatch.setattr(health, "problem", lambda cloud, one, repository: "gone" if one.id in self.gone else "")

    def verified(self, half: str, number: int, standard: str | None = None, *, passed: bool = True) -> None:
        one = artifact(half, number)
        named = {"half": half, "artifact": one.id, "fingerprint": one.fingerprint}
        checks = (Check(name="mode", passed=passed),)
        found = Report(**named, standard=standard or f"today's {half}", created="then", seconds=1.0, checks=checks)
        self.catalog.keep_report(found)

    def released(self, number: int, status: str = "good", *, of: int = 1) -> None:
        record = records.Record(
            id=f"r{number}",
            status=status,
            environment="dev",
            account="123456789012",
            region="us-east-1",
            endpoint=None,
            who="me",
            started="then",
            ami=artifact("ami", of),
            image=artifact("image", of),
            steps=(),
            versions={},
            diff="",
        )
        records.create(self.catalog.store, record)


@pytest.fixture
def site(tmp_path, monkeypatch) -> Site:
    return Site(tmp_path, monkeypatch)


def names(pair) -> tuple[str, str, str | None]:
    return pair.ami.id, pair.image.id, pair.promoted_from


def test_both_halves_are_those_of_the_project_as_verified_by_what_it_demands_now(site):
    site.verified("ami", 2)
    site.verified("image", 2, "yesterday's")
    with pytest.raises(ReleaseError, match="the image here@sha256:2 was not verified by what the manifest demands"):
        pairs.of_project(site.project, site.cloud)
    site.verified("image", 2)
    assert names(pairs.of_project(site.project, site.cloud)) == ("ami-2", "sha256:2", None)


@pytest.mark.parametrize(("half", "expected"), [("ami", ("ami-2", "sha256:1")), ("image", ("ami-1", "sha256:2"))])
def test_one_half_goes_alone_and_the_other_stays_however_it_was_verified(site, half, expected):
    for one in ("ami", "image"):
        site.verified(one, 1, "yesterday's")
    site.verified(half, 2)
    site.released(1)
    site.released(2, "failed", of=7)
    assert names(pairs.of_project(site.project, site.cloud, half)) == (*expected, None)


def test_the_half_that_goes_must_be_verified_by_what_is_demanded_now(site):
    site.verified("ami", 1)
    site.verified("image", 2, "yesterday's")
    site.released(1)
    with pytest.raises(ReleaseError, match="sha256:2 was not verified"):
        pairs.of_project(site.project, site.cloud, "image")


def test_there_must_be_a_release_that_the_other_half_can_stay_from(site):
    site.verified("image", 2)
    site.released(1, "failed")
    with pytest.raises(ReleaseError, match="no good release of 'dev'") as caught:
        pairs.of_project(site.project, site.cloud, "image")
    assert "release both" in caught.value.hint


@pytest.mark.parametrize("spoil", ["gone", "failed", "never verified"])
def test_the_other_half_must_be_usable_still(site, spoil):
    site.verified("image", 2)
    site.released(1)
    if spoil == "gone":
        site.verified("ami", 1)
        site.gone.add("ami-1")
    elif spoil == "failed":
        site.verified("ami", 1, passed=False)
    with pytest.raises(
        ReleaseError, match=r"the ami of the last good release, records/dev/r1.json, cannot stay"
    ) as told:
        pairs.of_project(site.project, site.cloud, "image")
    assert "release both halves" in told.value.hint


def test_where_nothing_is_released_the_verified_pair_of_the_project_is_promoted(site, monkeypatch):
    class Inputs:
        def __init__(self, half: str) -> None:
            self.fingerprint = "f2"

    monkeypatch.setattr(fingerprint, "inputs", lambda project, half: Inputs(half))
    with pytest.raises(ReleaseError, match="the ami of the project as it is now was not built in account 123456789012"):
        pairs.of_origin(site.project, site.cloud)
    for half in ("ami", "image"):
        site.catalog.keep(artifact(half, 2), instead_of=None)
        site.verified(half, 2, "yesterday's" if half == "image" else None)
    with pytest.raises(ReleaseError, match="sha256:2 was not verified by what the manifest demands"):
        pairs.of_origin(site.project, site.cloud)
    site.verified("image", 2)
    assert names(pairs.of_origin(site.project, site.cloud)) == ("ami-2", "sha256:2", None)
