"""Building: what is reused, what is made anew, and what is said when the memory fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from splitbake import artifact as artifacts
from splitbake import build, fingerprint
from splitbake.artifact import Artifact
from splitbake.bake import image
from splitbake.cloud import Cloud
from splitbake.errors import BuildError, LockError, StateError
from splitbake.manifest import Environment
from splitbake.state import FolderStore
from splitbake.ui import silent

FINGERPRINT = "sha256:" + "a" * 64
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"digest": "sha256:" + "c" * 64},
        "layers": [],
    }
)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """An account without anything in it."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield Cloud("dev", Environment(account="123456789012", region="eu-west-1"))


@pytest.fixture
def project(tmp_path: Path) -> Any:
    store = FolderStore(tmp_path / "state")
    wanted = SimpleNamespace(image=SimpleNamespace(repository="app"))
    lock = SimpleNamespace(base_ami=SimpleNamespace(region="eu-west-1"))
    return SimpleNamespace(
        root=tmp_path, manifest=wanted, lock=lock, lock_path=tmp_path / "splitbake.lock", store=lambda _cloud: store
    )


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Artifact]:
    """Every artifact that was really built, each pushed into the repository of the manifest."""
    artifacts_made: list[Artifact] = []

    def make(project: Any, cloud: Cloud, *, fingerprint: str, say: Any) -> Artifact:
        repository = project.manifest.image.repository
        ecr = boto3.client("ecr", region_name="eu-west-1")
        uri = ecr.create_repository(repositoryName=repository)["repository"]["repositoryUri"]
        digest = ecr.put_image(repositoryName=repository, imageManifest=MANIFEST)["image"]["imageId"]["imageDigest"]
        artifact = Artifact(
            half="image", id=digest, location=uri, fingerprint=fingerprint, created="now", seconds=1.0, size=1
        )
        artifacts_made.append(artifact)
        return artifact

    monkeypatch.setattr(fingerprint, "image", lambda _project: FINGERPRINT)
    monkeypatch.setattr(image, "build", make)
    return artifacts_made


def test_what_is_there_is_reused(cloud: Cloud, project: Any, made: list[Artifact]) -> None:
    first = build.build(project, cloud, "image", force=False, say=silent)
    second = build.build(project, cloud, "image", force=False, say=silent)
    assert (first.reused, second.reused) == (False, True)
    assert build.current(project, cloud, "image") == second.artifact == made[0]
    assert len(made) == 1


def test_what_was_deleted_is_made_anew(cloud: Cloud, project: Any, made: list[Artifact]) -> None:
    first = build.build(project, cloud, "image", force=False, say=silent).artifact
    boto3.client("ecr", region_name="eu-west-1").delete_repository(repositoryName="app", force=True)
    with pytest.raises(BuildError, match="was built, but"):
        build.current(project, cloud, "image")
    assert not build.build(project, cloud, "image", force=False, say=silent).reused
    assert made == [first, first]


def test_an_image_in_another_repository_is_not_the_wanted_one(cloud: Cloud, project: Any, made: list[Artifact]) -> None:
    build.build(project, cloud, "image", force=False, say=silent)
    project.manifest.image.repository = "another"
    with pytest.raises(BuildError, match="was built, but"):
        build.current(project, cloud, "image")
    again = build.build(project, cloud, "image", force=False, say=silent)
    assert not again.reused
    assert again.artifact.location.endswith("/another")


def test_an_image_in_another_account_is_not_the_wanted_one(cloud: Cloud, project: Any, made: list[Artifact]) -> None:
    """A state may serve several environments, whose repositories have one name and even one content."""
    built = build.build(project, cloud, "image", force=False, say=silent).artifact
    elsewhere = built.location.replace("123456789012", "210987654321")
    assert elsewhere != built.location
    artifacts.save(project.store(cloud), built.model_copy(update={"location": elsewhere}))
    with pytest.raises(BuildError, match="was built, but"):
        build.current(project, cloud, "image")


def test_what_was_never_built_is_said(cloud: Cloud, project: Any, made: list[Artifact]) -> None:
    with pytest.raises(BuildError, match="was not built yet"):
        build.current(project, cloud, "image")


def test_force_makes_it_anew(cloud: Cloud, project: Any, made: list[Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    first = build.build(project, cloud, "image", force=False, say=silent).artifact
    later = first.model_copy(update={"id": "sha256:" + "e" * 64})
    monkeypatch.setattr(image, "build", lambda *_, **__: later)
    forced = build.build(project, cloud, "image", force=True, say=silent)
    assert (forced.artifact, forced.reused) == (later, False)
    assert artifacts.find_artifact(project.store(cloud), "image", FINGERPRINT) == later


def test_an_artifact_that_cannot_be_remembered_is_named(cloud: Cloud, project: Any, made: list[Artifact]) -> None:
    (project.root / "state").write_text("a file where the folder should be")
    project.store = lambda _cloud: SimpleNamespace(get=lambda _key: None, put=FolderStore(project.root / "state").put)
    with pytest.raises(StateError) as caught:
        build.build(project, cloud, "image", force=False, say=silent)
    assert made[0].uri in caught.value.message


def test_a_lock_of_another_region_is_refused(project, cloud, made):
    project.lock.base_ami.region = "us-east-1"
    with pytest.raises(LockError, match=r"of us-east-1, environment 'dev' is in eu-west-1"):
        build.build(project, cloud, "image", force=True, say=silent)
    assert made == []
