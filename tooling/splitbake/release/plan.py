"""Planning a release: what is live is read, nothing is changed."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from splitbake.artifact import Artifact, find_report
from splitbake.cloud import Cloud, Identity, error_code
from splitbake.errors import CloudError, ReleaseError
from splitbake.project import Project
from splitbake.release.live import Live
from splitbake.release.steps import Output, Step, TextStep
from splitbake.release.targets import Context, Pair, RootVolume, Target
from splitbake.state import Store


@dataclass(frozen=True, kw_only=True)
class ReleasePlan:
    """What a release will do.

    Attributes:
        id: of the release; it sorts by time.
        environment: the name in the manifest.
        identity: who is asking, where.
        pair: what is released.
        steps: in the order in which they are safe; none where everything names the pair already.
        warnings: what the user should know although nothing is wrong.
        versions: launch template id -> its version with the pair's AMI.
    """

    id: str
    environment: str
    identity: Identity
    pair: Pair
    steps: Sequence[Step]
    warnings: Sequence[str]
    versions: Mapping[str, str | Output]

    def diff(self, *, context: int = 3) -> str:
        """The change of Terraform text as a unified diff, with so many unchanged lines around; empty where none."""
        return "".join(step.diff(context=context) for step in self.steps if isinstance(step, TextStep))

    @property
    def terraform_diff_lines(self) -> int:
        """How many lines of Terraform text change."""
        return sum(step.patch.changed_lines for step in self.steps if isinstance(step, TextStep))


def plan(project: Project, cloud: Cloud, pair: Pair) -> ReleasePlan:
    """Plan the release of ``pair`` to the environment of ``cloud``.

    Raises:
        GuardError: the credentials are not the environment's.
        ReleaseError: the pair is not verified or gone, or a target cannot be released to as it is.
        PatchError: a Terraform text cannot be patched.
        CloudError: AWS cannot be asked.
    """
    identity = cloud.guard()
    targets = cloud.environment.release
    if not targets:
        raise ReleaseError(
            f"environment {cloud.name!r} has no targets", hint="list them below release in the environment"
        )
    store, live = project.store(cloud), Live(cloud)
    for artifact in (pair.ami, pair.image):
        require_verified(store, artifact, project.manifest.standard)
    require_image(live, pair.image, project.manifest.image.repository, identity.account)
    context = Context(
        live=live,
        root=project.root,
        release=_new_id(),
        pair=pair,
        volume=require_ami(live, pair.ami, identity.account),
        models_root=project.manifest.models.root,
        mounts=project.manifest.image.mounts,
    )
    steps, warnings, versions = _plan_targets(targets, context)
    return ReleasePlan(
        id=context.release,
        environment=cloud.name,
        identity=identity,
        pair=pair,
        steps=steps,
        warnings=warnings,
        versions=versions,
    )


def _plan_targets(
    targets: Sequence[Target], context: Context
) -> tuple[list[Step], list[str], Mapping[str, str | Output]]:
    steps: list[Step] = []
    warnings: list[str] = []
    for target in sorted(targets, key=lambda one: one.needs_versions):
        planned = target.plan(context)
        steps += planned.steps
        warnings += planned.warnings
        context = replace(context, versions={**context.versions, **planned.versions})
    texts = [step for step in steps if isinstance(step, TextStep)]
    others = [step for step in steps if not isinstance(step, TextStep)]
    joined = [TextStep.joined(texts)] if texts else []
    return [*joined, *sorted(others, key=lambda step: step.phase)], warnings, context.versions


def _new_id() -> str:
    """Return a new id: UTC to the second, and chance for two in the same second."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def require_verified(store: Store, artifact: Artifact, standard: str) -> None:
    """Refuse an artifact that was not verified, or failed.

    Raises:
        ReleaseError: with the names of the checks that failed.
    """
    report = find_report(store, artifact, standard)
    if report is None:
        raise ReleaseError(
            f"the {artifact.half} {artifact.uri} was not verified by what the manifest demands",
            hint=f"run splitbake verify {artifact.half}",
        )
    if not report.passed:
        failed = ", ".join(check.name for check in report.checks if not check.passed) or "no check was made"
        raise ReleaseError(
            f"the {artifact.half} {artifact.uri} did not pass its verification: {failed}",
            hint=f"repair it, build it again, and run splitbake verify {artifact.half}",
        )


def require_ami(live: Live, ami: Artifact, account: str) -> RootVolume:
    """Return the root volume of an AMI that can be launched and is the account's own.

    Raises:
        ReleaseError: it is gone, not available, or somebody else's.
    """
    again = "run splitbake build ami, then splitbake verify ami"
    try:
        images = live.call("ec2", "DescribeImages", f"find AMI {ami.id}", ImageIds=[ami.id])["Images"]
    except CloudError as problem:
        if not error_code(problem).startswith("InvalidAMIID"):
            raise
        images = []
    if not images:
        raise ReleaseError(f"AMI {ami.id} does not exist in environment {live.where}", hint=again)
    (image,) = images
    if image["State"] != "available":
        raise ReleaseError(f"AMI {ami.id} is {image['State']}, not available", hint=again)
    if image["OwnerId"] != account:
        raise ReleaseError(
            f"AMI {ami.id} belongs to account {image['OwnerId']}, environment {live.cloud.name!r} to {account}",
            hint="copy it there, or build it there; then verify it there",
        )
    root = next(one for one in image["BlockDeviceMappings"] if one["DeviceName"] == image["RootDeviceName"])
    return RootVolume(root["DeviceName"], root["Ebs"]["VolumeSize"])


def require_image(live: Live, image: Artifact, repository: str, account: str) -> None:
    """Refuse an image that is not in the account's registry.

    Raises:
        ReleaseError: the digest or the repository is gone.
    """
    try:
        live.call(
            "ecr",
            "DescribeImages",
            f"find image {image.uri}",
            registryId=account,
            repositoryName=repository,
            imageIds=[{"imageDigest": image.id}],
        )
    except CloudError as problem:
        if error_code(problem) not in {"ImageNotFoundException", "RepositoryNotFoundException"}:
            raise
        raise ReleaseError(
            f"image {image.id} is not in repository {repository!r} of account {account} (environment {live.where})",
            hint="run splitbake build image, then splitbake verify image",
        ) from problem
