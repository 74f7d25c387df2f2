"""The way into temporary instances: a key pair, a security group and perhaps a role of one run, and their end.

Everything of a run is named and tagged by its id, so that ``sweep`` finds it even where an answer of AWS was lost, and
``splitbake gc --runs`` where nobody was left to sweep.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitbake.bake import ingress, roles, things
from splitbake.bake.things import STARTED_TAG, Thing, as_tags
from splitbake.cloud import Cloud, aws_errors
from splitbake.errors import CloudError, SplitbakeError, ToolError
from splitbake.ui import Say, silent

RUN_TAG = things.RUN_TAG
_SSH = 22
#: Says on which machine a run is, and in no way whose that is.
_BY_TAG = "splitbake:by"


@dataclass(frozen=True)
class Access:
    """What it takes to log in to the instances of one run.

    Attributes:
        name: of the key pair and of the security group.
        private_key: file with the key, mode 0600; the key never leaves this machine.
        public_key: one line, ``ssh-ed25519 AAAA…``.
        group: id of the security group.
        profile: name of the temporary instance profile, where there is one.
        tags: what everything of the run carries.
    """

    name: str
    private_key: Path
    public_key: str
    group: str
    profile: str | None
    tags: Mapping[str, str]


def new_run() -> str:
    """Return a name for a run that no other run has."""
    return secrets.token_hex(6)


@contextmanager
def granted(
    cloud: Cloud,
    run: str,
    *,
    folder: Path,
    subnet: str | None,
    tags: Mapping[str, str],
    connect: str = "public-ip",
    boundary: str | None = None,
    say: Say = silent,
) -> Iterator[Access]:
    """Make key pair, security group and role; at the end remove them and every instance and volume of the run.

    Args:
        cloud: where.
        run: its name, of ``new_run``.
        folder: private to the caller; gets the key files.
        subnet: where the instances will be; None is the default VPC.
        tags: for all of that, beside those of the run.
        connect: of ``ami.builder``: decides who can reach port 22. Only this run's key opens it.
        boundary: ARN of the permissions boundary of a temporary role; None makes no role.
        say: is told what people should know.
    """
    name = _name(run)
    private_key = folder / "id_ed25519"
    _make_key(private_key, comment=name)
    public_key = private_key.with_suffix(".pub").read_text(encoding="ascii").strip()
    marks = {**tags, RUN_TAG: run, STARTED_TAG: _now(), **_by()}
    try:
        ec2 = cloud.client("ec2")
        vpc = ingress.vpc_of(ec2, subnet)
        open_to = ingress.sources(cloud, connect, vpc, say)
        with aws_errors("make a temporary key pair and security group"):
            ec2.import_key_pair(
                KeyName=name,
                PublicKeyMaterial=public_key.encode(),
                TagSpecifications=[{"ResourceType": "key-pair", "Tags": as_tags(marks)}],
            )
            group = _make_group(ec2, name, vpc["VpcId"], open_to, marks)
        if boundary:
            roles.make(cloud, name, boundary=boundary, tags=marks)
        yield Access(name, private_key, public_key, group, name if boundary else None, marks)
    except BaseException as problem:
        clean_up_after(problem, lambda: sweep(cloud, run, role=boundary is not None))
        raise
    sweep(cloud, run, role=boundary is not None)


def clean_up_after(problem: BaseException, clean: Callable[[], None]) -> None:
    """Run ``clean`` because of ``problem``; where that fails as well, ``problem`` stays the one that is told."""
    try:
        clean()
    except CloudError as second:
        if not isinstance(problem, SplitbakeError):
            raise
        left = f"cleaning up failed as well: {second.message}; see splitbake gc --runs"
        problem.hint = f"{problem.hint}; {left}" if problem.hint else left


def sweep(cloud: Cloud, run: str, *, role: bool = False) -> None:
    """Remove what ``run`` has left in EC2, and its role. Nothing left is fine.

    Raises:
        CloudError: AWS refused; the message says at what.
    """
    failures = things.remove(cloud, things.find(cloud, {RUN_TAG: run}))
    if role:
        region = cloud.environment.region
        failures += roles.remove(
            cloud, [Thing("instance profile", _name(run), region, run), Thing("role", _name(run), region, run)]
        )
    if failures:
        raise CloudError("; ".join(one.problem.message for one in failures), hint=failures[0].problem.hint)


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


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _by() -> dict[str, str]:
    """Return the tag that tells machines apart: the number of the run of GitHub Actions, or a digest.

    machine-id(5) itself "should be considered confidential": only a keyed digest of it may be shown.
    """
    if number := os.environ.get("GITHUB_RUN_ID"):
        return {_BY_TAG: f"github-run-{number}"}
    try:
        machine = Path("/etc/machine-id").read_bytes().strip()
    except OSError:
        return {}
    return {_BY_TAG: f"machine-{hashlib.blake2b(b'splitbake', key=machine[:64], digest_size=6).hexdigest()}"}


def _make_group(ec2: Any, name: str, vpc: str, open_to: list[str], tags: Mapping[str, str]) -> str:
    group = ec2.create_security_group(
        GroupName=name,
        Description="a temporary instance of splitbake",
        TagSpecifications=[{"ResourceType": "security-group", "Tags": as_tags(tags)}],
        VpcId=vpc,
    )["GroupId"]
    if open_to:
        ranges = [{"CidrIp": network} for network in open_to]
        ec2.authorize_security_group_ingress(
            GroupId=group,
            IpPermissions=[{"IpProtocol": "tcp", "FromPort": _SSH, "ToPort": _SSH, "IpRanges": ranges}],
        )
    return str(group)
