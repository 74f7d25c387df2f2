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
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitbake.bake import ingress, roles, things
from splitbake.bake.things import BY_TAG, STARTED_TAG, Thing, as_tags
from splitbake.cloud import Cloud, aws_errors
from splitbake.errors import CloudError, SplitbakeError, ToolError
from splitbake.signals import uninterrupted
from splitbake.ui import Say, silent

RUN_TAG = things.RUN_TAG
_SSH = 22


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


def machine_tag() -> dict[str, str]:
    """Return the tag of runs that can tell whether the others live: the locks on their folders lie in one place.

    That is this boot of the machine (and of no other, as machine ids of containers can be), with this folder for
    temporary files. Both are in a digest that only this boot can make; before it stands the run of GitHub Actions.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
        folder = Path(tempfile.gettempdir()).stat()
    except OSError:
        return {}
    place = hashlib.blake2b(f"{folder.st_dev} {folder.st_ino}".encode(), key=boot[:64], digest_size=6).hexdigest()
    number = os.environ.get("GITHUB_RUN_ID")
    return {BY_TAG: f"github-run-{number}-{place}" if number else f"machine-{place}"}


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
    spot: bool = False,
    say: Say = silent,
) -> Iterator[Access]:
    """Make key pair, security group and role; at the end remove them and every instance and volume of the run.

    A signal that comes while they are removed waits; only a second Ctrl-C breaks that off.

    Args:
        cloud: where.
        run: its name, of ``new_run``.
        folder: private to the caller; gets the key files.
        subnet: where the instances will be; None is the default VPC.
        tags: for all of that, beside those of the run.
        connect: of ``ami.builder``: decides who can reach port 22. Only this run's key opens it.
        boundary: ARN of the permissions boundary of a temporary role; None makes no role.
        spot: whether the instances will be spot instances of Packer.
        say: is told what people should know.
    """
    name = _name(run)
    private_key = folder / "id_ed25519"
    _make_key(private_key, comment=name)
    public_key = private_key.with_suffix(".pub").read_text(encoding="ascii").strip()
    marks = {**tags, RUN_TAG: run, STARTED_TAG: _now(), **machine_tag()}
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
        clean_up_after(problem, lambda: sweep(cloud, run, role=boundary is not None, spot=spot))
        raise
    with uninterrupted(breakable=True):
        sweep(cloud, run, role=boundary is not None, spot=spot)


def clean_up_after(problem: BaseException, clean: Callable[[], None]) -> None:
    """Run ``clean`` because of ``problem``; where that fails as well, ``problem`` stays the one that is told.

    A signal that comes meanwhile waits; only a second Ctrl-C, be the first one ``problem``, breaks it off.
    """
    try:
        with nullcontext() if isinstance(problem, KeyboardInterrupt) else uninterrupted(breakable=True):
            clean()
    except SplitbakeError as second:
        if not isinstance(problem, SplitbakeError):
            raise
        left = f"cleaning up failed as well: {second.message}; see splitbake gc --runs"
        problem.hint = f"{problem.hint}; {left}" if problem.hint else left


def sweep(cloud: Cloud, run: str, *, role: bool = False, spot: bool = False) -> None:
    """Remove what ``run`` has left in EC2, and its role. Nothing left is fine.

    Raises:
        CloudError: AWS refused; the message says at what.
    """
    failures = things.remove(cloud, things.find(cloud, {RUN_TAG: run}, spot=spot))
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
