"""Block device mappings: which volumes an instance gets where its AMI, its launch template and the call have a say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from moto.ec2.exceptions import EC2ClientError

#: A mapping as the API has it: ``{"DeviceName": …, "Ebs": {…}}`` or ``{"DeviceName": …, "NoDevice": ""}``.
Mappings = Iterable[Mapping[str, Any]]

#: MiB/s, both ends allowed (EC2 API model, ``EbsBlockDevice.VolumeInitializationRate``).
RATES = range(100, 301)


def overlaid(template: Mappings, call: Mappings) -> list[Mapping[str, Any]]:
    """Lay the mappings of a call over those of its launch template: the call's is taken for a device that both name."""
    return list({one["DeviceName"]: one for one in (*template, *call)}.values())


def merged(ami: Mappings, asked: Mappings) -> dict[str, dict[str, Any]]:
    """Lay what was asked for over an AMI's mappings; return the ``Ebs`` members of each device that is left.

    What is not said about a device of the AMI stays as the AMI says; another snapshot brings its own size and
    encryption with it. A device with ``NoDevice`` is left out "regardless of the assigned value" (EC2 API model).
    """
    devices = {one["DeviceName"]: dict(one["Ebs"]) for one in ami}
    for one in asked:
        name, given = one["DeviceName"], one.get("Ebs", {})
        if "NoDevice" in one:
            devices.pop(name, None)
        elif "VirtualName" not in one:  # that is an instance-store volume, which no host of ours has
            known = devices.get(name, {})
            if "SnapshotId" in given:
                known = {key: known[key] for key in known if key not in ("VolumeSize", "Encrypted", "KmsKeyId")}
            devices[name] = known | given
    return devices


def check_rates(mappings: Mappings) -> None:
    """Refuse an initialization rate that EBS does not offer.

    Raises:
        EC2ClientError: ``InvalidParameterValue``.
    """
    for one in mappings:
        rate = one.get("Ebs", {}).get("VolumeInitializationRate")
        if rate is not None and int(rate) not in RATES:
            text = f"VolumeInitializationRate {rate} of {one['DeviceName']} is not between {RATES[0]} and {RATES[-1]}"
            raise EC2ClientError("InvalidParameterValue", text)


def check(device: str, ebs: Mapping[str, Any], size_of: Callable[[str], int]) -> None:
    """Refuse a volume that EBS would not make.

    Args:
        device: its name in the instance.
        ebs: its mapping.
        size_of: GiB of the snapshot with an id.

    Raises:
        EC2ClientError: ``InvalidBlockDeviceMapping`` where it is smaller than its snapshot, ``MissingParameter``
            without size and snapshot, ``InvalidParameterCombination`` for an initialization rate of an empty volume.
    """
    snapshot, size = ebs.get("SnapshotId"), ebs.get("VolumeSize")
    if not snapshot and not size:
        raise EC2ClientError("MissingParameter", f"The volume at {device} needs a size or a snapshotId")
    if not snapshot and ebs.get("VolumeInitializationRate") is not None:
        text = f"VolumeInitializationRate is for volumes from snapshots only, and {device} has none"
        raise EC2ClientError("InvalidParameterCombination", text)
    if snapshot and size and int(size) < size_of(snapshot):
        text = f"Volume of size {size}GB is smaller than snapshot '{snapshot}', expect size>= {size_of(snapshot)}GB"
        raise EC2ClientError("InvalidBlockDeviceMapping", text)
