"""ECR over a registry that is made up: which tags and images are told."""

from __future__ import annotations

import json
from email.message import Message
from hashlib import sha256
from types import SimpleNamespace
from urllib.error import HTTPError

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.ecr.models import ECRBackend, Image
from moto.ecr.responses import ECRResponse

from splitbake.local import ecr
from splitbake.local.registry import Manifest

HOOKED = {
    ECRBackend: (
        "create_repository", "delete_repository", "describe_images", "list_images", "batch_get_image",
        "batch_delete_image", "put_image",
    ),
    ECRResponse: ("describe_images", "get_authorization_token"),
    Image: ("get_image_size_in_bytes",),
}  # fmt: skip
KIND = "application/vnd.docker.distribution.manifest.v2+json"
FIRST, SECOND = ("sha256:" + letter * 64 for letter in "ab")


def digest_of(text):
    return f"sha256:{sha256(text.encode()).hexdigest()}"


class Pushed:
    """A registry: which tag of a repository names which digest, and which manifests there are."""

    address, password = "127.0.0.1:5000", "secret"

    def __init__(self):
        self.named, self.there, self.texts = {}, set(), {}

    def push(self, tag, digest):
        self.named["app", tag] = digest
        self.there.add(digest)

    def tags(self, repository):
        return sorted(tag for of, tag in self.named if of == repository)

    def manifest(self, repository, reference):
        digest = self.named.get((repository, reference), reference)
        text = self.texts.get(digest) or f'{{"schemaVersion": 2, "config": {{"digest": "{digest}"}}}}'
        return Manifest(digest, KIND, text, 10) if digest in self.there else None

    def put(self, repository, tag, text, media_type):
        assert media_type == KIND
        if "no layers" in text:
            raise HTTPError("http://x", 400, "BLOB_UNKNOWN", Message(), None)
        self.texts[digest_of(text)] = text
        self.push(tag, digest_of(text))

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


def put(client, tag, text, **more):
    asked = {"repositoryName": "app", "imageManifest": text, "imageManifestMediaType": KIND, "imageTag": tag}
    return client.put_image(**asked, **more)["image"]


def refused(code, *arguments, **more):
    with pytest.raises(ClientError) as caught:
        put(*arguments, **more)
    assert caught.value.response["Error"]["Code"] == code
    return caught.value.response["Error"]["Message"]


ONE, OTHER = '{"schemaVersion": 2}', '{"schemaVersion":  2}'


def test_a_manifest_that_is_put_is_in_the_registry_byte_for_byte(registry, repository):
    image = put(repository, "v1", ONE, imageDigest=digest_of(ONE))
    assert (image["imageId"]["imageDigest"], registry.texts) == (digest_of(ONE), {digest_of(ONE): ONE})
    put(repository, "release-1", ONE)
    assert told(repository) == {digest_of(ONE): ["release-1", "v1"]}
    refused("ImageAlreadyExistsException", repository, "v1", ONE)
    assert digest_of(ONE) in refused("ImageDigestDoesNotMatchException", repository, "v2", ONE, imageDigest=FIRST)
    refused("LayersNotFoundException", repository, "v2", '"no layers"')
    with pytest.raises(ClientError, match="RepositoryNotFound"):
        repository.put_image(repositoryName="none", imageManifest=ONE, imageTag="v1")


def test_a_tag_moves_and_the_image_that_had_it_stays(registry, repository):
    put(repository, "v1", ONE)
    put(repository, "v1", OTHER)
    assert told(repository) == {digest_of(OTHER): ["v1"]}
    found = repository.describe_images(repositoryName="app", imageIds=[{"imageDigest": digest_of(ONE)}])
    assert "imageTags" not in found["imageDetails"][0]


def test_what_an_index_lists_is_told_as_images_without_tags(registry, repository):
    for text in (ONE, OTHER):
        put(repository, digest_of(text), text)
    registry.named.clear()
    listed = [{"digest": digest_of(text)} for text in (ONE, OTHER)]
    index = json.dumps({"schemaVersion": 2, "manifests": [*listed, {"digest": FIRST}]})
    put(repository, "v1", index)
    assert told(repository) == {digest_of(index): ["v1"], digest_of(ONE): [], digest_of(OTHER): []}
    repository.delete_repository(repositoryName="app", force=True)
    assert registry.there == set()


def test_an_immutable_tag_does_not_move(registry):
    client = boto3.client("ecr", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    client.create_repository(repositoryName="app", imageTagMutability="IMMUTABLE")
    put(client, "v1", ONE)
    assert "is immutable" in refused("ImageTagAlreadyExistsException", client, "v1", OTHER)
    put(client, "v2", ONE)
    assert told(client) == {digest_of(ONE): ["v1", "v2"]}


def test_a_tag_that_was_taken_off_can_be_given_again(registry, repository):
    for tag in ("v1", "v2"):
        put(repository, tag, ONE)
    delete(repository, imageTag="v1")
    put(repository, "v1", ONE)
    assert told(repository) == {digest_of(ONE): ["v1", "v2"]}
