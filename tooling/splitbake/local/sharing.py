"""Who may see and use an AMI: moto keeps each account's books apart, here they meet as on AWS.

An AMI stays its owner's. Others find it in the same region as long as it has a launch permission for them, with their
own tags on it instead of the owner's; only the owner changes it. Its snapshots are shared apart from it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError, InvalidAMIIdError, MalformedAMIIdError, UnvailableAMIIdError
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.elastic_block_store import Snapshot
from moto.ec2.responses.elastic_block_store import ElasticBlockStore
from moto.ec2.utils import generic_filter

from splitbake.local.hooks import Hook, around

Resource = TypeVar("Resource", Ami, Snapshot)


def install() -> None:
    """Hook what shows AMIs and snapshots, and what only their owner may do."""
    around(EC2Backend, "describe_images", describe_images)
    for name in ("describe_image_attribute", "deregister_image", "disable_image", "enable_image"):
        around(EC2Backend, name, by_owner)
    around(EC2Backend, "modify_image_attribute", modify_image)
    around(EC2Backend, "describe_snapshots", describe_snapshots)
    around(ElasticBlockStore, "describe_snapshots", of_owners)
    around(ElasticBlockStore, "modify_snapshot_attribute", modify_snapshot)


def find(backend: Any, ami_id: str) -> Ami | None:
    """Return an AMI that the account of ``backend`` may use: one of its own, of Amazon, or shared with it."""
    known: Ami | None = backend.amis.get(ami_id)
    return known or next((ami for ami in _shared_images(backend) if ami.id == ami_id), None)


def own(backend: Any, ami_id: str) -> Ami:
    """Return an AMI that belongs to the account of ``backend``.

    Raises:
        EC2ClientError: somebody else's is ``AuthFailure: Not authorized for image:ami-…`` (as seen from AWS in
            cloudquery/cloudquery#9406), one that does not exist ``InvalidAMIID.NotFound``.
    """
    ami: Ami | None = backend.amis.get(ami_id)
    if ami is not None and ami.owner_id == backend.account_id:
        return ami
    if ami_id in backend.deleted_amis:
        raise UnvailableAMIIdError(ami_id)
    if ami is None and not exists(backend, ami_id):
        raise InvalidAMIIdError(ami_id)
    raise EC2ClientError("AuthFailure", f"Not authorized for image:{ami_id}")


def exists(backend: Any, ami_id: str) -> bool:
    """Whether some other account has this AMI in the region of ``backend``, shared or not."""
    return any(ami_id in other.amis for other in _others(backend))


def may_read(backend: Any, snapshot: Snapshot) -> bool:
    """Whether the account of ``backend`` may make volumes and copies of a snapshot."""
    return (
        snapshot.owner_id == backend.account_id
        or backend.account_id in snapshot.create_volume_permission_userids
        or "all" in snapshot.create_volume_permission_groups
    )


def describe_images(  # noqa: PLR0917 - moto's own order
    proceed: Hook,
    backend: Any,
    ami_ids: list[str] | None = None,
    filters: dict[str, Any] | None = None,
    exec_users: list[str] | None = None,
    owners: list[str] | None = None,
) -> list[Ami]:
    """Find among "all of the images available to you" (EC2 API model); all conditions hold at once.

    An AMI of the caller that is gone is left out ("recently deregistered images … then return empty results").

    Raises:
        InvalidAMIIdError: one of ``ami_ids`` is not available to the caller and never was its own.
    """
    images = [*backend.amis.values(), *_shared_images(backend)]
    if malformed := [ami_id for ami_id in ami_ids or [] if not ami_id.startswith("ami-")]:
        raise MalformedAMIIdError(malformed)
    if ami_ids:
        images = [ami for ami in images if ami.id in ami_ids]
        known = {ami.id for ami in images}.union(backend.deleted_amis)
        if unknown := [ami_id for ami_id in ami_ids if ami_id not in known]:
            raise InvalidAMIIdError(unknown)
    if exec_users:
        wanted = _permissions(backend, exec_users)
        images = [ami for ami in images if any(one in wanted for one in ami.launch_permissions)]
    if owners:
        accounts = {backend.account_id if owner == "self" else owner for owner in owners}
        images = [ami for ami in images if {ami.owner_id, ami.owner_alias} & accounts]
    return generic_filter(filters or {}, images)


def by_owner(proceed: Hook, backend: Any, ami_id: str, *args: Any, **options: Any) -> Any:
    """Let only the owner of an AMI through."""
    own(backend, ami_id)
    return proceed(ami_id, *args, **options)


def modify_image(
    proceed: Hook,
    backend: Any,
    ami_id: str,
    launch_permissions_to_add: list[dict[str, str]],
    launch_permissions_to_remove: list[dict[str, str]],
) -> None:
    """ModifyImageAttribute: by the owner; "a disabled AMI can't be shared" (DisableImage, EC2 API model)."""
    if own(backend, ami_id).state == "disabled" and launch_permissions_to_add:
        raise UnvailableAMIIdError(ami_id)
    proceed(ami_id, launch_permissions_to_add, launch_permissions_to_remove)


def describe_snapshots(
    proceed: Hook, backend: Any, snapshot_ids: list[str] | None = None, filters: Any = None
) -> list[Snapshot]:
    """Find among the account's own snapshots and those with a create-volume permission for it."""
    shared = [one for other in _others(backend) for one in list(other.snapshots.values()) if may_read(backend, one)]
    asked = set(snapshot_ids or [])
    found = [_seen_by(backend, one) for one in shared if not asked or one.id in asked]
    rest = asked - {one.id for one in found}
    mine = proceed(sorted(rest), filters) if rest or not asked else []
    return [*mine, *generic_filter(filters or {}, found)]


def of_owners(proceed: Hook, response: Any) -> ActionResult:
    """DescribeSnapshots: OwnerIds, which moto ignores."""
    found = proceed().result["Snapshots"]
    owners = {response.current_account if one == "self" else one for one in response._get_param("OwnerIds", [])}
    return ActionResult({"Snapshots": [one for one in found if not owners or one.owner_id in owners]})


def modify_snapshot(proceed: Hook, response: Any) -> Any:
    """ModifySnapshotAttribute: also in the form ``CreateVolumePermission``, which moto ignores."""
    given = response._get_param("CreateVolumePermission", {})
    answer = proceed()
    snapshot = response.ec2_backend.get_snapshot(response._get_param("SnapshotId"))
    users, groups = snapshot.create_volume_permission_userids, snapshot.create_volume_permission_groups
    for one in given.get("Add", []):
        users.add(one["UserId"]) if "UserId" in one else groups.add(one["Group"])
    for one in given.get("Remove", []):
        users.discard(one["UserId"]) if "UserId" in one else groups.discard(one["Group"])
    return answer


def _permissions(backend: Any, exec_users: list[str]) -> list[dict[str, str]]:
    accounts = [backend.account_id if user == "self" else user for user in exec_users]
    return [{"Group": "all"} if account == "all" else {"UserId": account} for account in accounts]


def _shared_images(backend: Any) -> Iterator[Ami]:
    """Return what other accounts of the region let this one use; Amazon's are in its own books."""
    permits: list[dict[str, str]] = [{"UserId": backend.account_id}, {"Group": "all"}]
    for other in _others(backend):
        for ami in list(other.amis.values()):
            if ami.owner_id == other.account_id and any(one in ami.launch_permissions for one in permits):
                yield _seen_by(backend, ami)


def _seen_by(backend: Any, resource: Resource) -> Resource:
    """Return ``resource`` as another account sees it: tags are looked up in that account's books."""
    view = copy.copy(resource)
    view.ec2_backend = backend
    return view


def _others(backend: Any) -> list[Any]:
    """Return the books of the other accounts for the region of ``backend``, as far as there are any."""
    accounts = [books for account, books in list(ec2_backends.items()) if account != backend.account_id]
    # `in books` would also find a region that nobody has used yet, and make it.
    return [books[backend.region_name] for books in accounts if backend.region_name in list(books)]
