"""Fixtures of the engine tests: one local cloud a session, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from splitbake.local import Cloud, down, up


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A running local cloud; the AWS environment of the test process points to it until the session ends."""
    directory = tmp_path_factory.mktemp("local-cloud")
    running = up(directory)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment().items():
            patch.setenv(name, value)
        yield running
    down(directory)


@pytest.fixture(scope="session")
def aws(cloud: Cloud):
    """Make boto3 clients of the local cloud: ``aws("ec2")``."""
    import boto3

    session = boto3.Session(cloud.access_key, cloud.secret_key, region_name=cloud.region)
    return lambda service: session.client(service, endpoint_url=cloud.endpoint)


@pytest.fixture(scope="session")
def base_ami(aws) -> str:
    """The AMI that AWS recommends for GPU hosts of ECS; in the local cloud it is our base image."""
    name = "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"
    return aws("ssm").get_parameter(Name=name)["Parameter"]["Value"]
