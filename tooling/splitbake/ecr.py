"""Amazon ECR: the repository of the image half, what lies in it, and the password for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError
from splitbake.ui import Say, silent

if TYPE_CHECKING:
    from mypy_boto3_ecr.client import ECRClient
    from mypy_boto3_ecr.type_defs import ImageIdentifierTypeDef

    from splitbake.manifest.image import Ecr

#: How tags of images begin that no lifecycle rule of ours expires: what is released, and what images are built on.
RELEASE_TAG: Final = "release-"
DEPENDENCIES_TAG: Final = "deps-"
#: More images than a repository ever has of those; the number that examples of AWS have for that.
_ALL: Final = 9999


@dataclass(frozen=True)
class Credentials:
    """How to log in to the account's registry.

    Attributes:
        host: ``account.dkr.ecr.region.amazonaws.com``, or the host and port of a local registry.
        token: base64 of ``user:password``, exactly as Docker's configuration file keeps it.
        plain: whether it is reached without TLS: a registry of this machine.
    """

    host: str
    token: str = field(repr=False)
    plain: bool = False


@dataclass(frozen=True)
class RemoteImage:
    """An image in a repository.

    Attributes:
        digest: ``sha256:…`` of its manifest.
        size: bytes as stored and billed, that is compressed; None where the registry does not tell.
        status: ``ACTIVE``, ``ARCHIVED`` or ``ACTIVATING``; archived ones cannot be pulled (ECR API model).
        tags: all that name it.
    """

    digest: str
    size: int | None
    status: str = "ACTIVE"
    tags: tuple[str, ...] = ()


def credentials(cloud: Cloud) -> Credentials:
    """Return a password for the account's registry; Amazon's are valid for twelve hours."""
    with aws_errors("get a password for the container registry"):
        grant = _client(cloud).get_authorization_token()["authorizationData"][0]
    scheme, _, host = grant["proxyEndpoint"].partition("://")
    return Credentials(host.rstrip("/"), grant["authorizationToken"], plain=scheme == "http")


def repository_uri(cloud: Cloud, name: str) -> str | None:
    """Return the URI of repository ``name``, None where it does not exist."""
    try:
        with aws_errors(f"look for the ECR repository {name}"):
            return _client(cloud).describe_repositories(repositoryNames=[name])["repositories"][0]["repositoryUri"]
    except CloudError as problem:
        if error_code(problem) == "RepositoryNotFoundException":
            return None
        raise


def ensure_repository(cloud: Cloud, name: str, wanted: Ecr | None = None, say: Say = silent) -> str:
    """Return the URI of repository ``name``, which is created as ``wanted`` where it does not exist.

    One that exists is left as it is: it may be somebody else's work. Where it is not as ``wanted`` says, ``say`` hears
    so. Tags are mutable unless ``wanted`` says otherwise: everything is used by digest.
    """
    if uri := repository_uri(cloud, name):
        if differences := [*_differences(cloud, name, wanted)]:
            say(f"repository {name} is left as it is, though not as wanted: {'; '.join(differences)}")
        return uri
    try:
        with aws_errors(f"create the ECR repository {name}"):
            uri = _client(cloud).create_repository(**creation(name, wanted))["repository"]["repositoryUri"]
    except CloudError as problem:
        if error_code(problem) != "RepositoryAlreadyExistsException":
            raise
        return ensure_repository(cloud, name, wanted, say)  # another first build made it just now
    if wanted and wanted.keep is not None:
        with aws_errors(f"set which images of the ECR repository {name} expire"):
            _client(cloud).put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=lifecycle(wanted.keep))
    return uri


def creation(name: str, wanted: Ecr | None = None) -> dict[str, Any]:
    """Return what CreateRepository is asked for; options that are not wanted are left to the registry's defaults."""
    asked: dict[str, Any] = {"repositoryName": name}
    if wanted and wanted.immutable:
        asked["imageTagMutability"] = "IMMUTABLE"
    if wanted and wanted.scan:
        asked["imageScanningConfiguration"] = {"scanOnPush": True}
    return asked


def lifecycle(keep: int) -> str:
    """Return the lifecycle policy by which the newest ``keep`` images stay, and all that is released or built on.

    ECR has no rule that keeps. But "an image that matches the tagging requirements of a rule cannot be expired by a
    rule with a lower priority" ("Automate the cleanup of images by using lifecycle policies", ECR user guide, rules
    of evaluation), so a rule that never expires anything protects what it matches. A list of tags in one rule means
    images that have all of them; so each kind has a rule of its own. The last rule counts the protected images as
    well ("rules can never mark images that are marked by higher priority rules, but can still identify them as if
    they haven't been expired"), from the youngest by the time of their push; a later tag makes none younger.
    """
    protected = [
        _rule(number, f"keep {kind}", keep=_ALL, tagStatus="tagged", tagPrefixList=[prefix])
        for number, (prefix, kind) in enumerate(
            [(RELEASE_TAG, "what is released"), (DEPENDENCIES_TAG, "what images are built on")], start=1
        )
    ]
    rest = _rule(len(protected) + 1, f"keep the newest {keep} images", keep=keep, tagStatus="any")
    return json.dumps({"rules": [*protected, rest]})


def _rule(priority: int, description: str, *, keep: int, **selection: Any) -> dict[str, Any]:
    return {
        "rulePriority": priority,
        "description": description,
        "selection": {**selection, "countType": "imageCountMoreThan", "countNumber": keep},
        "action": {"type": "expire"},
    }


def _differences(cloud: Cloud, name: str, wanted: Ecr | None) -> Iterator[str]:
    """Yield what a repository has otherwise than ``wanted`` says; what that leaves open may be as it likes."""
    stated = wanted.model_fields_set if wanted else set()
    if wanted is None or not stated:
        return
    with aws_errors(f"look at the ECR repository {name}"):
        there = _client(cloud).describe_repositories(repositoryNames=[name])["repositories"][0]
    immutable = there.get("imageTagMutability", "MUTABLE").startswith("IMMUTABLE")
    if "immutable" in stated and immutable != wanted.immutable:
        yield f"its tags are {'immutable' if immutable else 'mutable'}"
    scans = there.get("imageScanningConfiguration", {}).get("scanOnPush", False)
    if "scan" in stated and scans != wanted.scan:
        yield "it scans what is pushed" if scans else "it does not scan what is pushed"
    if wanted.keep is not None:
        expires = _lifecycle(cloud, name)
        if expires is None:
            yield "nothing in it expires"
        elif expires != json.loads(lifecycle(wanted.keep)):
            yield "it has a lifecycle policy of its own"


def _lifecycle(cloud: Cloud, name: str) -> Any:
    """Return the lifecycle policy of a repository, None where it has none."""
    try:
        with aws_errors(f"look which images of the ECR repository {name} expire"):
            return json.loads(_client(cloud).get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"])
    except CloudError as problem:
        if error_code(problem) == "LifecyclePolicyNotFoundException":
            return None
        raise


def unique_tag(fingerprint: str, digest: str) -> str:
    """Return a tag that no other image gets, for repositories that let none be moved."""
    return f"{fingerprint.removeprefix('sha256:')[:12]}-{digest.removeprefix('sha256:')[:12]}"


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
    tags = tuple(image.get("imageTags", ()))
    return RemoteImage(image["imageDigest"], image.get("imageSizeInBytes"), image.get("imageStatus", "ACTIVE"), tags)


def _client(cloud: Cloud) -> ECRClient:
    client: ECRClient = cloud.client("ecr")
    return client
