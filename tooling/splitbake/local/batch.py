"""Batch's books as AWS keeps them: compute environments that are updated and validated, job definitions that are safe.

No instance is started for a compute environment: a job's container stands for the instance and the task at once.
"""

from __future__ import annotations

import time
from typing import Any

from moto.batch.exceptions import ClientException
from moto.batch.models import BatchBackend, ComputeEnvironment, JobDefinition
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.iam.exceptions import NotFoundException
from moto.iam.models import SERVICE_NAME_CONVERSION, iam_backends

from splitbake.local.amis import Amis
from splitbake.local.disks import DiskError
from splitbake.local.hooks import Hook, around
from splitbake.local.hosts import Host, HostError, Hosts
from splitbake.local.volumes import Volumes

#: Strategies with which AWS updates a compute environment in place (Batch user guide, infrastructure updates).
UPDATABLE = {
    "BEST_FIT_PROGRESSIVE",
    "BEST_FIT_PROGRESSIVE_ORDERED",
    "SPOT_CAPACITY_OPTIMIZED",
    "SPOT_CAPACITY_OPTIMIZED_PRIORITIZED",
    "SPOT_PRICE_CAPACITY_OPTIMIZED",
}
#: Members of computeResources that only scale; all others make it an infrastructure update.
SCALING = {"minvCpus", "maxvCpus", "desiredvCpus"}
#: Seconds that an infrastructure update stays in UPDATING here (minutes on AWS).
UPDATE_SECONDS = 1.0


def install(amis: Amis, volumes: Volumes, hosts: Hosts) -> Environments:
    """Hook the calls on compute environments, queues and job definitions; return the environments for the jobs."""
    SERVICE_NAME_CONVERSION["batch"] = "Batch"  # moto would call the service-linked role AWSServiceRoleForbatch
    environments = Environments(amis, volumes, hosts)
    around(BatchBackend, "create_compute_environment", environments.create)
    around(BatchBackend, "update_compute_environment", environments.update)
    around(BatchBackend, "describe_compute_environments", environments.describe)
    around(BatchBackend, "delete_compute_environment", delete_environment)
    around(BatchBackend, "create_job_queue", create_queue)
    around(BatchBackend, "update_job_queue", update_queue)
    around(BatchBackend, "register_job_definition", register)
    around(BatchBackend, "get_job_definition", latest_active)
    return environments


class Environments:
    """The compute environments: which host they would boot, and whether they can."""

    def __init__(self, amis: Amis, volumes: Volumes, hosts: Hosts) -> None:
        self._amis = amis
        self._volumes = volumes
        self._hosts = hosts
        self._updating: dict[str, float] = {}
        self._versions: dict[str, int] = {}

    def create(
        self,
        proceed: Hook,
        backend: Any,
        *,
        compute_environment_name: str,
        _type: str,
        state: str,
        compute_resources: dict[str, Any] | None,
        service_role: str,
        tags: dict[str, str] | None = None,
    ) -> ComputeEnvironment:
        """CreateComputeEnvironment; without a role it gets Batch's service-linked one."""
        asked = dict(compute_resources or {})
        booked = asked | {"desiredvCpus": 0, "minvCpus": asked.get("minvCpus", 0)} if asked else None
        environment: ComputeEnvironment = proceed(
            compute_environment_name, _type, state or "ENABLED", booked, service_role or _linked_role(backend), tags
        )
        environment.compute_resources = {"minvCpus": 0, "desiredvCpus": asked.get("minvCpus", 0)} | asked
        self._choose_version(backend, environment)
        return environment

    def update(
        self,
        proceed: Hook,
        backend: Any,
        *,
        compute_environment_name: str,
        state: str | None,
        compute_resources: dict[str, Any] | None,
        service_role: str | None,
    ) -> tuple[str, str]:
        """UpdateComputeEnvironment: given members replace the old ones whole, so overrides left out are unset."""
        environment = _environment(backend, compute_environment_name)
        if self._is_updating(environment):
            raise ClientException(f"{environment.name} is already being modified")
        given = dict(compute_resources or {})
        given.pop("updateToLatestImageVersion", None)
        infrastructure = {name for name in given if name not in SCALING}
        if infrastructure:
            _check_updatable(environment, given)
        answer: tuple[str, str] = proceed(compute_environment_name, state, None, service_role)
        environment.compute_resources = environment.compute_resources | given
        if infrastructure:
            self._choose_version(backend, environment)
            self._updating[environment.arn] = time.monotonic() + UPDATE_SECONDS
        return answer

    def describe(self, proceed: Hook, backend: Any, environments: list[str] | None = None) -> list[dict[str, Any]]:
        """DescribeComputeEnvironments, with the status that the host's template and AMI give it now."""
        found: list[dict[str, Any]] = proceed(environments)
        for one in found:
            environment = backend.get_compute_environment_by_arn(one["computeEnvironmentArn"])
            one["status"], one["statusReason"] = self.status(backend, environment)
        return found

    def status(self, backend: Any, environment: ComputeEnvironment) -> tuple[str, str]:
        """Return status and reason of an environment."""
        if self._is_updating(environment):
            return "UPDATING", "ComputeEnvironment is updating"
        if environment.env_type == "MANAGED":
            try:
                self.ami(backend, environment)
            except ClientException as problem:
                return "INVALID", f"CLIENT_ERROR - {problem.message}"
        return "VALID", "ComputeEnvironment Healthy"

    def ami(self, backend: Any, environment: ComputeEnvironment) -> str:
        """Return the AMI that the environment's hosts boot.

        AWS's documents contradict each other on which of several sources wins, so more than one is an error here.

        Raises:
            ClientException: the launch template or the AMI is missing, or there are several AMI sources.
        """
        resources = environment.compute_resources
        ec2 = ec2_backends[backend.account_id][backend.region_name]
        sources = {one["imageIdOverride"] for one in resources.get("ec2Configuration", []) if "imageIdOverride" in one}
        sources |= {resources["imageId"]} if resources.get("imageId") else set()
        template = self._template_data(ec2, environment)
        sources |= {template["ImageId"]} if template.get("ImageId") else set()
        if len(sources) > 1:
            raise ClientException(f"The AMI is named in several places: {', '.join(sorted(sources))}")
        ami = sources.pop() if sources else _default_ami(backend)
        try:
            self._amis.image(ec2, ami)
        except EC2ClientError as problem:
            raise ClientException(f"AMI cannot be described: {problem.message}") from problem
        return str(ami)

    def host(self, backend: Any, environment: ComputeEnvironment) -> Host:
        """Return what the jobs of an environment run on.

        Raises:
            ClientException: its instances do not start, or do not join the cluster.
        """
        name = self.ami(backend, environment)
        ec2 = ec2_backends[backend.account_id][backend.region_name]
        asked = self._template_data(ec2, environment).get("BlockDeviceMappings", [])
        try:
            image = self._amis.image(ec2, name)
            volumes = self._volumes.plan(ec2, self._amis.usable(ec2, name), asked)
            data = [one.snapshot.id for one in volumes if one.snapshot and not one.root]
            return Host(name, image, environment.name, self._hosts.mounts(image, data))
        except EC2ClientError as problem:
            raise ClientException(f"No instance starts: {problem.message}") from problem
        except (HostError, DiskError) as problem:
            raise ClientException(f"No instance joins the cluster: {problem}") from problem

    def _template_data(self, ec2: Any, environment: ComputeEnvironment) -> dict[str, Any]:
        """Return the data of the launch template's version that was in force at the last infrastructure update.

        Raises:
            ClientException: there is no such version any more.
        """
        template = environment.compute_resources.get("launchTemplate")
        if not template:
            return {}
        try:
            version = _template(ec2, template).get_version(self._versions.get(environment.arn, -1))
        except EC2ClientError as problem:
            raise ClientException(f"Launch template cannot be described: {problem.message}") from problem
        return dict(version.data)

    def _is_updating(self, environment: ComputeEnvironment) -> bool:
        return time.monotonic() < self._updating.get(environment.arn, 0.0)

    def _choose_version(self, backend: Any, environment: ComputeEnvironment) -> None:
        """Fix ``$Default`` and ``$Latest`` now: Batch looks at them at creation and infrastructure updates only."""
        self._versions.pop(environment.arn, None)
        if template := environment.compute_resources.get("launchTemplate"):
            try:
                found = _template(ec2_backends[backend.account_id][backend.region_name], template)
                version = found.get_version(template.get("version") or "$Default")
            except EC2ClientError:
                return  # the status says so
            self._versions[environment.arn] = version.number


def delete_environment(proceed: Hook, backend: Any, compute_environment_name: str) -> None:
    """DeleteComputeEnvironment: refused while it is enabled or a queue uses it."""
    environment = backend.get_compute_environment(compute_environment_name)
    if environment is not None and environment.state != "DISABLED":
        raise ClientException("Cannot delete, compute environment state must be DISABLED")
    if any(environment in queue.environments for queue in backend._job_queues.values()):
        raise ClientException("Cannot delete, found existing JobQueue relationship")
    proceed(compute_environment_name)


def create_queue(proceed: Hook, backend: Any, *, state: str | None, **given: Any) -> Any:
    """CreateJobQueue: enabled unless it says otherwise (moto: the state is required)."""
    return proceed(state=state or "ENABLED", **given)


def update_queue(
    proceed: Hook,
    backend: Any,
    *,
    queue_name: str,
    priority: str | None,
    state: str | None,
    compute_env_order: list[dict[str, Any]] | None,
    schedule_policy: str | None,
) -> tuple[str, str]:
    """UpdateJobQueue: environments by name or ARN (moto: ARN only)."""
    order = [
        one | {"computeEnvironment": _environment(backend, one["computeEnvironment"]).arn}
        for one in compute_env_order or []
    ]
    answer: tuple[str, str] = proceed(queue_name, priority, state, order or None, schedule_policy)
    return answer


def register(proceed: Hook, backend: Any, **given: Any) -> JobDefinition:
    """RegisterJobDefinition: nothing is inherited from the revision before; nothing that reaches the host gets in."""
    if given["_type"] != "container" or given["container_properties"] is None:
        raise ClientException("The local cloud runs job definitions of type container on EC2 only.")
    _check_safe(given["container_properties"])
    given |= {"parameters": given["parameters"] or {}, "retry_strategy": given["retry_strategy"] or {}}
    definition: JobDefinition = proceed(**given)
    definition.platform_capabilities = given["platform_capabilities"] or ["EC2"]
    definition.propagate_tags = given["propagate_tags"] or False
    return definition


def latest_active(proceed: Hook, backend: Any, identifier: str) -> JobDefinition | None:
    """Find what SubmitJob names: a bare name is its latest ACTIVE revision (Batch API model)."""
    known = backend._job_definitions.values()
    if ":" not in identifier:
        revisions = [one for one in known if one.name == identifier and one.status == "ACTIVE"]
        return max(revisions, key=lambda one: int(one.revision), default=None)
    definition: JobDefinition | None = proceed(identifier)
    if definition is not None and definition.status != "ACTIVE":
        raise ClientException(f"Job definition {identifier} is not ACTIVE")
    return definition


def _check_safe(container: dict[str, Any]) -> None:
    """Refuse what would give a job more than a container has.

    Raises:
        ClientException: says which member of ``containerProperties`` is refused.
    """
    if container.get("privileged"):
        raise ClientException("privileged: the local cloud refuses privileged containers: they would own your machine.")
    if container.get("linuxParameters", {}).get("devices"):
        raise ClientException("linuxParameters.devices: the local cloud does not hand out devices of your machine.")
    if container.get("secrets"):
        raise ClientException("secrets: not offered by the local cloud; pass a parameter name and read it in the job.")
    for volume in container.get("volumes", []):
        if not volume.get("host", {}).get("sourcePath", "").startswith("/"):
            raise ClientException(f"volumes: {volume.get('name')} needs host.sourcePath, an absolute path on the AMI.")
    known = {volume["name"] for volume in container.get("volumes", [])}
    for mount in container.get("mountPoints", []):
        if mount.get("sourceVolume") not in known:
            raise ClientException(f"mountPoints: there is no volume {mount.get('sourceVolume')}.")


def _check_updatable(environment: ComputeEnvironment, given: dict[str, Any]) -> None:
    strategy = given.get("allocationStrategy") or environment.compute_resources.get("allocationStrategy", "BEST_FIT")
    if strategy not in UPDATABLE:
        raise ClientException(f"An infrastructure update needs another allocation strategy than {strategy}.")
    if "AWSServiceRoleForBatch" not in environment.service_role:
        raise ClientException("An infrastructure update needs the service-linked role AWSServiceRoleForBatch.")


def _environment(backend: Any, identifier: str) -> ComputeEnvironment:
    environment: ComputeEnvironment | None = backend.get_compute_environment(identifier)
    if environment is None:
        raise ClientException(f"Compute environment {identifier} does not exist")
    return environment


def _template(ec2: Any, template: dict[str, Any]) -> Any:
    if name := template.get("launchTemplateName"):
        return ec2.get_launch_template_by_name(name)
    return ec2.get_launch_template(template.get("launchTemplateId"))


def _linked_role(backend: Any) -> str:
    """Return the ARN of Batch's service-linked role; AWS makes it with the first compute environment."""
    iam = iam_backends[backend.account_id][backend.partition]
    try:
        role = iam.get_role("AWSServiceRoleForBatch")
    except NotFoundException:
        role = iam.create_service_linked_role("batch.amazonaws.com", "", "")
    return str(role.arn)


def _default_ami(backend: Any) -> str:
    """Return what Batch boots where nothing names an AMI: the recommended ECS GPU one."""
    from moto.ssm.models import ssm_backends

    name = "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"
    parameters = ssm_backends[backend.account_id][backend.region_name]
    parameter = parameters.get_parameter(name)
    if parameter is None:
        raise ClientException(f"AMI cannot be described: AWS publishes no {name} in {backend.region_name}")
    return str(parameter.value)
