"""What calls of the services beside EC2 need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from splitbake.iam.evaluate import Request
from splitbake.iam.needs import Asked, Row, without_resource

#: Where parameters of AWS itself lie; their ARN has no account.
PUBLIC_PARAMETERS: Final = "/aws/"

_ECR: Final = (
    *("BatchCheckLayerAvailability", "BatchGetImage", "CompleteLayerUpload", "DescribeImages"),
    *("GetDownloadUrlForLayer", "GetLifecyclePolicy", "InitiateLayerUpload", "PutImage", "PutLifecyclePolicy"),
    "UploadLayerPart",
)
_BATCH_READING: Final = (
    *("DescribeComputeEnvironments", "DescribeJobDefinitions", "DescribeJobQueues", "DescribeJobs", "ListJobs"),
)
#: S3 operation -> action on the object.
_OBJECT: Final = {
    "GetObject": "GetObject",
    "HeadObject": "GetObject",
    "PutObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "AbortMultipartUpload": "AbortMultipartUpload",
}
#: S3 operation -> action on the bucket.
_BUCKET: Final = {
    "HeadBucket": "ListBucket",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "GetBucketLocation": "GetBucketLocation",
}


def parameter_arn(asked: Asked, name: str) -> str:
    """Return the ARN of an SSM parameter."""
    account = "" if name.startswith(PUBLIC_PARAMETERS) else None
    return asked.arn("ssm", f"parameter/{name.removeprefix('/')}", account=account)


def _parameters(action: str, path: str) -> Row:
    return lambda asked: [asked.request(f"ssm:{action}", parameter_arn(asked, name)) for name in asked.get(path)]


def _named(service: str, action: str, kind: str, path: str) -> Row:
    """Return the row of an action on resources that the call gives by name or by ARN."""

    def row(asked: Asked) -> Iterator[Request]:
        for name in asked.get(path) or ["*"]:
            is_arn = str(name).startswith("arn:")
            yield asked.request(f"{service}:{action}", name if is_arn else asked.arn(service, f"{kind}/{name}"))

    return row


def _object(action: str) -> Row:
    def row(asked: Asked) -> Iterator[Request]:
        bucket, key = asked.one("Bucket"), asked.one("Key")
        name = asked.arn("s3", f"{bucket}/{key}", account="", region="")
        versioned = action == "GetObject" and asked.get("VersionId")
        yield asked.request(f"s3:{action}{'Version' if versioned else ''}", name)
        if action == "GetObject" and not asked.facts.has_object(bucket, key):
            # S3 says 404 only to who may list the key; it is the prefix then (as ceph/ceph#68577 found AWS to do).
            yield asked.request("s3:ListBucket", asked.arn("s3", bucket, account="", region=""), {"s3:prefix": [key]})

    return row


def _bucket(action: str) -> Row:
    def row(asked: Asked) -> Iterator[Request]:
        bucket = asked.arn("s3", asked.one("Bucket"), account="", region="")
        keys = {"s3:prefix": asked.get("Prefix")} if action == "ListBucket" else {}
        yield asked.request(f"s3:{action}", bucket, keys)

    return row


def _create_repository(asked: Asked) -> Iterator[Request]:
    gets = {str(tag["Key"]): str(tag.get("Value", "")) for tag in asked.get("tags")}
    resource = asked.arn("ecr", f"repository/{asked.one('repositoryName')}")
    yield asked.tagged("ecr:CreateRepository", resource, gets=gets)


def _register_job_definition(asked: Asked) -> Iterator[Request]:
    tags: Mapping[str, Any] = next(iter(asked.get("tags")), {})
    resource = asked.arn("batch", f"job-definition/{asked.one('jobDefinitionName')}")
    yield asked.tagged("batch:RegisterJobDefinition", resource, gets={key: str(tags[key]) for key in tags})
    if tags:
        yield asked.tagged("batch:TagResource", f"{resource}:*", gets={key: str(tags[key]) for key in tags})


def _submit_job(asked: Asked) -> Iterator[Request]:
    yield from _named("batch", "SubmitJob", "job-definition", "jobDefinition")(asked)
    yield from _named("batch", "SubmitJob", "job-queue", "jobQueue")(asked)
    yield asked.request("batch:SubmitJob", asked.arn("batch", "job/*"))


def _container_instances(asked: Asked) -> Iterator[Request]:
    cluster = _cluster(asked)
    for name in asked.get("containerInstances"):
        is_arn = str(name).startswith("arn:")
        resource = name if is_arn else asked.arn("ecs", f"container-instance/{cluster}/{name}")
        yield asked.request(
            "ecs:DescribeContainerInstances", resource, {"ecs:cluster": [asked.arn("ecs", f"cluster/{cluster}")]}
        )


def _cluster(asked: Asked) -> str:
    return asked.one("cluster").rpartition("/")[2] or "default"


def _log_events(asked: Asked) -> Iterator[Request]:
    group, stream = asked.one("logGroupName"), asked.one("logStreamName")
    yield asked.request("logs:GetLogEvents", asked.arn("logs", f"log-group:{group}:log-stream:{stream}"))


def _start_session(asked: Asked) -> Iterator[Request]:
    target = asked.one("Target")
    yield asked.tagged("ssm:StartSession", asked.arn("ec2", f"instance/{target}"), has=asked.facts.tags(target))
    document = asked.one("DocumentName")
    account = "" if document.startswith("AWS-") else None
    yield asked.tagged("ssm:StartSession", asked.arn("ssm", f"document/{document}", account=account), has={})


ROWS: Final[Mapping[str, Row]] = {
    "sts:GetCallerIdentity": lambda _: [],  # "no permissions are required" (STS API model)
    "ssm:GetParameter": _parameters("GetParameter", "Name"),
    "ssm:GetParameters": _parameters("GetParameters", "Names"),
    "ssm:StartSession": _start_session,
    "ssm:PutParameter": _parameters("PutParameter", "Name"),
    "ecr:GetAuthorizationToken": without_resource("ecr:GetAuthorizationToken"),
    "ecr:CreateRepository": _create_repository,
    "ecr:DescribeRepositories": _named("ecr", "DescribeRepositories", "repository", "repositoryNames"),
    **{f"ecr:{action}": _named("ecr", action, "repository", "repositoryName") for action in _ECR},
    **{f"batch:{action}": without_resource(f"batch:{action}") for action in _BATCH_READING},
    "batch:DeregisterJobDefinition": _named("batch", "DeregisterJobDefinition", "job-definition", "jobDefinition"),
    "batch:RegisterJobDefinition": _register_job_definition,
    "batch:SubmitJob": _submit_job,
    "batch:TerminateJob": _named("batch", "TerminateJob", "job", "jobId"),
    "batch:UpdateComputeEnvironment": _named(
        "batch", "UpdateComputeEnvironment", "compute-environment", "computeEnvironment"
    ),
    "ecs:ListContainerInstances": _named("ecs", "ListContainerInstances", "cluster", "cluster"),
    "ecs:DescribeContainerInstances": _container_instances,
    "logs:GetLogEvents": _log_events,
    **{f"s3:{operation}": _object(action) for operation, action in _OBJECT.items()},
    **{f"s3:{operation}": _bucket(action) for operation, action in _BUCKET.items()},
}
