"""CopyImage: the same content under an id of its own, in the account and the region of the caller.

No bytes are copied: both AMIs stand on one Docker image, which stays until the last of them is gone.
"""

from __future__ import annotations

from threading import Lock, Timer
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError, InvalidAMIIdError
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.responses.amis import AmisResponse
from moto.ec2.utils import random_ami_id

from splitbake.local import sharing
from splitbake.local.amis import Amis, check_name
from splitbake.local.hooks import Hook, around

#: Seconds that a copy stays ``pending`` here (minutes on AWS).
COPY_SECONDS = 1.0


class Copies:
    """The copies of AMIs."""

    def __init__(self, amis: Amis) -> None:
        self._amis = amis
        self._by_token: dict[tuple[str, str, str], tuple[str, Ami]] = {}
        self._lock = Lock()

    def install(self) -> None:
        """Hook CopyImage."""
        around(AmisResponse, "copy_image", self.copy)

    def copy(self, proceed: Hook, response: Any) -> ActionResult:
        """CopyImage: idempotent by ClientToken; the same token with other parameters is refused."""
        response.error_on_dryrun()
        backend = response.ec2_backend
        given = {name: response._get_param(name) for name in _PARAMETERS}
        token = response._get_param("ClientToken")
        key = (backend.account_id, backend.region_name, token)
        asked = repr(given)
        with self._lock:
            before, ami = self._by_token.get(key, (asked, None)) if token else (asked, None)
            if before != asked:
                raise EC2ClientError(
                    "IdempotentParameterMismatch", "The client token was used before with other parameters"
                )
            if ami is None:
                ami = self._made(backend, given)
                self._by_token[key] = (asked, ami)
        return ActionResult({"ImageId": ami.id})

    def _made(self, backend: Any, given: dict[str, Any]) -> Ami:
        check_name(backend, given["Name"])
        there = ec2_backends[backend.account_id][given["SourceRegion"]]
        image = self._amis.image(there, given["SourceImageId"])
        ami = _booked(backend, _source(there, given["SourceImageId"]), given)
        self._amis.add(ami, image)
        timer = Timer(COPY_SECONDS, _complete, (ami,))
        timer.daemon = True
        timer.start()
        return ami


#: What makes two calls with one token the same call.
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


def _source(backend: Any, ami_id: str) -> Ami:
    """Return the AMI to copy, as the caller sees it in its region.

    Raises:
        EC2ClientError: its snapshot is not shared with the caller: ``InvalidRequest``, in the words of AWS (as in
            shinesolutions/packer-aem#211).
    """
    source = sharing.find(backend, ami_id)
    if source is None:
        raise InvalidAMIIdError(ami_id)
    if source.owner_alias != "amazon" and not sharing.may_read(backend, source.ebs_snapshot):
        raise EC2ClientError("InvalidRequest", "You do not have permission to access the storage of this ami")
    return source


def _booked(backend: Any, source: Ami, given: dict[str, Any]) -> Ami:
    """Book the copy: a snapshot of its own, no launch permissions, and the source's tags only where asked for."""
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
        snapshot_description=f"Copied for DestinationAmi {ami_id} from SourceAmi {source.id} "
        f"for SourceSnapshot {source.ebs_snapshot.id}.",
    )
    ami.source_image_id, ami.source_image_region = source.id, given["SourceRegion"]
    snapshot, of_source = ami.ebs_snapshot, source.ebs_snapshot
    snapshot.status = "pending"
    snapshot.encrypted = bool(given["Encrypted"]) or of_source.encrypted
    snapshot.kms_key_id = given["KmsKeyId"]
    snapshot.volume.size = of_source.volume.size
    if size := getattr(of_source, "full_snapshot_size_in_bytes", None):
        snapshot.full_snapshot_size_in_bytes = size
    if given["CopyImageTags"]:  # of a shared AMI those that the caller gave it: others' are not to be seen
        ami.add_tags({tag["key"]: tag["value"] for tag in source.get_tags() if not tag["key"].startswith("aws:")})
    for specification in given["TagSpecifications"] or []:
        target = snapshot if specification["ResourceType"] == "snapshot" else ami
        target.add_tags({tag["Key"]: tag["Value"] for tag in specification["Tags"]})
    return ami  # type: ignore[no-any-return]


def _complete(ami: Ami) -> None:
    ami.ebs_snapshot.status, ami.state = "completed", "available"
