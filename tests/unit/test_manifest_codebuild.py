"""``image.codebuild``: what it takes, and what it refuses with words that help."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from splitbake.manifest.codebuild import CodeBuild

VPC = {"id": "vpc-0a1b2c3d", "subnets": ["subnet-0a1b2c3d"], "security_groups": ["sg-0a1b2c3d"]}


def read(**values: Any) -> CodeBuild:
    return CodeBuild.model_validate({"role": "builds", **values})


def test_a_role_is_all_that_must_be_said():
    found = read()
    assert (found.bucket, found.compute, found.image, found.vpc) == (None, "BUILD_GENERAL1_SMALL", None, None)
    assert (found.timeout, found.secrets) == (3600, {})
    with pytest.raises(ValidationError, match="role"):
        CodeBuild.model_validate({})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("role", "arn:aws-cn:iam::123456789012:role/team/builds"),
        ("role", "service-role/builds"),
        ("bucket", "my.builds-1"),
        ("compute", "BUILD_GENERAL1_2XLARGE"),
        ("image", "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/env@sha256:" + "0" * 64),
        ("timeout", "5 min"),
        ("timeout", "36 h"),
        ("vpc", VPC),
        ("secrets", {"UV_INDEX_URL": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:team/index-AbCdEf:url"}),
    ],
)
def test_what_codebuild_takes_is_taken(key, value):
    assert key in read(**{key: value}).model_fields_set


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("role", "arn:aws:iam::123456789012:user/me", "the name or ARN of a role"),
        ("role", "all*", "the name or ARN of a role"),
        ("bucket", "s3://builds", "without s3://"),
        ("compute", "SMALL", "BUILD_GENERAL1_SMALL"),
        ("timeout", "4 min", "expected 5 min to 36 h"),
        ("timeout", "37 h", "expected 5 min to 36 h"),
        ("vpc", {**VPC, "subnets": []}, "at least 1 item"),
        ("vpc", {**VPC, "security_groups": ["sg-0a1b2c3d"] * 6}, "at most 5 items"),
        ("secrets", {"not a name": "x"}, "the name of an environment variable"),
        ("secrets", {"A": "x y"}, "the name or ARN of a secret"),
        ("network", "host", "Extra inputs"),
    ],
)
def test_what_it_does_not_take_is_refused(key, value, said):
    with pytest.raises(ValidationError, match=said):
        read(**{key: value})
