"""The ``/var/lib/docker`` of instances: a Docker volume each, which an AMI carries along.

Docker needs a file system of its own there: overlayfs does not lie on overlayfs, and with the ``vfs`` driver folders
of an image cannot be renamed, as dockerd does when it starts. What is in a volume is not part of a committed image,
so the images that were pulled on a builder are kept in a second volume beside its AMI.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from splitbake.local.engine import labels

PATH = "/var/lib/docker"
#: What Docker inside knows of images; it has this size where it knows none: ``{"Repositories":{}}``.
_KNOWN, _NONE = f"{PATH}/image/overlay2/repositories.json", 19


@dataclass(frozen=True)
class DockerRoots:
    """The Docker volumes of one cloud's instances and AMIs."""

    cloud_id: str
    client: Any

    def mount(self) -> Any:
        """Return the mount of a new instance; the volume goes with the container, or is found by its label."""
        import docker

        return docker.types.Mount(PATH, None, type="volume", labels=labels(self.cloud_id))

    def fill(self, container: Any, image: str) -> None:
        """Give a new instance what is kept beside the image that it is made from."""
        import docker

        try:
            kept = self.client.volumes.get(_name(image))
        except docker.errors.NotFound:
            return
        self._run(container, kept.name, f"cp -a /kept/. {PATH}/")

    def keep(self, container: Any, image: str) -> int:
        """Keep what the Docker of an instance holds beside an ``image`` of it; return its bytes."""
        if not _has_images(container):
            return 0
        kept = self.client.volumes.create(_name(image), labels=labels(self.cloud_id, image=image))
        return int(self._run(container, kept.name, f"cp -a {PATH}/. /kept/ && du -sk /kept | cut -f 1")) * 1024

    def drop(self, image: str) -> None:
        """Remove what is kept beside an image that goes."""
        import docker

        try:
            self.client.volumes.get(_name(image)).remove(force=True)
        except docker.errors.NotFound:
            return

    def _run(self, container: Any, kept: str, script: str) -> bytes:
        import docker

        said: bytes = self.client.containers.run(
            container.image.id,
            ["sh", "-c", script],
            labels=labels(self.cloud_id),
            mounts=[docker.types.Mount("/kept", kept, type="volume", no_copy=True)],
            volumes_from=[container.id],
            cap_add=["SYS_ADMIN"],  # overlay's marks are attributes that only an administrator may copy
            network_mode="none",
            remove=True,
        )
        return said


def _has_images(container: Any) -> bool:
    import docker

    try:
        _, facts = container.get_archive(_KNOWN)
    except docker.errors.NotFound:  # it never ran
        return False
    return int(facts["size"]) > _NONE


def _name(image: str) -> str:
    return f"{image.replace('/', '-').replace(':', '-')}-docker"
