"""What is in a snapshot: of a root volume a Docker image, of a data volume a file that nobody writes to any more."""

from __future__ import annotations

import copy
from threading import Lock
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.elastic_block_store import Snapshot, Volume
from moto.ec2.responses.elastic_block_store import ElasticBlockStore
from moto.ec2.utils import random_snapshot_id

from splitbake.local.disks import DiskError, Disks
from splitbake.local.hooks import Hook, around
from splitbake.local.machines import Machines
from splitbake.local.volumes import check_data, no_room


class Snapshots:
    """The contents of all snapshots; a copy shares them with its source, and either may go first."""

    def __init__(self, disks: Disks, machines: Machines, base_image: str) -> None:
        self._disks = disks
        self._machines = machines
        self._base_image = base_image
        self._images: dict[str, str] = {}
        self._lock = Lock()

    def install(self) -> None:
        """Hook the snapshot calls."""
        around(ElasticBlockStore, "create_snapshot", self.create)
        around(ElasticBlockStore, "delete_snapshot", self.delete)

    def image(self, snapshot: Snapshot) -> str | None:
        """Return the Docker image in a snapshot of a root volume; None while it is pending."""
        return self._images.get(snapshot.id)

    def put_image(self, snapshot: Snapshot, image: str | None = None) -> None:
        """Put a Docker image, by default that of the bases, into a snapshot of a root volume."""
        with self._lock:
            self._images[snapshot.id] = image or self._base_image

    def put_disk(self, snapshot: Any, volume_id: str) -> None:
        """Put what a data volume holds now into a snapshot, as after a power cut: nothing in memory is lost to it.

        Raises:
            DiskError: the disk of this machine is full, or its loop device cannot be reached.
        """
        self._disks.flush(volume_id)
        self._disks.copy(volume_id, snapshot.id, snapshot.volume.size)
        snapshot.full_snapshot_size_in_bytes = self._disks.used(snapshot.id)
        snapshot.status = "completed"

    def share(self, source: Any, snapshot: Any) -> None:
        """Let a copy of a snapshot have the same content.

        Raises:
            DiskError: the file cannot have a second name.
        """
        if self._disks.has(source.id):
            self._disks.link(source.id, snapshot.id)
        else:
            self.put_image(snapshot, self.image(source))
        if size := getattr(source, "full_snapshot_size_in_bytes", None):  # those of Amazon do not tell
            snapshot.full_snapshot_size_in_bytes = size

    def create(self, proceed: Hook, response: Any) -> ActionResult:
        """CreateSnapshot: told as ``pending``; the bytes are those of the moment of the call."""
        response.error_on_dryrun()
        backend = response.ec2_backend
        volume = backend.get_volume(response._get_param("VolumeId"))
        check_data(volume.id, self._disks)
        snapshot: Any = booked(backend, volume, response._get_param("Description"))
        snapshot.add_tags(response._parse_tag_specification().get("snapshot", {}))
        try:
            self.put_disk(snapshot, volume.id)
        except DiskError as problem:
            del backend.snapshots[snapshot.id]
            raise no_room(problem) from problem
        told = copy.copy(snapshot)
        told.status = "pending"
        return ActionResult(told)

    def delete(self, proceed: Hook, response: Any) -> Any:
        """DeleteSnapshot: refused while an AMI uses it; volumes made from it stay."""
        answer = proceed()
        self._forget(response._get_param("SnapshotId"))
        return answer

    def delete_with_ami(self, backend: Any, snapshots: list[Snapshot]) -> list[dict[str, str]]:
        """Delete what DeregisterImage was asked to; return its ``DeleteSnapshotResults``."""
        for snapshot in snapshots:
            backend.delete_snapshot(snapshot.id)
            self._forget(snapshot.id)
        return [{"SnapshotId": snapshot.id, "ReturnCode": "success"} for snapshot in snapshots]

    def _forget(self, snapshot_id: str) -> None:
        self._disks.remove(snapshot_id)
        with self._lock:
            image = self._images.pop(snapshot_id, self._base_image)
            if image != self._base_image and image not in self._images.values():
                self._machines.forget(image)


def booked(backend: Any, volume: Volume, description: str, from_ami: str | None = None) -> Snapshot:
    """Enter a pending snapshot of a volume into the books."""
    snapshot: Any = Snapshot(
        backend,
        random_snapshot_id(),
        volume=copy.copy(volume),  # the volume may grow later
        description=description,
        encrypted=volume.encrypted,
        kms_key_id=volume.kms_key_id,
        from_ami=from_ami,
    )
    snapshot.status = "pending"
    backend.snapshots[snapshot.id] = snapshot
    return snapshot  # type: ignore[no-any-return]
