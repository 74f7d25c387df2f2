"""Promotion: the very pair that another environment has released, brought to where this one can use it.

Planning reads only. Doing comes before the release is planned, so that the targets are planned with ids that exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitbake.cloud import Cloud
from splitbake.errors import UsageError
from splitbake.project import Project
from splitbake.release import demands, pair, promote_ami, promote_image
from splitbake.release.plan import rehearse
from splitbake.release.targets import Pair
from splitbake.release.transfer import Route, Transfer
from splitbake.ui import Say


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What promoting a pair takes.

    Attributes:
        origin: the environment that it comes from.
        record: key of its record there; None where nothing is released there.
        image: what is to be done for this half; it goes first, as its copy is the quicker one to fail.
        ami: likewise.
    """

    origin: str
    record: str | None
    image: Transfer
    ami: Transfer

    @property
    def transfers(self) -> Sequence[Transfer]:
        """Both halves, in the order in which they are done."""
        return (self.image, self.ami)

    @property
    def pair(self) -> Pair | None:
        """The pair as this environment uses it; None as long as anything is to be done."""
        if self.ami.there is None or self.image.there is None:
            return None
        return Pair(ami=self.ami.there, image=self.image.there, promoted_from=self.record)


def plan(project: Project, cloud: Cloud, key: str | None = None) -> Promotion:
    """Plan how the pair of the environment that ``cloud`` promotes from gets there; nothing is changed.

    ``key``: of another good record of that environment than its last one.

    Raises:
        UsageError: the environment promotes from nowhere.
        GuardError: the credentials are not the environment's.
        ReleaseError: there is no such pair, it is not verified, does not fit, or cannot be seen from here; or a target
            cannot be released to.
        PatchError: a Terraform text cannot be patched.
        CloudError: AWS or the state cannot be asked.
    """
    promote = cloud.environment.promote
    if promote is None:
        raise UsageError(f"environment {cloud.name!r} promotes from no other", hint="see promote in docs/manifest.md")
    cloud.guard()
    demands.require_targets(cloud)
    route = Route(project, project.cloud(promote.origin), cloud)
    source = pair.of_origin(project, route.origin, key)
    demands.require_fit(source)
    reports = {
        one.half: demands.require_verified(project.catalog(route.origin), one) for one in (source.ami, source.image)
    }
    promotion = Promotion(
        origin=route.origin.name,
        record=source.promoted_from,
        image=promote_image.plan(route, source.image, reports["image"]),
        ami=promote_ami.plan(route, source.ami, reports["ami"]),
    )
    if promotion.pair is None:
        rehearse(project, cloud, source)
    return promotion


def run(promotion: Promotion, project: Project, cloud: Cloud, say: Say) -> Pair:
    """Do what ``promotion`` says and return the pair as the environment of ``cloud`` uses it.

    What was done stays done, whatever fails after it: the next run goes on from there.

    Raises:
        GuardError: the credentials have changed since planning.
        ReleaseError, ToolError, CloudError: a half did not arrive.
    """
    cloud.guard()
    route = Route(project, project.cloud(promotion.origin), cloud)
    image = promotion.image.there or promote_image.run(route, promotion.image, say)
    ami = promotion.ami.there or promote_ami.run(route, promotion.ami, say)
    return Pair(ami=ami, image=image, promoted_from=promotion.record)
