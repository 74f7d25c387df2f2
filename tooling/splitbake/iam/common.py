"""Permissions that several roles share: looking at EC2, the state, models, images, copies, keys, and sharing an AMI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from splitbake.iam.needs_others import PUBLIC_PARAMETERS
from splitbake.iam.policies import GETS, Conditions, Scope, Statement, literal

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


def state(scope: Scope, *written: str) -> Iterator[Statement]:
    """Yield the permission to read the state, and to write below it what matches ``written``. A folder needs none.

    Nothing of it is ever deleted. Which role writes what follows from ``splitbake.catalog``, ``splitbake.lease`` and
    ``splitbake.release.record``; a test asks them.
    """
    where = scope.manifest.state
    if not where.startswith("s3://"):
        return
    bucket, _, prefix = literal(where.removeprefix("s3://").strip("/")).partition("/")
    below = f"{prefix}/" if prefix else ""
    why = "records are named by time, artifact and fingerprint"
    yield Statement(sid="State", actions=["s3:GetObject"], resources=[scope.s3(f"{bucket}/{below}*")], why=why)
    yield Statement(
        sid="OwnState",
        actions=["s3:PutObject"],
        resources=[scope.s3(f"{bucket}/{below}{one}") for one in written],
        why=why,
    )
    yield Statement(
        sid="ListState",
        actions=["s3:ListBucket"],
        resources=[scope.s3(bucket)],
        conditions={"StringLike": {"s3:prefix": f"{below}*"}},
    )


def bucket_keys(scope: Scope) -> Iterator[Statement]:
    """Yield the use of the KMS keys of the buckets, which the manifest does not name, by S3 in the caller's name."""
    if not scope.kms_keys:
        return
    uploads = scope.manifest.image.builder == "codebuild"
    writing = ["kms:GenerateDataKey"] if uploads or scope.manifest.state.startswith("s3://") else []
    yield Statement(
        sid="BucketKeys",
        actions=["kms:Decrypt", *writing],
        resources=list(scope.kms_keys),
        conditions=scope.via("s3", *sorted({arn.split(":")[3] for arn in scope.kms_keys})),
    )


def models(scope: Scope) -> Iterator[Statement]:
    """Yield the permission to read the models that lie in S3."""
    uris = [one.source.removeprefix("s3://") for one in scope.manifest.models.files if one.scheme == "s3"]
    yield from reading(scope, "Models", [f"{literal(uri)}{'*' if uri.endswith('/') else ''}" for uri in uris])


def reading(scope: Scope, sid: str, objects: Sequence[str]) -> Iterator[Statement]:
    """Yield the permission to read objects: ``bucket/key`` each as ``literal`` writes it, ``*`` for all of a prefix."""
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


def making_repository(scope: Scope) -> Iterator[Statement]:
    """Yield what making the image's repository takes beyond the call itself, and seeing how it was made."""
    if scope.manifest.image.ecr.keep is None:
        return
    yield Statement(
        sid="ExpireImages",
        actions=["ecr:GetLifecyclePolicy", "ecr:PutLifecyclePolicy"],
        resources=[scope.arn("ecr", f"repository/{scope.manifest.image.repository}")],
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
    return scope.arn("ssm", f"parameter/{literal(name.removeprefix('/'))}", account=account)


def copying(scope: Scope, regions: Sequence[str], *, inherits: bool = False) -> Iterator[Statement]:
    """Yield what it takes to copy AMIs into ``regions``; the copies get the project's tag by the call itself.

    ``inherits``: the AMI gets it from its source, so that the call gives it to the snapshots only.
    """
    for kind in ("image", "snapshot"):
        bare = inherits and kind == "image"
        yield Statement(
            sid=f"Copy{kind.capitalize()}",
            actions=["ec2:CopyImage"],
            resources=[scope.arn("ec2", f"{kind}/*", account="", region=one) for one in regions],
            conditions={} if bare else scope.marked,
            why="the copy has no id yet; within the account it gets the tags of its source" if bare else UNNAMED,
        )


def tagging(scope: Scope, regions: Sequence[str], *makers: str) -> Statement:
    """Return the permission to tag AMIs and snapshots by the very calls that make them, ``makers``."""
    return Statement(
        sid="TagWhileImaging",
        actions=["ec2:CreateTags"],
        resources=[
            scope.arn("ec2", f"{kind}/*", account="", region=one) for kind in ("image", "snapshot") for one in regions
        ],
        conditions={"StringEquals": {GETS: scope.project, "ec2:CreateAction": list(makers)}},
        why=UNNAMED,
    )


def ebs_key(scope: Scope, *, key: str, account: str, region: str, suffix: str = "") -> Iterator[Statement]:
    """Yield the use of a KMS key by EC2, for volumes and snapshots; AWS's own key for EBS needs no permission.

    Args:
        scope: of the project.
        key: an id, ``alias/name`` or an ARN.
        account: that it is of, unless it is an ARN, which says so itself.
        region: likewise.
        suffix: makes the names of the statements unique.
    """
    if key.startswith("arn:"):
        region, account, key = key.split(":", 5)[3:]
        key = key.removeprefix("key/")
    alias = key if key.startswith("alias/") else ""
    resource = scope.arn("kms", f"key/{'*' if alias else key}", account=account, region=region)
    why = f"a key is known to policies by its id; {alias} narrows it" if alias else ""
    named: Conditions = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias}} if alias else {}
    # A copy between regions uses the key of one for EC2 of the other; AWS does not say which of them asks.
    via = scope.via("ec2", *dict.fromkeys([region, scope.environment.region]))
    yield Statement(
        sid=f"UseKey{suffix}",
        actions=[
            *("kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext"),
            *("kms:ReEncryptFrom", "kms:ReEncryptTo"),
        ],
        resources=[resource],
        conditions={**via, **named},
        why=why,
    )
    yield Statement(
        sid=f"GrantKey{suffix}",
        actions=["kms:CreateGrant"],
        resources=[resource],
        conditions={**via, "Bool": {"kms:GrantIsForAWSResource": "true"}, **named},
        why=why,
    )


def sharing(scope: Scope, accounts: Sequence[str]) -> Iterator[Statement]:
    """Yield the permission to share an AMI of the project; its snapshots with ``accounts`` only.

    EC2 knows no condition for whom an AMI is shared with. What keeps it from everybody is the account's own block
    public access for AMIs.
    """
    if not accounts:
        return
    yield Statement(
        sid="ShareAmi",
        actions=["ec2:ModifyImageAttribute"],
        resources=scope.everywhere("image"),
        conditions=scope.owned,
        why=f"{TAGGED}; no condition says with whom: block public access for AMIs keeps out everybody",
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
