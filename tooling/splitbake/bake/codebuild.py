"""Building in AWS CodeBuild: the dependencies image is made without any Docker on this machine.

What it is built from goes to S3 as one zip that is named by its content; a project that stays runs the build, and this
process follows it. Nothing temporary is made, so nothing has to be cleaned up but a build that runs.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from splitbake import ecr
from splitbake.bake import codebuild_buildspec as buildspec
from splitbake.bake import codebuild_context as contexts
from splitbake.bake import codebuild_project as projects
from splitbake.bake.builders import Made, Order
from splitbake.bake.codebuild_follow import Following, digest, failure
from splitbake.bake.weights import require_within
from splitbake.cloud import Cloud, aws_errors
from splitbake.errors import BuildError, ToolError
from splitbake.generate import dockerfile
from splitbake.manifest.codebuild import CodeBuild
from splitbake.project import Project
from splitbake.signals import uninterrupted
from splitbake.ui import Say

#: Seconds that CodeBuild gets beyond its own time-outs before the build is stopped from here.
_GRACE: Final = 300


class CodeBuildBuilder:
    """The ``codebuild`` kind of image builder."""

    def health(self) -> None:
        """See ImageBuilder. All that this machine needs is credentials; ``check`` looks at the rest."""
        import boto3

        with aws_errors("look for credentials"):
            if boto3.session.Session().get_credentials() is None:
                raise ToolError(
                    "there are no AWS credentials, and CodeBuild is asked with them", hint="set AWS_PROFILE, or log in"
                )

    def check(self, project: Project, cloud: Cloud) -> None:
        """Return if a build could be started: the role is named, and the bucket is there.

        Raises:
            BuildError: the manifest does not say enough.
            ToolError: the bucket cannot be used.
            CloudError: AWS cannot be asked.
        """
        projects.settings_of(project.manifest)
        contexts.require_bucket(cloud, projects.bucket_of(project.manifest))

    def make(self, order: Order, say: Say) -> Made:
        """See ImageBuilder."""
        manifest, cloud = order.project.manifest, order.cloud
        settings = projects.settings_of(manifest)
        remote = _remote(order, settings)
        plan = projects.plan(manifest, cloud, order.platform)
        environment = buildspec.variables(order, remote)
        packed = contexts.pack(order.context, None if dockerfile.CA in remote else order.secrets.get(dockerfile.CA))
        self.check(order.project, cloud)
        place = contexts.upload(cloud, projects.bucket_of(manifest), packed, say)
        projects.ensure(cloud, plan, say)
        wanted = {
            "projectName": plan.name,
            "sourceTypeOverride": "S3",
            "sourceLocationOverride": place,
            "buildspecOverride": buildspec.text(),
            "environmentVariablesOverride": environment,
            "environmentTypeOverride": plan.definition["environment"]["type"],
            "imageOverride": plan.definition["environment"]["image"],
            "computeTypeOverride": settings.compute,
            "timeoutInMinutesOverride": plan.definition["timeoutInMinutes"],
            # botocore sends a call again whose answer was lost.
            "idempotencyToken": secrets.token_hex(16),
        }
        following, build = _run(order, wanted, plan.limit + _GRACE, say)
        size = following.size(build)
        if size is not None:
            require_within(size, order.budget, following.heaviest())
        if build["buildStatus"] != "SUCCEEDED":
            raise failure(build, order.name, following.tail, settings, order.log)
        return _made(order, build, size, following)


def _remote(order: Order, settings: CodeBuild) -> Mapping[str, str]:
    """Return where AWS Secrets Manager has the secrets of a build.

    Raises:
        BuildError: one is only here. Whoever may look at a build sees its variables, and the zip stays in S3.
    """
    here = sorted(order.secrets.keys() - settings.secrets.keys() - {dockerfile.CA})
    if here:
        raise BuildError(
            f"{', '.join(here)}: the value is on this machine only, and CodeBuild would show it to all who look at "
            "the build",
            hint="keep it in AWS Secrets Manager, and name that secret in image.codebuild.secrets, "
            f"{here[0]}: its name or ARN",
        )
    return settings.secrets


def _run(order: Order, wanted: Mapping[str, Any], limit: float, say: Say) -> tuple[Following, Mapping[str, Any]]:
    """Start a build and follow it to its end. However this ends before that, the build does too."""
    following: Following | None = None
    try:
        with uninterrupted():  # until its id is known, nobody could stop it
            with aws_errors("start a build in CodeBuild"):
                build = order.cloud.client("codebuild").start_build(**wanted)["build"]
            following = Following(order.cloud, build["id"], order.log, say)
        say(f"started build {following.id} of CodeBuild")
        return following, following.wait(limit)
    except BaseException:
        if following:
            following.stop()
        raise


def _made(order: Order, build: Mapping[str, Any], size: int | None, following: Following) -> Made:
    pushed = digest(build)
    if not pushed or size is None:
        raise BuildError(
            f"build {build['id']} of CodeBuild succeeded, but told no digest and size", hint=f"see {order.log}"
        )
    repository = order.project.manifest.image.repository
    if ecr.find_image(order.cloud, repository, digest=pushed) is None:
        raise BuildError(f"{order.name} was pushed as {pushed}, but ECR does not have it", hint="build again")
    return Made(pushed, size, following.heaviest())
