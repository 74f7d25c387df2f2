"""Building: what is reused, what is made anew, who counts of two that build the same, and what is said on failure."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import boto3
import pytest

from splitbake import build, ecr, fingerprint, lease
from splitbake.artifact import Artifact
from splitbake.bake import ami, image
from splitbake.build import Built
from splitbake.catalog import Catalog
from splitbake.errors import BuildError, GuardError, LockError, StateError
from splitbake.ui import silent


def built(small, cloud, half="ami", *, force=False, say=silent) -> Built:
    return build.build(small.project, cloud, half, force=force, say=say)


def kept(small, cloud, half="ami") -> Artifact | None:
    project = small.project
    return project.catalog(cloud).artifact(half, fingerprint.inputs(project, half).fingerprint)


def amis() -> list[str]:
    return [
        one["ImageId"]
        for one in boto3.client("ec2", region_name="eu-west-1").describe_images(Owners=["self"])["Images"]
    ]


def snapshots() -> list[str]:
    found = boto3.client("ec2", region_name="eu-west-1").describe_snapshots(OwnerIds=["self"])["Snapshots"]
    return [one["SnapshotId"] for one in found]


# What is reused.


@pytest.mark.parametrize("half", ["ami", "image"])
def test_what_is_there_is_reused(small, cloud, made, half):
    first, second = built(small, cloud, half), built(small, cloud, half)
    assert (first.reused, second.reused) == (False, True)
    assert first.artifact == second.artifact == build.current(small.project, cloud, half) == made[0]
    assert [reason.partition(" was ")[2] for reason in first.reasons] == [
        "built yet in account 123456789012, region eu-west-1"
    ]
    assert second.reasons == ("it was built, but not verified yet",)
    assert len(made) == 1


def test_what_came_back_is_reused(small, cloud, made):
    first = built(small, cloud, "image").artifact
    (small.root / "app/run.py").write_text("print(1)\n")
    assert not built(small, cloud, "image").reused
    (small.root / "app/run.py").write_text("print()\n")
    assert built(small, cloud, "image").artifact == first
    assert len(made) == 2


def test_force_makes_it_anew(small, cloud, made):
    first = built(small, cloud).artifact
    told: list[str] = []
    forced = built(small, cloud, force=True, say=told.append)
    assert not forced.reused
    assert forced.artifact == kept(small, cloud) != first
    assert "because --force" in told
    assert forced.reasons == ("--force",)


def test_the_reasons_are_told(small, cloud, made):
    built(small, cloud, "image")
    (small.root / "app/run.py").write_text("print(1)\n")
    told: list[str] = []
    assert built(small, cloud, "image", say=told.append).reasons == ("file run.py changed",)
    assert "because file run.py changed" in told


@pytest.mark.parametrize("half", ["ami", "image"])
def test_what_was_deleted_is_made_anew(small, cloud, made, half):
    first = built(small, cloud, half).artifact
    if half == "ami":
        boto3.client("ec2", region_name="eu-west-1").deregister_image(ImageId=first.id)
    else:
        boto3.client("ecr", region_name="eu-west-1").delete_repository(repositoryName="faces", force=True)
    with pytest.raises(BuildError, match=f"the {'AMI' if half == 'ami' else 'image'} of this fingerprint"):
        build.current(small.project, cloud, half)
    assert not built(small, cloud, half).reused
    assert build.current(small.project, cloud, half) == made[1]


def test_what_failed_its_verification_is_made_anew(small, cloud, made, report_on):
    project, first = small.project, built(small, cloud).artifact
    project.catalog(cloud).keep_report(report_on(project, first, failed="boots"))
    second = built(small, cloud)
    assert (second.reused, second.reasons) == (False, (f"{first.id} failed its verification: boots",))
    assert kept(small, cloud) == second.artifact != first


def test_an_image_in_another_repository_is_not_the_wanted_one(small, cloud, made):
    built(small, cloud, "image")
    small.manifest["image"]["repository"] = "people"
    with pytest.raises(BuildError, match="there is no repository people"):
        build.current(small.project, cloud, "image")
    assert built(small, cloud, "image").artifact.location.endswith("/people")


def test_what_was_never_built_is_said(small, cloud, made):
    with pytest.raises(BuildError, match="was not built yet"):
        build.current(small.project, cloud, "image")


def test_what_it_cost_is_remembered(small, cloud, made):
    small.manifest["ami"]["builder"] = {"price": 0.4}
    for half in ("ami", "image"):
        built(small, cloud, half)
    catalog = small.project.catalog(cloud)
    ((ami_run,), (image_run,)) = (catalog.runs(half, "build", last=5) for half in ("ami", "image"))
    assert (ami_run.seconds, ami_run.dollars) == (90, 0.01)
    assert (image_run.seconds, image_run.dollars) == (90, None)
    built(small, cloud)
    assert len(catalog.runs("ami", "build", last=5)) == 1


# Two at once.


@pytest.fixture
def together(monkeypatch) -> threading.Barrier:
    """Both builds have made their artifact before one of them goes on."""
    barrier = threading.Barrier(2, timeout=30)
    for module, name in ((ami, "bake"), (image, "build")):
        make = getattr(module, name)

        def meet(*arguments: Any, make: Any = make, **options: Any) -> Artifact:
            artifact: Artifact = make(*arguments, **options)
            barrier.wait()
            return artifact

        monkeypatch.setattr(module, name, meet)
    return barrier


def twice(small, cloud, half: str) -> list[Built]:
    projects = [small.project, small.project]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda one: build.build(one, cloud, half, force=False, say=silent), projects))


@pytest.mark.parametrize("half", ["ami", "image"])
def test_of_two_at_once_one_builds_and_both_use_it(small, cloud, made, half):
    one, other = twice(small, cloud, half)
    assert len(made) == 1
    assert one.artifact == other.artifact == kept(small, cloud, half) == made[0]
    assert sorted([one.reused, other.reused]) == [False, True]


def test_who_waits_is_told_for_whom(small, cloud, made):
    project, told = small.project, []
    name = f"build/123456789012/eu-west-1/ami/{fingerprint.inputs(project, 'ami').fingerprint}"
    waiting = threading.Event()

    def say(line: str) -> None:
        told.append(line)
        waiting.set()

    with ThreadPoolExecutor(1) as pool:
        with lease.held(project.store(cloud), name, who="arn:somebody", doing="building the ami"):
            job = pool.submit(build.build, project, cloud, "ami", force=False, say=say)
            assert waiting.wait(20)
            assert made == []
        assert job.result().artifact == made[0]
    assert "arn:somebody" in told[0]


class Unnoticed:
    """A lease that was lost, and does not know it yet: a machine that slept, a clock that is wrong."""

    def require(self) -> None:
        """It seems to be ours."""


@pytest.fixture
def unnoticed(monkeypatch) -> None:
    """Everybody gets the lease."""
    monkeypatch.setattr(lease, "held", lambda *_, **__: nullcontext(Unnoticed()))


def test_without_a_lease_the_first_one_counts_and_the_other_ami_goes(small, cloud, made, unnoticed, together):
    before = set(amis()), set(snapshots())
    results = twice(small, cloud, "ami")
    assert len(made) == 2
    assert sorted(one.reused for one in results) == [False, True]
    winner = kept(small, cloud)
    assert [one.artifact for one in results] == [winner, winner]
    assert set(amis()) - before[0] == {winner.id}
    loser = next(one for one in made if one != winner)
    assert set(winner.snapshots) <= set(snapshots())
    assert set(loser.snapshots) & set(snapshots()) == set()
    assert built(small, cloud, "ami").artifact == winner


def test_without_a_lease_one_image_counts(small, cloud, made, unnoticed, together):
    one, other = twice(small, cloud, "image")
    assert len(made) == 2
    assert one.artifact == other.artifact == kept(small, cloud, "image")
    build.current(small.project, cloud, "image")


def test_one_that_came_first_but_is_gone_does_not_count(small, cloud, made, monkeypatch):
    """Somebody remembered an AMI while ours was made; it has been removed since."""
    bake = ami.bake

    def meanwhile(project, *arguments, **options):
        other = bake(project, *arguments, **options)
        project.catalog(cloud).keep(other, instead_of=None)
        ami.discard(cloud, other)
        return bake(project, *arguments, **options)

    monkeypatch.setattr(ami, "bake", meanwhile)
    result = built(small, cloud)
    assert (result.artifact, result.reused) == (made[1], False)
    assert kept(small, cloud) == made[1]


def taken_up(project, cloud, artifact: Artifact) -> Artifact:
    """Remember ``artifact`` as another run does that has found it by its name."""
    other = artifact.model_copy(update={"created": "2026-01-02T03:04:05+00:00", "seconds": 1.0})
    return project.catalog(cloud).keep(other, instead_of=None)


def test_an_ami_that_another_run_took_up_stays(small, cloud, made, monkeypatch, unnoticed):
    """Both runs mean the same AMI."""
    bake = ami.bake

    def meanwhile(project, *arguments, **options):
        artifact = bake(project, *arguments, **options)
        taken_up(project, cloud, artifact)
        return artifact

    monkeypatch.setattr(ami, "bake", meanwhile)
    result = built(small, cloud)
    assert (result.artifact.id, result.reused) == (made[0].id, True)
    assert made[0].id in amis()
    assert set(made[0].snapshots) <= set(snapshots())


class Noticed:
    """A lease that was taken over, as ``require`` says from its call number ``since`` on."""

    def __init__(self, since: int) -> None:
        self.calls, self.since = itertools.count(1), since

    def require(self) -> None:
        if next(self.calls) >= self.since:
            raise StateError("the lease is lost; it was taken over by arn:other")


def test_who_lost_the_lease_remembers_nothing_and_removes_nothing(small, cloud, made, monkeypatch):
    monkeypatch.setattr(lease, "held", lambda *_, **__: nullcontext(Noticed(since=1)))
    with pytest.raises(StateError) as caught:
        built(small, cloud)
    told = "was built, but could not be remembered: the lease is lost; it was taken over by arn:other"
    assert caught.value.message == f"{made[0].id} {told}"
    assert kept(small, cloud) is None
    assert made[0].id in amis()


def test_an_interrupt_removes_nothing_then_either(small, cloud, made, monkeypatch):
    monkeypatch.setattr(lease, "held", lambda *_, **__: nullcontext(Noticed(since=2)))
    monkeypatch.setattr(Catalog, "keep_inputs", interrupt)
    with pytest.raises(StateError) as caught:
        built(small, cloud)
    assert caught.value.message.startswith(f"{made[0].id} was to be removed, but stays: the lease is lost")
    assert made[0].id in amis()


def test_the_bake_asks_for_the_lease_as_well(small, cloud, made, monkeypatch):
    monkeypatch.setattr(lease, "held", lambda *_, **__: nullcontext(Noticed(since=1)))
    monkeypatch.setattr(ami, "bake", lambda *_, require, **__: require())
    with pytest.raises(StateError, match="taken over by arn:other"):
        built(small, cloud)


# What is refused, and what is said on failure.


def test_files_that_change_while_another_build_is_waited_for(small, cloud, made):
    project, waiting = small.project, threading.Event()
    name = f"build/123456789012/eu-west-1/image/{fingerprint.inputs(project, 'image').fingerprint}"
    with ThreadPoolExecutor(1) as pool:
        with lease.held(project.store(cloud), name, who="somebody", doing="building"):
            say = lambda line: waiting.set()  # noqa: E731
            job = pool.submit(build.build, project, cloud, "image", force=False, say=say)
            assert waiting.wait(20)
            (small.root / "app/run.py").write_text("print(1)\n")
        with pytest.raises(BuildError, match=r"changed during the build of the image: file run\.py changed"):
            job.result()
    assert made == []


def test_files_that_change_when_the_image_is_built(small, cloud):
    """What goes into the image is collected anew; under this fingerprint it would be taken for what was compared."""
    (small.root / "app/requirements.txt").write_text(f"numpy==2.0.0 --hash=sha256:{'0' * 64}\n")
    before = fingerprint.inputs(small.project, "image")
    (small.root / "app/run.py").write_text("print(1)\n")
    (small.root / "app/lib/deep/er.py").unlink()
    told = r"changed when the build of the image began: (?=.*file run\.py changed).*file lib/deep/er\.py removed"
    with pytest.raises(BuildError, match=told):
        image.build(small.project, cloud, before, say=silent)
    assert boto3.client("ecr", region_name="eu-west-1").describe_repositories()["repositories"] == []


def test_a_script_that_changes_while_packer_runs_is_for_the_next_build(small, cloud, made, monkeypatch):
    """Packer reads copies, which were compared with the fingerprint: what it made is what it is called."""
    bake, before = ami.bake, fingerprint.inputs(small.project, "ami").fingerprint

    def edited(project, *arguments, **options):
        artifact = bake(project, *arguments, **options)
        (small.root / "setup/first.sh").write_text("#!/bin/sh\necho other\n")
        return artifact

    monkeypatch.setattr(ami, "bake", edited)
    assert built(small, cloud).artifact == made[0]
    assert small.project.catalog(cloud).artifact("ami", before) == made[0]
    assert kept(small, cloud) is None


def test_a_build_that_fails_leaves_no_record_and_lets_the_next_one_in(small, cloud, made, monkeypatch):
    def fail(*_, **__):
        raise BuildError("Packer failed")

    with monkeypatch.context() as patch:
        patch.setattr(ami, "bake", fail)
        with pytest.raises(BuildError, match="Packer failed"):
            built(small, cloud)
    assert small.project.catalog(cloud).runs("ami", "build", last=5) == []
    assert built(small, cloud).artifact == made[0]


@pytest.mark.parametrize("half", ["ami", "image"])
def test_an_artifact_that_cannot_be_remembered_is_named_and_stays(small, cloud, made, monkeypatch, half):
    module, name = {"ami": (ami, "bake"), "image": (image, "build")}[half]
    make = getattr(module, name)

    def then_break(project, *arguments, **options):
        artifact = make(project, *arguments, **options)
        (small.root / "state").rename(small.root / "gone")
        (small.root / "state").write_text("a file where the folder should be")
        return artifact

    monkeypatch.setattr(module, name, then_break)
    with pytest.raises(StateError) as caught:
        built(small, cloud, half)
    assert caught.value.message.startswith(f"{made[0].uri} was built, but could not be remembered: cannot ")
    assert set(made[0].snapshots) <= set(snapshots())


@pytest.mark.parametrize("step", ["keep_inputs", "keep"])
def test_an_interrupt_before_it_is_remembered_leaves_no_ami(small, cloud, made, monkeypatch, step):
    before = amis()
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            built(small, cloud)
    assert (len(made), amis()) == (1, before)
    assert set(made[0].snapshots) & set(snapshots()) == set()
    assert built(small, cloud).artifact == made[1]


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_run_that_cannot_be_written_down_takes_nothing_away(small, cloud, made, monkeypatch):
    def fail(*_: Any) -> None:
        raise StateError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "log", fail)
        with pytest.raises(StateError) as caught:
            built(small, cloud)
    assert caught.value.message == f"{made[0].id} is built and remembered, but not how long that took: the disk is full"
    again = built(small, cloud)
    assert (again.artifact, again.reused) == (made[0], True)


def test_a_state_that_cannot_be_written_is_told_before_anything_is_made(small, cloud, made):
    (small.root / "state").write_text("a file where the folder should be")
    with pytest.raises(StateError):
        built(small, cloud)
    assert made == []


def test_a_lock_of_another_region_is_refused(small, cloud, made):
    small.lock["base_ami"]["region"] = "us-east-1"
    with pytest.raises(LockError, match=r"of us-east-1, environment 'dev' is in eu-west-1"):
        built(small, cloud, force=True)
    assert made == []


def test_the_wrong_account_is_refused(small, cloud, made):
    small.manifest["environments"]["dev"]["account"] = "210987654321"
    with pytest.raises(GuardError, match="belongs to account 210987654321"):
        built(small, small.project.cloud(), force=True)
    assert made == []


def test_two_first_builds_make_one_repository(cloud, monkeypatch):
    there = ecr.ensure_repository(cloud, "faces")
    seen = iter([None, there])  # the other build makes it between our look and our call
    monkeypatch.setattr(ecr, "repository_uri", lambda *_: next(seen))
    assert ecr.ensure_repository(cloud, "faces") == there
