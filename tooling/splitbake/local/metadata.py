"""What the metadata service says to an instance, read from moto's books each time it is asked.

Names and shapes are those of the EC2 user guide ("Instance metadata categories"). What only AWS can make is left out:
the signatures of the identity document.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from threading import Lock
from typing import Any

from moto.core.utils import utcnow
from moto.sts.models import sts_backends

from splitbake.local.imds import Look, Metadata, Tree

#: Life of the credentials of a role, and how long before its end there are new ones ("at least five minutes").
SESSION = timedelta(hours=6)
RENEW_BEFORE = timedelta(minutes=15)


class InstanceMetadata:
    """Reads out of moto's books what an instance may know, and holds the sessions of its role."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str], Any] = {}
        self._lock = Lock()

    def look(self, backend: Any, instance: Any) -> Look:
        """Return what tells the metadata of ``instance`` whenever it is called."""
        return partial(self._read, backend, instance)

    def _read(self, backend: Any, instance: Any) -> Metadata:
        options = instance.metadata_options
        tree: dict[str, Any] = {
            "meta-data": self._meta_data(backend, instance),
            "dynamic": {"instance-identity": {"document": json.dumps(_identity(instance), indent=2)}},
        }
        if instance.user_data:
            tree["user-data"] = user_data(instance)
        return Metadata(
            tree=tree,
            enabled=options.http_endpoint == "enabled",
            tokens_required=options.http_tokens == "required",
            hop_limit=options.http_put_response_hop_limit,
            address=instance.private_ip,
        )

    def _meta_data(self, backend: Any, instance: Any) -> Tree:
        reservation = next(one for one in list(backend.reservations.values()) if instance in one.instances)
        groups = [group.name for group in instance.nics[0].group_set]
        tree: dict[str, Any] = {
            "ami-id": instance.image_id,
            "ami-launch-index": str(instance.ami_launch_index),
            "ami-manifest-path": "(unknown)",
            "block-device-mapping": _devices(instance),
            "hostname": instance.private_dns_name,
            "instance-action": "none",
            "instance-id": instance.id,
            "instance-life-cycle": instance.lifecycle or "on-demand",
            "instance-type": instance.instance_type,
            "local-hostname": instance.private_dns_name,
            "local-ipv4": instance.private_ip,
            "mac": instance.nics[0].mac_address,
            "network": {"interfaces": {"macs": {instance.nics[0].mac_address: _interface(instance, groups)}}},
            "placement": {"availability-zone": instance.placement.zone, "region": backend.region_name},
            "profile": "default-hvm",
            "public-hostname": instance.public_dns_name,
            "public-ipv4": instance.public_ip,
            "reservation-id": reservation.id,
            "security-groups": "\n".join(groups),
            "services": {"domain": "amazonaws.com", "partition": backend.partition},
        }
        if pair := instance.key_pair:
            tree["public-keys"] = {f"0={pair.key_name}": {"openssh-key": pair.material_public.decode().strip()}}
        if role := self._iam(backend, instance):
            tree["iam"] = role
        if instance.metadata_options.instance_metadata_tags == "enabled":
            tags = {tag["key"]: tag["value"] for tag in instance.get_tags()}
            tree["tags"] = {"instance": {name: text for name, text in tags.items() if not name.startswith("aws:")}}
        return tree

    def _iam(self, backend: Any, instance: Any) -> Tree | None:
        """Return the profile of the instance and the credentials of its role, if it has one now."""
        association = backend.iam_instance_profile_associations.get(instance.id)
        if association is None:
            return None
        profile = association.iam_instance_profile
        info = {
            "Code": "Success",
            "LastUpdated": _stamp(utcnow()),
            "InstanceProfileArn": profile.arn,
            "InstanceProfileId": profile.id,
        }
        credentials: dict[str, Callable[[], str]] = {
            role.name: partial(self._credentials, backend, instance, role.arn) for role in profile.roles
        }
        return {"info": json.dumps(info, indent=2), "security-credentials": credentials}

    def _credentials(self, backend: Any, instance: Any, role_arn: str) -> str:
        """Assume the role in the name of the instance; the same session is told until its end comes near."""
        with self._lock:
            session = self._sessions.get((instance.id, role_arn))
            if session is None or session.expiration - RENEW_BEFORE < utcnow():
                session = sts_backends[backend.account_id][backend.partition].assume_role(
                    region_name=backend.region_name,
                    role_session_name=instance.id,
                    role_arn=role_arn,
                    policy=None,  # type: ignore[arg-type] # what moto's own response passes where there is none
                    duration=int(SESSION.total_seconds()),
                    external_id=None,  # type: ignore[arg-type]
                )
                self._sessions[instance.id, role_arn] = session
        return json.dumps(
            {
                "Code": "Success",
                "LastUpdated": _stamp(session.expiration - SESSION),
                "Type": "AWS-HMAC",
                "AccessKeyId": session.access_key_id,
                "SecretAccessKey": session.secret_access_key,
                "Token": session.session_token,
                "Expiration": _stamp(session.expiration),
            },
            indent=2,
        )


def user_data(instance: Any) -> bytes:
    """Return the user data as the instance reads it: decoded, and it need not be text."""
    import base64

    return base64.b64decode(instance.user_data.as_bytes())


def _identity(instance: Any) -> dict[str, Any]:
    return {
        "accountId": instance.owner_id,
        "architecture": instance.architecture,
        "availabilityZone": instance.placement.zone,
        "billingProducts": None,
        "devpayProductCodes": None,
        "marketplaceProductCodes": None,
        "imageId": instance.image_id,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "kernelId": None,
        "pendingTime": _stamp(instance.launch_time),
        "privateIp": instance.private_ip,
        "ramdiskId": None,
        "region": instance.region_name,
        "version": "2017-09-30",
    }


def _devices(instance: Any) -> dict[str, str]:
    """Map ``ebs1`` and so on to the short device names, as AWS does; ``ami`` and ``root`` are the root device."""
    root = instance.root_device_name
    others = [name for name, _ in instance.get_block_device_mapping if name != root]
    named = {f"ebs{number}": name.removeprefix("/dev/") for number, name in enumerate(sorted(others), 1)}
    return {"ami": root.removeprefix("/dev/"), **named, "root": root}


def _interface(instance: Any, groups: list[str]) -> dict[str, str]:
    interface = instance.nics[0]
    return {
        "device-number": "0",
        "interface-id": interface.id,
        "local-hostname": instance.private_dns_name,
        "local-ipv4s": instance.private_ip,
        "mac": interface.mac_address,
        "owner-id": instance.owner_id,
        "public-hostname": instance.public_dns_name,
        "public-ipv4s": instance.public_ip,
        "security-group-ids": "\n".join(group.id for group in interface.group_set),
        "security-groups": "\n".join(groups),
        "subnet-id": interface.subnet.id,
        "vpc-id": interface.subnet.vpc_id,
    }


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
