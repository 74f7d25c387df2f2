"""What calls of IAM need: roles with the permissions boundary that they get or have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from splitbake.iam.evaluate import Request
from splitbake.iam.needs import Asked, Row, without_resource

_PROFILES: Final = (
    *("AddRoleToInstanceProfile", "CreateInstanceProfile", "DeleteInstanceProfile", "GetInstanceProfile"),
    *("ListInstanceProfileTags", "RemoveRoleFromInstanceProfile", "TagInstanceProfile"),
)
_ROLES: Final = ("ListAttachedRolePolicies", "ListRoleTags", "ListRolePolicies")
#: Operations on a role that know its permissions boundary; the last two the policy as well.
_BOUND: Final = ("DeleteRole", "GetRole", "AttachRolePolicy", "DetachRolePolicy")
_TAGGING: Final = {"CreateInstanceProfile", "TagInstanceProfile"}


def role_arn(asked: Asked) -> str:
    """Return the ARN of the role that a call names; roles with a path cannot be told from their name."""
    return asked.arn("iam", f"role/{asked.one('RoleName')}", region="")


def _tags(asked: Asked) -> dict[str, str]:
    return {str(tag["Key"]): str(tag["Value"]) for tag in asked.get("Tags")}


def _create_role(asked: Asked) -> Iterator[Request]:
    boundary = {"iam:PermissionsBoundary": asked.get("PermissionsBoundary")}
    yield asked.tagged("iam:CreateRole", role_arn(asked), gets=_tags(asked), keys=boundary)
    if asked.get("Tags"):
        yield asked.tagged("iam:TagRole", role_arn(asked), gets=_tags(asked))


def _on_role(action: str) -> Row:
    def row(asked: Asked) -> Iterator[Request]:
        keys = {}
        if action in _BOUND:
            boundary = asked.facts.boundary(asked.one("RoleName"))
            keys["iam:PermissionsBoundary"] = [boundary] if boundary else []
        if action.endswith("tachRolePolicy"):
            keys["iam:PolicyARN"] = asked.get("PolicyArn")
        yield asked.request(f"iam:{action}", role_arn(asked), keys)

    return row


def _on_profile(action: str) -> Row:
    def row(asked: Asked) -> Iterator[Request]:
        profile = asked.arn("iam", f"instance-profile/{asked.one('InstanceProfileName')}", region="")
        yield asked.tagged(f"iam:{action}", profile, gets=_tags(asked) if action in _TAGGING else None)
        if action == "CreateInstanceProfile" and asked.get("Tags"):
            yield asked.tagged("iam:TagInstanceProfile", profile, gets=_tags(asked))
        if action == "AddRoleToInstanceProfile":
            # "The caller must be granted the PassRole permission on the IAM role" (IAM API model).
            yield asked.request("iam:PassRole", role_arn(asked), {"iam:PassedToService": ["ec2.amazonaws.com"]})

    return row


ROWS: Final[Mapping[str, Row]] = {
    "iam:CreateRole": _create_role,
    "iam:ListInstanceProfiles": without_resource("iam:ListInstanceProfiles"),
    "iam:ListRoles": without_resource("iam:ListRoles"),
    **{f"iam:{action}": _on_role(action) for action in (*_BOUND, *_ROLES)},
    **{f"iam:{action}": _on_profile(action) for action in _PROFILES},
}
