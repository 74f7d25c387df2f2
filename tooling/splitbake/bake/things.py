"""What a run makes in EC2 beside its AMI, found by tags, and removed in the order in which it can be.

Everything carries the run's id from the call on that makes it, so it is found even where the answer was lost.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError, SplitbakeError

Kind = Literal[
    "instance",
    "launch template",
    "volume",
    "network interface",
    "AMI",
    "snapshot",
    "key pair",
    "instance profile",
    "role",
    "security group",
    "folder",
]

RUN_TAG: Final = "splitbake:run"
PROJECT_TAG: Final = "splitbake:project"
FINGERPRINT_TAG: Final = "splitbake:fingerprint"
STARTED_TAG: Final = "splitbake:started"
#: Says on which machine a run is, and in no way whose that is.
BY_TAG: Final = "splitbake:by"

_ALIVE = ["pending", "running", "stopping", "stopped", "shutting-down"]
#: Seconds that a terminated instance may still hold its volumes and its security group.
_RELEASE = 60
#: Seconds that an instance has to end.
_END = 600
_BUSY = {
    "DependencyViolation",
    "VolumeInUse",
    "InvalidNetworkInterface.InUse",
    "IncorrectState",
    "InvalidSnapshot.InUse",
}


@dataclass(frozen=True)
class Thing:
    """Something that a run has made.

    Attributes:
        id: what AWS calls it; the name of a key pair, role or profile; the path of a folder.
        region: empty for what has none.
        since: when it was made; None where nobody knows.
        fingerprint: of the AMI that it was made for; empty where it does not say.
        by: what ``BY_TAG`` says of its run; empty where it does not.
        why: what is wrong with it, in words.
    """

    kind: Kind
    id: str
    region: str
    run: str
    since: datetime.datetime | None = None
    fingerprint: str = ""
    by: str = ""
    why: str = "its run ended without removing it"


@dataclass(frozen=True)
class Failure:
    """Something that could not be removed, and why."""

    thing: Thing
    problem: SplitbakeError


def tags_of(resource: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags that an answer of AWS lists; of network interfaces it calls them otherwise."""
    return {tag["Key"]: tag["Value"] for tag in resource.get("Tags") or resource.get("TagSet", [])}


def as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return ``tags`` as EC2 and IAM take them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def moment(text: str | datetime.datetime | None) -> datetime.datetime | None:
    """Return a moment as AWS or our own tag writes it; None where it is neither."""
    if not isinstance(text, str):
        return text
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return None


def find(cloud: Cloud, tags: Mapping[str, str], *, spot: bool = False) -> list[Thing]:
    """Return what carries all of ``tags``, and a run's id, in the region of ``cloud``: what is to go first first.

    An instance of a fleet gets its tags after it was made; it is known by the key pair of its run as well.

    Args:
        cloud: where.
        tags: what everything carries.
        spot: whether builders are spot instances: for them Packer makes launch templates.

    Raises:
        CloudError: AWS could not be asked.
    """
    ec2, region = cloud.client("ec2"), cloud.environment.region
    wanted = [{"Name": f"tag:{key}", "Values": [value]} for key, value in tags.items()]
    wanted.append({"Name": "tag-key", "Values": [RUN_TAG]})

    def thing(kind: Kind, resource: Mapping[str, Any], name: str, since: Any) -> Thing:
        marks = tags_of(resource)
        if RUN_TAG not in marks:
            marks = tags_of(pairs[resource["KeyName"]])
        fingerprint, by = marks.get(FINGERPRINT_TAG, ""), marks.get(BY_TAG, "")
        return Thing(kind, resource[name], region, marks[RUN_TAG], moment(since), fingerprint, by)

    def pages(operation: str, answer: str, *filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for page in ec2.get_paginator(operation).paginate(Filters=list(filters)):
            yield from page[answer]

    with aws_errors("look for what runs of splitbake have left"):
        pairs = {one["KeyName"]: one for one in ec2.describe_key_pairs(Filters=wanted)["KeyPairs"]}
        alive = {"Name": "instance-state-name", "Values": _ALIVE}
        reservations = [*pages("describe_instances", "Reservations", *wanted, alive)]
        if pairs:
            by_key = {"Name": "key-name", "Values": [*pairs]}
            reservations += pages("describe_instances", "Reservations", by_key, alive)
        instances = [*{one["InstanceId"]: one for each in reservations for one in each["Instances"]}.values()]
        templates = pages("describe_launch_templates", "LaunchTemplates", *wanted) if spot else ()
        volumes = [one for one in pages("describe_volumes", "Volumes", *wanted) if _goes_with(one, instances)]
        free = {"Name": "status", "Values": ["available"]}
        interfaces = pages("describe_network_interfaces", "NetworkInterfaces", *wanted, free)
        groups = pages("describe_security_groups", "SecurityGroups", *wanted)
        return [
            *(thing("instance", one, "InstanceId", one["LaunchTime"]) for one in instances),
            *(thing("launch template", one, "LaunchTemplateId", one["CreateTime"]) for one in templates),
            *(thing("volume", one, "VolumeId", one["CreateTime"]) for one in volumes),
            *(thing("network interface", one, "NetworkInterfaceId", _started(one)) for one in interfaces),
            *(thing("key pair", one, "KeyName", one.get("CreateTime")) for one in pairs.values()),
            *(thing("security group", one, "GroupId", _started(one)) for one in groups),
        ]


def _goes_with(volume: Mapping[str, Any], instances: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a volume is free, or held by nothing but instances that go as well."""
    going = {one["InstanceId"] for one in instances}
    return all(held.get("InstanceId") in going for held in volume.get("Attachments", []))


def _started(resource: Mapping[str, Any]) -> str | None:
    """Return when its run started: EC2 does not say when it was made."""
    return tags_of(resource).get(STARTED_TAG)


def remove(cloud: Cloud, things: Sequence[Thing]) -> list[Failure]:
    """Remove what ``find`` has found, all that can be; what is gone already is fine."""
    ec2 = cloud.client("ec2")
    failures: list[Failure] = []
    instances = [one for one in things if one.kind == "instance"]
    for thing in instances:
        _try(failures, thing, partial(ec2.terminate_instances, InstanceIds=[thing.id]))
    going = [one for one in instances if one not in [failure.thing for failure in failures]]
    for thing in going:
        _try(failures, thing, partial(_await_end, ec2, thing.id))
    calls: Mapping[Kind, Callable[[str], Any]] = {
        "launch template": lambda name: ec2.delete_launch_template(LaunchTemplateId=name),
        "volume": lambda name: ec2.delete_volume(VolumeId=name),
        "network interface": lambda name: ec2.delete_network_interface(NetworkInterfaceId=name),
        "key pair": lambda name: ec2.delete_key_pair(KeyName=name),
        "security group": lambda name: ec2.delete_security_group(GroupId=name),
    }
    for thing in things:
        if call := calls.get(thing.kind):
            _try(failures, thing, partial(call, thing.id))
    return failures


def _await_end(ec2: Any, instance: str) -> None:
    """Wait until an instance is terminated, or forgotten."""
    deadline = time.monotonic() + _END
    filters = [{"Name": "instance-id", "Values": [instance]}, {"Name": "instance-state-name", "Values": _ALIVE}]
    while ec2.describe_instances(Filters=filters)["Reservations"]:
        if time.monotonic() > deadline:
            raise CloudError(f"{instance} was to be terminated, but is not after {_END} s", hint="look at it on AWS")
        time.sleep(1)


def _try(failures: list[Failure], thing: Thing, call: Callable[[], Any]) -> None:
    try:
        insist(f"remove {thing.kind} {thing.id}", call)
    except CloudError as problem:
        failures.append(Failure(thing, problem))


def insist(doing: str, call: Callable[[], Any]) -> None:
    """Remove something by ``call``: gone is fine, and what is in use still gets a minute to fall free.

    Raises:
        CloudError: AWS refused it.
    """
    deadline = time.monotonic() + _RELEASE
    while True:
        try:
            with aws_errors(doing):
                call()
        except CloudError as problem:
            code = error_code(problem)
            if code == "NoSuchEntity" or code.endswith((".NotFound", ".Unknown", ".Unavailable")):
                return
            if code not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(2)
        else:
            return
