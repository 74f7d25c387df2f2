"""One half on its way from the environment where it was verified to one that promotes it: what is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from splitbake.artifact import Artifact, Half, Report
from splitbake.catalog import Catalog
from splitbake.cloud import Cloud
from splitbake.manifest.ways import Way, way
from splitbake.project import Project


@dataclass(frozen=True)
class Route:
    """From one environment to another. Both are asked with the credentials of the target."""

    project: Project
    origin: Cloud
    target: Cloud

    @property
    def ami_way(self) -> Way:
        """How the AMI gets there."""
        return way(self.origin.environment, self.target.environment)

    @property
    def crosses_accounts(self) -> bool:
        """Whether somebody else has to let us in."""
        return self.origin.environment.account != self.target.environment.account

    @cached_property
    def catalog(self) -> Catalog:
        """What is known of the target."""
        return self.project.catalog(self.target)

    @property
    def start(self) -> str:
        """Where it starts, in words."""
        return place(self.origin)

    @property
    def end(self) -> str:
        """Where it ends, in words."""
        return place(self.target)


def place(cloud: Cloud) -> str:
    """Return account and region in words."""
    return f"account {cloud.environment.account}, {cloud.environment.region}"


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What is to be done for one half.

    Attributes:
        source: the artifact that was verified.
        report: that says so.
        way: how it gets there.
        there: the artifact at the end of the way; None as long as anything is missing.
        calls: what is still to be done, call by call as they are made; empty where only the state has to learn it.
    """

    source: Artifact
    report: Report
    way: Way
    there: Artifact | None = None
    calls: tuple[str, ...] = ()

    @property
    def half(self) -> Half:
        """Which one."""
        return self.source.half


def arrived(route: Route, transfer: Transfer, artifact: Artifact) -> Artifact:
    """Write down that ``artifact`` is usable at the end of the way; its report comes last and completes it."""
    report = transfer.report.model_copy(update={"artifact": artifact.id})
    route.catalog.keep_report(report)
    return artifact


def is_complete(route: Route, artifact: Artifact, source: Artifact) -> bool:
    """Return whether the state says that ``artifact`` came from ``source`` and arrived."""
    report = route.catalog.report(artifact)
    return artifact.promoted_from == source.uri and report is not None and report.passed
