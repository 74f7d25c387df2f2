"""The block device mapping of a launch template beside that of an AMI: what instances really boot with.

AWS facts used here (EC2 API model): a template's mapping of a device takes the place of the AMI's;
``VolumeInitializationRate`` is no part of an AMI, so only a template can ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from splitbake.errors import ReleaseError
from splitbake.release.targets import DataVolume, RootVolume

Mappings = Sequence[Mapping[str, Any]]


def check_root(label: str, mappings: Mappings, volume: RootVolume) -> None:
    """Refuse a mapping of the root device with which no instance of the new AMI would start.

    Raises:
        ReleaseError: says why none would.
    """
    for ebs in (one.get("Ebs", {}) for one in mappings if one.get("DeviceName") == volume.device):
        if "SnapshotId" in ebs:
            raise ReleaseError(
                f"{label}: the mapping of the root device {volume.device} names snapshot {ebs['SnapshotId']}, so "
                "instances would not boot from the new AMI",
                hint="take the snapshot out of the template's mapping of the root device",
            )
        if ebs.get("VolumeSize", volume.size) < volume.size:
            raise ReleaseError(
                f"{label}: the root device {volume.device} gets {ebs['VolumeSize']} GiB, the new AMI needs "
                f"{volume.size} GiB: no instance would start",
                hint="make the volume larger in the template, or ami.volume.size smaller",
            )


def with_data(label: str, mappings: Mappings, volumes: Sequence[DataVolume]) -> list[dict[str, Any]]:
    """Return ``mappings`` so that an instance of the new AMI has its data volumes.

    A mapping of such a device names the new snapshot: the old one would bring the old models. Where there is none, the
    AMI's own serves, unless a rate of initialization has to be said.

    Raises:
        ReleaseError: the template takes a volume away.
    """
    kept = [dict(one) for one in mappings]
    for volume in volumes:
        mine = next((one for one in kept if one.get("DeviceName") == volume.device), None)
        if mine is None:
            if volume.initialize is None:
                continue
            mine = {"DeviceName": volume.device}
            kept.append(mine)
        if "Ebs" not in mine and mine.keys() > {"DeviceName"}:
            raise ReleaseError(
                f"{label}: the template's mapping of {volume.device} takes away the volume with the models: no "
                "instance could take a job",
                hint=f"take the mapping of {volume.device} out of the template",
            )
        mine["Ebs"] = {**mine.get("Ebs", {"VolumeType": "gp3", "DeleteOnTermination": True}), **_wanted(mine, volume)}
    return kept


def _wanted(mapping: Mapping[str, Any], volume: DataVolume) -> dict[str, Any]:
    size = mapping.get("Ebs", {}).get("VolumeSize")
    wanted: dict[str, Any] = {"SnapshotId": volume.snapshot}
    if size is not None:
        wanted["VolumeSize"] = max(size, volume.size)
    if volume.initialize is not None:
        wanted["VolumeInitializationRate"] = volume.initialize
    return wanted
