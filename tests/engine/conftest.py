"""Fixtures of the engine tests: one local cloud a session, and clients of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from splitbake.local import Cloud, down, foreign, up


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A running local cloud; the AWS environment of the test process points to it until the session ends."""
    directory = tmp_path_factory.mktemp("local-cloud")
    running = up(directory)
    with pytest.MonkeyPatch.context() as patch:
        for name in foreign(os.environ):
            patch.delenv(name, raising=False)
        for name, value in running.environment().items():
            patch.setenv(name, value)
        yield running
    down(directory)


class Clients(Protocol):
    """Makes boto3 clients of the local cloud."""

    def __call__(self, service: str, account: str | None = None, region: str | None = None) -> Any: ...


@pytest.fixture(scope="session")
def aws(cloud: Cloud) -> Clients:
    """Make clients: ``aws("ec2")``, or of another account and region: ``aws("ec2", "222222222222", "eu-west-1")``."""
    import boto3

    def client(service: str, account: str | None = None, region: str | None = None) -> Any:
        key = cloud.keys.of(account or cloud.account)
        session = boto3.Session(key.id, key.secret, region_name=region or cloud.region)
        return session.client(service, endpoint_url=cloud.endpoint)

    return client


@pytest.fixture(scope="session")
def base_ami(aws) -> str:
    """The AMI that AWS recommends for GPU hosts of ECS; in the local cloud it is our base image."""
    name = "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"
    return aws("ssm").get_parameter(Name=name)["Parameter"]["Value"]
