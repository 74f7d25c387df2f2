"""Permissions for temporary instances: key pair, security group, role, the launch itself, and Session Manager."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from splitbake.iam import common
from splitbake.iam.policies import GETS, Scope, Statement, named

#: As runs name their key pairs, roles and profiles: a longer name, or a shorter one, is none of a run.
_RUNS: Final = f"splitbake-{'?' * 12}"


def granted(scope: Scope) -> Iterator[Statement]:
    """Yield what key pair and security group of one run need, and their end."""
    yield Statement(
        sid="KeyPair",
        actions=["ec2:ImportKeyPair"],
        resources=[scope.ec2("key-pair", _RUNS)],
        conditions=scope.marked,
        why="named by the run",
    )
    yield Statement(
        sid="SecurityGroup",
        actions=["ec2:CreateSecurityGroup"],
        resources=[scope.ec2("security-group")],
        conditions=scope.marked,
        why=common.UNNAMED,
    )
    yield Statement(
        sid="SecurityGroupInVpc",
        actions=["ec2:CreateSecurityGroup"],
        resources=[scope.ec2("vpc")],
        why="the VPC is that of ami.builder.subnet, or the region's default one: the manifest does not name it",
    )
    yield Statement(
        sid="TagWhileMaking",
        actions=["ec2:CreateTags"],
        resources=[
            scope.ec2(kind) for kind in ("instance", "key-pair", "network-interface", "security-group", "volume")
        ],
        conditions={
            "StringEquals": {
                GETS: scope.project,
                "ec2:CreateAction": ["CreateSecurityGroup", "ImportKeyPair", "RunInstances"],
            }
        },
        why=common.UNNAMED,
    )
    yield Statement(
        sid="RemoveOwn",
        actions=[
            *("ec2:AuthorizeSecurityGroupIngress", "ec2:DeleteKeyPair", "ec2:DeleteNetworkInterface"),
            *("ec2:DeleteSecurityGroup", "ec2:DeleteVolume", "ec2:TerminateInstances"),
        ],
        resources=[
            scope.ec2(kind) for kind in ("instance", "key-pair", "network-interface", "security-group", "volume")
        ],
        conditions=scope.owned,
        why=common.TAGGED,
    )


def launching(scope: Scope, *, instance_type: str, image: Statement, tokens: bool) -> Iterator[Statement]:
    """Yield what it takes to start a temporary instance.

    Args:
        scope: of the project.
        instance_type: the only one that may be started.
        image: says from which AMIs.
        tokens: whether the instance must insist on IMDSv2; Packer 1.6 cannot say so.
    """
    required = {"ec2:MetadataHttpTokens": "required"} if tokens else {}
    yield Statement(
        sid="RunInstance",
        actions=["ec2:RunInstances"],
        resources=[scope.ec2("instance")],
        conditions={"StringEquals": {GETS: scope.project, "ec2:InstanceType": instance_type, **required}},
        why=common.UNNAMED,
    )
    yield Statement(
        sid="RunWithVolumes",
        actions=["ec2:RunInstances"],
        resources=[scope.ec2("volume")],
        conditions=scope.marked,
        why=common.UNNAMED,
    )
    yield image
    subnet = scope.manifest.ami.builder.subnet
    yield Statement(
        sid="RunInNetwork",
        actions=["ec2:RunInstances"],
        resources=[scope.ec2("network-interface"), scope.ec2("subnet", subnet or "*")],
        why="the interface is made with the instance"
        + ("" if subnet else "; without ami.builder.subnet the subnet is a default one"),
    )
    yield Statement(
        sid="RunWithAccess",
        actions=["ec2:RunInstances"],
        resources=[scope.ec2("key-pair", _RUNS), scope.ec2("security-group")],
        conditions=scope.owned,
        why=common.TAGGED,
    )


def passing(scope: Scope) -> Iterator[Statement]:
    """Yield the permission to hand the instance its role: that of the profile, or a temporary one."""
    builder = scope.manifest.ami.builder
    role = scope.profile_role or named((builder.profile or "").rpartition("/")[2], "ami.builder.profile")
    if not role and not builder.permissions_boundary:
        return
    yield Statement(
        sid="PassRole",
        actions=["iam:PassRole"],
        resources=[scope.iam(f"role/{role or _RUNS}")],
        conditions={"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        why="" if role else "temporary roles are named by the run, and made within the permissions boundary",
    )


def temporary_role(scope: Scope) -> Iterator[Statement]:
    """Yield what a temporary role takes, always within the boundary; nothing where there is none."""
    boundary = scope.manifest.ami.builder.permissions_boundary
    if not boundary:
        return
    role, profile = scope.iam(f"role/{_RUNS}"), scope.iam(f"instance-profile/{_RUNS}")
    core = f"arn:{boundary.split(':')[1]}:iam::aws:policy/AmazonSSMManagedInstanceCore"
    why = "temporary roles and profiles are named by the run"
    within = {"iam:PermissionsBoundary": named(boundary, "ami.builder.permissions_boundary")}
    yield Statement(
        sid="MakeRole",
        actions=["iam:CreateRole", "iam:DeleteRole"],
        resources=[role],
        conditions={"StringEquals": within},
        why=why,
    )
    yield Statement(
        sid="GiveRolePolicy",
        actions=["iam:AttachRolePolicy", "iam:DetachRolePolicy"],
        resources=[role],
        conditions={"StringEquals": within, "ArnEquals": {"iam:PolicyARN": core}},
        why=why,
    )
    yield Statement(
        sid="SeeRole", actions=["iam:ListAttachedRolePolicies", "iam:ListRoleTags"], resources=[role], why=why
    )
    yield Statement(sid="TagRole", actions=["iam:TagRole"], resources=[role], conditions=scope.marked, why=why)
    yield Statement(
        sid="MakeProfile",
        actions=["iam:CreateInstanceProfile", "iam:TagInstanceProfile"],
        resources=[profile],
        conditions=scope.marked,
        why=why,
    )
    yield Statement(
        sid="Profiles",
        actions=[
            *("iam:AddRoleToInstanceProfile", "iam:DeleteInstanceProfile", "iam:GetInstanceProfile"),
            "iam:RemoveRoleFromInstanceProfile",
        ],
        resources=[profile],
        why=why,
    )


def sessions(scope: Scope, document: str) -> Iterator[Statement]:
    """Yield the permission to reach instances of the project by Session Manager; ``document``: of what kind."""
    if scope.manifest.ami.builder.connect != "session-manager":
        return
    yield Statement(
        sid="OpenSession",
        actions=["ssm:StartSession"],
        resources=[scope.ec2("instance")],
        conditions=scope.owned,
        why=common.TAGGED,
    )
    yield Statement(
        sid="OpenSessionByDocument",
        actions=["ssm:StartSession"],
        resources=[scope.arn("ssm", f"document/{document}", account="")],
    )
    # The plugin signs this call from 1.2.764 on.
    yield Statement(
        sid="TalkInSession",
        actions=["ssmmessages:OpenDataChannel"],
        resources=["*"],
        why="this action knows no resources; a session's token, which only who opened it has, goes with it",
    )
    # Sessions are named by the name of the caller's session, which is no part of a role that a policy could name.
    yield Statement(
        sid="EndSession",
        actions=["ssm:ResumeSession", "ssm:TerminateSession"],
        resources=[scope.arn("ssm", "session/*")],
        conditions={"StringEquals": {"ssm:resourceTag/aws:ssmmessages:session-id": "${aws:userid}"}},
        why="sessions get their id at run time; AWS tags them with who opened them",
    )
