"""Whether an artifact that was once built can still be used: it is there, where it should be, and in good order."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from splitbake import ecr
from splitbake.artifact import Artifact
from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError
from splitbake.manifest.ami import Copy

_NO_SUCH_AMI = {"InvalidAMIID.NotFound", "InvalidAMIID.Unavailable", "InvalidAMIID.Malformed"}


def problem(cloud: Cloud, artifact: Artifact, repository: str) -> str:
    """Look at ``artifact`` and say what keeps it from being used; empty where nothing does.

    ``repository`` is where the manifest wants images.

    Raises:
        CloudError: AWS could not be asked.
    """
    if artifact.half == "ami":
        return _problem_of_ami(cloud, artifact)
    return _problem_of_image(cloud, artifact, repository)


def uncopied(artifact: Artifact, copies: Iterable[Copy]) -> list[str]:
    """Return the regions of ``copies`` that the AMI ``artifact`` is not in; the manifest may have got them since."""
    there = {artifact.location, *(copy.region for copy in artifact.copies)}
    return [copy.region for copy in copies if artifact.half == "ami" and copy.region not in there]


def _problem_of_ami(cloud: Cloud, artifact: Artifact) -> str:
    ami, region = artifact.id, cloud.environment.region
    try:
        with aws_errors(f"describe {ami}"):
            found = cloud.client("ec2").describe_images(ImageIds=[ami], IncludeDeprecated=True, IncludeDisabled=True)
    except CloudError as problem:
        if error_code(problem) not in _NO_SUCH_AMI:
            raise
        return f"the AMI of this fingerprint, {ami}, is gone from {region}"
    images = found["Images"]
    if not images:
        return f"the AMI of this fingerprint, {ami}, is gone from {region}"
    image = images[0]
    if image["State"] != "available":
        return f"the AMI of this fingerprint, {ami}, is {image['State']}"
    if image["OwnerId"] != cloud.environment.account and not artifact.promoted_from:
        return f"the AMI of this fingerprint, {ami}, belongs to account {image['OwnerId']}"
    if is_past(image):
        return f"the AMI of this fingerprint, {ami}, is deprecated since {image['DeprecationTime']}"
    return ""


def is_past(image: Mapping[str, Any]) -> bool:
    """Return whether the moment of deprecation, where one is set, has come (ISO 8601, UTC)."""
    moment: str = image.get("DeprecationTime", "")
    return bool(moment) and datetime.datetime.fromisoformat(moment) <= datetime.datetime.now(datetime.UTC)


def _problem_of_image(cloud: Cloud, artifact: Artifact, repository: str) -> str:
    named = f"the image of this fingerprint, {artifact.id[:19]}…,"
    uri = ecr.repository_uri(cloud, repository)
    if uri is None:
        return f"{named} is gone: there is no repository {repository} in {cloud.environment.region}"
    if uri != artifact.location:
        return f"{named} lies in {artifact.location}, not in {repository}"
    image = ecr.find_image(cloud, repository, digest=artifact.id)
    if image is None:
        return f"{named} is gone from repository {repository}"
    if image.status != "ACTIVE":
        return f"{named} is {image.status.lower()} in repository {repository}"
    return ""
