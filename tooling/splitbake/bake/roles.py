"""The temporary role of a run, within a permissions boundary: what an instance needs for Session Manager."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from splitbake.bake.things import (
    BY_TAG,
    FINGERPRINT_TAG,
    RUN_TAG,
    Failure,
    Kind,
    Thing,
    as_tags,
    insist,
    moment,
    tags_of,
)
from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError

Answer = TypeVar("Answer")

_NAME = re.compile("splitbake-[0-9a-f]{12}")
#: IAM belongs to an account: this tag says which region the instances of the run are in.
_REGION_TAG = "splitbake:region"
#: Seconds until EC2 knows what was made a moment ago: a profile, whose "changes … might take some time to be visible"
#: (IAM user guide), and its own things: it is "eventually consistent" (EC2 API reference).
_KNOWN_WITHIN = 90
#: Seconds between two tries to start an instance.
PAUSE = 2.0
_NOT_KNOWN_YET = {"InvalidGroup.NotFound", "InvalidKeyPair.NotFound"}
_TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def make(cloud: Cloud, name: str, *, boundary: str, tags: Mapping[str, str]) -> None:
    """Make role and instance profile ``name``, which can do no more than ``boundary`` allows.

    Raises:
        CloudError: AWS refused it.
    """
    iam = cloud.client("iam")
    marks = as_tags({**tags, _REGION_TAG: cloud.environment.region})
    policy = f"arn:{_partition(boundary)}:iam::aws:policy/AmazonSSMManagedInstanceCore"
    with aws_errors(f"make the temporary role {name}"):
        iam.create_role(
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps(_TRUST),
            Description="Session Manager on a temporary instance of splitbake",
            PermissionsBoundary=boundary,
            Tags=marks,
        )
        iam.attach_role_policy(RoleName=name, PolicyArn=policy)
        iam.create_instance_profile(InstanceProfileName=name, Tags=marks)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        iam.get_waiter("instance_profile_exists").wait(InstanceProfileName=name, WaiterConfig={"Delay": 1})


def as_soon_as_known(launch: Callable[[], Answer], within: float = _KNOWN_WITHIN) -> Answer:
    """Return what ``launch`` answers, a call of RunInstances; again while EC2 does not know what is new yet.

    That is a profile, as with Packer (its step_run_source_instance.go), a security group, or a key pair.
    """
    from botocore.exceptions import ClientError

    deadline = time.monotonic() + within
    while True:
        try:
            return launch()
        except ClientError as problem:
            error = problem.response["Error"]
            no_profile = error["Code"] == "InvalidParameterValue" and "iaminstanceprofile" in error["Message"].lower()
            if not (no_profile or error["Code"] in _NOT_KNOWN_YET) or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE)


def find(cloud: Cloud, tags: Mapping[str, str]) -> list[Thing]:
    """Return roles and profiles of runs in the region of ``cloud`` that carry all of ``tags``, profiles first.

    Raises:
        CloudError: AWS could not be asked.
    """
    iam = cloud.client("iam")
    wanted = {**tags, _REGION_TAG: cloud.environment.region}
    with aws_errors("look for temporary roles"):
        return [
            *_found(iam, "list_instance_profiles", "InstanceProfiles", "InstanceProfileName", wanted),
            *_found(iam, "list_roles", "Roles", "RoleName", wanted),
        ]


def _found(iam: Any, operation: str, answer: str, key: str, wanted: Mapping[str, str]) -> Iterator[Thing]:
    for page in iam.get_paginator(operation).paginate():
        for one in page[answer]:
            if not _NAME.fullmatch(one[key]):
                continue
            kind: Kind = "role" if key == "RoleName" else "instance profile"
            marks = _marks(iam, kind, one[key])
            if RUN_TAG in marks and wanted.items() <= marks.items():
                since, fingerprint = moment(one["CreateDate"]), marks.get(FINGERPRINT_TAG, "")
                yield Thing(kind, one[key], "", marks[RUN_TAG], since, fingerprint, marks.get(BY_TAG, ""))


def _marks(iam: Any, kind: Kind, name: str) -> dict[str, str]:
    """Return the tags, which lists have not; none of what another run has removed meanwhile."""
    try:
        return tags_of(
            iam.list_role_tags(RoleName=name)
            if kind == "role"
            else iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
        )
    except iam.exceptions.NoSuchEntityException:
        return {}


def remove(cloud: Cloud, things: list[Thing]) -> list[Failure]:
    """Remove what ``find`` has found, all that can be; what is gone already is fine."""
    failures = []
    for thing in things:
        try:
            if thing.kind == "instance profile":
                _remove_profile(cloud, thing.id)
            elif thing.kind == "role":
                _remove_role(cloud, thing.id)
        except CloudError as problem:
            failures.append(Failure(thing, problem))
    return failures


def _remove_profile(cloud: Cloud, name: str) -> None:
    iam = cloud.client("iam")
    doing = f"remove instance profile {name}"
    insist(doing, lambda: iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name))
    insist(doing, lambda: iam.delete_instance_profile(InstanceProfileName=name))


def _remove_role(cloud: Cloud, name: str) -> None:
    iam = cloud.client("iam")
    try:
        with aws_errors(f"look into role {name}"):
            attached = iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    except CloudError as problem:
        if error_code(problem) != "NoSuchEntity":
            raise
        return
    doing = f"remove role {name}"
    for policy in attached:
        insist(doing, partial(iam.detach_role_policy, RoleName=name, PolicyArn=policy["PolicyArn"]))
    insist(doing, lambda: iam.delete_role(RoleName=name))


def _partition(arn: str) -> str:
    """Return ``aws``, ``aws-cn`` or ``aws-us-gov``."""
    return arn.split(":")[1]
