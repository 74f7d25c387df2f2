"""A Batch compute environment as it is: where its hosts' AMI comes from, what runs on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from splitbake.errors import ReleaseError

if TYPE_CHECKING:
    from splitbake.release.live import Live

#: DescribeContainerInstances takes this many at most (ECS API model).
_HOSTS_A_CALL = 100


@dataclass(frozen=True)
class Fleet:
    """A compute environment.

    Attributes:
        description: DescribeComputeEnvironments' answer about it.
        template_id: the launch template of its hosts, empty where it has none.
        other_sources: what names an AMI besides that launch template.
        running_jobs: how many jobs run on the queues that it serves.
    """

    description: Mapping[str, Any]
    template_id: str = ""
    other_sources: tuple[str, ...] = ()
    running_jobs: int = 0

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.description["computeEnvironmentName"])

    @property
    def resources(self) -> Mapping[str, Any]:
        """Its ``computeResources``; empty where it is unmanaged."""
        found: Mapping[str, Any] = self.description.get("computeResources", {})
        return found

    @property
    def template(self) -> Mapping[str, Any]:
        """Its launch template specification, empty where it has none."""
        found: Mapping[str, Any] = self.resources.get("launchTemplate", {})
        return found


def read(live: Live, name: str) -> Fleet:
    """Read the compute environment ``name``.

    Raises:
        ReleaseError: there is none.
    """
    description = describe(live, name)
    fleet = Fleet(description)
    return Fleet(
        description,
        template_id=_template_version(live, fleet.template)["LaunchTemplateId"] if fleet.template else "",
        other_sources=tuple(_other_sources(live, fleet)),
        running_jobs=sum(_count_running(live, queue) for queue in _queues(live, description)),
    )


def describe(live: Live, name: str) -> dict[str, Any]:
    """Return Batch's answer about the compute environment ``name``.

    Raises:
        ReleaseError: there is none.
    """
    found = live.call(
        "batch", "DescribeComputeEnvironments", f"read compute environment {name}", computeEnvironments=[name]
    )["computeEnvironments"]
    if not found:
        raise ReleaseError(
            f"there is no Batch compute environment {name!r} in environment {live.where}",
            hint="create it first (a release changes what is there), or correct batch_compute_environment",
        )
    description: dict[str, Any] = found[0]
    return description


def running_amis(live: Live, name: str) -> set[str]:
    """Return the AMIs of the hosts that run now; empty where none does, as with minvCpus 0 and no job."""
    cluster = describe(live, name).get("ecsClusterArn")
    doing = f"see the hosts of compute environment {name}"
    arns = live.pages("ecs", "ListContainerInstances", "containerInstanceArns", doing, cluster=cluster)
    hosts = []
    for start in range(0, len(arns), _HOSTS_A_CALL):
        batch = arns[start : start + _HOSTS_A_CALL]
        found = live.call("ecs", "DescribeContainerInstances", doing, cluster=cluster, containerInstances=batch)
        hosts += [host["ec2InstanceId"] for host in found["containerInstances"] if host["status"] == "ACTIVE"]
    if not hosts:
        return set()
    reservations = live.pages("ec2", "DescribeInstances", "Reservations", doing, InstanceIds=hosts)
    return {instance["ImageId"] for reservation in reservations for instance in reservation["Instances"]}


def _other_sources(live: Live, fleet: Fleet) -> Iterator[str]:
    if fleet.resources.get("imageId"):
        yield "imageId"
    for configuration in fleet.resources.get("ec2Configuration", []):
        if configuration.get("imageIdOverride"):
            yield f"ec2Configuration.imageIdOverride ({configuration['imageType']})"
    for override in fleet.template.get("overrides", []):
        if "ImageId" in _template_version(live, override)["LaunchTemplateData"]:
            yield f"launchTemplate.overrides ({', '.join(override.get('targetInstanceTypes', []))})"


def _template_version(live: Live, specification: Mapping[str, Any]) -> dict[str, Any]:
    """Return the version of a launch template that a specification of Batch means."""
    key = "LaunchTemplateId" if "launchTemplateId" in specification else "LaunchTemplateName"
    name = specification[f"l{key[1:]}"]
    (version,) = live.call(
        "ec2",
        "DescribeLaunchTemplateVersions",
        f"read launch template {name}",
        **{key: name, "Versions": [specification.get("version") or "$Default"]},
    )["LaunchTemplateVersions"]
    found: dict[str, Any] = version
    return found


def _queues(live: Live, description: Mapping[str, Any]) -> list[str]:
    queues = live.pages("batch", "DescribeJobQueues", "jobQueues", "see which queues the hosts serve")
    own = {description["computeEnvironmentArn"], description["computeEnvironmentName"]}
    return [
        queue["jobQueueName"]
        for queue in queues
        if any(one["computeEnvironment"] in own for one in queue.get("computeEnvironmentOrder", []))
    ]


def _count_running(live: Live, queue: str) -> int:
    doing = f"see which jobs run on queue {queue}"
    return len(live.pages("batch", "ListJobs", "jobSummaryList", doing, jobQueue=queue, jobStatus="RUNNING"))
