"""EBS volumes beside the root: each is a disk of its own, from CreateVolume or a launch until it is deleted.

The root volume is in the books only: what it holds is the file system of the instance's container.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError, VolumeInUseError
from moto.ec2.models import EC2Backend
from moto.ec2.models.elastic_block_store import Snapshot, Volume, VolumeAttachment
from moto.ec2.responses.elastic_block_store import ElasticBlockStore

from splitbake.local.block_devices import Mappings, check, check_rates, merged
from splitbake.local.disks import DiskError, Disks
from splitbake.local.hooks import Hook, around

#: MiB/s of a gp3 volume for which nobody asked for more (EBS user guide).
_GP3_THROUGHPUT = 125

#: What CreateVolume may be told, in the words of a block device mapping; its own words where they are others.
_MEMBERS = (
    "SnapshotId",
    "VolumeSize",
    "VolumeType",
    "Iops",
    "Throughput",
    "Encrypted",
    "KmsKeyId",
    "VolumeInitializationRate",
)
_CREATE_VOLUME = {"VolumeSize": "Size"}

#: Calls that moto would note down without a byte behind them.
_REFUSED = ("create_snapshots", "copy_snapshot", "modify_volume")


@dataclass(frozen=True)
class Planned:
    """A volume that an instance gets.

    Attributes:
        device: its name in the instance.
        ebs: its mapping, in the words of the API.
        snapshot: what it is made from.
        root: whether it is the root volume.
    """

    device: str
    ebs: Mapping[str, Any]
    snapshot: Snapshot | None
    root: bool


class Volumes:
    """The life of volumes."""

    def __init__(self, disks: Disks) -> None:
        self._disks = disks

    def install(self) -> None:
        """Hook the volume calls."""
        around(ElasticBlockStore, "create_volume", self.create)
        around(ElasticBlockStore, "attach_volume", self.attach)
        around(ElasticBlockStore, "detach_volume", self.detach)
        around(EC2Backend, "detach_volume", self.released)
        around(EC2Backend, "delete_volume", self.deleted)
        for name in _REFUSED:
            around(ElasticBlockStore, name, refuse)

    def plan(self, backend: Any, ami: Any, asked: Mappings) -> list[Planned]:
        """Return the volumes of an instance of ``ami`` for which ``asked`` was asked.

        Launch permission for an AMI is enough for its own snapshots; one that the caller names must be shared as well.

        Raises:
            EC2ClientError: EBS would not make one of them.
        """
        check_rates(asked)
        named = {one["Ebs"]["SnapshotId"] for one in asked if one.get("Ebs", {}).get("SnapshotId")}
        known = {one.id: one for one in ami.snapshots} | {name: self._readable(backend, name) for name in named}
        devices = merged(ami.block_device_mappings, asked)
        root = ami.root_device_name
        if devices.get(root, {}).get("SnapshotId") != ami.ebs_snapshot.id:
            text = f"The root volume at {root} can be neither left out nor made from another snapshot"
            raise EC2ClientError("InvalidBlockDeviceMapping", text)
        for device, ebs in devices.items():
            check(device, ebs, lambda name: known[name].volume.size)
        return [
            Planned(device, ebs, known.get(ebs.get("SnapshotId", "")), device == root)
            for device, ebs in devices.items()
        ]

    def equip(self, instance: Any, planned: Iterable[Planned], tags: dict[str, str]) -> None:
        """Make the volumes of an instance and attach them.

        Raises:
            DiskError: this machine has no room for one of them.
        """
        backend = instance.ec2_backend
        for one in planned:
            volume: Any = self._made(backend, instance.placement.zone, one.ebs, one.snapshot, disk=not one.root)
            volume.add_tags(tags)
            # At launch by API a data volume goes with its instance as well (EC2 user guide, preserving data).
            delete = one.ebs.get("DeleteOnTermination", True)
            backend.attach_volume(volume.id, instance.id, one.device, delete)
            volume.attachment.delete_on_termination = delete

    def devices(self, instance: Any) -> dict[str, str]:
        """Return the loop devices of an instance's data volumes, each with its name in the instance.

        Raises:
            DiskError: there is no free loop device.
        """
        attached = [(block.volume_id, name) for name, block in instance.get_block_device_mapping]
        return {self._disks.device(volume): name for volume, name in attached if self._disks.has(volume)}

    def create(self, proceed: Hook, response: Any) -> ActionResult:
        """CreateVolume: empty, or from a snapshot that the caller may read."""
        response.error_on_dryrun()
        backend = response.ec2_backend
        given = {name: response._get_param(_CREATE_VOLUME.get(name, name)) for name in _MEMBERS}
        ebs = {name: value for name, value in given.items() if value is not None}
        where = f"zone {response._get_param('AvailabilityZone')}"
        check_rates([{"DeviceName": where, "Ebs": ebs}])
        snapshot = self._readable(backend, ebs["SnapshotId"]) if "SnapshotId" in ebs else None
        check(where, ebs, lambda _: snapshot.volume.size if snapshot else 0)
        try:
            volume = self._made(backend, response._get_param("AvailabilityZone"), ebs, snapshot)
        except DiskError as problem:
            raise no_room(problem) from problem
        volume.add_tags(response._parse_tag_specification().get("volume", {}))
        return ActionResult(volume)

    def attach(self, proceed: Hook, response: Any) -> ActionResult:
        """AttachVolume: to a stopped instance, which has it when it starts again."""
        response.error_on_dryrun()
        backend, device = response.ec2_backend, response._get_param("Device")
        volume = backend.get_volume(response._get_param("VolumeId"))
        instance = backend.get_instance(response._get_param("InstanceId"))
        check_data(volume.id, self._disks)
        if volume.attachment:
            raise VolumeInUseError(volume.id, volume.attachment.instance.id)
        if volume.availability_zone != instance.placement.zone:
            text = f"The volume '{volume.id}' is not in the same availability zone as instance '{instance.id}'"
            raise EC2ClientError("InvalidVolume.ZoneMismatch", text)
        if device in instance.block_device_mapping:
            text = f"Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
            raise EC2ClientError("InvalidParameterValue", text)
        _check_stopped(instance)
        answer: ActionResult = proceed()
        return answer

    def detach(self, proceed: Hook, response: Any) -> ActionResult:
        """DetachVolume: from a stopped instance."""
        response.error_on_dryrun()
        volume = response.ec2_backend.get_volume(response._get_param("VolumeId"))
        check_data(volume.id, self._disks)
        if volume.attachment:
            _check_stopped(volume.attachment.instance)
            response.params.setdefault("InstanceId", volume.attachment.instance.id)
        answer: ActionResult = proceed()
        return answer

    def released(self, proceed: Hook, backend: Any, volume_id: str, *args: Any) -> VolumeAttachment:
        """Take the loop device of a volume away once no instance has it."""
        attachment: VolumeAttachment = proceed(volume_id, *args)
        self._disks.release(volume_id)
        return attachment

    def deleted(self, proceed: Hook, backend: Any, volume_id: str) -> Volume:
        """Take the bytes of a volume away with its entry in the books."""
        volume: Volume = proceed(volume_id)
        self._disks.remove(volume_id)
        return volume

    def _made(self, backend: Any, zone: str, ebs: Mapping[str, Any], snapshot: Any, *, disk: bool = True) -> Volume:
        """Enter a volume into the books and make its disk; both or neither."""
        kind = ebs.get("VolumeType")
        volume: Any = backend.create_volume(
            size=int(ebs.get("VolumeSize") or snapshot.volume.size),
            zone_name=zone,
            encrypted=bool(ebs.get("Encrypted")) or bool(snapshot and snapshot.encrypted),
            kms_key_id=ebs.get("KmsKeyId") or (snapshot.kms_key_id if snapshot else None),
            volume_type=kind,
            iops=ebs.get("Iops"),
            throughput=ebs.get("Throughput") or (_GP3_THROUGHPUT if kind == "gp3" else None),
        )
        volume.snapshot_id = snapshot.id if snapshot else None
        volume.volume_initialization_rate = ebs.get("VolumeInitializationRate")
        try:
            if disk and snapshot:
                self._disks.copy(snapshot.id, volume.id, volume.size)
            elif disk:
                self._disks.create(volume.id, volume.size)
        except DiskError:
            backend.delete_volume(volume.id)
            raise
        return volume  # type: ignore[no-any-return]

    def _readable(self, backend: Any, snapshot_id: str) -> Snapshot:
        """Return the snapshot of a data volume that the account of ``backend`` may read.

        Raises:
            EC2ClientError: it is not there for this account (``InvalidSnapshot.NotFound``), pending, or of a root.
        """
        snapshot: Snapshot = backend.describe_snapshots(snapshot_ids=[snapshot_id])[0]
        if snapshot.status != "completed":
            raise EC2ClientError("IncorrectState", f"Snapshot is in invalid state - {snapshot.status}")
        check_data(snapshot.id, self._disks)
        return snapshot


def check_data(name: str, disks: Disks) -> None:
    """Refuse a root volume or its snapshot where only a disk will do.

    Raises:
        EC2ClientError: ``UnsupportedOperation``.
    """
    if not disks.has(name):
        text = f"{name} is of a root volume, which in the local cloud is the file system of a container and no disk"
        raise EC2ClientError("UnsupportedOperation", text)


def no_room(problem: DiskError) -> EC2ClientError:
    """Say in EC2's words that this machine cannot hold a disk."""
    return EC2ClientError("InsufficientVolumeCapacity", f"This machine cannot make the disk: {problem}")


def refuse(proceed: Hook, response: Any) -> None:
    """Refuse a call behind which nothing would be real.

    Raises:
        EC2ClientError: ``UnsupportedOperation``.
    """
    raise EC2ClientError("UnsupportedOperation", f"The local cloud has no {response._get_action()}")


def _check_stopped(instance: Any) -> None:
    if instance.state != "stopped":
        text = (
            f"Instance '{instance.id}' is {instance.state}: the local cloud changes volumes of stopped instances only"
        )
        raise EC2ClientError("IncorrectState", text)
