"""Building in AWS CodeBuild: the dependencies image is made without any Docker on this machine.

What it is built from goes to S3 as one zip that is named by its content; a project that stays runs the build, and this
process follows it. Nothing temporary is made, so nothing has to be cleaned up but a build that runs.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from splitbake import ecr
from splitbake.bake import codebuild_buildspec as buildspec
from splitbake.bake import codebuild_context as contexts
from splitbake.bake import codebuild_project as projects
from splitbake.bake import weights
from splitbake.bake.builders import Made, Order
from splitbake.bake.codebuild_follow import Following, digest, exported, failure
from splitbake.cloud import Cloud, aws_errors
from splitbake.errors import BuildError, CloudError, InterruptError, SplitbakeError, ToolError
from splitbake.generate import dockerfile
from splitbake.project import Project
from splitbake.signals import uninterrupted
from splitbake.ui import Say

#: Seconds that CodeBuild gets beyond its own time-outs before the build is stopped from here.
_GRACE: Final = 300
#: Seconds that CodeBuild remembers a token (API of StartBuild).
_REMEMBERED: Final = 300
_LOOK: Final = "look at it in the console of CodeBuild, and stop it there"


class CodeBuildBuilder:
    """The ``codebuild`` kind of image builder."""

    def health(self) -> None:
        """See ImageBuilder. All that this machine needs is credentials; ``check`` looks at AWS."""
        import boto3

        with aws_errors("look for credentials"):
            if boto3.session.Session().get_credentials() is None:
                raise ToolError(
                    "there are no AWS credentials, and CodeBuild is asked with them", hint="set AWS_PROFILE, or log in"
                )

    def check(self, project: Project, cloud: Cloud) -> None:
        """Return if a build could be started, as far as that can be seen without starting one.

        Raises:
            BuildError: the manifest does not say enough.
            ToolError: the role is not there, the bucket cannot be used, or the project is somebody else's.
            CloudError: AWS cannot be asked.
        """
        projects.require_role(project.manifest, cloud)
        contexts.require_bucket(cloud, projects.bucket_of(project.manifest))
        projects.require_ours(project.manifest, cloud)

    def make(self, order: Order, say: Say) -> Made:
        """See ImageBuilder."""
        manifest, cloud = order.project.manifest, order.cloud
        settings = projects.settings_of(manifest)
        plan = projects.plan(manifest, cloud, order.platform)
        # The manifest gives each secret a place there. What stays is the CA bundle, which is none.
        environment = buildspec.variables(order, settings.secrets)
        ca = None if dockerfile.CA in settings.secrets else order.secrets.get(dockerfile.CA)
        packed, bucket = contexts.pack(order.context, ca), projects.bucket_of(manifest)
        contexts.require_bucket(cloud, bucket)
        place = contexts.upload(cloud, bucket, packed, say)
        projects.ensure(cloud, plan, say)
        machine = plan.definition["environment"]
        # All that a branch could want differently, but for the VPC: no build can say another one than its project.
        wanted = {
            "projectName": plan.name,
            "sourceTypeOverride": "S3",
            "sourceLocationOverride": place,
            "buildspecOverride": buildspec.text(),
            "environmentVariablesOverride": environment,
            "environmentTypeOverride": machine["type"],
            "imageOverride": machine["image"],
            "imagePullCredentialsTypeOverride": machine["imagePullCredentialsType"],
            "computeTypeOverride": machine["computeType"],
            "cacheOverride": plan.definition["cache"],
            "serviceRoleOverride": plan.definition["serviceRole"],
            "timeoutInMinutesOverride": plan.definition["timeoutInMinutes"],
            # botocore sends a call again whose answer was lost.
            "idempotencyToken": secrets.token_hex(16),
        }
        following, build = _run(order, wanted, plan.limit + _GRACE, say)
        size, compressed = following.size(build), following.compressed(build)
        if size is not None:
            weights.require_within(size, order.budget, following.heaviest())
        if compressed is not None:  # the layers were weighed unpacked
            installed = [each for each in following.heaviest() if each.kind != "layer"]
            weights.require_compressed_within(compressed, order.compressed_budget, installed)
        if build["buildStatus"] != "SUCCEEDED":
            raise failure(build, order.name, following.tail, settings, order.log)
        return _made(order, build, size, following)


def _run(order: Order, wanted: Mapping[str, Any], limit: float, say: Say) -> tuple[Following, Mapping[str, Any]]:
    """Start a build and follow it to its end. However this ends before that, the build does too.

    Where it may go on all the same, the error says so: what was said on the way is not seen any more then.
    """
    following: Following | None = None
    left = ""
    try:
        with uninterrupted():  # until its id is known, nobody could stop it
            try:
                following = Following(order.cloud, _start(order.cloud, wanted), order.log, say)
            except CloudError as problem:
                if _unanswered(problem):
                    left = f"a build of the project {wanted['projectName']} may run in CodeBuild, and costs money"
                raise
        say(f"started build {following.id} of CodeBuild")
        return following, following.wait(limit)
    except BaseException as problem:
        left = following.stop() if following else left
        if left and isinstance(problem, KeyboardInterrupt):
            raise InterruptError(f"interrupted; {left}", hint=_LOOK) from problem
        if left and isinstance(problem, SplitbakeError):
            problem.message += f"; {left}"
            problem.hint = f"{_LOOK}; {problem.hint}" if problem.hint else _LOOK
        elif left:
            problem.add_note(f"{left}; {_LOOK}")
        raise


def _start(cloud: Cloud, wanted: Mapping[str, Any]) -> str:
    """Start a build and return its id.

    Where the answer is lost for all that boto3 tried, it is asked for once more: as long as CodeBuild remembers the
    token, that is the build that runs already. Later it would be a second one.
    """
    until = time.monotonic() + _REMEMBERED
    while True:
        try:
            with aws_errors("start a build in CodeBuild"):
                return str(cloud.client("codebuild").start_build(**wanted)["build"]["id"])
        except CloudError as problem:
            if not _unanswered(problem) or time.monotonic() > until:
                raise
            until = 0.0


def _unanswered(problem: CloudError) -> bool:
    """Whether nobody knows what became of a call: the network or AWS itself failed, after it may have been taken."""
    from botocore.exceptions import ClientError, HTTPClientError
    from botocore.parsers import ResponseParserError

    cause = problem.__cause__
    if isinstance(cause, ClientError):
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return isinstance(cause, (HTTPClientError, ResponseParserError))


def _made(order: Order, build: Mapping[str, Any], size: int | None, following: Following) -> Made:
    pushed = digest(build)
    if not pushed or size is None:
        raise BuildError(
            f"build {build['id']} of CodeBuild succeeded, but told no digest and size", hint=f"see {order.log}"
        )
    repository = order.project.manifest.image.repository
    if ecr.find_image(order.cloud, repository, digest=pushed) is None:
        raise BuildError(f"{order.name} was pushed as {pushed}, but ECR does not have it", hint="build again")
    return Made(pushed, size, following.heaviest(), _tools(build))


def _tools(build: Mapping[str, Any]) -> dict[str, str]:
    """Return what was at work, for the record of the build; what is not told is left out."""
    docker = exported(build).get(buildspec.DOCKER, "").split()
    image = build.get("environment", {}).get("image", "")
    return {
        **dict(zip(("docker", "docker engine"), docker, strict=False)),
        **({"codebuild image": image} if image else {}),
        "codebuild build": build["id"],
    }
