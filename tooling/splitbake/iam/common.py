"""Permissions that several roles share: looking at EC2, the state, models, images, and sharing an AMI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from splitbake.iam.needs_others import PUBLIC_PARAMETERS
from splitbake.iam.policies import HAS, Conditions, Scope, Statement

#: Why describing is allowed on everything.
DESCRIBING = "describing knows no resources in EC2; the regions are fixed"
UNNAMED = "what the call makes has no id yet; it must carry the project's tag"
TAGGED = "ids are made at run time; only what carries the project's tag is meant"
ECR_PULL = (
    *("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:DescribeImages"),
)
ECR_PUSH = (*("ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart"),)


def describing(scope: Scope, *operations: str) -> Statement:
    """Return the permission to look at EC2 in the regions of the AMI."""
    return Statement(
        sid="DescribeEc2",
        actions=[f"ec2:{operation}" for operation in operations],
        resources=["*"],
        conditions={"StringEquals": {"aws:RequestedRegion": scope.regions}},
        why=DESCRIBING,
    )


def state(scope: Scope) -> Iterator[Statement]:
    """Yield the permission to use the state; nothing of it is ever deleted. A folder needs none."""
    where = scope.manifest.state
    if not where.startswith("s3://"):
        return
    bucket, _, prefix = where.removeprefix("s3://").strip("/").partition("/")
    below = f"{prefix}/*" if prefix else "*"
    yield Statement(
        sid="State",
        actions=["s3:GetObject", "s3:PutObject"],
        resources=[scope.s3(f"{bucket}/{below}")],
        why="records are named by time, artifact and fingerprint",
    )
    yield Statement(
        sid="ListState",
        actions=["s3:ListBucket"],
        resources=[scope.s3(bucket)],
        conditions={"StringLike": {"s3:prefix": below}},
    )


def models(scope: Scope) -> Iterator[Statement]:
    """Yield the permission to read the models that lie in S3."""
    uris = [one.source.removeprefix("s3://") for one in scope.manifest.models.files if one.scheme == "s3"]
    yield from reading(scope, "Models", [f"{uri}*" if uri.endswith("/") else uri for uri in uris])


def reading(scope: Scope, sid: str, objects: Sequence[str]) -> Iterator[Statement]:
    """Yield the permission to read objects, ``bucket/key`` each, a trailing ``*`` for all below a prefix."""
    if not objects:
        return
    wide = any(one.endswith("*") for one in objects)
    yield Statement(
        sid=sid,
        actions=["s3:GetObject", "s3:GetObjectVersion"],
        resources=[scope.s3(one) for one in objects],
        why="models.files names a whole prefix" if wide else "",
    )
    by_bucket: dict[str, list[str]] = {}
    for one in objects:
        bucket, _, key = one.partition("/")
        by_bucket.setdefault(bucket, []).append(key)
    for number, (bucket, keys) in enumerate(sorted(by_bucket.items())):
        yield Statement(
            sid=f"List{sid}{number or ''}",
            actions=["s3:ListBucket"],
            resources=[scope.s3(bucket)],
            conditions={"StringLike": {"s3:prefix": sorted(keys)}},
        )


def registry(scope: Scope, repositories: Iterable[str], *, push: bool = False) -> Iterator[Statement]:
    """Yield the permission to pull images from repositories of the account, and to push them."""
    names = sorted(set(repositories))
    if not names:
        return
    yield Statement(
        sid="RegistryPassword",
        actions=["ecr:GetAuthorizationToken"],
        resources=["*"],
        why="the password is one for the whole registry; what it opens is what the role may do there",
    )
    yield Statement(
        sid="PushImages" if push else "PullImages",
        actions=[*ECR_PULL, "ecr:DescribeRepositories", *(("ecr:CreateRepository", *ECR_PUSH) if push else ())],
        resources=[scope.arn("ecr", f"repository/{name}") for name in names],
    )


def in_registry(reference: str) -> list[str]:
    """Return the repository of an image reference ``ecr://repository:tag``, none where it is elsewhere."""
    if not reference.startswith("ecr://"):
        return []
    name = reference.removeprefix("ecr://").partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return [head if colon and "/" not in tag else name]


def parameter(scope: Scope, name: str) -> str:
    """Return the ARN of an SSM parameter; those of AWS itself have no account."""
    account = "" if name.startswith(PUBLIC_PARAMETERS) else None
    return scope.arn("ssm", f"parameter/{name.removeprefix('/')}", account=account)


def sharing(scope: Scope, accounts: Sequence[str]) -> Iterator[Statement]:
    """Yield the permission to share an AMI of the project with ``accounts``, and with nobody else."""
    if not accounts:
        return
    yield Statement(
        sid="ShareAmi",
        actions=["ec2:ModifyImageAttribute"],
        resources=scope.everywhere("image"),
        conditions=scope.owned,
        why=TAGGED,
    )
    yield Statement(
        sid="ShareSnapshots",
        actions=["ec2:ModifySnapshotAttribute"],
        resources=scope.everywhere("snapshot"),
        conditions={
            **scope.owned,
            "ForAllValues:StringEquals": {"ec2:Add/userId": sorted(accounts)},
            "Null": {"ec2:Add/group": "true"},
        },
        why=TAGGED,
    )


def untagged(scope: Scope) -> Conditions:
    """On AMIs and snapshots of this account that are the project's, or nobody's yet."""
    return {"StringEqualsIfExists": {HAS: scope.project}, "StringEquals": {"ec2:Owner": scope.environment.account}}
