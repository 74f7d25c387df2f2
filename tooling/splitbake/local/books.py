"""What moto's books know of resources and roles, for judging a call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splitbake.iam.evaluate import Document, UnjudgedError
from splitbake.iam.needs import partition
from splitbake.local import sharing


@dataclass(frozen=True)
class Books:
    """The books of one account in one region; see ``splitbake.iam.needs.Facts``."""

    account: str
    region: str

    def tags(self, resource: str) -> Mapping[str, str]:
        """See Facts."""
        pair = self._ec2.key_pairs.get(resource)
        return dict(self._ec2.tags.get(pair.id if pair else resource, {}))

    def owner(self, resource: str) -> str:
        """See Facts."""
        if resource.startswith("ami-"):
            ami = sharing.find(self._ec2, resource)
            return str(ami.owner_alias or ami.owner_id) if ami else ""
        snapshot = self._ec2.snapshots.get(resource)
        return str(snapshot.owner_id) if snapshot else ""

    def role_of_profile(self, profile: str) -> str:
        """See Facts."""
        wanted = profile.rpartition("/")[2]
        profiles = list(self._iam.instance_profiles.values())
        return next((str(one.roles[0].arn) for one in profiles if one.name == wanted and one.roles), "")

    def boundary(self, role: str) -> str:
        """See Facts."""
        found = next((one for one in list(self._iam.roles.values()) if one.name == role), None)
        return str(found.permissions_boundary_arn or "") if found else ""

    def template(self, name: str) -> str:
        """See Facts."""
        return str(self._ec2.launch_template_name_to_ids.get(name, ""))

    def has_object(self, bucket: str, key: str) -> bool:
        """See Facts."""
        return any(one.keys.get(key) is not None for one in _buckets(bucket))

    def region_of_bucket(self, bucket: str) -> str:
        """Return where a bucket is, which S3 tells even those whom it refuses; empty where there is none."""
        return next((str(one.region_name) for one in _buckets(bucket)), "")

    def policies(self, role: str) -> tuple[list[Document], Document | None]:
        """Return the policies of a role, inline and attached, and its permissions boundary.

        Raises:
            UnjudgedError: the role, or its boundary, is gone.
        """
        found = next((one for one in list(self._iam.roles.values()) if one.name == role), None)
        if found is None:
            raise UnjudgedError(f"the role {role} does not exist any more")
        inline = [json.loads(document) for document in found.policies.values()]
        attached = [_document(policy) for policy in found.managed_policies.values()]
        if found.permissions_boundary_arn is None:
            return [*inline, *attached], None
        boundary = self._iam.managed_policies.get(found.permissions_boundary_arn)
        if boundary is None:
            raise UnjudgedError(f"the permissions boundary {found.permissions_boundary_arn} does not exist")
        return [*inline, *attached], _document(boundary)

    @property
    def _ec2(self) -> Any:
        from moto.ec2.models import ec2_backends

        return ec2_backends[self.account][self.region]

    @property
    def _iam(self) -> Any:
        from moto.iam.models import iam_backends

        return iam_backends[self.account][partition(self.region)]


def _buckets(name: str) -> list[Any]:
    """Return the bucket of this name, whichever account it belongs to."""
    from moto.s3.models import s3_backends

    books = [one for _, partitions in list(s3_backends.items()) for _, one in list(partitions.items())]
    return [one.buckets[name] for one in books if name in one.buckets]


def _document(policy: Any) -> Document:
    """Return the default version of a managed policy."""
    document: Document = json.loads(next(one.document for one in policy.versions if one.is_default))
    return document
