"""Booting an AMI to look at it: one temporary instance, always terminated."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitbake.bake import access
from splitbake.bake.access import Access
from splitbake.cloud import Cloud, aws_errors
from splitbake.errors import ToolError, VerifyError
from splitbake.manifest import Builder
from splitbake.ui import Say

#: The name that the instance has in the SSH configuration.
HOST = "instance"
_CONNECT = 5


@dataclass(frozen=True)
class Booted:
    """A running instance that answers by SSH.

    Attributes:
        instance: its id.
        ssh_config: how to reach it as ``HOST``: address, user, key, and the host key seen at first contact.
        public_key: the one key that may log in.
        seconds: from RunInstances to the first answer by SSH.
    """

    instance: str
    ssh_config: Path
    public_key: str
    seconds: float


@contextmanager
def booted(
    cloud: Cloud, ami: str, *, builder: Builder, instance_type: str, within: float, tags: Mapping[str, str], say: Say
) -> Iterator[Booted]:
    """Start an instance of ``ami`` and yield it when it answers; whatever happens, terminate it.

    ``builder`` says subnet, login user and kind of address, as for baking; it gets ``within`` seconds to answer.

    Raises:
        CloudError: AWS did not start it.
        VerifyError: it does not answer in time.
    """
    run = access.new_run()
    with (
        tempfile.TemporaryDirectory(prefix="splitbake-boot-") as name,
        access.granted(cloud, run, folder=Path(name), subnet=builder.subnet, tags=tags) as way_in,
    ):
        started = time.monotonic()
        deadline = started + within
        marks = {**tags, access.RUN_TAG: run}
        instance = _launch(cloud, ami, way_in, builder=builder, instance_type=instance_type, tags=marks)
        say(f"{instance} of {ami} is starting")
        address = _address(cloud, instance, builder.connect, deadline)
        config = _ssh_config(Path(name), address, builder.ssh_user, way_in)
        _await_answer(config, instance, deadline)
        seconds = time.monotonic() - started
        say(f"{instance} answers at {address} after {seconds:.0f} s")
        try:
            yield Booted(instance, config, way_in.public_key, round(seconds, 1))
        finally:
            # The shared connection would outlive us by a minute.
            _ssh(config, ["-O", "exit"], [])


def _launch(
    cloud: Cloud, ami: str, way_in: Access, *, builder: Builder, instance_type: str, tags: Mapping[str, str]
) -> str:
    marks = [{"Key": key, "Value": value} for key, value in tags.items()]
    network: dict[str, Any] = {"SecurityGroupIds": [way_in.group]}
    if builder.subnet:
        interface = {"DeviceIndex": 0, "SubnetId": builder.subnet, "Groups": [way_in.group]}
        public = builder.connect == "public-ip"
        network = {"NetworkInterfaces": [{**interface, "AssociatePublicIpAddress": public}]}
    with aws_errors(f"start an instance of {ami}"):
        answer = cloud.client("ec2").run_instances(
            ImageId=ami,
            InstanceType=instance_type,
            MinCount=1,
            MaxCount=1,
            KeyName=way_in.name,
            InstanceInitiatedShutdownBehavior="terminate",
            MetadataOptions={"HttpTokens": "required", "HttpEndpoint": "enabled"},
            TagSpecifications=[{"ResourceType": kind, "Tags": marks} for kind in ("instance", "volume")],
            **network,
        )
    return str(answer["Instances"][0]["InstanceId"])


def _address(cloud: Cloud, instance: str, connect: str, deadline: float) -> str:
    key = "PublicIpAddress" if connect == "public-ip" else "PrivateIpAddress"
    while True:
        with aws_errors(f"describe {instance}"):
            answer = cloud.client("ec2").describe_instances(InstanceIds=[instance])
        found = answer["Reservations"][0]["Instances"][0]
        state = found["State"]["Name"]
        if state == "running" and found.get(key):
            return str(found[key])
        if state not in {"pending", "running"}:
            reason = found.get("StateReason", {}).get("Message", "no reason given")
            raise VerifyError(
                f"{instance} did not start but is {state}: {reason}", hint="is the instance type offered there?"
            )
        if time.monotonic() > deadline:
            raise VerifyError(
                f"{instance} is {state} and has no {connect} address in the time of verify.within",
                hint="give verify.within more time, or correct ami.builder.subnet and connect",
            )
        time.sleep(1)


def _ssh_config(folder: Path, address: str, user: str, way_in: Access) -> Path:
    # known_hosts starts empty: the first contact pins the host key, any other key later is refused.
    settings = {
        "HostName": address,
        "User": user,
        "IdentityFile": way_in.private_key,
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "StrictHostKeyChecking": "accept-new",
        "UserKnownHostsFile": folder / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "ConnectTimeout": _CONNECT,
        "ServerAliveInterval": 15,
        "ServerAliveCountMax": 4,
        "ControlPath": folder / "ssh",
        "LogLevel": "ERROR",
    }
    config = folder / "ssh_config"
    lines = [f"Host {HOST}", *(f'  {name} "{value}"' for name, value in settings.items())]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return config


def _await_answer(config: Path, instance: str, deadline: float) -> None:
    while True:
        done = _ssh(config, [], ["true"])
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise VerifyError(
                f"{instance} does not answer by SSH in the time of verify.within: {done.stderr.strip()}",
                hint="give verify.within more time; does a route lead there, and is ami.builder.ssh_user right?",
            )
        time.sleep(1)


def _ssh(config: Path, options: list[str], command: list[str]) -> subprocess.CompletedProcess[str]:
    argv = ["ssh", "-F", str(config), *options, HOST, *command]
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=6 * _CONNECT
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 255, "", "ssh gave no answer")
    except FileNotFoundError:
        raise ToolError("ssh is not on PATH", hint="install the OpenSSH client; splitbake doctor") from None
