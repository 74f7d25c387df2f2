"""The containers of builds.

A build with ``privilegedMode`` gets what an instance gets, and no more: the rights that a Docker of its own needs
(:mod:`splitbake.local.machines`), never Docker's ``--privileged``. Any other build is an ordinary container.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from splitbake.local import codebuild_image, engine, netns
from splitbake.local.containers import Containers
from splitbake.local.docker_roots import DockerRoots
from splitbake.local.imds import Metadata
from splitbake.local.inside import Inside
from splitbake.local.state import Cloud

#: Memory of the compute types ("Build environment compute modes and types"), GiB.
MEMORY: Final = {
    "BUILD_GENERAL1_SMALL": 4,
    "BUILD_GENERAL1_MEDIUM": 8,
    "BUILD_GENERAL1_LARGE": 16,
    "BUILD_GENERAL1_XLARGE": 72,
    "BUILD_GENERAL1_2XLARGE": 144,
}

#: Where the agent finds its order.
_FOLDER: Final = "codebuild"
#: CodeBuild's containers have no metadata service.
_NO_METADATA: Final = Metadata(tree={}, enabled=False)


class BuildContainers:
    """Creates, follows and removes the containers of builds."""

    def __init__(self, cloud: Cloud, client: Any) -> None:
        self._cloud = cloud
        self._client = client
        listen = partial(netns.listen, client=client, image=cloud.instance_image, labels=engine.labels(cloud.id))
        self._inside = Inside(listen, cloud.registry, engine.subnet(client, cloud))

    def create(self, uuid: str, compute: str, *, privileged: bool) -> Any:
        """Make the container of a build; it waits for its order once it is started.

        Raises:
            ToolError: its image cannot be made.
            docker.errors.DockerException: the engine refuses it.
        """
        rights: dict[str, Any] = {}
        if privileged:
            rights = {
                "sysctls": {"net.ipv4.ip_forward": "1"},
                "cap_add": ["SYS_ADMIN", "NET_ADMIN"],
                "security_opt": ["seccomp=unconfined", "apparmor=unconfined"],
                "cgroupns": "private",
                "mounts": [DockerRoots(self._cloud.id, self._client).mount()],
            }
        return self._client.containers.create(
            codebuild_image.ensure(self._client, self._cloud.instance_image),
            ["/usr/lib/splitbake/boot", "privileged" if privileged else "plain", f"/{_FOLDER}"],
            name=f"splitbake-{self._cloud.id}-build-{uuid}",
            hostname=uuid[:12],
            labels=engine.labels(self._cloud.id, build=uuid),
            network=self._cloud.network,
            init=True,
            mem_limit=f"{MEMORY[compute]}g",
            **rights,
        )

    def start(self, container: Any, uuid: str) -> None:
        """Start a container, with the registry in its network.

        Raises:
            docker.errors.DockerException: the engine cannot.
            OSError: its network cannot be entered.
        """
        container.start()
        container.reload()
        self._inside.open(uuid, container.attrs["State"]["Pid"], lambda: _NO_METADATA)

    def hand_over(self, container: Any, order: Mapping[str, Any], source: bytes | None) -> None:
        """Give a started container its order; ``source`` is a zip.

        Raises:
            docker.errors.DockerException: it does not run any more.
        """
        given = {"order.json": json.dumps(order).encode()} | ({} if source is None else {"source.zip": source})
        container.put_archive("/", _archive(given))
        container.put_archive("/", _archive({"go": b""}))

    def follow(self, container: Any) -> Iterator[list[tuple[int, str]]]:
        """Yield its lines as they come, each with its time (ms since 1970), until it ends."""
        return Containers.follow(container)

    def kill(self, container: Any) -> None:
        """Kill a container; one that ended by itself meanwhile is fine."""
        Containers.kill(container)

    def remove(self, container: Any, uuid: str) -> None:
        """Remove a container with its volumes, and what is served in its network."""
        import docker

        self._inside.forget(uuid)
        with suppress(docker.errors.NotFound):
            container.remove(force=True, v=True)


def _archive(contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folder = tarfile.TarInfo(_FOLDER)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(folder)
        for name, content in contents.items():
            header = tarfile.TarInfo(f"{_FOLDER}/{name}")
            header.size, header.mode = len(content), 0o600
            tar.addfile(header, io.BytesIO(content))
    return buffer.getvalue()
