"""What the releaser may do: change the targets that the environment really has, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from splitbake.iam import common
from splitbake.iam.policies import GETS, HAS, Scope, Statement, literal, named
from splitbake.manifest import Environment, Smoke, ways


def releaser(scope: Scope) -> Iterator[Statement]:
    """Yield what release and smoke need."""
    targets = scope.environment.release
    kinds = {target.kind for target in targets}
    way = _way(scope)
    copying = ["DescribeSnapshots"] if way == "copy" else []
    yield common.describing(scope, "DescribeImages", *copying, *_described(kinds))
    moved = () if way == "same" else (f"artifacts/{scope.place}/*", f"reports/{scope.place}/*")
    yield from common.state(scope, f"records/{scope.name}/*", f"leases/release/{scope.name}.json", *moved)
    yield from common.bucket_keys(scope)
    yield from _registry(scope)
    if reads := sorted({one for kind in kinds for one in _BATCH_READING.get(kind, ())} | _smoke_reads(scope)):
        yield Statement(
            sid="ReadBatch",
            actions=reads,
            resources=["*"],
            conditions={"StringEquals": {"aws:RequestedRegion": scope.environment.region}},
            why="describing and listing know no resources in Batch",
        )
    for kind in sorted(kinds):
        names = [named(getattr(target, kind), kind) for target in targets if target.kind == kind and kind in _BY_NAME]
        yield from TARGETS[kind](scope, names)
    yield from _promotion(scope)
    if scope.environment.smoke:
        yield from _smoke(scope, scope.environment.smoke)


def _origin(scope: Scope) -> Environment | None:
    promote = scope.environment.promote
    return scope.manifest.environments[promote.origin] if promote else None


def _way(scope: Scope) -> ways.Way:
    """Return how the AMI gets here; ``same`` where nothing has to move."""
    origin = _origin(scope)
    return ways.way(origin, scope.environment) if origin else "same"


def _registry(scope: Scope) -> Iterator[Statement]:
    """Yield what it takes to see the image and to tag it; only a promotion to elsewhere moves one."""
    repository = scope.manifest.image.repository
    if _way(scope) != "same":
        yield from common.registry(scope, [repository], push=True)
        yield from common.making_repository(scope)
        return
    yield Statement(
        sid="TagImages",
        actions=["ecr:BatchGetImage", "ecr:DescribeImages", "ecr:DescribeRepositories", "ecr:PutImage"],
        resources=[scope.arn("ecr", f"repository/{repository}")],
    )


def _terraform(_scope: Scope, _names: list[str]) -> Iterator[Statement]:
    """Text on this machine needs no permission; who applies it needs his own."""
    return iter(())


def _launch_templates(scope: Scope, _names: list[str]) -> Iterator[Statement]:
    """Policies know launch templates by id, the manifest by name."""
    ids = scope.launch_templates
    yield Statement(
        sid="LaunchTemplates",
        actions=["ec2:CreateLaunchTemplateVersion", "ec2:ModifyLaunchTemplate"],
        resources=[scope.ec2("launch-template", one) for one in ids or ["*"]],
        conditions={} if ids else scope.owned,
        why="" if ids else "without --launch-template: those that you have given the project's tag",
    )


def _compute_environments(scope: Scope, names: list[str]) -> Iterator[Statement]:
    yield Statement(
        sid="ComputeEnvironments",
        actions=["batch:UpdateComputeEnvironment"],
        resources=[scope.arn("batch", f"compute-environment/{name}") for name in names],
    )
    yield Statement(
        sid="SeeHosts",
        actions=["ecs:DescribeContainerInstances", "ecs:ListContainerInstances"],
        resources=[scope.arn("ecs", "cluster/*"), scope.arn("ecs", "container-instance/*/*")],
        why="Batch makes the cluster of a compute environment and names it as it likes",
    )


def _job_definitions(scope: Scope, names: list[str]) -> Iterator[Statement]:
    yield Statement(
        sid="JobDefinitions",
        actions=["batch:RegisterJobDefinition", "batch:TagResource"],
        resources=[
            *(scope.arn("batch", f"job-definition/{name}") for name in names),
            *(scope.arn("batch", f"job-definition/{name}:*") for name in names),
        ],
        why="revisions are numbered by Batch",
    )
    if scope.job_roles:
        yield Statement(
            sid="PassJobRoles",
            actions=["iam:PassRole"],
            resources=list(scope.job_roles),
            conditions={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
        )


#: Kind of a target -> what releasing to it takes.
TARGETS: Final[Mapping[str, Callable[[Scope, list[Any]], Iterator[Statement]]]] = {
    "terraform": _terraform,
    "launch_template": _launch_templates,
    "batch_compute_environment": _compute_environments,
    "batch_job_definition": _job_definitions,
}
#: Kinds whose targets stand in ARNs by the name that the manifest gives.
_BY_NAME: Final = {"batch_compute_environment", "batch_job_definition"}
#: Kind of a target -> operations of EC2 by which it is read.
_EC2_READING: Final[Mapping[str, tuple[str, ...]]] = {
    "launch_template": ("DescribeLaunchTemplateVersions",),
    "batch_compute_environment": ("DescribeInstances", "DescribeLaunchTemplateVersions"),
}
_BATCH_READING: Final[Mapping[str, tuple[str, ...]]] = {
    "batch_compute_environment": (*("batch:DescribeComputeEnvironments", "batch:DescribeJobQueues", "batch:ListJobs"),),
    "batch_job_definition": ("batch:DescribeJobDefinitions",),
}


def _described(kinds: set[str]) -> list[str]:
    return sorted({one for kind in kinds for one in _EC2_READING.get(kind, ())})


def _promotion(scope: Scope) -> Iterator[Statement]:
    """Yield what it takes to bring the pair of another environment here; nothing where it is here already."""
    promote, way = scope.environment.promote, _way(scope)
    if promote is None or way == "same":
        return
    origin = scope.manifest.environments[promote.origin]
    yield Statement(
        sid="ReadOrigin",
        actions=common.ECR_PULL,
        resources=[
            scope.arn(
                "ecr",
                f"repository/{scope.manifest.image.repository}",
                account=origin.account,
                region=origin.region,
            )
        ],
    )
    if origin.region != scope.environment.region:
        yield Statement(
            sid="SeeOrigin",
            actions=["ec2:DescribeImages", "ec2:DescribeSnapshots"],
            resources=["*"],
            conditions={"StringEquals": {"aws:RequestedRegion": origin.region}},
            why=common.DESCRIBING,
        )
    if way == "copy":
        yield from _copy(scope, promote.origin)


def _copy(scope: Scope, origin: str) -> Iterator[Statement]:
    """Yield what it takes to copy the AMI, to tag the copy anew, to share it further, and to remove one that failed."""
    here, environments = scope.environment, scope.manifest.environments
    yield from common.copying(scope, [here.region], inherits=environments[origin].account == here.account)
    yield common.tagging(scope, [here.region], "CopyImage")
    made = [scope.ec2("image"), scope.ec2("snapshot")]
    yield Statement(
        sid="TagCopy",
        actions=["ec2:CreateTags"],
        resources=made,
        conditions={"StringEquals": {HAS: scope.project, GETS: scope.project}},
        why=common.TAGGED,
    )
    yield Statement(
        sid="RemoveFailedCopy",
        actions=["ec2:DeleteSnapshot", "ec2:DeregisterImage"],
        resources=made,
        conditions=scope.owned,
        why=common.TAGGED,
    )
    yield from common.sharing(scope, ways.receivers(environments, scope.name))
    key, source = scope.manifest.ami.kms_key, environments[ways.owner(environments, origin)]
    if key and source.promote is None:  # a copy has its account's default key
        yield from common.ebs_key(scope, key=key, account=source.account, region=source.region)


def _smoke_reads(scope: Scope) -> set[str]:
    if scope.environment.smoke is None:
        return set()
    return {"batch:DescribeJobDefinitions", "batch:DescribeJobQueues", "batch:DescribeJobs"}


def _smoke(scope: Scope, smoke: Smoke) -> Iterator[Statement]:
    queue, definition = named(smoke.queue, "smoke.queue"), named(smoke.job_definition, "smoke.job_definition")
    yield Statement(
        sid="SubmitJob",
        actions=["batch:SubmitJob"],
        resources=[
            scope.arn("batch", f"job-queue/{queue}"),
            scope.arn("batch", f"job-definition/{definition}:*"),
            scope.arn("batch", "job/*"),
        ],
        why="revisions and jobs are numbered by Batch",
    )
    yield Statement(
        sid="EndJob",
        actions=["batch:TerminateJob"],
        resources=[scope.arn("batch", "job/*")],
        why="jobs are numbered by Batch",
    )
    yield Statement(
        sid="ReadJobLog",
        actions=["logs:GetLogEvents"],
        resources=[scope.arn("logs", f"log-group:/aws/batch/job:log-stream:{definition}/*")],
        why="each attempt of a job has a stream of its own",
    )
    inputs = sorted(literal(uri.removeprefix("s3://")) for uri in smoke.presign.values())
    yield from common.reading(scope, "SmokeInput", inputs)
