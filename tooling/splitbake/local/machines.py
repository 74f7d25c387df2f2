"""Instances as containers: systemd is process 1, sshd answers, nothing is published on the host.

A container needs ``SYS_ADMIN`` (systemd mounts its own cgroups and API file systems), ``NET_ADMIN`` (Docker inside has
networks of its own) and the default seccomp and AppArmor filters off, but never ``--privileged``: no devices of the
host, and a cgroup namespace of its own, in which ``recipes/instance/boot`` lets it write. That keeps accidents in, not
malice: root with ``SYS_ADMIN`` can become root of the machine. Seen to work on cgroup v1.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from splitbake.local.docker_roots import DockerRoots
from splitbake.local.engine import LABEL, labels
from splitbake.local.imds import Look
from splitbake.local.inside import Inside

#: Seconds that systemd gets to shut down before the container is killed.
STOP_TIMEOUT = 20


@dataclass(frozen=True)
class Boot:
    """What an instance is born with.

    Attributes:
        metadata: what its metadata service says: user data, public keys, role, all of it.
        devices: block device of this machine (``/dev/loop7``) -> its name in the instance (``/dev/sdf``).
    """

    metadata: Look
    devices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Machines:
    """The containers of one cloud that stand for EC2 instances.

    Attributes:
        inside: what they find in their own network.
        endpoint: where AWS is for what runs in an instance.
    """

    cloud_id: str
    network: str
    client: Any
    inside: Inside
    endpoint: str

    @property
    def docker_roots(self) -> DockerRoots:
        """What their own Docker holds."""
        return DockerRoots(self.cloud_id, self.client)

    def launch(self, instance_id: str, image: str, boot: Boot) -> str:
        """Start an instance from ``image`` and return its address."""
        container = self.client.containers.create(
            image,
            command=["/usr/lib/splitbake/boot"],
            name=self._name(instance_id),
            hostname=instance_id,
            labels=labels(self.cloud_id, instance=instance_id),
            network=self.network,
            environment={"AWS_ENDPOINT_URL": self.endpoint},
            sysctls={"net.ipv4.ip_forward": "1"},  # for the containers inside; /proc/sys is read-only in there
            devices=[f"{device}:{name}:rwm" for device, name in boot.devices.items()],
            cap_add=["SYS_ADMIN", "NET_ADMIN"],
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            cgroupns="private",
            mounts=[self.docker_roots.mount()],
            tmpfs={"/run": "mode=755", "/run/lock": "mode=1777", "/tmp": "exec,mode=1777"},  # noqa: S108
        )
        self.docker_roots.fill(container, image)
        container.start()
        return self._serve(instance_id, boot.metadata)

    def start(self, instance_id: str) -> str:
        """Start a stopped instance and return its address, which may be another one now."""
        self._get(instance_id).start()
        return self._serve(instance_id)

    def stop(self, instance_id: str) -> None:
        """Shut an instance down, its file system stays."""
        self._get(instance_id).stop(timeout=STOP_TIMEOUT)
        self.inside.close(instance_id)

    def restart(self, instance_id: str) -> str:
        """Reboot an instance and return its address."""
        self._get(instance_id).restart(timeout=STOP_TIMEOUT)
        return self._serve(instance_id)

    def remove(self, instance_id: str) -> None:
        """Remove an instance with its volumes; one that is gone already, or going, is fine."""
        import docker

        self.inside.forget(instance_id)
        try:
            self._get(instance_id).remove(force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as problem:
            if problem.status_code != 409:  # noqa: PLR2004 - conflict: somebody else removes it at this moment
                raise

    def commit(self, instance_id: str, ami_id: str) -> tuple[str, int]:
        """Make an image of an instance's file system; return its name and its bytes on disk."""
        repository = f"splitbake/{self.cloud_id}"
        changes = [f"LABEL {key}={value}" for key, value in labels(self.cloud_id, ami=ami_id).items()]
        container = self._get(instance_id)
        with _paused(container):
            carried = self.docker_roots.keep(container, f"{repository}:{ami_id}")
            image = container.commit(repository=repository, tag=ami_id, pause=False, changes=changes)
        return f"{repository}:{ami_id}", int(image.attrs["Size"]) + carried

    def forget(self, image: str) -> None:
        """Remove an image that :meth:`commit` made; instances that still run from it keep their layers."""
        import docker

        self.docker_roots.drop(image)
        try:
            self.client.images.remove(image, force=True)
        except docker.errors.ImageNotFound:
            return

    def address(self, instance_id: str) -> str:
        """Return the instance's address on the cloud's network, empty where it does not run."""
        return str(self._interface(instance_id)["IPAddress"])

    def mac_address(self, instance_id: str) -> str:
        """Return the hardware address of the instance's interface, empty where it does not run."""
        return str(self._interface(instance_id)["MacAddress"])

    def states(self) -> dict[str, bool]:
        """Return for each instance that has a container whether it runs now."""
        wanted = [f"{LABEL}={self.cloud_id}", "splitbake.instance"]
        found = self.client.api.containers(all=True, filters={"label": wanted})
        return {str(one["Labels"]["splitbake.instance"]): one["State"] == "running" for one in found}

    def wait_for_ssh(self, instance_id: str, address: str, *, within: float = 60.0) -> bool:
        """Wait until sshd greets at ``address``; False after ``within`` seconds or when the instance died."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            try:
                with socket.create_connection((address, 22), timeout=1) as connection:
                    if connection.recv(4) == b"SSH-":
                        return True
            except OSError:
                if not self.states().get(instance_id):
                    return False
            time.sleep(0.1)
        return False

    def _serve(self, instance_id: str, look: Look | None = None) -> str:
        """Open the metadata service of an instance that starts, and return its address."""
        container = self._get(instance_id)
        self.inside.open(instance_id, container.attrs["State"]["Pid"], look)
        return str(container.attrs["NetworkSettings"]["Networks"][self.network]["IPAddress"])

    def _interface(self, instance_id: str) -> Any:
        return self._get(instance_id).attrs["NetworkSettings"]["Networks"][self.network]

    def _get(self, instance_id: str) -> Any:
        return self.client.containers.get(self._name(instance_id))

    def _name(self, instance_id: str) -> str:
        return f"splitbake-{self.cloud_id}-{instance_id}"


@contextmanager
def _paused(container: Any) -> Iterator[None]:
    """Let a running container stand still, as CreateImage does with a running instance."""
    running = container.status == "running"
    if running:
        container.pause()
    try:
        yield
    finally:
        if running:
            container.unpause()
