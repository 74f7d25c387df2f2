"""ECR over a registry that is made up: which tags and images are told."""

from __future__ import annotations

from types import SimpleNamespace

import boto3
import pytest
from moto import mock_aws
from moto.ecr.models import ECRBackend, Image
from moto.ecr.responses import ECRResponse

from splitbake.local import ecr
from splitbake.local.registry import Manifest

HOOKED = {
    ECRBackend: (
        "create_repository", "delete_repository", "describe_images", "list_images", "batch_get_image",
        "batch_delete_image",
    ),
    ECRResponse: ("describe_images", "get_authorization_token"),
    Image: ("get_image_size_in_bytes",),
}  # fmt: skip
FIRST, SECOND = ("sha256:" + letter * 64 for letter in "ab")


class Pushed:
    """A registry: which tag of a repository names which digest, and which manifests there are."""

    address, password = "127.0.0.1:5000", "secret"

    def __init__(self):
        self.named, self.there = {}, set()

    def push(self, tag, digest):
        self.named["app", tag] = digest
        self.there.add(digest)

    def tags(self, repository):
        return sorted(tag for of, tag in self.named if of == repository)

    def manifest(self, repository, reference):
        digest = self.named.get((repository, reference), reference)
        text = f'{{"schemaVersion": 2, "config": {{"digest": "{digest}"}}}}'
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        return Manifest(digest, kind, text, 10) if digest in self.there else None

    def delete(self, repository, digest):
        self.there.discard(digest)
        self.named = {name: of for name, of in self.named.items() if of != digest}


@pytest.fixture
def registry(monkeypatch):
    for owner, names in HOOKED.items():
        for name in names:  # what a hook replaces comes back after the test
            monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(ECRResponse, "update_image_storage_class", None, raising=False)
    with mock_aws():
        pushed = Pushed()
        ecr.install(pushed, SimpleNamespace(account="123456789012", region="us-east-1"))
        yield pushed


@pytest.fixture
def repository(registry):
    client = boto3.client("ecr", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    client.create_repository(repositoryName="app")
    return client


def told(client):
    return {
        one["imageDigest"]: one.get("imageTags", [])
        for one in client.describe_images(repositoryName="app")["imageDetails"]
    }


def delete(client, **image):
    client.batch_delete_image(repositoryName="app", imageIds=[image])


def test_an_image_that_was_deleted_is_seen_again_when_it_is_pushed_again(registry, repository):
    for image in ({"imageDigest": FIRST}, {"imageTag": "v1"}):
        registry.push("v1", FIRST)
        assert told(repository) == {FIRST: ["v1"]}
        delete(repository, **image)
        assert told(repository) == {}
    registry.push("v1", FIRST)
    assert told(repository) == {FIRST: ["v1"]}


def test_a_tag_that_was_taken_off_stays_off_until_the_image_goes(registry, repository):
    for tag in ("v1", "v2"):
        registry.push(tag, FIRST)
    delete(repository, imageTag="v1")
    assert told(repository) == {FIRST: ["v2"]}
    delete(repository, imageTag="v2")
    registry.push("v1", FIRST)
    assert told(repository) == {FIRST: ["v1"]}


def test_a_new_repository_of_the_same_name_remembers_nothing(registry, repository):
    for tag in ("v1", "v2"):
        registry.push(tag, FIRST)
    delete(repository, imageTag="v1")
    registry.push("v2", SECOND)
    repository.delete_repository(repositoryName="app", force=True)
    assert registry.there == set()
    repository.create_repository(repositoryName="app")
    registry.push("v1", FIRST)
    assert told(repository) == {FIRST: ["v1"]}
