"""The part of the manifest about AWS CodeBuild, which makes the dependencies image where no Docker is."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from splitbake import units
from splitbake.spec import Spec, Variable, matching

#: CodeBuild's own bounds ("Quotas for AWS CodeBuild", user guide).
_SHORTEST, _LONGEST = "5 min", "36 h"

Compute = Literal[
    "BUILD_GENERAL1_SMALL",
    "BUILD_GENERAL1_MEDIUM",
    "BUILD_GENERAL1_LARGE",
    "BUILD_GENERAL1_XLARGE",
    "BUILD_GENERAL1_2XLARGE",
]
ROLE_ARN: Final = "arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]+"
Role = Annotated[
    str,
    matching(f"{ROLE_ARN}|[A-Za-z0-9_+=,.@-]+(/[A-Za-z0-9_+=,.@-]+)*", "the name or ARN of a role", "image-builder"),
]
Bucket = Annotated[
    str, matching("[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "the name of an S3 bucket, without s3://", "my-builds")
]
EnvironmentImage = Annotated[
    str,
    matching(
        "[a-zA-Z0-9][a-zA-Z0-9._/:@-]*",
        "the image of a build environment",
        "aws/codebuild/amazonlinux-x86_64-standard:5.0",
    ),
]
SecretId = Annotated[
    str,
    matching("[A-Za-z0-9/_+=.@:-]+", "the name or ARN of a secret, with :json-key if it holds JSON", "team/pip:index"),
]


class Vpc(Spec):
    """Where builds run, when they must reach what is in a VPC."""

    id: Annotated[str, matching("vpc-[0-9a-f]{8,17}", "a VPC id", "vpc-0a1b2c3d")]
    subnets: tuple[Annotated[str, matching("subnet-[0-9a-f]{8,17}", "a subnet id", "subnet-0a1b2c3d")], ...] = Field(
        min_length=1,
        max_length=16,
        strict=False,
        description="private ones with a way out (NAT): builds get no address",
    )
    security_groups: tuple[Annotated[str, matching("sg-[0-9a-f]{8,17}", "a security group id", "sg-0a1b2c3d")], ...] = (
        Field(min_length=1, max_length=5, strict=False, description="they must let out what the build fetches")
    )


def _bounded(seconds: int) -> int:
    if not units.parse_duration(_SHORTEST) <= seconds <= units.parse_duration(_LONGEST):
        raise ValueError(f"expected {_SHORTEST} to {_LONGEST}, as CodeBuild takes")
    return seconds


class CodeBuild(Spec):
    """How AWS CodeBuild builds, with ``image.builder: codebuild``."""

    role: Role = Field(description="the role that builds have: splitbake iam codebuild prints its policy")
    bucket: Bucket | None = Field(
        default=None, description="where what is built from is uploaded; default: the state's, if that is on S3"
    )
    compute: Compute = Field(default="BUILD_GENERAL1_SMALL", description="the size of the machine that builds")
    image: EnvironmentImage | None = Field(
        default=None,
        description="of the build environment, with Docker and AWS CLI; default: Amazon Linux 2023 of the AMI's "
        "architecture",
    )
    timeout: Annotated[units.Duration, AfterValidator(_bounded)] = Field(
        default="60 min", validate_default=True, description="after which CodeBuild ends a build: 5 min to 36 h"
    )
    vpc: Vpc | None = Field(default=None, description="build in this VPC")
    secrets: dict[Variable, SecretId] = Field(
        default_factory=dict,
        description="name in image.secrets: the secret of AWS Secrets Manager that has its value",
        examples=[{"UV_INDEX_URL": "team/index"}],
    )
