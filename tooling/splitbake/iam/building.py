"""What the builder may do, and what the instance that it starts may do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from splitbake.iam import access, common
from splitbake.iam.policies import GETS, HAS, Conditions, Scope, Statement
from splitbake.manifest.ami import KNOWN_BASES, BaseByName, BaseBySsm

#: The document by which Packer forwards a port through Session Manager, and the one by which ssh goes through it.
PACKER_DOCUMENT: Final = "AWS-StartPortForwardingSession"
SSH_DOCUMENT: Final = "AWS-StartSSHSession"
_AMAZON: Final = "amazon"


def builder(scope: Scope) -> Iterator[Statement]:
    """Yield what lock, build and gc need."""
    manifest = scope.manifest
    yield common.describing(
        scope,
        *("DescribeImages", "DescribeInstances", "DescribeInstanceStatus", "DescribeKeyPairs"),
        *("DescribeNetworkInterfaces", "DescribeRegions", "DescribeSecurityGroups", "DescribeSnapshots"),
        *("DescribeSubnets", "DescribeVolumes", "DescribeVpcs"),
    )
    yield from _base(scope)
    yield from common.models(scope)
    yield from common.state(scope)
    repositories = [manifest.image.repository]
    yield from common.registry(scope, repositories, push=True)
    pulled = [name for image in (manifest.image.base, *manifest.ami.preload) for name in common.in_registry(image)]
    if names := sorted(set(pulled) - set(repositories)):
        yield Statement(
            sid="PullBases",
            actions=common.ECR_PULL,
            resources=[scope.arn("ecr", f"repository/{name}") for name in names],
        )
    yield from access.granted(scope)
    yield from access.launching(
        scope, instance_type=manifest.ami.builder.instance_type, image=_from_base(scope), tokens=False
    )
    yield from access.passing(scope)
    if profile := manifest.ami.builder.profile:
        yield Statement(
            sid="SeeProfile",
            actions=["iam:GetInstanceProfile"],
            resources=[scope.iam(f"instance-profile/{profile}")],
        )
    yield from access.temporary_role(scope)
    if manifest.ami.builder.permissions_boundary:
        yield Statement(
            sid="ListRoles",
            actions=["iam:ListInstanceProfiles", "iam:ListRoles"],
            resources=["*"],
            why="listing knows no resources; gc looks for the roles that runs have left",
        )
    yield from access.sessions(scope, PACKER_DOCUMENT)
    yield from _spot(scope)
    yield from _ami(scope)
    yield from _keys(scope)


def instance(scope: Scope) -> Iterator[Statement]:
    """Yield what the instance itself needs: the agent of Session Manager, or nothing.

    The least of AmazonSSMManagedInstanceCore, which can also read every SSM parameter of the account. Models and
    preloaded images come by addresses and passwords of the builder, so nothing of S3, ECR or ECS is here.
    """
    if scope.manifest.ami.builder.connect != "session-manager":
        return
    yield Statement(
        sid="SessionAgent",
        actions=["ssm:UpdateInstanceInformation"],
        resources=[scope.ec2("instance")],
        conditions={"ArnLike": {"ec2:SourceInstanceARN": scope.ec2("instance")}},
        why="instances of a bake have no id yet; each can speak for itself only",
    )
    yield Statement(
        sid="SessionChannels",
        actions=[
            *("ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel"),
            *("ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel"),
        ],
        resources=["*"],
        why="these actions know no resources",
    )


def _base(scope: Scope) -> Iterator[Statement]:
    match scope.manifest.ami.base:
        case BaseBySsm() as base:
            name = base.ssm
        case str() as known if known in KNOWN_BASES:
            name = KNOWN_BASES[known]
        case _:
            return
    yield Statement(sid="BaseParameter", actions=["ssm:GetParameter"], resources=[common.parameter(scope, name)])


def _from_base(scope: Scope) -> Statement:
    """Return the permission to start an instance from the base AMI, as narrow as the manifest names it."""
    image, why = scope.ec2("image"), "the base AMI's id is the lock's, and moves with it"
    conditions: Mapping[str, Mapping[str, str]] = {}
    match scope.manifest.ami.base:
        case BaseByName() as base:
            owner = scope.environment.account if base.owner == "self" else base.owner
            conditions = {"StringEquals": {"ec2:Owner": owner}}
        case str() as text if text in KNOWN_BASES:
            conditions = {"StringEquals": {"ec2:Owner": _AMAZON}}
        case str() as ami:
            image, why = scope.ec2("image", ami), ""
        case _:
            why += "; a parameter does not say whose it is"
    return Statement(sid="RunBase", actions=["ec2:RunInstances"], resources=[image], conditions=conditions, why=why)


def _ami(scope: Scope) -> Iterator[Statement]:
    """Yield what making, finishing and removing the AMI takes."""
    later = "AMI and snapshots have no id yet, and Packer tags them when they exist: until then they are nobody's"
    yield Statement(
        sid="ImageOwnInstance",
        actions=["ec2:CreateImage", "ec2:StopInstances"],
        resources=[scope.ec2("instance")],
        conditions=scope.owned,
        why=common.TAGGED,
    )
    yield Statement(
        sid="MakeAmi",
        actions=["ec2:CreateImage"],
        resources=[scope.ec2("image"), scope.ec2("snapshot")],
        why=later,
    )
    if scope.manifest.ami.copies:
        yield Statement(
            sid="CopyAmi", actions=["ec2:CopyImage"], resources=scope.everywhere("image", "snapshot"), why=later
        )
    yield Statement(
        sid="TagAmi",
        actions=["ec2:CreateTags"],
        resources=scope.everywhere("image", "snapshot"),
        conditions=_adopting(scope),
        why=f"{later}; what carries another project's tag stays out of reach",
    )
    yield Statement(
        sid="TagInstance",
        actions=["ec2:CreateTags"],
        resources=[scope.ec2("instance"), scope.ec2("volume")],
        conditions={"StringEquals": {HAS: scope.project, GETS: scope.project}},
        why=common.TAGGED,
    )
    yield Statement(
        sid="SetAmi",
        actions=["ec2:ModifyImageAttribute"],
        resources=scope.everywhere("image"),
        conditions=common.untagged(scope),
        why=f"{later}; Packer describes the AMI before it tags it",
    )
    yield Statement(
        sid="RemoveAmi",
        actions=[
            *("ec2:DeleteSnapshot", "ec2:DeregisterImage"),
            *(("ec2:EnableImageDeprecation",) if scope.manifest.ami.deprecate else ()),
        ],
        resources=scope.everywhere("image", "snapshot"),
        conditions=scope.owned,
        why=common.TAGGED,
    )


def _adopting(scope: Scope) -> Conditions:
    free = common.untagged(scope)
    return {**free, "StringEquals": {**free["StringEquals"], GETS: scope.project}}


def _spot(scope: Scope) -> Iterator[Statement]:
    """Yield what a spot builder takes: Packer asks for it by a fleet, from a launch template of its own."""
    if not scope.manifest.ami.builder.spot:
        return
    for sid, kind, action in (("SpotTemplate", "launch-template", "LaunchTemplate"), ("SpotFleet", "fleet", "Fleet")):
        yield Statement(
            sid=sid,
            actions=[f"ec2:Create{action}", "ec2:CreateTags"],
            resources=[scope.ec2(kind)],
            conditions=scope.marked,
            why=common.UNNAMED,
        )
    yield Statement(
        sid="SpotFromTemplate",
        actions=["ec2:CreateFleet", "ec2:RunInstances"],
        resources=[scope.ec2("launch-template")],
        conditions=scope.owned,
        why=common.TAGGED,
    )
    yield Statement(
        sid="SpotParts",
        actions=["ec2:CreateFleet"],
        resources=[scope.ec2(kind) for kind in ("image", "instance", "subnet", "volume")],
        why="the parts of the fleet have no id yet; RunInstances, which the fleet needs as well, narrows them",
    )
    yield Statement(
        sid="SpotEnd",
        actions=["ec2:DeleteLaunchTemplate"],
        resources=[scope.ec2("launch-template")],
        conditions=scope.owned,
        why=common.TAGGED,
    )


def _keys(scope: Scope) -> Iterator[Statement]:
    """Yield the use of KMS keys by EC2; AWS's own key for EBS needs no permission."""
    ami = scope.manifest.ami
    wanted = [(scope.environment.region, ami.kms_key), *((one.region, one.kms_key) for one in ami.copies)]
    for number, (region, key) in enumerate((where, name) for where, name in wanted if name):
        yield from _key(scope, region, key or "", str(number or ""))


def _key(scope: Scope, region: str, key: str, suffix: str) -> Iterator[Statement]:
    via = {"kms:ViaService": f"ec2.{region}.amazonaws.com"}
    alias = key if key.startswith("alias/") else key.partition(":alias/")[2] and f"alias/{key.partition(':alias/')[2]}"
    if alias:
        resource = scope.arn("kms", "key/*", region=region)
    else:
        resource = key if key.startswith("arn:") else scope.arn("kms", f"key/{key}", region=region)
    why = f"a key is known to policies by its id; {alias} narrows it" if alias else ""
    named: Conditions = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias}} if alias else {}
    yield Statement(
        sid=f"UseKey{suffix}",
        actions=[
            *("kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext"),
            *("kms:ReEncryptFrom", "kms:ReEncryptTo"),
        ],
        resources=[resource],
        conditions={"StringEquals": via, **named},
        why=why,
    )
    yield Statement(
        sid=f"GrantKey{suffix}",
        actions=["kms:CreateGrant"],
        resources=[resource],
        conditions={"StringEquals": via, "Bool": {"kms:GrantIsForAWSResource": "true"}, **named},
        why=why,
    )
