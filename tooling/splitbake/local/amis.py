"""AMIs: the ones of AWS that the SSM parameters name, standing on our base image, and those that CreateImage makes."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any

from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError, InvalidAMIIdError, UnvailableAMIIdError
from moto.ec2.models import EC2Backend
from moto.ec2.models.amis import Ami
from moto.ec2.models.elastic_block_store import Snapshot
from moto.ec2.responses.amis import AmisResponse
from moto.utilities.utils import load_resource

from splitbake.local import sharing
from splitbake.local.hooks import Hook, around
from splitbake.local.machines import Machines
from splitbake.local.snapshots import Snapshots, booked

log = logging.getLogger("splitbake.local.amis")

#: Root volume of the ECS-optimized AMIs, GiB.
BASE_GIB = 30
_GIB = 2**30
#: Seconds that Docker gets to freeze a running instance.
_FREEZE_SECONDS = 60.0


@dataclass(frozen=True)
class DataVolume:
    """A volume beside the root that instances of an AMI get.

    Attributes:
        device: its name in the instance.
        snapshot: what it is made from.
        options: the rest of its mapping, in the words of the API.
    """

    device: str
    snapshot: Snapshot
    options: Mapping[str, Any]


class Amis:
    """The AMIs, whose contents are their snapshots."""

    def __init__(self, machines: Machines, snapshots: Snapshots) -> None:
        self._machines = machines
        self._snapshots = snapshots
        self._workers: dict[str, tuple[str, Thread]] = {}
        self._lock = Lock()

    def install(self) -> None:
        """Hook the AMI calls of EC2."""
        around(EC2Backend, "_load_amis", self.load)
        around(AmisResponse, "create_image", self.create)
        around(AmisResponse, "deregister_image", self.deregister)
        Ami.data_volumes = ()  # type: ignore[attr-defined]
        Ami.root_options = {"DeleteOnTermination": True, "VolumeType": "gp3"}  # type: ignore[attr-defined]
        Ami.snapshots = property(_snapshots)  # type: ignore[attr-defined]
        Ami.block_device_mappings = property(_block_devices)  # type: ignore[method-assign,assignment]

    def usable(self, backend: Any, ami_id: str) -> Any:
        """Return an AMI that the account of ``backend`` can launch.

        Raises:
            EC2ClientError: there is no such AMI (``InvalidAMIID.NotFound``), or it is another account's that was not
                shared (``AuthFailure``, EC2's list of error codes: "an AMI for which you do not have permissions").
            UnvailableAMIIdError: it is pending, failed or disabled (``InvalidAMIID.Unavailable``).
        """
        ami = sharing.find(backend, ami_id)
        if ami is None and sharing.exists(backend, ami_id):
            raise EC2ClientError("AuthFailure", f"Not authorized for images: [{ami_id}]")
        if ami is None:
            raise InvalidAMIIdError(ami_id)
        if ami.state != "available":
            raise UnvailableAMIIdError(ami_id)
        if self._snapshots.image(ami.ebs_snapshot) is None:  # RegisterImage noted it down, no more
            raise InvalidAMIIdError(ami_id)
        return ami

    def image(self, backend: Any, ami_id: str) -> str:
        """Return the Docker image of an AMI that the account of ``backend`` can launch; raises as :meth:`usable`."""
        return str(self._snapshots.image(self.usable(backend, ami_id).ebs_snapshot))

    def load(self, proceed: Hook, backend: Any) -> None:
        """Fill a region with the x86-64 Amazon Linux 2023 AMIs that moto's SSM parameters name."""
        proceed()
        for folder in ("latest_amis", "ecs/optimized_amis"):
            for ami in load_resource(f"ec2/resources/{folder}/{backend.region_name}.json"):
                if ami["architecture"] == "x86_64" and ami["name"].startswith("al2023-ami-"):
                    values = ami | {"creation_date": utcnow(), "owner_alias": "amazon"}
                    known = backend.amis[ami["ami_id"]] = Ami(backend, **values)
                    known.ebs_snapshot.volume.size = BASE_GIB
                    self._snapshots.put_image(known.ebs_snapshot)

    def create(self, proceed: Hook, response: Any) -> ActionResult:
        """CreateImage: ``pending`` while the volumes are copied, then ``available`` (or ``failed``)."""
        response.error_on_dryrun()
        backend, instance_id = response.ec2_backend, response._get_param("InstanceId")
        asked = {one["DeviceName"]: one for one in response._get_param("BlockDeviceMappings", [])}
        tags = response._parse_tag_specification()
        with self._lock:
            check_name(backend, response._get_param("Name"))
            instance = backend.get_instance(instance_id)
            if instance.state not in ("running", "stopped"):
                raise EC2ClientError("IncorrectState", f"Instance {instance_id} is {instance.state}")
            if unknown := asked.keys() - instance.block_device_mapping.keys():
                text = f"The instance has no volume at {', '.join(sorted(unknown))}, and the local cloud adds none"
                raise EC2ClientError("UnsupportedOperation", text)
            ami: Any = backend.create_image(
                instance_id, response._get_param("Name"), response._get_param("Description", ""), tag_specifications=[]
            )
            sources = _book(ami, instance, asked)
            ami.add_tags(tags.get("image", {}))
            for snapshot in ami.snapshots:
                snapshot.add_tags(tags.get("snapshot", {}))
        worker = Thread(target=self._fill, args=(ami, instance_id, sources), name=ami.id, daemon=True)
        self._workers[ami.id] = (instance_id, worker)
        worker.start()
        return ActionResult({"ImageId": ami.id})

    def settle(self, instance_id: str) -> None:
        """Wait until no image is being made of an instance: EBS has its snapshots even if the instance goes."""
        for of, worker in list(self._workers.values()):
            if of == instance_id:
                worker.join()

    def deregister(self, proceed: Hook, response: Any) -> ActionResult:
        """DeregisterImage: running instances stay, and snapshots too unless it says DeleteAssociatedSnapshots."""
        backend, ami_id = response.ec2_backend, response._get_param("ImageId")
        ami = backend.amis.get(ami_id)
        if working := self._workers.get(ami_id):
            working[1].join()
        proceed()
        associated = ami.snapshots if response._get_bool_param("DeleteAssociatedSnapshots", False) else []
        results = self._snapshots.delete_with_ami(backend, associated)
        return ActionResult({"Return": True, "DeleteSnapshotResults": results})

    def _committed(self, instance_id: str, ami_id: str) -> tuple[str, int]:
        """Commit a container; a running one cannot be frozen while one of its processes waits for a busy disk."""
        import docker

        deadline = time.monotonic() + _FREEZE_SECONDS
        while True:
            try:
                return self._machines.commit(instance_id, ami_id)
            except docker.errors.APIError as problem:
                if "unable to freeze" not in str(problem.explanation) or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def _fill(self, ami: Any, instance_id: str, sources: dict[str, str]) -> None:
        """Put the bytes into the snapshots of a pending AMI."""
        root = ami.ebs_snapshot
        try:
            for one in ami.data_volumes:
                self._snapshots.put_disk(one.snapshot, sources[one.device])
            image, size = self._committed(instance_id, ami.id)
            self._snapshots.put_image(root, image)
            root.full_snapshot_size_in_bytes = size
            root.volume.size = max(root.volume.size, math.ceil(size / _GIB))
            root.status, ami.state = "completed", "available"
        except Exception as problem:  # the top of a thread: whatever it was, the AMI must not stay pending for ever
            log.exception("CreateImage of %s failed", instance_id)
            text = str(getattr(problem, "explanation", None) or problem)
            ami.state, ami.state_reason = "failed", {"Code": "Server.InternalError", "Message": text}
            for snapshot in ami.snapshots:
                snapshot.status = "completed" if snapshot.status == "completed" else "error"
        finally:
            del self._workers[ami.id]


def check_name(backend: Any, name: str) -> None:
    """Refuse a name that another AMI of the account has in the region.

    Raises:
        EC2ClientError: ``InvalidAMIName.Duplicate``.
    """
    if any(ami.name == name and ami.owner_id == backend.account_id for ami in list(backend.amis.values())):
        raise EC2ClientError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use")


def _book(ami: Any, instance: Any, asked: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Enter the pending snapshots of all volumes of an instance; return which device has which data volume.

    Of a volume that is there only DeleteOnTermination can be asked otherwise, or that it is left out (EC2 API model,
    ``CreateImage.BlockDeviceMappings``).
    """
    backend, volumes, sources = instance.ec2_backend, [], {}
    ami.state, ami.root_device_name, ami.root_device_type = "pending", instance.root_device_name, "ebs"
    for device, block in instance.get_block_device_mapping:
        wanted, volume = asked.get(device, {}), backend.get_volume(block.volume_id)
        options = _options(volume, wanted.get("Ebs", {}).get("DeleteOnTermination", block.delete_on_termination))
        if device == instance.root_device_name:
            root, ami.root_options = ami.ebs_snapshot, options
            root.status, root.volume = "pending", copy.copy(volume)
            root.encrypted, root.kms_key_id = volume.encrypted, volume.kms_key_id
        elif "NoDevice" not in wanted:
            snapshot = booked(backend, volume, ami.ebs_snapshot.description, ami.id)
            volumes.append(DataVolume(device, snapshot, options))
            sources[device] = volume.id
    ami.data_volumes = tuple(volumes)
    return sources


def _options(volume: Any, delete: bool) -> dict[str, Any]:
    options = {"VolumeType": volume.volume_type, "Iops": volume.iops, "Throughput": volume.throughput}
    return {"DeleteOnTermination": delete} | {name: value for name, value in options.items() if value is not None}


def _snapshots(ami: Any) -> list[Snapshot]:
    """Return the snapshots of an AMI, that of the root volume first."""
    return [ami.ebs_snapshot, *(one.snapshot for one in ami.data_volumes)]


def _block_devices(ami: Any) -> list[dict[str, Any]]:
    """Tell of each volume what its snapshot has (moto: one of 15 GiB)."""
    root = DataVolume(ami.root_device_name, ami.ebs_snapshot, ami.root_options)
    return [
        {
            "DeviceName": one.device,
            "Ebs": {
                "SnapshotId": one.snapshot.id,
                "VolumeSize": one.snapshot.volume.size,
                "Encrypted": one.snapshot.encrypted,
                **one.options,
            },
        }
        for one in (root, *ami.data_volumes)
    ]
