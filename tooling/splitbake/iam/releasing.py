"""What the releaser may do: change the targets that the environment really has, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from splitbake.iam import common, verifying
from splitbake.iam.policies import GETS, Scope, Statement
from splitbake.manifest import Smoke


def releaser(scope: Scope) -> Iterator[Statement]:
    """Yield what release and smoke need."""
    targets = scope.environment.release
    kinds = {target.kind for target in targets}
    promoting = ["DescribeSnapshots"] if scope.environment.promote else []
    yield common.describing(scope, "DescribeImages", *promoting, *_described(kinds))
    yield from common.state(scope)
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
        names = [getattr(target, kind) for target in targets if target.kind == kind]
        yield from TARGETS[kind](scope, names)
    yield from _promotion(scope)
    if scope.environment.smoke:
        yield from _smoke(scope, scope.environment.smoke)


def _registry(scope: Scope) -> Iterator[Statement]:
    """Yield what it takes to see the image; only a promotion moves one."""
    repository = scope.manifest.image.repository
    if scope.environment.promote:
        yield from common.registry(scope, [repository], push=True)
        return
    yield Statement(
        sid="SeeImages",
        actions=["ecr:DescribeImages", "ecr:DescribeRepositories"],
        resources=[scope.arn("ecr", f"repository/{repository}")],
    )


def _terraform(_scope: Scope, _names: list[str]) -> Iterator[Statement]:
    """Text on this machine needs no permission; who applies it needs his own."""
    return iter(())


def _launch_templates(scope: Scope, _names: list[str]) -> Iterator[Statement]:
    yield Statement(
        sid="LaunchTemplates",
        actions=["ec2:CreateLaunchTemplateVersion", "ec2:ModifyLaunchTemplate"],
        resources=[scope.ec2("launch-template")],
        why="policies know launch templates by id, the manifest by name; put the ids in its place, or a tag condition",
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
    """Yield what it takes to bring the pair of another environment here."""
    environment = scope.environment
    if environment.promote is None:
        return
    origin = scope.manifest.environments[environment.promote.origin]
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
    if origin.region != environment.region:
        yield Statement(
            sid="SeeOrigin",
            actions=["ec2:DescribeImages", "ec2:DescribeSnapshots"],
            resources=["*"],
            conditions={"StringEquals": {"aws:RequestedRegion": origin.region}},
            why=common.DESCRIBING,
        )
    made = [scope.ec2("image"), scope.ec2("snapshot")]
    unborn = "the copy and its snapshots have no id yet, and are tagged when they exist"
    yield Statement(sid="CopyAmi", actions=["ec2:CopyImage"], resources=made, why=unborn)
    free = common.untagged(scope)
    yield Statement(
        sid="TagCopy",
        actions=["ec2:CreateTags"],
        resources=made,
        conditions={**free, "StringEquals": {**free["StringEquals"], GETS: scope.project}},
        why=unborn,
    )
    yield Statement(
        sid="RemoveFailedCopy",
        actions=["ec2:DeleteSnapshot", "ec2:DeregisterImage"],
        resources=made,
        conditions=scope.owned,
        why=common.TAGGED,
    )
    yield from common.sharing(scope, verifying.receivers(scope))


def _smoke_reads(scope: Scope) -> set[str]:
    if scope.environment.smoke is None:
        return set()
    return {"batch:DescribeJobDefinitions", "batch:DescribeJobQueues", "batch:DescribeJobs"}


def _smoke(scope: Scope, smoke: Smoke) -> Iterator[Statement]:
    yield Statement(
        sid="SubmitJob",
        actions=["batch:SubmitJob"],
        resources=[
            scope.arn("batch", f"job-queue/{smoke.queue}"),
            scope.arn("batch", f"job-definition/{smoke.job_definition}:*"),
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
        resources=[scope.arn("logs", f"log-group:/aws/batch/job:log-stream:{smoke.job_definition}/*")],
        why="each attempt of a job has a stream of its own",
    )
    yield from common.reading(scope, "SmokeInput", sorted(uri.removeprefix("s3://") for uri in smoke.presign.values()))
