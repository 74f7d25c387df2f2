"""Instances as containers: systemd is process 1, sshd answers, nothing is published on the host.

A container needs ``SYS_ADMIN`` (systemd mounts its own cgroups and API file systems) and the default seccomp and
AppArmor filters off, but never ``--privileged``: no devices of the host, and a cgroup namespace of its own. That keeps
accidents in, not malice: root with ``SYS_ADMIN`` can become root of the machine. Seen to work on cgroup v1; for v2
``recipes/instance/boot`` makes the container's own cgroup tree writable.
"""

from __future__ import annotations

import io
import socket
import tarfile
import time
from dataclasses import dataclass
from typing import Any

from splitbake.local.engine import LABEL, labels

#: Where cloud-init's NoCloud source looks for its seed; ``recipes/instance/boot`` reads it.
_SEED = "var/lib/cloud/seed/nocloud"

#: Seconds that systemd gets to shut down before the container is killed.
STOP_TIMEOUT = 20


@dataclass(frozen=True)
class Machines:
    """The containers of one cloud that stand for EC2 instances."""

    cloud_id: str
    network: str
    client: Any

    def launch(self, instance_id: str, image: str, public_keys: list[str]) -> str:
        """Start an instance from ``image`` and return its address."""
        container = self.client.containers.create(
            image,
            command=["/usr/lib/splitbake/boot"],
            name=self._name(instance_id),
            hostname=instance_id,
            labels=labels(self.cloud_id, instance=instance_id),
            network=self.network,
            cap_add=["SYS_ADMIN"],
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            cgroupns="private",
            tmpfs={"/run": "mode=755", "/run/lock": "mode=1777", "/tmp": "exec,mode=1777"},  # noqa: S108
        )
        seed = {"instance-id": f"{instance_id}\n", "public-keys": "".join(f"{key}\n" for key in public_keys)}
        container.put_archive("/", _tar({f"{_SEED}/{name}": text for name, text in seed.items()}))
        container.start()
        return self.address(instance_id)

    def start(self, instance_id: str) -> str:
        """Start a stopped instance and return its address, which may be another one now."""
        self._get(instance_id).start()
        return self.address(instance_id)

    def stop(self, instance_id: str) -> None:
        """Shut an instance down, its file system stays."""
        self._get(instance_id).stop(timeout=STOP_TIMEOUT)

    def restart(self, instance_id: str) -> str:
        """Reboot an instance and return its address."""
        self._get(instance_id).restart(timeout=STOP_TIMEOUT)
        return self.address(instance_id)

    def remove(self, instance_id: str) -> None:
        """Remove an instance with its volumes; one that is gone already, or going, is fine."""
        import docker

        try:
            self._get(instance_id).remove(force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as problem:
            if problem.status_code != 409:  # noqa: PLR2004 - conflict: somebody else removes it at this moment
                raise

    def commit(self, instance_id: str, ami_id: str) -> tuple[str, int]:
        """Make an image of an instance's file system; return its name and its bytes on disk."""
        changes = [f"LABEL {key}={value}" for key, value in labels(self.cloud_id, ami=ami_id).items()]
        repository = f"splitbake/{self.cloud_id}"
        image = self._get(instance_id).commit(repository=repository, tag=ami_id, pause=True, changes=changes)
        return f"{repository}:{ami_id}", int(image.attrs["Size"])

    def forget(self, image: str) -> None:
        """Remove an image that :meth:`commit` made; instances that still run from it keep their layers."""
        import docker

        try:
            self.client.images.remove(image, force=True)
        except docker.errors.ImageNotFound:
            return

    def address(self, instance_id: str) -> str:
        """Return the instance's address on the cloud's network, empty where it does not run."""
        networks = self._get(instance_id).attrs["NetworkSettings"]["Networks"]
        return str(networks[self.network]["IPAddress"])

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

    def _get(self, instance_id: str) -> Any:
        return self.client.containers.get(self._name(instance_id))

    def _name(self, instance_id: str) -> str:
        return f"splitbake-{self.cloud_id}-{instance_id}"


def _tar(files: dict[str, str]) -> bytes:
    """Return a tar of ``files`` with their folders, owned by root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, text in files.items():
            parts = path.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = tarfile.TarInfo("/".join(parts[:depth]))
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(folder)
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text.encode()), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()
