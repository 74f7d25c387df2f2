"""The part of the manifest about the AMI: what it starts from, where it is baked, and what it becomes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field

from splitbake import units
from splitbake.spec import (
    Account,
    InstanceType,
    Name,
    Region,
    RelativePath,
    Spec,
    Text,
    matching,
    nearest,
    tag,
    tag_name,
)


class BaseBySsm(Spec):
    """A base AMI named by an SSM parameter that holds its id, or JSON with an ``image_id``."""

    ssm: Text = Field(description="name of the parameter", examples=["/my/base-ami"])


class BaseByName(Spec):
    """The newest AMI with this name (``*`` allowed) and owner."""

    name: Text = Field(description="* stands for anything", examples=["my-base-*"])
    owner: Text = Field(description="an account, self or amazon", examples=["self"])


class Builder(Spec):
    """The instance on which Packer bakes."""

    instance_type: InstanceType = Field(default="m6i.xlarge", description="a bake needs no GPU")
    subnet: Annotated[str, matching("subnet-[0-9a-f]{8,17}", "a subnet id", "subnet-0a1b2c3d")] | None = Field(
        default=None, description="default: the default VPC's"
    )
    profile: Text | None = Field(default=None, description="an instance profile that exists already")
    permissions_boundary: (
        Annotated[
            str,
            matching(
                "arn:aws[a-z-]*:iam::[0-9]{12}:policy/.+",
                "the ARN of an IAM policy",
                "arn:aws:iam::123456789012:policy/boundary",
            ),
        ]
        | None
    ) = Field(default=None, description="instead of profile: a temporary role, made within this policy and removed")
    ssh_user: Name = Field(default="ec2-user", description="the login user of the base AMI")
    connect: Literal["public-ip", "private-ip", "session-manager"] = Field(
        default="public-ip", description="how Packer and verification reach it"
    )
    spot: bool = Field(default=False, description="bake on a spot instance: cheaper, and it can be taken away")
    price: float | None = Field(
        default=None, gt=0, description="dollars an hour of instance_type; with it plan tells the expected cost"
    )


def _gp3(rate: int) -> int:
    if not units.parse_rate("125 MiB/s") <= rate <= units.parse_rate("1000 MiB/s"):
        raise ValueError("expected 125 MiB/s to 1000 MiB/s, as a gp3 volume has")
    return rate


def _initialization(rate: int) -> int:
    # VolumeInitializationRate of EC2's API.
    if not units.parse_rate("100 MiB/s") <= rate <= units.parse_rate("300 MiB/s"):
        raise ValueError("expected 100 MiB/s to 300 MiB/s, as EC2 offers")
    return rate


class Volume(Spec):
    """The volumes of the builder, which become the AMI's snapshots."""

    size: units.Size | None = Field(
        default=None, description="of the root volume; default: the base's size, and room for models that lie there"
    )
    throughput: Annotated[units.Rate, AfterValidator(_gp3)] = Field(
        default="125 MiB/s", validate_default=True, description="gp3: 125 MiB/s to 1000 MiB/s"
    )
    initialize: Annotated[units.Rate, AfterValidator(_initialization)] | None = Field(
        default=None,
        description="fill the data volumes of each new instance at 100 MiB/s to 300 MiB/s; costs money at each start",
    )


#: Names for bases that most people want -> the SSM parameter that AWS keeps for them.
KNOWN_BASES: Mapping[str, str] = {
    "ecs-gpu-al2023": "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended",
    "ecs-al2023": "/aws/service/ecs/optimized-ami/amazon-linux-2023/recommended",
    "ecs-al2023-arm64": "/aws/service/ecs/optimized-ami/amazon-linux-2023/arm64/recommended",
}


def _known_base(text: str) -> str:
    if text not in KNOWN_BASES and not re.fullmatch("ami-[0-9a-f]{8,17}", text):
        forms = f"{', '.join(KNOWN_BASES)}, an AMI id (ami-…), {{ssm: …}} or {{name: …, owner: …}}"
        raise ValueError(f"expected {forms}{nearest(text, KNOWN_BASES)}")
    return text


def _base_form(base: Any) -> str:
    """Return which of its forms a base AMI is written in, so that only that form's problems are told."""
    if not isinstance(base, Mapping):
        return tag_name("text")
    by_ssm = "ssm" in base or (
        base.keys().isdisjoint(BaseByName.model_fields) and any(nearest(str(key), ["ssm"]) for key in base)
    )
    return tag_name("ssm" if by_ssm else "name")


Base = Annotated[
    Annotated[Text, AfterValidator(_known_base), tag("text")]
    | Annotated[BaseBySsm, tag("ssm")]
    | Annotated[BaseByName, tag("name")],
    Discriminator(_base_form),
]


Key = Annotated[
    str,
    matching("[A-Za-z0-9:/_-]+", "a KMS key: its id, alias/name or ARN", "alias/models"),
]


class Copy(Spec):
    """Another region that the AMI is copied to as soon as it is baked."""

    region: Region
    kms_key: Key | None = Field(default=None, description="encrypt that copy with this key of that region")


class Ecs(Spec):
    """What the AMI says to the agent of Amazon ECS."""

    pull: Literal["once", "default", "always", "prefer-cached"] = Field(
        default="once", description="ECS_IMAGE_PULL_BEHAVIOR: when the agent asks the registry for an image"
    )


def _regions_once(copies: tuple[Copy, ...]) -> tuple[Copy, ...]:
    twice = [region for region, count in Counter(copy.region for copy in copies).items() if count > 1]
    if twice:
        raise ValueError(f"a region can be listed once; listed again: {', '.join(twice)}")
    return copies


ImageByDigest = Annotated[
    str,
    matching(
        "(ecr://)?[a-z0-9][a-zA-Z0-9._:/-]*@sha256:[0-9a-f]{64}",
        "an image by digest",
        f"ecr://team/sidecar@sha256:{'0f' * 32}",
    ),
]


class Ami(Spec):
    """The half that changes with the models."""

    base: Base = Field(
        description="ecs-gpu-al2023, an AMI id, {ssm: parameter} or {name: pattern, owner: account}",
        examples=["ecs-gpu-al2023", {"name": "my-base-*", "owner": "self"}],
    )
    builder: Builder = Field(default_factory=Builder, description="where it is baked")
    volume: Volume = Field(default_factory=Volume, description="the AMI's volumes")
    encrypt: bool = Field(default=False, description="encrypt all its volumes")
    kms_key: Key | None = Field(default=None, description="with this key instead of the account's default one")
    provision: tuple[RelativePath, ...] = Field(
        default=(),
        strict=False,
        description="shell scripts of yours, run as root before the models are fetched",
    )
    preload: tuple[ImageByDigest, ...] = Field(
        default=(), strict=False, description="container images that every host has from the start"
    )
    ecs: Ecs = Field(default_factory=Ecs, description="settings of the ECS agent, where the base has one")
    copies: Annotated[tuple[Copy, ...], AfterValidator(_regions_once)] = Field(
        default=(), strict=False, description="other regions that it is copied to as soon as it is baked"
    )
    share: tuple[Account, ...] = Field(
        default=(), strict=False, description="accounts that may launch and copy it as soon as it is verified"
    )
    deprecate: units.Age | None = Field(
        default=None, ge=1, description="mark it as deprecated so long after the bake; instances still start"
    )
