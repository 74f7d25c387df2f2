"""Whether an artifact can still be used: everything that AWS may answer, and what is said of it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.stub import Stubber

from splitbake import health
from splitbake.artifact import Artifact
from splitbake.cloud import Cloud
from splitbake.errors import CloudError
from splitbake.manifest import Environment

ACCOUNT, OTHER, REGION = "123456789012", "210987654321", "eu-west-1"
URI = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/faces"
AMI = Artifact(half="ami", id="ami-0123", location=REGION, fingerprint="sha256:a", created="now", seconds=1.0, size=1)
IMAGE = AMI.model_copy(update={"half": "image", "id": "sha256:" + "b" * 64, "location": URI})
PROMOTED = AMI.model_copy(update={"promoted_from": "ami-0999"})
ASKED = {"ImageIds": ["ami-0123"], "IncludeDeprecated": True, "IncludeDisabled": True}

Answers = Callable[..., None]


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        yield Cloud("dev", Environment(account=ACCOUNT, region=REGION))


@pytest.fixture
def ec2(cloud) -> Iterator[Stubber]:
    with Stubber(cloud.client("ec2")) as stub:
        yield stub
        stub.assert_no_pending_responses()


@pytest.fixture
def ecr(cloud) -> Iterator[Stubber]:
    with Stubber(cloud.client("ecr")) as stub:
        yield stub
        stub.assert_no_pending_responses()


def image(**changes: str) -> dict[str, Any]:
    return {"Images": [{"ImageId": "ami-0123", "State": "available", "OwnerId": ACCOUNT, **changes}]}


def in_hours(hours: int) -> str:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    return f"{moment:%Y-%m-%dT%H:%M:%S.000Z}"


# The AMI.


@pytest.mark.parametrize(
    ("artifact", "answer"),
    [
        (AMI, image()),
        (AMI, image(DeprecationTime=in_hours(1))),
        (PROMOTED, image(OwnerId=OTHER)),  # shared: it stays the other account's
        (PROMOTED, image()),  # copied
    ],
)
def test_an_ami_that_can_be_used(cloud, ec2, artifact, answer):
    ec2.add_response("describe_images", answer, ASKED)
    assert health.problem(cloud, artifact, "faces") == ""


@pytest.mark.parametrize(
    ("artifact", "answer", "said"),
    [
        (AMI, {"Images": []}, "is gone from eu-west-1"),
        (AMI, image(State="pending"), "is pending"),
        (AMI, image(State="disabled"), "is disabled"),
        (AMI, image(State="failed"), "is failed"),
        (AMI, image(OwnerId=OTHER), f"belongs to account {OTHER}"),
        (AMI, image(DeprecationTime="2026-01-02T03:04:05.000Z"), "is deprecated since 2026-01-02T03:04:05.000Z"),
        (PROMOTED, image(OwnerId=OTHER, State="disabled"), "is disabled"),
        (PROMOTED, image(OwnerId=OTHER, DeprecationTime=in_hours(-1)), "is deprecated since"),
    ],
)
def test_an_ami_that_cannot_be_used(cloud, ec2, artifact, answer, said):
    ec2.add_response("describe_images", answer, ASKED)
    problem = health.problem(cloud, artifact, "faces")
    assert problem.startswith("the AMI of this fingerprint, ami-0123, ")
    assert said in problem


@pytest.mark.parametrize("code", ["InvalidAMIID.NotFound", "InvalidAMIID.Unavailable", "InvalidAMIID.Malformed"])
def test_an_ami_that_ec2_does_not_know_is_gone(cloud, ec2, code):
    ec2.add_client_error("describe_images", code, expected_params=ASKED)
    assert health.problem(cloud, AMI, "faces") == "the AMI of this fingerprint, ami-0123, is gone from eu-west-1"


def test_who_may_not_look_does_not_know(cloud, ec2):
    ec2.add_client_error("describe_images", "UnauthorizedOperation")
    with pytest.raises(CloudError, match="could not describe ami-0123"):
        health.problem(cloud, AMI, "faces")


# The image.


def repository(uri: str = URI) -> dict[str, Any]:
    return {"repositories": [{"repositoryName": "faces", "repositoryUri": uri}]}


def details(**changes: Any) -> dict[str, Any]:
    return {"imageDetails": [{"imageDigest": IMAGE.id, "imageSizeInBytes": 5, **changes}]}


@pytest.mark.parametrize("answer", [details(), details(imageStatus="ACTIVE")])
def test_an_image_that_can_be_used(cloud, ecr, answer):
    ecr.add_response("describe_repositories", repository(), {"repositoryNames": ["faces"]})
    ecr.add_response("describe_images", answer, {"repositoryName": "faces", "imageIds": [{"imageDigest": IMAGE.id}]})
    assert health.problem(cloud, IMAGE, "faces") == ""


NAMED = "the image of this fingerprint, sha256:bbbbbbbbbbbb…,"


@pytest.mark.parametrize(
    ("status", "said"),
    [("ARCHIVED", "is archived in repository faces"), ("ACTIVATING", "is activating in repository faces")],
)
def test_an_image_that_cannot_be_pulled(cloud, ecr, status, said):
    ecr.add_response("describe_repositories", repository())
    ecr.add_response("describe_images", details(imageStatus=status))
    assert health.problem(cloud, IMAGE, "faces") == f"{NAMED} {said}"


@pytest.mark.parametrize("answer", ["ImageNotFoundException", {"imageDetails": []}])
def test_an_image_that_is_gone(cloud, ecr, answer):
    ecr.add_response("describe_repositories", repository())
    if isinstance(answer, str):
        ecr.add_client_error("describe_images", answer)
    else:
        ecr.add_response("describe_images", answer)
    assert health.problem(cloud, IMAGE, "faces") == f"{NAMED} is gone from repository faces"


def test_an_image_whose_repository_is_gone(cloud, ecr):
    ecr.add_client_error("describe_repositories", "RepositoryNotFoundException")
    said = health.problem(cloud, IMAGE, "faces")
    assert said == f"{NAMED} is gone: there is no repository faces in eu-west-1"


@pytest.mark.parametrize("elsewhere", [URI.replace(ACCOUNT, OTHER), URI.replace("faces", "people")])
def test_an_image_in_another_repository(cloud, ecr, elsewhere):
    """A state may serve several environments, whose repositories have one name and even one content."""
    ecr.add_response("describe_repositories", repository())
    lies_elsewhere = IMAGE.model_copy(update={"location": elsewhere})
    assert health.problem(cloud, lies_elsewhere, "faces") == f"{NAMED} lies in {elsewhere}, not in faces"


def test_who_may_not_look_at_a_repository_does_not_know(cloud, ecr):
    ecr.add_client_error("describe_repositories", "AccessDeniedException")
    with pytest.raises(CloudError, match="could not look for the ECR repository faces"):
        health.problem(cloud, IMAGE, "faces")
