"""What it takes to build in AWS CodeBuild: who asks for a build, and the role that builds have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from splitbake.bake import codebuild_project as projects
from splitbake.bake.codebuild_context import PREFIX
from splitbake.iam import common
from splitbake.iam.policies import Scope, Statement, literal
from splitbake.manifest.codebuild import CodeBuild, Vpc

SERVICE: Final = "codebuild.amazonaws.com"
_BY_CONTENT: Final = "what is built from is named by its content"
_GROUP: Final = "AWS writes a log group with and without :* at its end"
_STREAMS: Final = "each build has a stream of its own"
_OF_ECR: Final = re.compile(r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.[^/]+/(?P<name>[^@:]+)")
_PULL: Final = tuple(action for action in common.ECR_PULL if action != "ecr:DescribeImages")


def settings(scope: Scope) -> CodeBuild | None:
    """Return ``image.codebuild`` where the image is built so."""
    image = scope.manifest.image
    return projects.settings_of(scope.manifest) if image.builder == "codebuild" else None


def caller(scope: Scope) -> Iterator[Statement]:
    """Yield what who builds needs: to upload, to start builds of the one project, and to follow them."""
    if not (given := settings(scope)):
        return
    bucket, name = projects.bucket_of(scope.manifest), projects.name_of(scope.project)
    yield Statement(
        sid="ImageContexts",
        actions=["s3:GetObject", "s3:PutObject"],
        resources=[scope.s3(f"{bucket}/{PREFIX}*")],
        why=_BY_CONTENT,
    )
    yield Statement(
        sid="ListImageContexts",
        actions=["s3:ListBucket"],
        resources=[scope.s3(bucket)],
        conditions={"StringLike": {"s3:prefix": f"{PREFIX}*"}},
    )
    yield Statement(
        sid="ImageProject",
        actions=[
            *("codebuild:BatchGetBuilds", "codebuild:BatchGetProjects", "codebuild:CreateProject"),
            *("codebuild:StartBuild", "codebuild:StopBuild", "codebuild:UpdateProject"),
        ],
        resources=[scope.arn("codebuild", f"project/{name}")],
    )
    role = [given.role if given.role.startswith("arn:") else scope.iam(f"role/{given.role}")]
    yield Statement(sid="FindImageRole", actions=["iam:GetRole"], resources=role)
    yield Statement(
        sid="PassImageRole",
        actions=["iam:PassRole"],
        resources=role,
        conditions={"StringEquals": {"iam:PassedToService": SERVICE}},
    )
    yield Statement(
        sid="ImageLog",
        actions=["logs:CreateLogGroup", "logs:PutRetentionPolicy", "logs:TagResource"],
        resources=_group(scope),
        why=_GROUP,
    )
    yield Statement(
        sid="FindImageLog",
        actions=["logs:DescribeLogGroups"],
        resources=["*"],
        conditions={"StringEquals": {"aws:RequestedRegion": scope.environment.region}},
        why="describing log groups knows no resources; how long the group is kept is looked up by it",
    )
    yield Statement(
        sid="ReadImageLog",
        actions=["logs:GetLogEvents"],
        resources=[_streams(scope)],
        why=_STREAMS,
    )


def service(scope: Scope) -> Iterator[Statement]:
    """Yield what a build needs: CodeBuild reads the source and writes the log by it, the commands push by it."""
    if not (given := settings(scope)):
        return
    yield Statement(
        sid="ImageSource",
        actions=["s3:GetObject", "s3:GetObjectVersion"],
        resources=[scope.s3(f"{projects.bucket_of(scope.manifest)}/{PREFIX}*")],
        why=_BY_CONTENT,
    )
    if scope.kms_keys:
        yield Statement(
            sid="SourceKeys",
            actions=["kms:Decrypt"],
            resources=list(scope.kms_keys),
            conditions=scope.via("s3", scope.environment.region),
        )
    # The group is there before the first build, but nothing says that CodeBuild knows how to do without.
    yield Statement(sid="MakeLog", actions=["logs:CreateLogGroup"], resources=_group(scope), why=_GROUP)
    yield Statement(
        sid="WriteLog",
        actions=["logs:CreateLogStream", "logs:PutLogEvents"],
        resources=[_streams(scope)],
        why=_STREAMS,
    )
    yield from _images(scope, given)
    if given.secrets:
        yield Statement(
            sid="BuildSecrets",
            actions=["secretsmanager:GetSecretValue"],
            resources=sorted({_secret(scope, one) for one in given.secrets.values()}),
            why="" if all(one.startswith("arn:") for one in given.secrets.values()) else "AWS adds six characters",
        )
    if given.vpc:
        yield from _interfaces(scope, given.vpc)


def _group(scope: Scope) -> list[str]:
    group = scope.arn("logs", f"log-group:{projects.group_of(scope.project)}")
    return [group, f"{group}:*"]


def _streams(scope: Scope) -> str:
    return f"{_group(scope)[0]}:log-stream:*"


def _images(scope: Scope, given: CodeBuild) -> Iterator[Statement]:
    own = scope.manifest.image.repository
    yield Statement(
        sid="RegistryPassword",
        actions=["ecr:GetAuthorizationToken"],
        resources=["*"],
        why="the password is one for the whole registry; what it opens is what the role may do there",
    )
    yield Statement(
        sid="PushImages",
        actions=[*_PULL, *common.ECR_PUSH],
        resources=[scope.arn("ecr", f"repository/{own}")],
    )
    pulled = {scope.arn("ecr", f"repository/{name}") for name in common.in_registry(scope.manifest.image.base)}
    if found := _OF_ECR.match(given.image or ""):
        where = {"account": found["account"], "region": found["region"]}
        pulled.add(scope.arn("ecr", f"repository/{found['name']}", **where))
    if pulled:
        yield Statement(sid="PullBases", actions=_PULL, resources=sorted(pulled))


def _secret(scope: Scope, name: str) -> str:
    """Return the ARN of a secret that is named as CodeBuild takes it: ``id:json-key:version-stage:version-id``."""
    parts = name.split(":")
    if name.startswith("arn:"):
        return literal(":".join(parts[:7]))
    return scope.arn("secretsmanager", f"secret:{literal(parts[0])}-??????")


def _interfaces(scope: Scope, vpc: Vpc) -> Iterator[Statement]:
    """Yield what CodeBuild needs to put a build into a VPC ("Use CodeBuild with Amazon VPC", user guide)."""
    yield common.describing(
        scope,
        *("DescribeDhcpOptions", "DescribeNetworkInterfaces", "DescribeSecurityGroups", "DescribeSubnets"),
        "DescribeVpcs",
    )
    subnets = [scope.ec2("subnet", name) for name in vpc.subnets]
    any_of_them = scope.ec2("network-interface")
    yield Statement(
        sid="MakeInterface",
        actions=["ec2:CreateNetworkInterface"],
        resources=[any_of_them, *subnets, *(scope.ec2("security-group", name) for name in vpc.security_groups)],
        why="an interface that is made has no id yet",
    )
    yield Statement(
        sid="RemoveInterface",
        actions=["ec2:DeleteNetworkInterface"],
        resources=[any_of_them],
        conditions={"StringEquals": {"ec2:Subnet": subnets}},
        why="interfaces are made for each build",
    )
    yield Statement(
        sid="LendInterface",
        actions=["ec2:CreateNetworkInterfacePermission"],
        resources=[any_of_them],
        conditions={"StringEquals": {"ec2:Subnet": subnets, "ec2:AuthorizedService": SERVICE}},
        why="interfaces are made for each build",
    )
