"""The way into a temporary instance: a key pair and a security group of one run, and their end.

Everything of a run is named or tagged by its id, so that ``sweep`` finds it even where an answer of AWS was lost.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError, SplitbakeError, ToolError

RUN_TAG = "splitbake:run"
_SSH = 22
#: Seconds that a terminated instance may still hold its security group.
_RELEASE = 60
_GONE = {"InvalidGroup.NotFound", "InvalidGroupId.NotFound"}


@dataclass(frozen=True)
class Access:
    """What it takes to log in to the instances of one run.

    Attributes:
        name: of the key pair and of the security group.
        private_key: file with the key, mode 0600; the key never leaves this machine.
        public_key: one line, ``ssh-ed25519 AAAA…``.
        group: id of the security group.
    """

    name: str
    private_key: Path
    public_key: str
    group: str


def new_run() -> str:
    """Return a name for a run that no other run has."""
    return secrets.token_hex(6)


@contextmanager
def granted(cloud: Cloud, run: str, *, folder: Path, subnet: str | None, tags: Mapping[str, str]) -> Iterator[Access]:
    """Make key pair and security group; at the end remove them and every instance and volume of the run.

    Port 22 is open to every address, as the caller's own is unknown behind NAT; only this run's key opens it.

    Args:
        cloud: where.
        run: its name, of ``new_run``.
        folder: private to the caller; gets the key files.
        subnet: where the instances will be; None is the default VPC.
        tags: for key pair and group, beside the tag of the run.
    """
    private_key = folder / "id_ed25519"
    _make_key(private_key, comment=_name(run))
    public_key = private_key.with_suffix(".pub").read_text(encoding="ascii").strip()
    try:
        with aws_errors("make a temporary key pair and security group"):
            group = _create(cloud.client("ec2"), run, public_key, subnet, {**tags, RUN_TAG: run})
        yield Access(_name(run), private_key, public_key, group)
    except BaseException as problem:
        clean_up_after(problem, lambda: sweep(cloud, run))
        raise
    sweep(cloud, run)


def clean_up_after(problem: BaseException, clean: Callable[[], None]) -> None:
    """Run ``clean`` because of ``problem``; where that fails as well, ``problem`` stays the one that is told."""
    try:
        clean()
    except CloudError as second:
        if not isinstance(problem, SplitbakeError):
            raise
        left = f"cleaning up failed as well, look for leftovers: {second.message}"
        problem.hint = f"{problem.hint}; {left}" if problem.hint else left


def sweep(cloud: Cloud, run: str) -> None:
    """Remove what ``run`` has left: instances, volumes, security group, key pair. Nothing left is fine.

    Raises:
        CloudError: AWS refused; the message says at what.
    """
    ec2 = cloud.client("ec2")
    of_run = [{"Name": f"tag:{RUN_TAG}", "Values": [run]}]
    with aws_errors(f"terminate the instances of run {run}"):
        alive = [
            {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped", "shutting-down"]}
        ]
        pages = ec2.get_paginator("describe_instances").paginate(Filters=of_run + alive)
        found = [one["InstanceId"] for page in pages for group in page["Reservations"] for one in group["Instances"]]
        if found:
            ec2.terminate_instances(InstanceIds=found)
            ec2.get_waiter("instance_terminated").wait(InstanceIds=found, WaiterConfig={"Delay": 2, "MaxAttempts": 300})
    with aws_errors(f"delete the volumes of run {run}"):
        free = [{"Name": "status", "Values": ["available"]}]
        for volume in ec2.describe_volumes(Filters=of_run + free)["Volumes"]:
            ec2.delete_volume(VolumeId=volume["VolumeId"])
    with aws_errors(f"delete the key pair of run {run}"):
        ec2.delete_key_pair(KeyName=_name(run))
    for group in _groups(ec2, run):
        _delete_group(ec2, group)


def _make_key(path: Path, *, comment: str) -> None:
    # Ed25519: Packer 1.6 makes RSA keys that signed with SHA-1, which OpenSSH refuses since 8.8.
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise ToolError("ssh-keygen is not on PATH", hint="install the OpenSSH client; splitbake doctor") from None
    except subprocess.CalledProcessError as problem:
        raise ToolError(f"ssh-keygen failed: {problem.stderr.strip()}") from problem


def _name(run: str) -> str:
    return f"splitbake-{run}"


def _create(ec2: Any, run: str, public_key: str, subnet: str | None, tags: Mapping[str, str]) -> str:
    marks = [{"Key": key, "Value": value} for key, value in tags.items()]
    ec2.import_key_pair(
        KeyName=_name(run),
        PublicKeyMaterial=public_key.encode(),
        TagSpecifications=[{"ResourceType": "key-pair", "Tags": marks}],
    )
    network = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"] if subnet else None
    group = ec2.create_security_group(
        GroupName=_name(run),
        Description="SSH into a temporary instance of splitbake",
        TagSpecifications=[{"ResourceType": "security-group", "Tags": marks}],
        **({"VpcId": network} if network else {}),
    )["GroupId"]
    anywhere = [{"CidrIp": "0.0.0.0/0"}]
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[{"IpProtocol": "tcp", "FromPort": _SSH, "ToPort": _SSH, "IpRanges": anywhere}],
    )
    return str(group)


def _groups(ec2: Any, run: str) -> list[str]:
    with aws_errors(f"look for the security group of run {run}"):
        found = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [_name(run)]}])
    return [group["GroupId"] for group in found["SecurityGroups"]]


def _delete_group(ec2: Any, group: str) -> None:
    deadline = time.monotonic() + _RELEASE
    while True:
        try:
            with aws_errors(f"delete the security group {group}"):
                ec2.delete_security_group(GroupId=group)
        except CloudError as problem:
            if error_code(problem) in _GONE:
                return
            if error_code(problem) != "DependencyViolation" or time.monotonic() > deadline:
                raise
            time.sleep(2)
        else:
            return
