"""The containers of Batch jobs.

The host paths that a job mounts are those of the AMI its compute environment boots, with its data volumes mounted. What
is on such a volume is bound from there, read-only; of the root volume Docker copies the AMI image's content at that
path into a named volume (once an AMI and path), and the job gets that one. No path of this machine is ever mounted. A
GPU requirement is met where Docker has the NVIDIA runtime; elsewhere the job runs without one, and the first line of
its log says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import PurePosixPath
from threading import Lock
from typing import Any

from splitbake.local.disks import DiskError
from splitbake.local.engine import labels
from splitbake.local.hosts import Host, Hosts
from splitbake.local.registry import USER
from splitbake.local.state import Cloud

NO_GPU = "local cloud: this machine offers no GPU to containers; the job runs without the {count} it asks for"
_PARAMETER = re.compile(r"Ref::([A-Za-z0-9_-]+)")


class JobFailedError(Exception):
    """The container could not be run; the text is the job's reason, in the words of ECS."""


@dataclass(frozen=True)
class JobSpec:
    """What a job asks for: its definition with the overrides of SubmitJob laid over it.

    Attributes:
        requirements: ``resourceRequirements``; MEMORY in MiB is a hard limit, VCPU a share.
        container: the definition's ``containerProperties``, for the rest.
        account: whose job it is; with ``region`` it decides which credentials a role gives.
    """

    image: str
    command: list[str]
    environment: dict[str, str]
    volumes: list[dict[str, Any]]
    mount_points: list[dict[str, Any]]
    requirements: list[dict[str, str]]
    container: dict[str, Any]
    queue: str
    array_index: int | None
    account: str
    region: str

    @classmethod
    def of(cls, job: Any) -> JobSpec:
        """Read moto's job."""
        container, overrides = job.job_definition.container_properties, job.container_overrides
        command = overrides.get("command") or container.get("command", [])
        needs: dict[str, str] = {}
        for source in (container, overrides):
            old = {"VCPU": source.get("vcpus"), "MEMORY": source.get("memory")}
            needs |= {kind: str(value) for kind, value in old.items() if value}
            needs |= {one["type"]: str(one["value"]) for one in source.get("resourceRequirements", [])}
        return cls(
            image=container["image"],
            command=[substitute(part, job.parameters) for part in command],
            environment=_pairs(container) | _pairs(overrides),
            volumes=container.get("volumes", []),
            mount_points=container.get("mountPoints", []),
            requirements=[{"type": kind, "value": value} for kind, value in needs.items()],
            container=container,
            queue=job.job_queue.name,
            array_index=job.array_properties.get("index"),
            account=job.backend.account_id,
            region=job.backend.region_name,
        )

    def requirement(self, kind: str) -> float | None:
        """Return the amount of ``MEMORY`` (MiB), ``VCPU`` or ``GPU`` it asks for."""
        return next((float(one["value"]) for one in self.requirements if one["type"] == kind), None)


class Containers:
    """Creates, follows and removes the containers of jobs."""

    def __init__(self, cloud: Cloud, client: Any, hosts: Hosts) -> None:
        self._cloud = cloud
        self._client = client
        self._hosts = hosts
        self._of: dict[str, Host] = {}
        self._volumes = Lock()

    def create(self, job_id: str, spec: JobSpec, host: Host, attempt: int) -> tuple[Any, list[str]]:
        """Make the container of one attempt, not started yet; return it with notes for the job's log.

        Raises:
            JobFailedError: the image cannot be pulled, or the container cannot be made.
        """
        import docker

        self._pull(spec.image)
        gpus, notes = self._gpus(spec)
        try:
            self._hosts.enter(host)
        except (DiskError, docker.errors.APIError) as problem:
            text = getattr(problem, "explanation", None) or problem
            raise JobFailedError(f"CannotCreateContainerError: {text}") from problem
        try:
            container = self._client.containers.create(
                spec.image,
                spec.command or None,
                name=f"splitbake-{self._cloud.id}-job-{job_id.replace(':', '-')}-{attempt}",
                labels=labels(self._cloud.id, job=job_id),
                environment=spec.environment | self._environment(job_id, spec, host, attempt),
                network=self._cloud.network,
                mounts=self._mounts(spec, host),
                device_requests=gpus,
                **_limits(spec),
            )
        except docker.errors.APIError as problem:
            self._hosts.leave(host)
            raise JobFailedError(f"CannotCreateContainerError: {problem.explanation}") from problem
        except BaseException:
            self._hosts.leave(host)
            raise
        self._of[container.id] = host
        return container, notes

    def start(self, container: Any) -> None:
        """Start a container.

        Raises:
            JobFailedError: its command does not exist, or the engine refuses it.
        """
        import docker

        try:
            container.start()
        except docker.errors.APIError as problem:
            raise JobFailedError(f"CannotStartContainerError: {problem.explanation}") from problem

    @staticmethod
    def follow(container: Any) -> Iterator[list[tuple[int, str]]]:
        """Yield the lines of a container as they come, each with its time (ms since 1970), until it ends."""
        moment, line = 0, b""
        for part in container.logs(stream=True, follow=True, timestamps=True):
            stamp, _, text = part.partition(b" ")  # Docker parts lines over 16 KiB, and stamps each part
            moment = moment if line else _milliseconds(stamp.decode())
            line += text
            if line.endswith(b"\n"):
                yield [(moment, _text(line))]
                line = b""
        if line:
            yield [(moment, _text(line))]

    def outcome(self, container: Any) -> tuple[int, str]:
        """Wait for the end of a container; return its exit code and, where memory killed it, that reason."""
        exit_code = int(container.wait()["StatusCode"])
        container.reload()
        killed = container.attrs["State"]["OOMKilled"]
        return exit_code, "OutOfMemoryError: Container killed due to memory usage" if killed else ""

    @staticmethod
    def kill(container: Any) -> None:
        """Kill a container; one that ended by itself meanwhile is fine."""
        import docker

        try:
            container.kill()
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as problem:
            if problem.status_code != 409:  # noqa: PLR2004 - conflict: it does not run
                raise

    def remove(self, container: Any) -> None:
        """Remove a container with its anonymous volumes, and with the last one what its host has mounted."""
        import docker

        with suppress(docker.errors.NotFound):
            container.remove(force=True, v=True)
        self._hosts.leave(self._of.pop(container.id))

    def _pull(self, image: str) -> None:
        import docker

        login = {"username": USER, "password": self._cloud.registry_password}
        ours = image.startswith(f"{self._cloud.registry}/")
        try:
            self._client.images.pull(image, auth_config=login if ours else None)
        except docker.errors.APIError as problem:
            raise JobFailedError(f"CannotPullContainerError: {problem.explanation}") from problem

    def _environment(self, job_id: str, spec: JobSpec, host: Host, attempt: int) -> dict[str, str]:
        """Return what Batch sets, and where AWS is; with a jobRoleArn also the credentials that the role would give.

        Without one nothing of AWS itself may answer: neither its endpoints nor the metadata of a host that is on EC2.
        """
        aws = self._cloud.environment(spec.account, spec.region)
        given = {
            "AWS_BATCH_JOB_ID": job_id,
            "AWS_BATCH_JOB_ATTEMPT": str(attempt),
            "AWS_BATCH_JQ_NAME": spec.queue,
            "AWS_BATCH_CE_NAME": host.environment,
        }
        if spec.array_index is not None:
            given["AWS_BATCH_JOB_ARRAY_INDEX"] = str(spec.array_index)
        if spec.container.get("jobRoleArn"):
            return given | aws
        return given | {name: aws[name] for name in ("AWS_ENDPOINT_URL", "AWS_EC2_METADATA_DISABLED")}

    def _gpus(self, spec: JobSpec) -> tuple[list[Any], list[str]]:
        import docker

        count = int(spec.requirement("GPU") or 0)
        if not count:
            return [], []
        if "nvidia" not in self._client.info().get("Runtimes", {}):
            return [], [NO_GPU.format(count=count)]
        return [docker.types.DeviceRequest(count=count, capabilities=[["gpu"]])], []

    def _mounts(self, spec: JobSpec, host: Host) -> list[Any]:
        paths = {volume["name"]: volume["host"]["sourcePath"] for volume in spec.volumes}
        return [
            mount for point in spec.mount_points for mount in self._mounted(host, paths[point["sourceVolume"]], point)
        ]

    def _mounted(self, host: Host, path: str, point: dict[str, Any]) -> Iterator[Any]:
        """Yield the mounts of one mount point: of the root volume, with data volumes in it, or of a data volume."""
        import docker

        real, volumes = self._hosts.locate(host, path)
        if PurePosixPath() not in volumes:
            source, read_only = self._volume(host, str(real)), bool(point.get("readOnly"))
            yield docker.types.Mount(point["containerPath"], source, type="volume", read_only=read_only, no_copy=True)
        for below, source in volumes.items():
            target = str(PurePosixPath(point["containerPath"]) / below)
            yield docker.types.Mount(target, source, type="bind", read_only=True)

    def _volume(self, host: Host, path: str) -> str:
        """Return the volume with what ``path`` holds on the AMI; made at its first use."""
        import docker

        name = f"splitbake-{self._cloud.id}-{host.ami}-{sha256(path.encode()).hexdigest()[:12]}"
        with self._volumes:
            try:
                return str(self._client.volumes.get(name).name)
            except docker.errors.NotFound:
                volume = self._client.volumes.create(name, labels=labels(self._cloud.id, ami=host.ami, path=path))
            try:
                # Docker copies the image's content into an empty volume when the container is created.
                content = docker.types.Mount(target=path, source=name, type="volume")
                self._client.containers.create(
                    host.image, mounts=[content], labels=labels(self._cloud.id, ami=host.ami)
                ).remove()
            except BaseException:  # a volume that is there counts as filled
                volume.remove(force=True)
                raise
        return name


def substitute(part: str, parameters: dict[str, str]) -> str:
    """Replace ``Ref::name`` by the parameter's value; an unknown name stays as it is."""
    return _PARAMETER.sub(lambda found: parameters.get(found[1], found[0]), part)


def _limits(spec: JobSpec) -> dict[str, Any]:
    """Translate limits and options of ``containerProperties`` for Docker."""
    linux = spec.container.get("linuxParameters", {})
    options: dict[str, Any] = {
        "mem_limit": f"{int(spec.requirement('MEMORY') or 512)}m",
        "cpu_shares": int(1024 * (spec.requirement("VCPU") or 1)),
        "read_only": bool(spec.container.get("readonlyRootFilesystem")),
        "user": spec.container.get("user"),
        "init": bool(linux.get("initProcessEnabled")),
        "shm_size": f"{linux['sharedMemorySize']}m" if linux.get("sharedMemorySize") else None,
        "ulimits": [
            {"Name": one["name"], "Soft": one["softLimit"], "Hard": one["hardLimit"]}
            for one in spec.container.get("ulimits", [])
        ],
        "tmpfs": {
            one["containerPath"]: ",".join([f"size={one['size']}m", *one.get("mountOptions", [])])
            for one in linux.get("tmpfs", [])
        },
    }
    return {name: value for name, value in options.items() if value}


def _pairs(source: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in source.get("environment", [])}


def _milliseconds(stamp: str) -> int:
    """Read a time stamp of Docker, which has nanoseconds."""
    return int(datetime.fromisoformat(re.sub(r"\.(\d{6})\d*Z$", r".\1+00:00", stamp)).timestamp() * 1000)


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r\n")
