"""CopyImage: the same content under an id of its own, in the account and the region of the caller.

No bytes are copied: the snapshots of both AMIs have one content, which stays until the last of them is gone. A KMS key
that the region does not have makes the copy fail some time after the call, as on AWS (EC2 API model, ``CopyImage``).
"""

from __future__ import annotations

from dataclasses import replace
from threading import Timer
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError, InvalidParameterDependency
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.elastic_block_store import Snapshot
from moto.ec2.responses.amis import AmisResponse
from moto.ec2.utils import random_ami_id

from splitbake.local import sharing
from splitbake.local.amis import Amis, check_name
from splitbake.local.disks import DiskError
from splitbake.local.hooks import Hook, around
from splitbake.local.snapshots import Snapshots, booked
from splitbake.local.volumes import no_room

#: Seconds that a copy stays ``pending`` here (minutes on AWS).
COPY_SECONDS = 1.0


class Copies:
    """The copies of AMIs."""

    def __init__(self, amis: Amis, snapshots: Snapshots) -> None:
        self._amis = amis
        self._snapshots = snapshots

    def install(self) -> None:
        """Hook CopyImage."""
        around(AmisResponse, "copy_image", self.copy)

    def copy(self, proceed: Hook, response: Any) -> ActionResult:
        """CopyImage: the copy is ``pending``, then ``available`` (or ``failed``)."""
        response.error_on_dryrun()
        backend = response.ec2_backend
        given = {name: response._get_param(name) for name in _PARAMETERS}
        check_name(backend, given["Name"])
        there = ec2_backends[backend.account_id][given["SourceRegion"]]
        source = self._source(there, given["SourceImageId"])
        encrypt = bool(given["Encrypted"])
        if given["KmsKeyId"] and not encrypt:
            raise InvalidParameterDependency("KmsKeyId", "Encrypted")
        key = kms_key(backend, given["KmsKeyId"]) if encrypt or any(one.encrypted for one in source.snapshots) else ""
        ami = _booked(backend, source, given)
        for of_source, snapshot in zip(source.snapshots, ami.snapshots, strict=True):
            snapshot.encrypted = encrypt or of_source.encrypted
            snapshot.kms_key_id = key if snapshot.encrypted else None
            try:
                self._snapshots.share(of_source, snapshot)
            except DiskError as problem:
                raise no_room(problem) from problem
        backend.amis[ami.id] = ami
        outcome = ("error", "failed") if key is None else ("completed", "available")
        timer = Timer(COPY_SECONDS, _complete, (ami, *outcome))
        timer.daemon = True
        timer.start()
        return ActionResult({"ImageId": ami.id})

    def _source(self, backend: Any, ami_id: str) -> Any:
        """Return the AMI to copy, as the caller sees it in its region.

        Raises:
            EC2ClientError: one of its snapshots is not shared with the caller: ``InvalidRequest``, in the words of AWS
                (as in shinesolutions/packer-aem#211).
        """
        source = self._amis.usable(backend, ami_id)
        if source.owner_alias != "amazon" and not all(sharing.may_read(backend, one) for one in source.snapshots):
            raise EC2ClientError("InvalidRequest", "You do not have permission to access the storage of this ami")
        return source


_PARAMETERS = (
    "Name",
    "SourceImageId",
    "SourceRegion",
    "Description",
    "CopyImageTags",
    "TagSpecifications",
    "Encrypted",
    "KmsKeyId",
)


def kms_key(backend: Any, named: str | None) -> str | None:
    """Return the ARN of a KMS key by id, alias or ARN, by default EBS's own; None where the region has no such key."""
    from moto.kms.models import kms_backends

    if named in (None, "alias/aws/ebs"):
        return str(backend.default_kms_key_id or backend._create_default_encryption_key())
    account, region, name = backend.account_id, backend.region_name, str(named)
    if name.startswith("arn:"):
        region, account, name = name.split(":", 5)[3:]
        name = name.removeprefix("key/")
    if region != backend.region_name:
        return None
    keys = kms_backends[account][region].keys.values()
    return next((str(key.arn) for key in keys if name == key.id or name in key.aliases), None)


def _booked(backend: Any, source: Any, given: dict[str, Any]) -> Any:
    """Book the copy: snapshots of its own, no launch permissions, and the source's tags only where asked for."""
    ami_id = random_ami_id()
    ami: Any = Ami(
        backend,
        ami_id,
        source_ami=source,
        name=given["Name"],
        description=given["Description"],
        state="pending",
        root_device_name=source.root_device_name,
        root_device_type=source.root_device_type,
        boot_mode=source.boot_mode,
        hypervisor=source.hypervisor,
        snapshot_description=_description(ami_id, source, source.ebs_snapshot),
    )
    ami.source_image_id, ami.source_image_region = source.id, given["SourceRegion"]
    ami.ebs_snapshot.status, ami.ebs_snapshot.volume.size = "pending", source.ebs_snapshot.volume.size
    ami.root_options = source.root_options
    ami.data_volumes = tuple(
        replace(one, snapshot=booked(backend, one.snapshot.volume, _description(ami_id, source, one.snapshot), ami_id))
        for one in source.data_volumes
    )
    if given["CopyImageTags"]:  # of a shared AMI those that the caller gave it: others' are not to be seen
        ami.add_tags({tag["key"]: tag["value"] for tag in source.get_tags() if not tag["key"].startswith("aws:")})
    tags = {
        one["ResourceType"]: {tag["Key"]: tag["Value"] for tag in one["Tags"]}
        for one in given["TagSpecifications"] or []
    }
    ami.add_tags(tags.get("image", {}))
    for snapshot in ami.snapshots:
        snapshot.add_tags(tags.get("snapshot", {}))
    return ami


def _description(ami_id: str, source: Ami, snapshot: Snapshot) -> str:
    return f"Copied for DestinationAmi {ami_id} from SourceAmi {source.id} for SourceSnapshot {snapshot.id}."


def _complete(ami: Any, of_snapshots: str, of_ami: str) -> None:
    for snapshot in ami.snapshots:
        snapshot.status = of_snapshots
    ami.state = of_ami
