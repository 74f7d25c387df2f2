"""Which actions on which resources an API call needs, with the condition keys that AWS derives from it.

The source of every row is AWS's service authorization reference; a test compares the rows with it. A call that has no
row raises: who judges it must know that nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from splitbake.iam.calls import Call
from splitbake.iam.evaluate import Request, UnjudgedError


class Facts(Protocol):
    """What is known of the resources that a call names and does not describe."""

    def tags(self, resource: str) -> Mapping[str, str]:
        """Return the tags of an EC2 resource by its id, or the name of a key pair; none where it does not exist."""

    def owner(self, resource: str) -> str:
        """Return the ``ec2:Owner`` of an AMI or snapshot: ``amazon`` or an account; empty where there is none."""

    def role_of_profile(self, profile: str) -> str:
        """Return the ARN of the role in an instance profile, named by name or ARN; empty where there is none."""

    def boundary(self, role: str) -> str:
        """Return the ARN of a role's permissions boundary; empty where it has none."""

    def template(self, name: str) -> str:
        """Return the id of the launch template ``name``; empty where there is none."""

    def has_object(self, bucket: str, key: str) -> bool:
        """Return whether there is such an object in S3."""


#: Condition key -> its values.
Keys = Mapping[str, Sequence[str]]
NO_KEYS: Final[Keys] = {}


def partition(region: str) -> str:
    """Return the partition of ARNs in ``region``."""
    return next((name for start, name in _PARTITIONS.items() if region.startswith(start)), "aws")


_PARTITIONS: Final = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}


@dataclass(frozen=True)
class Asked:
    """A call, read: what a row of the table makes its requests from."""

    call: Call
    facts: Facts

    def get(self, path: str) -> list[Any]:
        """Return all values at a path of the parameters, ``NetworkInterfaces.Groups``, through lists; none is empty."""
        found: list[Any] = [self.call.parameters]
        for name in path.split("."):
            found = [one[name] for one in found if isinstance(one, Mapping) and name in one]
            found = [inner for one in found for inner in (one if isinstance(one, list | tuple) else [one])]
        return [one for one in found if one != ""]

    def one(self, *paths: str) -> str:
        """Return the first value at the first of ``paths`` that has one, empty where none has."""
        return next((str(value) for path in paths for value in self.get(path)), "")

    def arn(self, service: str, resource: str, *, account: str | None = None, region: str | None = None) -> str:
        """Return an ARN in the account and region of the call unless others are given."""
        where = self.call.region if region is None else region
        owner = self.call.account if account is None else account
        return f"arn:{partition(self.call.region)}:{service}:{where}:{owner}:{resource}"

    def request(self, action: str, resource: str = "*", keys: Keys = NO_KEYS) -> Request:
        """Return a request with the condition keys that every call has, and ``keys``."""
        own = {key.lower(): tuple(values) for key, values in keys.items()}
        return Request(action, resource, {**self._everywhere(), **own}, {})

    def tagged(
        self,
        action: str,
        resource: str,
        *,
        has: Mapping[str, str] | None = None,
        gets: Mapping[str, str] | None = None,
        keys: Keys = NO_KEYS,
    ) -> Request:
        """Return a request on a resource that has tags (``aws:ResourceTag``), gets some (``aws:RequestTag``), or both.

        None means that the action knows no such condition key.
        """
        tags: dict[str, Mapping[str, str]] = {}
        if has is not None:
            tags |= {"aws:resourcetag/": has, f"{action.partition(':')[0]}:resourcetag/": has}
        if gets is not None:
            tags["aws:requesttag/"] = gets
            keys = {**keys, "aws:TagKeys": tuple(gets)}
        return replace(self.request(action, resource, keys), tags=tags)

    def pass_role(self, role: str, service: str) -> Request:
        """Return the request that handing ``role`` to a service makes."""
        return self.request("iam:PassRole", role, {"iam:PassedToService": [service]})

    def _everywhere(self) -> dict[str, Sequence[str]]:
        return {
            "aws:requestedregion": (self.call.region,),
            "aws:principalarn": (self.call.principal,),
            "aws:principalaccount": (self.call.account,),
        }


#: One row of the table.
Row = Callable[[Asked], Iterable[Request]]


def needs(call: Call, facts: Facts) -> list[Request]:
    """Return every request that ``call`` is to the policies of its principal; all of them must be allowed.

    Raises:
        UnjudgedError: there is no row for it, or it uses a parameter whose meaning is not known here.
    """
    row = table().get(call.name)
    if row is None:
        raise UnjudgedError(
            f"what {call.name} needs is not known here", hint="add a row for it to the tables of splitbake.iam"
        )
    asked = Asked(call, facts)
    return [*row(asked), *_passing(asked)]


def table() -> Mapping[str, Row]:
    """Return all rows: ``service:Operation`` of an API -> what it needs."""
    from splitbake.iam import needs_codebuild, needs_ec2, needs_iam, needs_others

    return {**needs_codebuild.ROWS, **needs_ec2.ROWS, **needs_iam.ROWS, **needs_others.ROWS}


#: Parameters of calls by which a role is handed over, those of one service before others -> who gets it.
_PASSED: Final = {
    "executionRoleArn": "ecs-tasks.amazonaws.com",
    "jobRoleArn": "ecs-tasks.amazonaws.com",
    "taskRoleArn": "ecs-tasks.amazonaws.com",
    "codebuild:serviceRole": "codebuild.amazonaws.com",
    "serviceRole": "batch.amazonaws.com",
    "spotIamFleetRole": "spotfleet.amazonaws.com",
}
_ROLE: Final = re.compile("(?i:.*role(arn)?)")


def _passing(asked: Asked) -> Iterator[Request]:
    """Yield what it takes to hand over every role of a call, wherever it stands in the parameters."""
    for name, value in _roles(asked.call.parameters):
        if name == "instanceRole":  # an instance profile, whatever it is called
            yield asked.pass_role(asked.facts.role_of_profile(value), "ec2.amazonaws.com")
        elif receiver := _PASSED.get(f"{asked.call.service}:{name}") or _PASSED.get(name):
            yield asked.pass_role(value, receiver)
        else:
            raise UnjudgedError(f"{asked.call.name} has {name}: which service gets that role is not known here")


def _roles(value: Any) -> Iterator[tuple[str, str]]:
    match value:
        case Mapping():
            for name, one in value.items():
                if isinstance(one, str) and one and _ROLE.fullmatch(name):
                    yield name, one
                yield from _roles(one)
        case list() | tuple():
            for one in value:
                yield from _roles(one)
        case _:
            pass


def without_resource(action: str) -> Row:
    """Return the row of an action that knows no resources."""
    return lambda asked: [asked.request(action)]
