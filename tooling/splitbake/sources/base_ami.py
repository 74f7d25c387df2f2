"""The base AMI: what the manifest asks for, found in EC2 and pinned by id."""

from __future__ import annotations

import json
from typing import Any

from splitbake import lock as locks
from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError, SourceError
from splitbake.lock import LockedBaseAmi
from splitbake.manifest import Manifest
from splitbake.manifest.ami import KNOWN_BASES, BaseByName, BaseBySsm

_GIB = 1024**3
_NO_SUCH_AMI = {"InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable"}


def resolve(cloud: Cloud, manifest: Manifest) -> LockedBaseAmi:
    """Return the AMI that ``ami.base`` means in the cloud's region today.

    Raises:
        SourceError: there is none, or it cannot be a base (not available, no EBS root).
        CloudError: AWS could not be asked.
    """
    base = manifest.ami.base
    if isinstance(base, BaseByName):
        image = _newest(cloud, base)
    elif isinstance(base, BaseBySsm):
        image = _by_id(cloud, _from_parameter(cloud, base.ssm))
    else:
        image = _by_id(cloud, _from_parameter(cloud, KNOWN_BASES[base]) if base in KNOWN_BASES else base)
    return LockedBaseAmi(
        request=locks.base_request(manifest),
        id=image["ImageId"],
        name=image["Name"],
        owner=image["OwnerId"],
        created=image["CreationDate"],
        architecture=image["Architecture"],
        region=cloud.environment.region,
        root_device=image["RootDeviceName"],
        root_size=_root_size(cloud, image),
        deprecated=image.get("DeprecationTime"),
    )


def _from_parameter(cloud: Cloud, name: str) -> str:
    """Return the AMI id in an SSM parameter: plain, or as ``image_id`` of the JSON that ECS publishes."""
    try:
        with aws_errors(f"read the SSM parameter {name}"):
            text = str(cloud.client("ssm").get_parameter(Name=name)["Parameter"]["Value"])
    except CloudError as problem:
        if error_code(problem) == "ParameterNotFound":
            raise SourceError(
                f"there is no SSM parameter {name} in {cloud.environment.region}",
                hint="correct ami.base in the manifest",
            ) from problem
        raise
    if text.startswith("ami-"):
        return text
    try:
        return str(json.loads(text)["image_id"])
    except (ValueError, KeyError, TypeError):
        raise SourceError(
            f"the SSM parameter {name} holds neither an AMI id nor JSON with an image_id: {text[:80]!r}"
        ) from None


def _by_id(cloud: Cloud, ami: str) -> dict[str, Any]:
    region = cloud.environment.region
    try:
        with aws_errors(f"describe {ami}"):
            images = cloud.client("ec2").describe_images(ImageIds=[ami])["Images"]
    except CloudError as problem:
        if error_code(problem) not in _NO_SUCH_AMI:
            raise
        images = []
    if not images:
        raise SourceError(
            f"there is no AMI {ami} in {region}",
            hint="AMI ids differ by region, and old ones are withdrawn; correct ami.base",
        )
    return _usable(images[0])


def _newest(cloud: Cloud, base: BaseByName) -> dict[str, Any]:
    with aws_errors(f"look for AMIs named {base.name}"):
        pages = (
            cloud.client("ec2")
            .get_paginator("describe_images")
            .paginate(
                Owners=[base.owner],
                Filters=[{"Name": "name", "Values": [base.name]}, {"Name": "state", "Values": ["available"]}],
            )
        )
        images = [image for page in pages for image in page["Images"]]
    if not images:
        raise SourceError(
            f"no AMI of {base.owner} in {cloud.environment.region} is named {base.name!r}",
            hint="correct name (* stands for anything) and owner (an account, amazon, self) in ami.base",
        )
    return _usable(max(images, key=lambda image: (image["CreationDate"], image["ImageId"])))


def _usable(image: dict[str, Any]) -> dict[str, Any]:
    if image["State"] != "available":
        raise SourceError(f"{image['ImageId']} is {image['State']}, not available", hint="choose another base AMI")
    if image.get("RootDeviceType") != "ebs":
        raise SourceError(f"{image['ImageId']} has no EBS root volume", hint="choose a base AMI that has one")
    return image


def _root_size(cloud: Cloud, image: dict[str, Any]) -> int:
    """Return the bytes of the root snapshot of ``image``."""
    for device in image.get("BlockDeviceMappings", []):
        if device["DeviceName"] != image["RootDeviceName"] or "Ebs" not in device:
            continue
        size = device["Ebs"].get("VolumeSize")
        if size is None:
            with aws_errors(f"describe the snapshot of {image['ImageId']}"):
                snapshots = cloud.client("ec2").describe_snapshots(SnapshotIds=[device["Ebs"]["SnapshotId"]])
            size = snapshots["Snapshots"][0]["VolumeSize"]
        return int(size) * _GIB
    raise SourceError(f"{image['ImageId']} does not say how large its root volume is", hint="choose another base AMI")
