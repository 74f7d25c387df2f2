"""Amazon ECR: the repository of the image half, what lies in it, and the password for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError

if TYPE_CHECKING:
    from mypy_boto3_ecr.client import ECRClient
    from mypy_boto3_ecr.type_defs import ImageIdentifierTypeDef


@dataclass(frozen=True)
class Credentials:
    """How to log in to the account's registry.

    Attributes:
        host: ``account.dkr.ecr.region.amazonaws.com``, or the host and port of a local registry.
        token: base64 of ``user:password``, exactly as Docker's configuration file keeps it.
    """

    host: str
    token: str = field(repr=False)


@dataclass(frozen=True)
class RemoteImage:
    """An image in a repository.

    Attributes:
        digest: ``sha256:…`` of its manifest.
        size: bytes as stored and billed, that is compressed; None where the registry does not tell.
        status: ``ACTIVE``, ``ARCHIVED`` or ``ACTIVATING``; archived ones cannot be pulled (ECR API model).
    """

    digest: str
    size: int | None
    status: str = "ACTIVE"


def credentials(cloud: Cloud) -> Credentials:
    """Return a password for the account's registry; Amazon's are valid for twelve hours."""
    with aws_errors("get a password for the container registry"):
        grant = _client(cloud).get_authorization_token()["authorizationData"][0]
    return Credentials(grant["proxyEndpoint"].partition("://")[2].rstrip("/"), grant["authorizationToken"])


def repository_uri(cloud: Cloud, name: str) -> str | None:
    """Return the URI of repository ``name``, None where it does not exist."""
    try:
        with aws_errors(f"look for the ECR repository {name}"):
            return _client(cloud).describe_repositories(repositoryNames=[name])["repositories"][0]["repositoryUri"]
    except CloudError as problem:
        if error_code(problem) == "RepositoryNotFoundException":
            return None
        raise


def ensure_repository(cloud: Cloud, name: str) -> str:
    """Return the URI of repository ``name``, which is created where it does not exist.

    Tags are left mutable: everything is deployed by digest, and a forced rebuild gives its tag another digest.
    """
    if uri := repository_uri(cloud, name):
        return uri
    try:
        with aws_errors(f"create the ECR repository {name}"):
            return _client(cloud).create_repository(repositoryName=name)["repository"]["repositoryUri"]
    except CloudError as problem:
        if error_code(problem) != "RepositoryAlreadyExistsException":
            raise
    return ensure_repository(cloud, name)  # another first build made it just now


def find_image(cloud: Cloud, repository: str, *, tag: str = "", digest: str = "") -> RemoteImage | None:
    """Return the image that ``digest`` or ``tag`` names in ``repository``, None where it or the repository is gone."""
    wanted: ImageIdentifierTypeDef = {"imageDigest": digest} if digest else {"imageTag": tag}
    try:
        with aws_errors(f"look for {digest or tag} in the ECR repository {repository}"):
            found = _client(cloud).describe_images(repositoryName=repository, imageIds=[wanted])["imageDetails"]
    except CloudError as problem:
        if error_code(problem) in {"ImageNotFoundException", "RepositoryNotFoundException"}:
            return None
        raise
    if not found:
        return None
    image = found[0]
    return RemoteImage(image["imageDigest"], image.get("imageSizeInBytes"), image.get("imageStatus", "ACTIVE"))


def _client(cloud: Cloud) -> ECRClient:
    client: ECRClient = cloud.client("ecr")
    return client
