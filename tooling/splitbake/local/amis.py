"""AMIs: the ones of AWS that the SSM parameters name, standing on our base image, and those that CreateImage makes."""

from __future__ import annotations

import logging
import math
from threading import Lock, Thread
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError, InvalidAMIIdError, UnvailableAMIIdError
from moto.ec2.models import EC2Backend
from moto.ec2.models.amis import Ami
from moto.utilities.utils import load_resource

from splitbake.local import sharing
from splitbake.local.hooks import Hook, around
from splitbake.local.machines import Machines

log = logging.getLogger("splitbake.local.amis")

#: Root volume of the ECS-optimized AMIs, GiB.
BASE_GIB = 30
_GIB = 2**30


class Amis:
    """Which Docker image stands for which AMI."""

    def __init__(self, machines: Machines, base_image: str) -> None:
        self._machines = machines
        self._base_image = base_image
        self._images: dict[str, str] = {}
        self._commits: dict[str, list[Thread]] = {}
        self._lock = Lock()

    def install(self) -> None:
        """Hook the AMI calls of EC2."""
        around(EC2Backend, "_load_amis", self.load)
        around(EC2Backend, "create_image", self.create)
        around(EC2Backend, "deregister_image", self.deregister)
        Ami.block_device_mappings = property(_block_devices)  # type: ignore[method-assign,assignment]

    def image(self, backend: Any, ami_id: str) -> str:
        """Return the Docker image of an AMI that the account of ``backend`` can launch.

        Raises:
            EC2ClientError: there is no such AMI (``InvalidAMIID.NotFound``), or it is another account's that was not
                shared (``AuthFailure``, EC2's list of error codes: "an AMI for which you do not have permissions").
            UnvailableAMIIdError: it is pending, failed or disabled (``InvalidAMIID.Unavailable``).
        """
        ami = sharing.find(backend, ami_id)
        if ami is None and sharing.exists(backend, ami_id):
            raise EC2ClientError("AuthFailure", f"Not authorized for images: [{ami_id}]")
        if ami is None or ami_id not in self._images:
            raise InvalidAMIIdError(ami_id)
        if ami.state != "available":
            raise UnvailableAMIIdError(ami_id)
        return self._images[ami_id]

    def add(self, ami: Ami, image: str) -> None:
        """Book an AMI, and the Docker image that stands for it."""
        self._images[ami.id] = image
        ami.ec2_backend.amis[ami.id] = ami

    def load(self, proceed: Hook, backend: Any) -> None:
        """Fill a region with the x86-64 Amazon Linux 2023 AMIs that moto's SSM parameters name."""
        proceed()
        for folder in ("latest_amis", "ecs/optimized_amis"):
            for ami in load_resource(f"ec2/resources/{folder}/{backend.region_name}.json"):
                if ami["architecture"] == "x86_64" and ami["name"].startswith("al2023-ami-"):
                    values = ami | {"creation_date": utcnow(), "owner_alias": "amazon"}
                    known = backend.amis[ami["ami_id"]] = Ami(backend, **values)
                    known.ebs_snapshot.volume.size = BASE_GIB
                    self._images[ami["ami_id"]] = self._base_image

    def create(
        self,
        proceed: Hook,
        backend: Any,
        instance_id: str,
        name: str,
        description: str,
        *,
        tag_specifications: list[dict[str, Any]],
    ) -> Ami:
        """CreateImage: ``pending`` while the container is committed, then ``available`` (or ``failed``)."""
        with self._lock:
            check_name(backend, name)
            instance = backend.get_instance(instance_id)
            if instance.state not in ("running", "stopped"):
                raise EC2ClientError("IncorrectState", f"Instance {instance_id} is {instance.state}")
            of_image = [one for one in tag_specifications if one["ResourceType"] == "image"]
            ami: Ami = proceed(instance_id, name, description, of_image)
            ami.state = "pending"
        for specification in tag_specifications:
            if specification["ResourceType"] == "snapshot":
                ami.ebs_snapshot.add_tags({tag["Key"]: tag["Value"] for tag in specification["Tags"]})
        ami.root_device_name = instance.root_device_name
        ami.root_device_type = "ebs"
        ami.ebs_snapshot.volume.size = root_size(backend, instance)
        ami.ebs_snapshot.status = "pending"
        worker = Thread(target=self._commit, args=(ami, instance_id), name=ami.id, daemon=True)
        worker.start()
        self._commits.setdefault(instance_id, []).append(worker)
        return ami

    def settle(self, instance_id: str) -> None:
        """Wait until no image is being made of an instance: EBS has its snapshot even if the instance goes."""
        for worker in self._commits.pop(instance_id, []):
            worker.join()

    def deregister(self, proceed: Hook, backend: Any, ami_id: str) -> None:
        """DeregisterImage: the image goes with the last AMI on it, running instances stay."""
        proceed(ami_id)
        image = self._images.pop(ami_id, self._base_image)
        if image != self._base_image and image not in self._images.values():
            self._machines.forget(image)

    def _commit(self, ami: Ami, instance_id: str) -> None:
        import docker

        try:
            image, size = self._machines.commit(instance_id, ami.id)
        except docker.errors.APIError:
            log.exception("CreateImage of %s failed", instance_id)
            ami.state, ami.ebs_snapshot.status = "failed", "error"
            return
        self._images[ami.id] = image
        ami.ebs_snapshot.full_snapshot_size_in_bytes = size
        ami.ebs_snapshot.volume.size = max(ami.ebs_snapshot.volume.size, math.ceil(size / _GIB))
        ami.ebs_snapshot.status, ami.state = "completed", "available"


def check_name(backend: Any, name: str) -> None:
    """Refuse a name that another AMI of the account has in the region.

    Raises:
        EC2ClientError: ``InvalidAMIName.Duplicate``.
    """
    if any(ami.name == name and ami.owner_id == backend.account_id for ami in list(backend.amis.values())):
        raise EC2ClientError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use")


def root_size(backend: Any, instance: Any) -> int:
    """Return the size of an instance's root volume, GiB."""
    device = instance.block_device_mapping.get(instance.root_device_name)
    return int(backend.get_volume(device.volume_id).size) if device else BASE_GIB


def _block_devices(ami: Ami) -> list[dict[str, Any]]:
    """Replace moto's fixed 15 GiB by what the snapshot has."""
    ebs = {"SnapshotId": ami.ebs_snapshot.id, "VolumeSize": ami.ebs_snapshot.volume.size}
    ebs |= {"DeleteOnTermination": True, "VolumeType": "gp3", "Encrypted": ami.ebs_snapshot.encrypted}
    return [{"DeviceName": ami.root_device_name, "Ebs": ebs}]
