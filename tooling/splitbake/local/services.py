"""The one place where the local cloud's hooks are put into moto, a line a service."""

from __future__ import annotations

from splitbake.local import batch, ec2, ecr, engine, jobs, ssm
from splitbake.local.containers import Containers
from splitbake.local.registry import Registry
from splitbake.local.state import Cloud


def install(cloud: Cloud) -> None:
    """Make moto's bookkeeping of ``cloud`` real."""
    client = engine.connect()
    registry = Registry(cloud.registry, cloud.registry_password)
    amis = ec2.install(cloud, client)
    jobs.install(batch.install(amis), Containers(cloud, client))
    ecr.install(registry, cloud)
    ssm.install()
