"""The base AMI: resolved against moto in this process, and what is to be said against it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import boto3
import pytest
from moto import mock_aws

from splitbake.cloud import Cloud
from splitbake.errors import SourceError
from splitbake.lock import LockedBaseAmi
from splitbake.manifest import Environment, Manifest
from splitbake.manifest.ami import KNOWN_BASES
from splitbake.sources import base_ami
from splitbake.sources.base_warnings import warnings

NOW = datetime(2026, 11, 21, tzinfo=UTC)
REGION = "us-east-1"
MANIFEST = {
    "version": 1,
    "project": "video-analysis",
    "state": ".splitbake/state",
    "models": {"files": [{"path": "models/a", "from": "weights/a"}], "budget": "3 GiB"},
    "image": {
        "base": "python:3.11-slim",
        "include": ["run.py"],
        "mounts": {"models": "/workspace/models"},
        "command": ["python", "run.py"],
        "repository": "processor",
        "budget": "500 MB",
    },
    "environments": {"dev": {"account": "123456789012", "region": REGION}},
}


@pytest.fixture
def cloud(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "true")  # which moto's SSM parameters name
    with mock_aws():
        yield Cloud("dev", Environment(account="123456789012", region=REGION))


def resolve(cloud: Cloud, base: object) -> LockedBaseAmi:
    return base_ami.resolve(cloud, Manifest.model_validate({**MANIFEST, "ami": {"base": base}}))


@pytest.mark.parametrize("name", KNOWN_BASES)
def test_every_known_base_is_a_parameter_of_aws_and_its_ami_is_of_amazon_linux_2023(cloud, name):
    """Moto carries a copy of what AWS publishes; of the parameter itself it makes no JSON."""
    locked = resolve(cloud, {"ssm": f"{KNOWN_BASES[name]}/image_id"})
    assert locked.name.startswith("al2023-ami-ecs-")
    assert locked.architecture == ("arm64" if name.endswith("arm64") else "x86_64")
    assert locked.owner == "591542846629"
    assert datetime.fromisoformat(locked.created)
    assert list(warnings(locked, NOW)) == []


@pytest.mark.parametrize(
    "parameter",
    [
        "/aws/service/ecs/optimized-ami/amazon-linux-2/gpu/recommended/image_id",
        "/aws/service/ecs/optimized-ami/amazon-linux-2/kernel-5.10/gpu/recommended/image_id",
        "/aws/service/ami-amazon-linux-latest/amzn2-ami-hvm-x86_64-gp2",
    ],
)
def test_amazon_linux_2_is_locked_with_a_warning(cloud, parameter):
    locked = resolve(cloud, {"ssm": parameter})
    assert locked.name.startswith("amzn2-")
    (said,) = warnings(locked, NOW)
    assert "has got no updates after 2026-06-30" in said
    assert locked.id in said


def of(**changes: str | None) -> LockedBaseAmi:
    return LockedBaseAmi.model_validate(
        {
            "request": "ami-01234567",
            "id": "ami-01234567",
            "name": "base",
            "owner": "self",
            "created": "2026-01-01T00:00:00Z",
            "architecture": "x86_64",
            "region": REGION,
            "root_device": "/dev/xvda",
            "root_size": 1,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("name", "request_", "old"),
    [
        ("amzn2-ami-ecs-gpu-hvm-2.0.20260414-x86_64-ebs", "ami-01234567", True),
        ("Deep Learning Base GPU AMI (Amazon Linux 2) 20260101", "ami-01234567", True),
        ("our-al2-base", "ami-01234567", True),
        ("base", "ssm:/aws/service/eks/optimized-ami/1.30/amazon-linux-2/recommended", True),
        ("al2023-ami-ecs-gpu-hvm-2023.0.20260922-kernel-6.1-x86_64-ebs", "ecs-gpu-al2023", False),
        ("Deep Learning Base GPU AMI (Amazon Linux 2023) 20260101", "ami-01234567", False),
        ("base", "ssm:/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended", False),
        ("signal2-models", "ami-01234567", False),
        ("val2x", "ami-01234567", False),
    ],
)
def test_amazon_linux_2_is_known_by_its_names(name, request_, old):
    assert bool(list(warnings(of(name=name, request=request_), NOW))) == old


def test_before_the_end_of_amazon_linux_2_the_warning_looks_ahead():
    (said,) = warnings(of(name="amzn2-x"), datetime(2026, 1, 1, tzinfo=UTC))
    assert "gets no updates after 2026-06-30" in said


@pytest.mark.parametrize(
    ("deprecated", "past"),
    [(None, False), ("2026-11-20T00:00:00.000Z", True), ("2026-11-22T00:00:00.000Z", False), ("2026-11-20", True)],
)
def test_a_deprecated_base_is_warned_of_when_its_time_has_come(deprecated, past):
    said = list(warnings(of(deprecated=deprecated), NOW))
    assert len(said) == past
    assert not past or "deprecated since 2026-11-20" in said[0]


@pytest.fixture
def mine(cloud) -> str:
    """An AMI of this account; moto does not say what it can run on."""
    answering(cloud, RootDeviceType="ebs", Architecture="x86_64")
    ec2 = boto3.client("ec2", region_name=REGION)
    return ec2.register_image(Name="base-1", RootDeviceName="/dev/xvda")["ImageId"]


def answering(cloud: Cloud, **values: object) -> None:
    """Let DescribeImages say more than moto does."""

    def say(parsed, **_):
        for image in parsed["Images"]:
            image.update(values)

    cloud.client("ec2").meta.events.register("after-call.ec2.DescribeImages", say)


def test_when_it_is_deprecated_is_kept(cloud, mine):
    assert resolve(cloud, mine).deprecated is None
    answering(cloud, DeprecationTime="2028-01-01T00:00:00.000Z")
    assert resolve(cloud, mine).deprecated == "2028-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"State": "disabled"}, "is disabled, not available"),
        ({"RootDeviceType": "instance-store"}, "no EBS root volume"),
    ],
)
def test_what_cannot_be_a_base_is_refused(cloud, mine, values, expected):
    answering(cloud, **values)
    with pytest.raises(SourceError, match=expected):
        resolve(cloud, mine)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("ami-0123456789abcdef0", "there is no AMI ami-0123456789abcdef0 in us-east-1"),
        ({"name": "none-*", "owner": "self"}, "no AMI of self in us-east-1 is named 'none-\\*'"),
        ({"ssm": "/none"}, "there is no SSM parameter /none"),
        ({"ssm": "/text"}, "holds neither an AMI id nor JSON"),
    ],
)
def test_what_is_not_there_is_told(cloud, base, expected):
    boto3.client("ssm", region_name=REGION).put_parameter(Name="/text", Value="hello", Type="String")
    with pytest.raises(SourceError, match=expected):
        resolve(cloud, base)


def test_a_parameter_may_be_plain_or_json_and_a_name_means_the_newest(cloud, mine):
    ssm = boto3.client("ssm", region_name=REGION)
    ssm.put_parameter(Name="/plain", Value=mine, Type="String")
    ssm.put_parameter(Name="/json", Value=json.dumps({"image_id": mine}), Type="String")
    assert resolve(cloud, {"ssm": "/plain"}).id == resolve(cloud, {"ssm": "/json"}).id == mine
    assert resolve(cloud, {"name": "base-*", "owner": "self"}).id == mine
