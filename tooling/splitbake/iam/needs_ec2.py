"""What calls of EC2 need: on which resources, with the tags that these have or get."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from splitbake.iam.evaluate import Request, UnjudgedError
from splitbake.iam.needs import NO_KEYS, Asked, Keys, Row, without_resource

#: AMIs and snapshots have no account in their ARN.
_NO_ACCOUNT: Final = {"image", "snapshot"}

#: Calls that only describe; EC2 knows no resources for them.
_DESCRIBING: Final = (
    *("DescribeImages", "DescribeInstances", "DescribeInstanceStatus", "DescribeKeyPairs", "DescribeRegions"),
    *("DescribeSecurityGroups", "DescribeSnapshots", "DescribeSubnets", "DescribeTags", "DescribeVolumes"),
    *("DescribeVpcs", "DescribeLaunchTemplates", "DescribeLaunchTemplateVersions", "DescribeAvailabilityZones"),
    *("DescribeInstanceTypes", "DescribeInstanceTypeOfferings", "DescribeSpotPriceHistory"),
    *("DescribeSpotInstanceRequests", "DescribeImageReferences", "DescribeNetworkInterfaces"),
)

#: Operations that act on resources that exist -> kind of resource, and where the call names them.
_EXISTING: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "AttachVolume": (("instance", "InstanceId"), ("volume", "VolumeId")),
    "AuthorizeSecurityGroupIngress": (("security-group", "GroupId"),),
    "DeleteKeyPair": (("key-pair", "KeyName"),),
    "DeleteNetworkInterface": (("network-interface", "NetworkInterfaceId"),),
    "DeleteSecurityGroup": (("security-group", "GroupId"),),
    "DeleteSnapshot": (("snapshot", "SnapshotId"),),
    "DeleteVolume": (("volume", "VolumeId"),),
    "DeregisterImage": (("image", "ImageId"),),
    "DescribeImageAttribute": (("image", "ImageId"),),
    "DescribeSnapshotAttribute": (("snapshot", "SnapshotId"),),
    "DetachVolume": (("volume", "VolumeId"),),
    "DisableImage": (("image", "ImageId"),),
    "EnableImage": (("image", "ImageId"),),
    "DisableImageDeprecation": (("image", "ImageId"),),
    "EnableImageDeprecation": (("image", "ImageId"),),
    "StopInstances": (("instance", "InstanceIds"),),
    "TerminateInstances": (("instance", "InstanceIds"),),
}

#: Operations that make resources -> their kinds.
_MADE: Final[Mapping[str, tuple[str, ...]]] = {
    "CopyImage": ("image", "snapshot"),
    "CreateLaunchTemplate": ("launch-template",),
    "CreateKeyPair": ("key-pair",),
    "ImportKeyPair": ("key-pair",),
}

#: Prefix of an id -> kind of resource, as CreateTags has to tell them.
_KINDS: Final = {
    "ami": "image",
    "snap": "snapshot",
    "i": "instance",
    "vol": "volume",
    "sg": "security-group",
    "key": "key-pair",
    "lt": "launch-template",
    "eni": "network-interface",
}


def arn(asked: Asked, kind: str, name: str = "*") -> str:
    """Return the ARN of an EC2 resource; ``*`` names one that the call makes."""
    return asked.arn("ec2", f"{kind}/{name}", account="" if kind in _NO_ACCOUNT else None)


def existing(asked: Asked, action: str, kind: str, name: str) -> Request:
    """Return the request of ``action`` on a resource that exists."""
    owner = {"ec2:Owner": [asked.facts.owner(name)]} if kind in _NO_ACCOUNT else {}
    return asked.tagged(f"ec2:{action}", arn(asked, kind, name), has=asked.facts.tags(name), keys=owner)


def made(asked: Asked, action: str, kind: str, name: str = "*", keys: Keys = NO_KEYS) -> Iterator[Request]:
    """Yield what making a resource needs: the action on it, and CreateTags where it gets tags at once."""
    gets = _specified(asked, kind)
    resource = arn(asked, kind, name)
    yield asked.tagged(f"ec2:{action}", resource, gets=gets, keys=keys)
    if gets:
        owner: Keys = {"ec2:Owner": []} if kind in _NO_ACCOUNT else {}  # AWS does not say that there is one so early
        keys = {"ec2:CreateAction": [action], **owner}
        yield asked.tagged("ec2:CreateTags", resource, has={}, gets=gets, keys=keys)


def _specified(asked: Asked, kind: str) -> dict[str, str]:
    """Return the tags that a call gives to the resources of ``kind`` that it makes."""
    specifications = [one for one in asked.get("TagSpecifications") if one.get("ResourceType") == kind]
    return _pairs(tag for one in specifications for tag in one.get("Tags", []))


def _pairs(tags: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {str(tag["Key"]): str(tag.get("Value", "")) for tag in tags}


def _acting(action: str) -> Row:
    def row(asked: Asked) -> Iterator[Request]:
        for kind, path in _EXISTING[action]:
            for name in asked.get(path):
                yield existing(asked, action, kind, name)

    return row


def _making(action: str) -> Row:
    def row(asked: Asked) -> Iterator[Request]:
        for kind in _MADE[action]:
            yield from made(asked, action, kind, asked.one("KeyName") if kind == "key-pair" else "*")

    return row


def _create_security_group(asked: Asked) -> Iterator[Request]:
    yield from made(asked, "CreateSecurityGroup", "security-group")
    yield existing(asked, "CreateSecurityGroup", "vpc", asked.one("VpcId") or "*")


def _create_image(asked: Asked) -> Iterator[Request]:
    yield existing(asked, "CreateImage", "instance", asked.one("InstanceId"))
    yield from made(asked, "CreateImage", "image")
    yield from made(asked, "CreateImage", "snapshot")


def _modifying(action: str, kind: str, path: str, attributes: Sequence[str]) -> Row:
    """Return the row of an action that sets attributes, which are condition keys where they are a single value."""

    def row(asked: Asked) -> Iterator[Request]:
        one = existing(asked, action, kind, asked.one(path))
        values = {name: asked.one(f"{name}.Value", name) for name in attributes}
        given = {name: text for name, text in values.items() if text}
        named = {"ec2:attribute": tuple(asked.get("Attribute"))} if kind == "image" else {}
        yield replace(one, context={**one.context, **named}, tags={**one.tags, "ec2:attribute/": given})

    return row


def _share_snapshot(asked: Asked) -> Iterator[Request]:
    """ModifySnapshotAttribute: with whom, in either of the two forms that it takes."""
    one = existing(asked, "ModifySnapshotAttribute", "snapshot", asked.one("SnapshotId"))
    operation = asked.one("OperationType")
    keys: dict[str, Sequence[str]] = {}
    for way in ("Add", "Remove"):
        for key, plain, nested in (("userId", "UserIds", "UserId"), ("group", "GroupNames", "Group")):
            named = asked.get(plain) if operation == way.lower() else []
            keys[f"ec2:{way}/{key}".lower()] = [*named, *asked.get(f"CreateVolumePermission.{way}.{nested}")]
    yield replace(one, context={**one.context, **keys})


def _create_volume(asked: Asked) -> Iterator[Request]:
    yield from made(asked, "CreateVolume", "volume")
    for snapshot in asked.get("SnapshotId"):
        yield existing(asked, "CreateVolume", "snapshot", snapshot)


def _create_snapshot(asked: Asked) -> Iterator[Request]:
    yield existing(asked, "CreateSnapshot", "volume", asked.one("VolumeId"))
    yield from made(asked, "CreateSnapshot", "snapshot")


def _create_tags(asked: Asked) -> Iterator[Request]:
    """CreateTags of what exists: then there is no ``ec2:CreateAction``."""
    for name in asked.get("Resources"):
        kind = _KINDS.get(name.partition("-")[0])
        if kind is None:
            raise UnjudgedError(f"what kind of resource {name} is, is not known here")
        owner = {"ec2:Owner": [asked.facts.owner(name)]} if kind in _NO_ACCOUNT else {}
        yield asked.tagged(
            "ec2:CreateTags",
            arn(asked, kind, name),
            has=asked.facts.tags(name),
            gets=_pairs(asked.get("Tags")),
            keys={"ec2:CreateAction": [], **owner},
        )


def _template(asked: Asked) -> str:
    return asked.one("LaunchTemplateId") or asked.facts.template(asked.one("LaunchTemplateName"))


def _changing_template(action: str) -> Row:
    return lambda asked: [existing(asked, action, "launch-template", _template(asked))]


def _run_instances(asked: Asked) -> Iterator[Request]:
    """RunInstances: in a VPC, on EBS; what a launch template would add is not looked up."""
    if asked.get("LaunchTemplate"):
        raise UnjudgedError("what RunInstances with a launch template needs is not known here")
    settings = {
        "ec2:InstanceType": asked.get("InstanceType"),
        "ec2:MetadataHttpTokens": asked.get("MetadataOptions.HttpTokens"),
        "ec2:InstanceProfile": asked.get("IamInstanceProfile.Arn"),
    }
    yield from made(asked, "RunInstances", "instance", keys=settings)
    yield from made(asked, "RunInstances", "volume")
    yield from made(asked, "RunInstances", "network-interface")
    yield existing(asked, "RunInstances", "image", asked.one("ImageId"))
    yield existing(asked, "RunInstances", "subnet", asked.one("SubnetId", "NetworkInterfaces.SubnetId") or "*")
    for group in [*asked.get("SecurityGroupIds"), *asked.get("NetworkInterfaces.Groups")] or ["*"]:
        yield existing(asked, "RunInstances", "security-group", group)
    for kind, path in (("key-pair", "KeyName"), ("snapshot", "BlockDeviceMappings.Ebs.SnapshotId")):
        for name in asked.get(path):
            yield existing(asked, "RunInstances", kind, name)
    if asked.get("InstanceMarketOptions"):
        yield from made(asked, "RunInstances", "spot-instances-request")
    if profile := asked.one("IamInstanceProfile.Name", "IamInstanceProfile.Arn"):
        yield asked.pass_role(asked.facts.role_of_profile(profile), "ec2.amazonaws.com")


ROWS: Final[Mapping[str, Row]] = {
    **{f"ec2:{action}": without_resource(f"ec2:{action}") for action in _DESCRIBING},
    **{f"ec2:{action}": _acting(action) for action in _EXISTING},
    **{f"ec2:{action}": _making(action) for action in _MADE},
    "ec2:CreateImage": _create_image,
    "ec2:CreateLaunchTemplateVersion": _changing_template("CreateLaunchTemplateVersion"),
    "ec2:CreateSecurityGroup": _create_security_group,
    "ec2:CreateSnapshot": _create_snapshot,
    "ec2:CreateTags": _create_tags,
    "ec2:CreateVolume": _create_volume,
    "ec2:DeleteLaunchTemplate": _changing_template("DeleteLaunchTemplate"),
    "ec2:ModifyImageAttribute": _modifying("ModifyImageAttribute", "image", "ImageId", ("Description", "ImdsSupport")),
    "ec2:ModifyInstanceMetadataOptions": _modifying(
        "ModifyInstanceMetadataOptions",
        "instance",
        "InstanceId",
        ("HttpEndpoint", "HttpProtocolIpv6", "HttpPutResponseHopLimit", "HttpTokens", "InstanceMetadataTags"),
    ),
    "ec2:ModifySnapshotAttribute": _share_snapshot,
    "ec2:ModifyLaunchTemplate": _changing_template("ModifyLaunchTemplate"),
    "ec2:RunInstances": _run_instances,
}
