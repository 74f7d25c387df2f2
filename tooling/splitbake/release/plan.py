"""Planning a release: what is live is read, nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from splitbake import lease as leases
from splitbake.cloud import Cloud, Identity
from splitbake.lease import Holding
from splitbake.project import Project
from splitbake.release import demands, tag
from splitbake.release import record as records
from splitbake.release.live import Live
from splitbake.release.steps import Output, Step, TextStep
from splitbake.release.targets import Context, Pair, RootVolume, Target
from splitbake.state import Store

_MIB = 1024**2


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
        is_recorded: whether the environment's last good record says that this pair is released.
        previous: the release before, as its lease said when planning began: it must be the last one still.
    """

    id: str
    environment: str
    identity: Identity
    pair: Pair
    steps: Sequence[Step]
    warnings: Sequence[str]
    versions: Mapping[str, str | Output]
    is_recorded: bool
    previous: Holding | None

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
        ReleaseError: the pair does not fit, is not verified or gone, or a target cannot be released to as it is.
        PatchError: a Terraform text cannot be patched.
        CloudError: AWS cannot be asked.
    """
    identity = cloud.guard()
    demands.require_targets(cloud)
    catalog, live = project.catalog(cloud), Live(cloud)
    previous = leases.last(catalog.store, records.lease_name(cloud.name))  # before anything live is read
    offers, needs = demands.require_fit(pair)
    for artifact in (pair.ami, pair.image):
        demands.require_verified(catalog, artifact)
        demands.require_usable(cloud, artifact, project.manifest.image.repository)
    rate = project.manifest.ami.volume.initialize
    root, data = demands.volumes(live, pair.ami, initialize=rate // _MIB if rate else None)
    context = Context(
        live=live,
        root=project.root,
        release=records.new_id(catalog.store, cloud.name),
        pair=pair,
        volume=root,
        data=data,
        models_root=offers.root,
        mounts=needs.mounts,
        runtime_root=needs.runtime.root if needs.runtime else None,
    )
    steps, warnings, versions = _plan_targets(cloud.environment.release, context)
    tagging = tag.plan(live, cloud.name, context.release, pair.image, project.manifest.image.repository)
    return ReleasePlan(
        id=context.release,
        environment=cloud.name,
        identity=identity,
        pair=pair,
        steps=[*tagging, *steps],
        warnings=warnings,
        versions=versions,
        is_recorded=_is_recorded(catalog.store, cloud.name, pair),
        previous=previous,
    )


def rehearse(project: Project, cloud: Cloud, pair: Pair) -> None:
    """Plan the targets for a pair that is still elsewhere: what they cannot take is told before it is brought here.

    Its ids and the sizes of its volumes will be others here, so the steps are worth nothing.

    Raises:
        ReleaseError, PatchError, CloudError: as ``plan``, of a target.
    """
    offers, needs = demands.require_fit(pair)
    context = Context(
        live=Live(cloud),
        root=project.root,
        release="rehearsal",
        pair=pair,
        volume=RootVolume(device="", size=0),
        models_root=offers.root,
        mounts=needs.mounts,
        runtime_root=needs.runtime.root if needs.runtime else None,
    )
    _plan_targets(cloud.environment.release, context)


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


def _is_recorded(store: Store, environment: str, pair: Pair) -> bool:
    record = records.last_good(store, environment)
    return record is not None and (record.ami.uri, record.image.uri) == (pair.ami.uri, pair.image.uri)
