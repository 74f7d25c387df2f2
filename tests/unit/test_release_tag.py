"""The tag that a release leaves on its image: when there is one to give, what is called, and what counts as done."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from splitbake.artifact import Artifact
from splitbake.cloud import Cloud
from splitbake.errors import CloudError, ReleaseError
from splitbake.manifest import Environment
from splitbake.release import tag
from splitbake.release.live import Live
from splitbake.release.record import write_step
from splitbake.release.steps import Phase

ACCOUNT, DIGEST = "123456789012", f"sha256:{'a' * 64}"
RELEASE = "20261121T120000Z-1a2b3c"
MANIFEST = '{"schemaVersion": 2}'
KIND = "application/vnd.oci.image.manifest.v1+json"


def image() -> Artifact:
    made = {"fingerprint": "f", "created": "now", "seconds": 1.0, "size": 1}
    return Artifact(half="image", id=DIGEST, location="registry/app", **made)


class Registry:
    """ECR, as far as it is asked; every answer is given once."""

    def __init__(self) -> None:
        client = boto3.client("ecr", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        self.stub = Stubber(client)
        self.stub.activate()
        self.live = Live(Cloud("prod", Environment(account=ACCOUNT, region="us-east-1"), {"ecr": client}), pause=0)

    def has(self, *tags: str, digest: str = DIGEST) -> None:
        self.stub.add_response("describe_images", {"imageDetails": [{"imageDigest": digest, "imageTags": [*tags]}]})

    def gives_manifest(self) -> None:
        found = {"imageManifest": MANIFEST, "imageManifestMediaType": KIND}
        self.stub.add_response("batch_get_image", {"images": [found]})

    def plan(self) -> tuple[tag.TagStep, ...]:
        return tag.plan(self.live, "prod", RELEASE, image(), "app")


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_an_image_that_was_never_released_gets_a_tag_first_of_all(registry):
    registry.has("f-a", "deps-1")
    registry.gives_manifest()
    (step,) = registry.plan()
    assert step.phase == Phase.TAG == min(Phase)
    assert step.title == f"tag the image release-prod-{RELEASE}"
    assert step.undo == (), "an earlier release may be wanted back"
    asked = {"repositoryName": "app", "imageDigest": DIGEST, "imageTag": f"release-prod-{RELEASE}"}
    given = {**asked, "imageManifest": MANIFEST, "imageManifestMediaType": KIND}
    written = write_step(step, {})
    assert [call.parameters for call in written.calls] == [asked], "the manifest is carried along, and not shown"
    assert MANIFEST not in str(step.call)

    registry.stub.add_response("put_image", {"image": {}}, given)
    registry.has("f-a", f"release-prod-{RELEASE}")
    assert step.apply(registry.live, {}) == {}
    step.verify(registry.live, {})
    registry.stub.assert_no_pending_responses()


@pytest.mark.parametrize("other", ["release-prod-eu-20261120T120000Z-000000", "release-dev-20261120T120000Z-000000"])
def test_the_tag_of_another_environment_is_none_of_this_one(registry, other):
    registry.has(other)
    registry.gives_manifest()
    assert len(registry.plan()) == 1


def test_what_was_released_before_has_its_tag_still(registry):
    registry.has("f-a", "release-prod-20261120T120000Z-000000")
    assert registry.plan() == ()


def test_a_tag_that_is_there_already_is_as_good(registry):
    registry.has()
    registry.gives_manifest()
    (step,) = registry.plan()
    registry.stub.add_client_error("put_image", "ImageAlreadyExistsException")
    assert step.apply(registry.live, {}) == {}
    for refusal in ("ImageTagAlreadyExistsException", "AccessDeniedException"):
        registry.stub.add_client_error("put_image", refusal)
        with pytest.raises(CloudError, match=refusal):
            step.apply(registry.live, {})


@pytest.mark.parametrize("where", ["nowhere", f"sha256:{'b' * 64}"])
def test_a_tag_that_names_something_else_is_noticed(registry, where):
    registry.has()
    registry.gives_manifest()
    (step,) = registry.plan()
    if where == "nowhere":
        registry.stub.add_client_error("describe_images", "ImageNotFoundException")
    else:
        registry.has(digest=where)
    with pytest.raises(ReleaseError, match=f"is {where}, not {DIGEST}"):
        step.verify(registry.live, {})


def test_an_image_without_manifest_is_told(registry):
    registry.has()
    failure: dict[str, Any] = {"failureCode": "ImageNotFound", "failureReason": "not there"}
    registry.stub.add_response("batch_get_image", {"images": [], "failures": [failure]})
    with pytest.raises(ReleaseError, match="cannot be read: not there"):
        registry.plan()
