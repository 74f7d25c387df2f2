"""Which permissions no run of the whole loop uses, and why they are there all the same.

A test of the whole loop compares this with what was recorded, no more and no less; docs/iam.md shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from splitbake.iam.common import ECR_PULL, ECR_PUSH


@dataclass(frozen=True)
class Group:
    """Actions that the loop on the reference project does not make.

    Attributes:
        why: the reason, which also says when they are made.
        roles: of these roles; another role that has one of the actions does make it.
        actions: as policies name them.
    """

    why: str
    roles: tuple[str, ...]
    actions: tuple[str, ...]


_STARTING: Final = ("builder", "verifier")

NOT_BY_LOOP: Final = (
    Group(
        "layers go to and from a registry, and that of the local cloud knows one password and no roles",
        ("builder", "codebuild", "verifier"),
        tuple(action for action in (*ECR_PULL, *ECR_PUSH) if action != "ecr:DescribeImages"),
    ),
    Group(
        "only where the bucket keeps versions",
        ("builder", "codebuild", "verifier", "releaser"),
        ("s3:GetObjectVersion",),
    ),
    Group(
        "only with `image.builder: codebuild`",
        ("builder",),
        (
            *("codebuild:BatchGetBuilds", "codebuild:BatchGetProjects", "codebuild:CreateProject"),
            *("codebuild:StartBuild", "codebuild:StopBuild", "codebuild:UpdateProject"),
            *("logs:CreateLogGroup", "logs:DescribeLogGroups", "logs:GetLogEvents", "logs:PutRetentionPolicy"),
            "logs:TagResource",
        ),
    ),
    Group("only with `image.builder: codebuild`, by `splitbake doctor`", ("builder",), ("iam:GetRole",)),
    Group(
        "only with `image.builder: codebuild`; another test builds in the local cloud under that very policy",
        ("codebuild",),
        (
            *("ecr:GetAuthorizationToken", "logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"),
            "s3:GetObject",
        ),
    ),
    Group("only with `image.codebuild.secrets`; the same test", ("codebuild",), ("secretsmanager:GetSecretValue",)),
    Group(
        "only with `image.codebuild.vpc`, never exercised",
        ("codebuild",),
        (
            *("ec2:CreateNetworkInterface", "ec2:CreateNetworkInterfacePermission", "ec2:DeleteNetworkInterface"),
            *("ec2:DescribeDhcpOptions", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSecurityGroups"),
            *("ec2:DescribeSubnets", "ec2:DescribeVpcs"),
        ),
    ),
    Group("only with `ami.builder.subnet`", _STARTING, ("ec2:DescribeSubnets",)),
    Group("a current Packer asks, 1.6 does not", ("builder",), ("ec2:DescribeInstanceStatus",)),
    Group("only where a run was interrupted, and by gc", _STARTING, ("ec2:DeleteNetworkInterface",)),
    Group(
        "only where a bake or a copy failed, and by gc",
        ("builder", "releaser"),
        ("ec2:DeleteSnapshot", "ec2:DeregisterImage"),
    ),
    Group(
        "only while hosts of the compute environment run",
        ("releaser",),
        ("ec2:DescribeInstances", "ecs:DescribeContainerInstances"),
    ),
    Group("only where a job definition has tags", ("releaser",), ("batch:TagResource",)),
    Group("only with roles of jobs (`--job-role`)", ("releaser",), ("iam:PassRole",)),
    Group("only with `connect: session-manager`", ("verifier",), ("iam:GetInstanceProfile", "iam:PassRole")),
    Group("only with `ami.copies`", ("builder",), ("ec2:CopyImage",)),
    Group(
        "only where the environment promotes",
        ("releaser",),
        (
            *("ec2:CopyImage", "ec2:CreateTags", "ec2:DescribeSnapshots", "ecr:BatchCheckLayerAvailability"),
            *("ecr:CompleteLayerUpload", "ecr:CreateRepository", "ecr:GetAuthorizationToken"),
            *("ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:UploadLayerPart"),
        ),
    ),
    Group(
        "only with `ami.share`, or where an environment promotes from this one",
        ("verifier", "releaser"),
        ("ec2:ModifyImageAttribute", "ec2:ModifySnapshotAttribute"),
    ),
    Group(
        "only with `image.ecr.keep`",
        ("builder", "releaser"),
        ("ecr:GetLifecyclePolicy", "ecr:PutLifecyclePolicy"),
    ),
    Group("only with `ami.deprecate`", ("builder",), ("ec2:EnableImageDeprecation",)),
    Group(
        "only with `ami.builder.spot`, never exercised",
        ("builder",),
        (
            *("ec2:CreateFleet", "ec2:CreateLaunchTemplate", "ec2:DeleteLaunchTemplate"),
            "ec2:DescribeLaunchTemplates",
        ),
    ),
    Group(
        "only with `ami.kms_key` or that of a copy; the local cloud has no keys",
        ("builder", "verifier", "releaser"),
        (
            *("kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext"),
            *("kms:ReEncryptFrom", "kms:ReEncryptTo"),
        ),
    ),
    Group(
        "only with keys of buckets (`--kms-key`)",
        ("builder", "codebuild", "verifier", "releaser"),
        ("kms:Decrypt", "kms:GenerateDataKey"),
    ),
    Group(
        "only with `connect: session-manager`; the instances of the local cloud run no agent of Session Manager",
        ("builder", "instance", "verifier"),
        (
            *("ssm:ResumeSession", "ssm:StartSession", "ssm:TerminateSession", "ssm:UpdateInstanceInformation"),
            *("ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel"),
            *("ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel"),
        ),
    ),
    Group(
        "only with `ami.builder.permissions_boundary`",
        _STARTING,
        (
            *("iam:AddRoleToInstanceProfile", "iam:AttachRolePolicy", "iam:CreateInstanceProfile", "iam:CreateRole"),
            *("iam:DeleteInstanceProfile", "iam:DeleteRole", "iam:DetachRolePolicy", "iam:ListAttachedRolePolicies"),
            *("iam:ListInstanceProfiles", "iam:ListRoleTags", "iam:ListRoles"),
            *("iam:RemoveRoleFromInstanceProfile", "iam:TagInstanceProfile", "iam:TagRole"),
        ),
    ),
)


def not_by_loop(role: str) -> set[str]:
    """Return the actions that the loop does not make as ``role``."""
    return {action for group in NOT_BY_LOOP if role in group.roles for action in group.actions}


def markdown() -> str:
    """Return the table of docs/iam.md."""
    rows = [
        f"| {group.why} | {', '.join(group.roles)} | {', '.join(f'`{one}`' for one in sorted(group.actions))} |"
        for group in NOT_BY_LOOP
    ]
    return "\n".join(["| not used by the loop because | roles | actions |", "|---|---|---|", *rows]) + "\n"
