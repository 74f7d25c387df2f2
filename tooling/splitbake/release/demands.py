"""What a release demands of a pair before anything is planned with it."""

from __future__ import annotations

from splitbake import contract, health
from splitbake.artifact import Artifact, Report
from splitbake.catalog import Catalog
from splitbake.cloud import Cloud
from splitbake.contract import Need, Offer
from splitbake.errors import ReleaseError
from splitbake.release.live import Live
from splitbake.release.targets import DataVolume, Pair, RootVolume


def require_targets(cloud: Cloud) -> None:
    """Refuse an environment that a release would not change.

    Raises:
        ReleaseError: nothing is listed.
    """
    if not cloud.environment.release:
        raise ReleaseError(
            f"environment {cloud.name!r} has no targets", hint="list them below release in the environment"
        )


def require_verified(catalog: Catalog, artifact: Artifact, standard: str | None = None) -> Report:
    """Return the report of an artifact that was verified and passed; ``standard``: by that one (None: by any).

    Raises:
        ReleaseError: with the names of the checks that failed.
    """
    report = catalog.report(artifact, standard)
    if report is None:
        by_what = "by what the manifest demands" if standard else f"in account {catalog.account}, {catalog.region}"
        raise ReleaseError(
            f"the {artifact.half} {artifact.uri} was not verified {by_what}",
            hint=f"run splitbake verify {artifact.half}",
        )
    if not report.passed:
        failed = ", ".join(report.failed) or "no check was made"
        raise ReleaseError(
            f"the {artifact.half} {artifact.uri} did not pass its verification: {failed}",
            hint=f"repair it, build it again, and run splitbake verify {artifact.half}",
        )
    return report


def require_usable(cloud: Cloud, artifact: Artifact, repository: str) -> None:
    """Refuse an artifact that is gone, not in good order, or somebody else's; ``repository``: of images.

    Raises:
        ReleaseError: says what keeps it from being used.
    """
    if problem := health.problem(cloud, artifact, repository):
        again = f"run splitbake build {artifact.half}, then splitbake verify {artifact.half}"
        if artifact.promoted_from:
            again = "put it in order, or remove it: then splitbake release promotes it anew"
        raise ReleaseError(f"{artifact.uri} cannot be released to {cloud.name!r}: {problem}", hint=again)


def require_fit(pair: Pair) -> tuple[Offer, Need]:
    """Return what the AMI offers and what the image needs, which is all there.

    Raises:
        ReleaseError: names every difference, or the half that does not say.
    """
    offers, needs = pair.ami.offers, pair.image.needs
    if offers is None or needs is None:
        half = "ami" if offers is None else "image"
        raise ReleaseError(
            f"the {half} does not say what it {'offers' if offers is None else 'needs'}: it was built by an earlier "
            "version of splitbake",
            hint=f"splitbake build {half} --force and splitbake verify {half}, then release both halves: "
            "splitbake release",
        )
    if differences := contract.misfits(needs, offers):
        raise ReleaseError(
            f"the pair does not fit, {pair.ami.uri} and {pair.image.uri}: {'; '.join(differences)}",
            hint="build and verify the other half of the same manifest and lock as well, and release both",
        )
    return offers, needs


def volumes(live: Live, ami: Artifact, initialize: int | None) -> tuple[RootVolume, tuple[DataVolume, ...]]:
    """Return the root volume of an AMI that can be used, and its other volumes.

    Args:
        live: AWS, to read from.
        ami: the AMI.
        initialize: MiB/s at which EC2 shall fill the other volumes of each new instance; None: as they are read.
    """
    (image,) = live.call("ec2", "DescribeImages", f"read {ami.id}", ImageIds=[ami.id])["Images"]
    found = [(one["DeviceName"], one["Ebs"]) for one in image["BlockDeviceMappings"] if "Ebs" in one]
    root = next(RootVolume(device, ebs["VolumeSize"]) for device, ebs in found if device == image["RootDeviceName"])
    data = tuple(
        DataVolume(device, ebs["SnapshotId"], ebs["VolumeSize"], initialize)
        for device, ebs in found
        if device != root.device
    )
    return root, data
