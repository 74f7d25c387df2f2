"""The one project that a manifest has in AWS CodeBuild, and its log: what they should be, and making them so."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from splitbake.bake.codebuild_context import PREFIX
from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import BuildError, CloudError, ToolError
from splitbake.manifest import Manifest
from splitbake.manifest.codebuild import CodeBuild
from splitbake.signals import uninterrupted
from splitbake.ui import Say

#: Days that the log of a build is kept.
RETENTION: Final = 30
TAG: Final = "splitbake:project"

#: Platform of the image -> the kind of environment, and the newest image that AWS keeps for it ("EC2 compute images").
_ENVIRONMENTS: Final[Mapping[str, tuple[str, str]]] = {
    "linux/amd64": ("LINUX_CONTAINER", "aws/codebuild/amazonlinux-x86_64-standard:5.0"),
    "linux/arm64": ("ARM_CONTAINER", "aws/codebuild/amazonlinux-aarch64-standard:3.0"),
}
_OF_AWS: Final = "aws/codebuild/"
#: The machine that keeps nothing from build to build.
_FORGETFUL: Final = "BUILD_GENERAL1_2XLARGE"
#: Minutes that a build may wait for a machine.
_QUEUED: Final = 30
#: Seconds before each further try with a role that CodeBuild cannot assume yet: IAM takes its time to tell everybody.
_AGAIN_AFTER: Final = (2, 4, 8, 15, 15, 15)
_NOT_YET: Final = "not authorized to perform: sts:AssumeRole"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the project should be, made from the manifest.

    Attributes:
        name: unique in account and region.
        group: of its log.
        definition: what CreateProject and UpdateProject take, without name and tags.
        tags: that it carries; others may be there as well.
    """

    name: str
    group: str
    definition: Mapping[str, Any]
    tags: Mapping[str, str]

    @property
    def limit(self) -> int:
        """Seconds after which CodeBuild itself has ended any build."""
        minutes: int = self.definition["timeoutInMinutes"] + self.definition["queuedTimeoutInMinutes"]
        return 60 * minutes


def name_of(project: str) -> str:
    """Return the name that a project of ours has in CodeBuild, which takes no dots."""
    return f"splitbake-{project.replace('.', '-')}-image"


def group_of(project: str) -> str:
    """Return the log group of its builds."""
    return f"/aws/codebuild/{name_of(project)}"


def settings_of(manifest: Manifest) -> CodeBuild:
    """Return ``image.codebuild``.

    Raises:
        BuildError: the manifest has none.
    """
    settings: CodeBuild | None = manifest.image.codebuild
    if settings is None:
        raise BuildError(
            "image.builder is codebuild, and image.codebuild says nothing",
            hint="name the role that builds have as image.codebuild.role; splitbake iam codebuild prints its policy",
        )
    return settings


def bucket_of(manifest: Manifest) -> str:
    """Return the bucket that what is built from goes to.

    Raises:
        BuildError: none is named, and the state is not on S3.
    """
    if bucket := settings_of(manifest).bucket:
        return bucket
    if not manifest.state.startswith("s3://"):
        raise BuildError(
            "CodeBuild takes what it builds from out of S3, and the state is a folder",
            hint="name a bucket as image.codebuild.bucket, or keep the state on S3",
        )
    return manifest.state.removeprefix("s3://").partition("/")[0]


def role_arn(role: str, account: str, partition: str) -> str:
    """Return the ARN of a role that is named by its name, or by its ARN."""
    return role if role.startswith("arn:") else f"arn:{partition}:iam::{account}:role/{role}"


def plan(manifest: Manifest, cloud: Cloud, platform: str) -> Plan:
    """Return what the project should be.

    Raises:
        BuildError: the manifest does not say enough, or CodeBuild has no machines for ``platform``.
    """
    settings = settings_of(manifest)
    if platform not in _ENVIRONMENTS:
        known = ", ".join(_ENVIRONMENTS)
        raise BuildError(f"CodeBuild has no machines for {platform}", hint=f"it has them for {known}")
    kind, image = _ENVIRONMENTS[platform]
    image = settings.image or image
    partition = cloud.session.get_partition_for_region(cloud.environment.region)
    group = group_of(manifest.project)
    definition = {
        "description": f"Makes the dependencies image of {manifest.project} for splitbake",
        # Each build says where its own lies.
        "source": {"type": "S3", "location": f"{bucket_of(manifest)}/{PREFIX}none.zip"},
        "artifacts": {"type": "NO_ARTIFACTS"},
        "cache": _cache(settings),
        "environment": {
            "type": kind,
            "image": image,
            "computeType": settings.compute,
            "privilegedMode": True,  # Docker runs in the build
            "imagePullCredentialsType": "CODEBUILD" if image.startswith(_OF_AWS) else "SERVICE_ROLE",
        },
        "serviceRole": role_arn(settings.role, cloud.environment.account, partition),
        "timeoutInMinutes": -(-settings.timeout // 60),
        "queuedTimeoutInMinutes": _QUEUED,
        "logsConfig": {"cloudWatchLogs": {"status": "ENABLED", "groupName": group}},
        "vpcConfig": _vpc(settings),
    }
    return Plan(name=name_of(manifest.project), group=group, definition=definition, tags={TAG: manifest.project})


def _cache(settings: CodeBuild) -> dict[str, Any]:
    """Return what a machine keeps for the next build; none does in a VPC, nor does the largest one."""
    if settings.vpc or settings.compute == _FORGETFUL:
        return {"type": "NO_CACHE"}
    return {"type": "LOCAL", "modes": ["LOCAL_DOCKER_LAYER_CACHE"]}


def _vpc(settings: CodeBuild) -> dict[str, Any]:
    """Return the VPC, empty where there is none, by which an update takes one away."""
    if settings.vpc is None:
        return {}
    groups = list(settings.vpc.security_groups)
    return {"vpcId": settings.vpc.id, "subnets": list(settings.vpc.subnets), "securityGroupIds": groups}


def differences(wanted: Plan, there: Mapping[str, Any]) -> list[str]:
    """Return which parts of the project that is ``there`` are not as ``wanted``. What we do not set is not ours."""
    parts = [key for key, value in wanted.definition.items() if not _within(value, there.get(key) or {})]
    given = _tags(there)
    return parts + (["tags"] if any(given.get(key) != value for key, value in wanted.tags.items()) else [])


def _within(wanted: Any, there: Any) -> bool:
    """Whether all that is ``wanted`` is there; lists are sets here, and an empty mapping wants nothing at all."""
    if isinstance(wanted, Mapping):
        if not wanted:
            return not there or not any(there.values())
        return isinstance(there, Mapping) and all(_within(value, there.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(there, list) and sorted(map(json.dumps, wanted)) == sorted(map(json.dumps, there))
    return bool(wanted == there)


def _tags(there: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in there.get("tags") or ()}


def ensure(cloud: Cloud, wanted: Plan, say: Say) -> None:
    """Make the project what it should be: create it, change what differs, or do nothing.

    Raises:
        BuildError: CodeBuild cannot assume its role.
        ToolError: a project of that name belongs to somebody else.
        CloudError: AWS refused it.
    """
    _ensure_log(cloud, wanted)
    there = _find(cloud, wanted.name)
    if there is None:
        say(f"creating the project {wanted.name} in CodeBuild")
        try:
            _put(cloud, "create_project", wanted, wanted.tags, say)
        except CloudError as problem:
            if error_code(problem) != "ResourceAlreadyExistsException":
                raise
            there = _find(cloud, wanted.name)  # another first build made it just now
    if there is None:
        return
    _require_owner(there, wanted.name, wanted.tags[TAG])
    if parts := differences(wanted, there):
        say(f"changing {', '.join(parts)} of the project {wanted.name} in CodeBuild")
        _put(cloud, "update_project", wanted, {**_tags(there), **wanted.tags}, say)


def require_ours(manifest: Manifest, cloud: Cloud) -> None:
    """Check that the project is ours, or not there: then the first build makes it.

    Raises:
        ToolError: it is somebody else's.
        CloudError: AWS cannot be asked.
    """
    name = name_of(manifest.project)
    if there := _find(cloud, name):
        _require_owner(there, name, manifest.project)


def require_role(manifest: Manifest, cloud: Cloud) -> None:
    """Check that there is the role that builds have.

    Raises:
        BuildError: the manifest names none.
        ToolError: there is no such role.
        CloudError: AWS cannot be asked.
    """
    role = settings_of(manifest).role
    try:
        with aws_errors(f"look for the role {role}"):
            cloud.client("iam").get_role(RoleName=role.rpartition("/")[2])
    except CloudError as problem:
        if error_code(problem) == "NoSuchEntity":
            raise ToolError(
                f"there is no role {role} in account {cloud.environment.account}, which builds in CodeBuild would have",
                hint="make it as docs/codebuild.md shows, or name another one as image.codebuild.role",
            ) from problem
        raise


def _require_owner(there: Mapping[str, Any], name: str, project: str) -> None:
    owner = _tags(there).get(TAG)
    if owner != project:
        raise ToolError(
            f"the project {name} in CodeBuild {f'is of {owner!r}' if owner else 'was not made by splitbake'}",
            hint=f"delete it, or tag it {TAG}={project}",
        )


def _find(cloud: Cloud, name: str) -> Mapping[str, Any] | None:
    with aws_errors(f"look for the project {name} in CodeBuild"):
        found: Sequence[Mapping[str, Any]] = cloud.client("codebuild").batch_get_projects(names=[name])["projects"]
    return found[0] if found else None


def _put(cloud: Cloud, operation: str, wanted: Plan, tags: Mapping[str, str], say: Say) -> None:
    """Create or update the project; a role that is new is waited for."""
    given = {**wanted.definition, "tags": [{"key": key, "value": value} for key, value in tags.items()]}
    if operation == "create_project" and not given["vpcConfig"]:
        del given["vpcConfig"]
    role = given["serviceRole"]
    for pause in (*_AGAIN_AFTER, None):
        try:
            with aws_errors(f"{operation.replace('_', ' ')} {wanted.name}"):
                getattr(cloud.client("codebuild"), operation)(name=wanted.name, **given)
        except CloudError as problem:
            if _NOT_YET not in problem.message:
                raise
            if pause is None:
                raise BuildError(
                    f"CodeBuild cannot assume the role {role}",
                    hint="its trust policy must name the service codebuild.amazonaws.com (docs/codebuild.md shows it)",
                ) from problem
            say(f"CodeBuild cannot assume the role {role} yet; trying again in {pause} s")
            time.sleep(pause)
        else:
            return


def _ensure_log(cloud: Cloud, wanted: Plan) -> None:
    """Make the log group, with an end to what it keeps; one that is there keeps the end that its owner set."""
    logs = cloud.client("logs")
    with uninterrupted():
        try:
            with aws_errors(f"make the log group {wanted.group}"):
                logs.create_log_group(logGroupName=wanted.group, tags=dict(wanted.tags))
            ends = False
        except CloudError as problem:
            if error_code(problem) != "ResourceAlreadyExistsException":
                raise
            with aws_errors(f"look at the log group {wanted.group}"):
                found = logs.describe_log_groups(logGroupNamePrefix=wanted.group)["logGroups"]
            ends = any(one["logGroupName"] == wanted.group and "retentionInDays" in one for one in found)
        if not ends:
            with aws_errors(f"give the log group {wanted.group} an end"):
                logs.put_retention_policy(logGroupName=wanted.group, retentionInDays=RETENTION)
