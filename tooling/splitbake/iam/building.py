"""What the builder may do, and what the instance that it starts may do.

A current Packer tags AMI and snapshots by the call that makes them. Packer 1.6 does so when they are there, so with it
the builder must be able to tag what has no tags: the weakest spot of its permissions (docs/iam.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from splitbake.catalog import leases
from splitbake.iam import access, codebuild, common, spot
from splitbake.iam.policies import GETS, HAS, Conditions, Scope, Statement, named
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
        *(("DescribeLaunchTemplates",) if manifest.ami.builder.spot else ()),
    )
    yield from _base(scope)
    yield from common.models(scope)
    made = (f"{what}/{scope.place}/*" for what in ("artifacts", "dependencies", "provenance"))
    own = (*made, f"runs/{scope.place}/*/build/*", "inputs/*")
    held = leases("build", scope.environment.account, scope.environment.region)
    yield from common.state(scope, *own, f"leases/{held}*")
    yield from common.bucket_keys(scope)
    repositories = [manifest.image.repository, *([manifest.image.cache] if manifest.image.cache else [])]
    yield from common.registry(scope, repositories, push=True)
    yield from common.making_repository(scope)
    pulled = [name for image in (manifest.image.base, *manifest.ami.preload) for name in common.in_registry(image)]
    if names := sorted(set(pulled) - set(repositories)):
        yield Statement(
            sid="PullBases",
            actions=common.ECR_PULL,
            resources=[scope.arn("ecr", f"repository/{name}") for name in names],
        )
    yield from codebuild.caller(scope)
    yield from access.granted(scope)
    yield from access.launching(
        scope, instance_type=manifest.ami.builder.instance_type, image=_from_base(scope), tokens=False
    )
    yield from access.passing(scope)
    if profile := manifest.ami.builder.profile:
        yield Statement(
            sid="SeeProfile",
            actions=["iam:GetInstanceProfile"],
            resources=[scope.iam(f"instance-profile/{named(profile, 'ami.builder.profile')}")],
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
    if manifest.ami.builder.spot:
        yield from spot.builder(scope)
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
            owner = scope.environment.account if base.owner == "self" else named(base.owner, "ami.base.owner")
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
    untagging = scope.packer == "1.6"
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
        conditions={} if untagging else scope.marked,
        why="AMI and snapshots have no id yet, and Packer 1.6 gives them no tags by this call"
        if untagging
        else common.UNNAMED,
    )
    copying = bool(scope.manifest.ami.copies)
    if copying:
        yield from common.copying(scope, scope.regions)
    yield common.tagging(scope, scope.regions, "CreateImage", *(("CopyImage",) if copying else ()))
    yield Statement(
        sid="TagOwn",
        actions=["ec2:CreateTags"],
        resources=[*scope.everywhere("image", "snapshot"), scope.ec2("instance"), scope.ec2("volume")],
        conditions={"StringEquals": {HAS: scope.project, GETS: scope.project}},
        why=common.TAGGED,
    )
    if untagging:
        yield from _untagged(scope)
    yield Statement(
        sid="InsistOnImdsV2",
        actions=["ec2:ModifyImageAttribute"],
        resources=scope.everywhere("image"),
        conditions={"StringEquals": {HAS: scope.project, "ec2:Attribute/ImdsSupport": "v2.0"}},
        why=common.TAGGED,
    )
    yield Statement(
        sid="DescribeAmi",
        actions=["ec2:ModifyImageAttribute"],
        resources=[scope.ec2("image")],
        conditions={**scope.owned, **_describing(scope)},
        why=common.TAGGED,
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


def _untagged(scope: Scope) -> Iterator[Statement]:
    """Yield what only Packer 1.6 takes: it describes and tags AMI and snapshots afterwards, and knows no IMDSv2."""
    # Of this account, and with neither project nor name: what others keep mostly has a name.
    free: Conditions = {"Null": {HAS: "true", "aws:ResourceTag/Name": "true"}}
    account = {"ec2:Owner": scope.environment.account}
    yield Statement(
        sid="DescribeUntagged",
        actions=["ec2:ModifyImageAttribute"],
        resources=[scope.ec2("image")],
        conditions={**free, "StringEquals": account, **_describing(scope)},
        why="Packer 1.6 describes the AMI before it tags it",
    )
    yield Statement(
        sid="TagUntagged",
        actions=["ec2:CreateTags"],
        resources=[scope.ec2("image"), scope.ec2("snapshot")],
        conditions={**free, "StringEquals": {**account, GETS: scope.project}},
        why="Packer 1.6 tags AMI and snapshots when they are there; until then they have neither name nor project",
    )
    yield Statement(
        sid="SwitchImdsV2On",
        actions=["ec2:ModifyInstanceMetadataOptions"],
        resources=[scope.ec2("instance")],
        conditions={"StringEquals": {HAS: scope.project, "ec2:Attribute/HttpTokens": "required"}},
        why=f"{common.TAGGED}; Packer 1.6 cannot start it so",
    )


def _describing(scope: Scope) -> Conditions:
    """Only with Packer's own description, and so no other attribute: EC2 takes one of them by a call."""
    return {"StringLike": {"ec2:Attribute/Description": f"{scope.project}: models on ami-*"}}


def _keys(scope: Scope) -> Iterator[Statement]:
    """Yield the use of the keys of the AMI and of its copies."""
    ami, here = scope.manifest.ami, scope.environment
    wanted = [(here.region, ami.kms_key), *((one.region, one.kms_key) for one in ami.copies)]
    for number, (region, key) in enumerate((where, name) for where, name in wanted if name):
        yield from common.ebs_key(scope, key=key or "", account=here.account, region=region, suffix=str(number or ""))
