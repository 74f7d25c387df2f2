"""Promoting the AMI half: the very same, one that its owner shares, or a copy that is made once.

The state remembers a copy from the moment that EC2 names it, so whoever comes after an interruption waits for it
instead of making another one; its report, kept last, says that it is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from splitbake.artifact import Artifact, Report
from splitbake.bake import access, amis
from splitbake.bake.things import as_tags
from splitbake.cloud import error_code
from splitbake.errors import CloudError, ReleaseError
from splitbake.generate import packer
from splitbake.manifest import ways
from splitbake.release import sharing
from splitbake.release.live import Live
from splitbake.release.steps import ApiCall
from splitbake.release.transfer import Route, Transfer, arrived, is_complete, place
from splitbake.ui import Say

#: Seconds until a new AMI is seen everywhere, and until a copy between regions is done.
_SEEN_WITHIN, _COPIED_WITHIN = 60, 4 * 3600
#: What DescribeImages says of an AMI that it does not know (any more).
_GONE: Mapping[str, Any] = {"State": "gone"}


def plan(route: Route, source: Artifact, report: Report) -> Transfer:
    """Plan how ``source`` gets to the end of ``route``; nothing is changed.

    Raises:
        ReleaseError: it cannot be seen from there.
    """
    transfer = Transfer(source=source, report=report, way=route.ami_way)
    if transfer.way == "same":
        return _there(transfer, source)
    kept, live = _kept(route, source), Live(route.target)
    state = _describe(live, kept.id)["State"] if kept else "missing"
    if kept and state == "available" and is_complete(route, kept, source):
        return _there(transfer, kept)
    _require_visible(route, source)
    if transfer.way == "share":
        return transfer
    copy = () if state in {"pending", "available"} else (_copy_call(route, source, instead_of=kept),)
    names = [f"copy of {one}" for one in (source.id, *source.snapshots)]
    calls = (*copy, _tag_call(route, source, names), *_share_calls(route, names[0], names[1:]))
    return Transfer(source=source, report=report, way="copy", calls=tuple(map(str, calls)))


def run(route: Route, transfer: Transfer, say: Say) -> Artifact:
    """Do what was planned and return the AMI at the end of the way.

    Raises:
        ReleaseError: the copy failed, and was removed; or it took too long, and is waited for the next time.
        CloudError: AWS refused something.
    """
    source = transfer.source
    if transfer.way == "share":
        before = route.catalog.artifact("ami", source.fingerprint)
        return arrived(route, transfer, _keep(route, _copy(route, source, source.id), instead_of=before))
    copy = _started(route, source, say)
    image = _finished(route, copy, say)
    complete = copy.model_copy(update={"snapshots": amis.snapshots(image)})
    live = Live(route.target)
    _call(live, _tag_call(route, source, [complete.id, *complete.snapshots]))
    complete = _keep(route, complete, instead_of=copy)
    for call in _share_calls(route, complete.id, complete.snapshots):
        _call(live, call)
    return arrived(route, transfer, complete)


def _there(transfer: Transfer, artifact: Artifact) -> Transfer:
    return Transfer(source=transfer.source, report=transfer.report, way=transfer.way, there=artifact)


def _kept(route: Route, source: Artifact) -> Artifact | None:
    """Return what the state knows of ``source`` at the end of the way, as the manifest wants it now."""
    kept = route.catalog.artifact("ami", source.fingerprint)
    if kept is None or kept.promoted_from != source.uri:
        return None
    return kept if (kept.id == source.id) == (route.ami_way == "share") else None


def _copy(route: Route, source: Artifact, ami: str) -> Artifact:
    where = {"location": route.target.environment.region, "promoted_from": source.uri}
    return source.model_copy(update={"id": ami, "snapshots": source.snapshots if ami == source.id else (), **where})


def _started(route: Route, source: Artifact, say: Say) -> Artifact:
    """Return the copy that is on its way or done; where there is none, begin one."""
    live, kept = Live(route.target), _kept(route, source)
    if kept and _describe(live, kept.id)["State"] in {"pending", "available"}:
        return kept
    before = route.catalog.artifact("ami", source.fingerprint)
    say(f"copying {source.id} to {route.end}")
    ami = _call(live, _copy_call(route, source, instead_of=kept))["ImageId"]
    return _keep(route, _copy(route, source, ami), instead_of=before)


def _keep(route: Route, artifact: Artifact, *, instead_of: Artifact | None) -> Artifact:
    kept = route.catalog.keep(artifact, instead_of=instead_of)
    if kept.id != artifact.id:
        left = "" if artifact.id == artifact.promoted_from else f"; the copy {artifact.id} is not used: deregister it"
        raise ReleaseError(
            f"another run has promoted the same AMI at the same time, as {kept.id}", hint=f"run the release again{left}"
        )
    return kept


def _finished(route: Route, copy: Artifact, say: Say) -> Mapping[str, Any]:
    """Wait until EC2 is done with the copy and describe it.

    A copy that failed is removed; the state goes on naming it, so that the next one gets a token of its own.
    """
    live = Live(route.target)
    live.wait(lambda: _describe(live, copy.id) != _GONE, _SEEN_WITHIN, f"{copy.id}, the copy, cannot be seen")
    say(f"waiting for {copy.id} to become available")
    slow = f"{copy.id} is still being copied; splitbake release waits for it again"
    live.wait(lambda: _describe(live, copy.id)["State"] != "pending", _COPIED_WITHIN, slow)
    image = _describe(live, copy.id)
    if image["State"] != "available":
        why = image.get("StateReason", {}).get("Message", "EC2 does not say why")
        problem = ReleaseError(
            f"copying {copy.promoted_from} failed, {copy.id} is {image['State']}: {why}",
            hint="run splitbake release again: it copies anew",
        )
        access.clean_up_after(problem, lambda: _remove(live, image))
        raise problem
    return image


def _remove(live: Live, image: Mapping[str, Any]) -> None:
    if image == _GONE:
        return
    ami = image["ImageId"]
    live.call("ec2", "DeregisterImage", f"remove the failed copy {ami}", ImageId=ami)
    for snapshot in amis.snapshots(image):
        live.call("ec2", "DeleteSnapshot", f"remove {snapshot} of the failed copy {ami}", SnapshotId=snapshot)


def _require_visible(route: Route, source: Artifact) -> None:
    """Refuse an AMI that the account of the target cannot use: copying needs its snapshots as well.

    Raises:
        ReleaseError: says who has to do what.
    """
    live = Live(route.origin)
    if _describe(live, source.id)["State"] == "available" and (
        route.ami_way == "share" or _sees_snapshots(live, source.snapshots)
    ):
        return
    owner = route.project.cloud(ways.owner(route.project.manifest.environments, live.cloud.name))
    account = route.target.environment.account
    message = f"{source.id} of {place(owner)} cannot be used by account {account}: it is gone"
    if owner.environment.account == account:
        raise ReleaseError(message, hint=f"build, verify and release it again: splitbake build ami --env {owner.name}")
    raise ReleaseError(
        f"{message}, or not shared",
        hint=f"run splitbake verify ami --env {owner.name} with that account's credentials: it shares the AMI",
    )


def _sees_snapshots(live: Live, snapshots: Sequence[str]) -> bool:
    try:
        live.call("ec2", "DescribeSnapshots", "look for the snapshots", SnapshotIds=list(snapshots))
    except CloudError as problem:
        if not error_code(problem).startswith("InvalidSnapshot"):
            raise
        return False
    return True


def _describe(live: Live, ami: str) -> Mapping[str, Any]:
    try:
        images = live.call("ec2", "DescribeImages", f"look for {ami}", ImageIds=[ami])["Images"]
    except CloudError as problem:
        if not error_code(problem).startswith("InvalidAMIID"):
            raise
        images = []
    image: Mapping[str, Any] = images[0] if images else _GONE
    return image


def _copy_call(route: Route, source: Artifact, *, instead_of: Artifact | None) -> ApiCall:
    """Return the CopyImage that makes no second copy however often it is sent.

    Its token depends on the lost copy that a new one replaces: EC2 answers an old token with the old AMI. What it
    makes has its tags at once, else a failed copy might not be removed; within an account the AMI has its source's.
    """
    lost = instead_of.id if instead_of else ""
    origin, end = route.origin.environment, route.target.environment
    bare = ("snapshot",) if origin.account == end.account else ("image", "snapshot")
    token = hashlib.sha256(f"{source.id} {end.account} {end.region} {lost}".encode()).hexdigest()
    return ApiCall.plain(
        "ec2",
        "CopyImage",
        Name=packer.ami_name(route.project.manifest, source.fingerprint, token[:12]),
        SourceImageId=source.id,
        SourceRegion=origin.region,
        CopyImageTags=True,
        TagSpecifications=[{"ResourceType": kind, "Tags": _tags(route, source)} for kind in bare],
        ClientToken=token,
    )


def _tag_call(route: Route, source: Artifact, resources: Sequence[str]) -> ApiCall:
    return ApiCall.plain("ec2", "CreateTags", Resources=list(resources), Tags=_tags(route, source))


def _tags(route: Route, source: Artifact) -> list[dict[str, str]]:
    """Another account's tags are not copied (CopyImage, EC2 API model), and those of snapshots never are."""
    tags = {
        "splitbake:project": route.project.manifest.project,
        "splitbake:fingerprint": source.fingerprint,
        "splitbake:contract": str(source.offers.version) if source.offers else "",
        "splitbake:promoted-from": source.id,
    }
    return as_tags(tags)


def _share_calls(route: Route, ami: str, snapshots: Sequence[str]) -> list[ApiCall]:
    return sharing.calls(ami, snapshots, ways.receivers(route.project.manifest.environments, route.target.name))


def _call(live: Live, call: ApiCall) -> dict[str, Any]:
    return live.call(call.service, call.operation, f"promote the AMI ({call.operation})", **call.parameters)
