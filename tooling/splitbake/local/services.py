"""The one place where the local cloud's hooks are put into moto, a line a service."""

from __future__ import annotations

from splitbake.local import batch, codebuild, ec2, ecr, engine, jobs, ssm
from splitbake.local.containers import Containers
from splitbake.local.disks import Disks
from splitbake.local.hosts import Hosts
from splitbake.local.registry import Registry
from splitbake.local.state import Cloud


def install(cloud: Cloud) -> None:
    """Make moto's bookkeeping of ``cloud`` real."""
    client = engine.connect()
    registry = Registry(cloud.registry, cloud.registry_password)
    disks = Disks(cloud, client)
    hosts = Hosts(cloud, client, disks)
    amis, volumes = ec2.install(cloud, client, disks)
    jobs.install(batch.install(amis, volumes, hosts), Containers(cloud, client, hosts))
    ecr.install(registry, cloud)
    ssm.install()
    codebuild.install(cloud, client)
