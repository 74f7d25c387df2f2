"""Sharing an AMI with the accounts that release it as well. Never with everybody, and nothing is taken back."""

from __future__ import annotations

from collections.abc import Sequence

from splitbake.artifact import Artifact, Report
from splitbake.bake import amis
from splitbake.cloud import Cloud
from splitbake.manifest import Manifest, ways
from splitbake.release.live import Live
from splitbake.release.steps import ApiCall
from splitbake.ui import Say


def calls(ami: str, snapshots: Sequence[str], accounts: Sequence[str]) -> list[ApiCall]:
    """Return the calls by which its owner shares an AMI, none where there is nobody to share it with.

    The launch permission lets them launch it, those of the snapshots let them copy it.
    """
    if not accounts:
        return []
    users = {"OperationType": "add", "UserIds": list(accounts)}
    image = {"ImageId": ami, "LaunchPermission": {"Add": [{"UserId": account} for account in accounts]}}
    permission = {"Attribute": "createVolumePermission", **users}
    return [
        ApiCall.plain("ec2", "ModifyImageAttribute", **image),
        *(ApiCall.plain("ec2", "ModifySnapshotAttribute", SnapshotId=one, **permission) for one in snapshots),
    ]


def share_verified(manifest: Manifest, cloud: Cloud, ami: Artifact, report: Report, say: Say) -> None:
    """Share a verified AMI of ``cloud`` with all accounts that promote from there, and with those of ``ami.share``.

    The latter may use its copies in other regions as well.

    Raises:
        CloudError: AWS refused it.
    """
    is_own = ami.promoted_from != ami.uri
    if not (report.passed and is_own):
        return
    named = set(manifest.ami.share) - {cloud.environment.account}
    accounts = sorted({*ways.receivers(manifest.environments, cloud.name), *named})
    _share(Live(cloud), ami.id, ami.snapshots, accounts, say)
    for copy in ami.copies:
        there = Live(cloud.at(copy.region))
        (image,) = there.call("ec2", "DescribeImages", f"read {copy.id}", ImageIds=[copy.id])["Images"]
        _share(there, copy.id, amis.snapshots(image), sorted(named), say)


def _share(live: Live, ami: str, snapshots: Sequence[str], accounts: Sequence[str], say: Say) -> None:
    if accounts:
        say(f"sharing {ami} with {', '.join(accounts)}")
    for call in calls(ami, snapshots, accounts):
        live.call(call.service, call.operation, f"share {ami}", **call.parameters)
