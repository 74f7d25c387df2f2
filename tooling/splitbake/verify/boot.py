"""Booting an AMI to look at it: temporary instances, always terminated, by themselves where nobody else is left."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitbake.bake import access, roles, rundir, things
from splitbake.bake.access import Access
from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError, VerifyError
from splitbake.manifest.ami import Builder
from splitbake.ui import Say
from splitbake.verify import ssh, tunnel

#: The name that the first instance has in the SSH configuration; the others have a number behind it, from 2 on.
HOST = "instance"
#: Seconds after which an instance ends itself, where its caller says nothing else.
LIFETIME = 3600
#: Seconds between two looks.
_PAUSE = 0.5
#: Seconds that a machine which was reached has to answer.
_ANSWER = 60
#: Not shutdown -h +N: that forbids every login 5 minutes before its time (/run/nologin) and counts whole minutes.
_ENDS_ITSELF = """\
#!/bin/sh
# Whoever started this instance may be killed and never come back to terminate it. A shutdown from inside does that.
exec systemd-run --quiet --unit=splitbake-lifetime --on-active={seconds}s --timer-property=AccuracySec=1s \\
    systemctl poweroff
"""


@dataclass(frozen=True)
class Booted:
    """A running instance that answers by SSH.

    Attributes:
        instance: its id.
        host: its name in the SSH configuration.
        ssh_config: how to reach it: address or tunnel, user, key, and the host key seen at first contact.
        public_key: the one key that may log in.
        asked: when RunInstances was called, in seconds since 1970 by this machine's clock.
        seconds: from then to the first answer by SSH.
    """

    instance: str
    host: str
    ssh_config: Path
    public_key: str
    asked: float
    seconds: float


@contextmanager
def booted(
    cloud: Cloud,
    ami: str,
    *,
    builder: Builder,
    instance_type: str,
    within: float,
    tags: Mapping[str, str],
    say: Say,
    count: int = 1,
    lifetime: float = LIFETIME,
) -> Iterator[tuple[Booted, ...]]:
    """Start ``count`` instances of ``ami`` and yield them when all answer; whatever happens, terminate them.

    Args:
        cloud: where.
        ami: what they boot.
        builder: says subnet, login user and the way to reach them, as for baking.
        instance_type: of all of them.
        within: seconds that they have to answer.
        tags: for everything temporary.
        say: hears of each step.
        count: all of them are started, or none.
        lifetime: seconds after which they end themselves, in case that this process was killed.

    Raises:
        CloudError: AWS did not start them.
        VerifyError: one does not answer in time.
        ToolError: a program that reaches them is missing here.
    """
    tunnelled = builder.connect == "session-manager"
    if tunnelled:
        tunnel.require_plugin()
    run = access.new_run()
    with (
        rundir.opened(run) as folder,
        access.granted(
            cloud,
            run,
            folder=folder.path,
            subnet=builder.subnet,
            tags=tags,
            connect=builder.connect,
            boundary=builder.permissions_boundary if tunnelled else None,
            say=say,
        ) as way_in,
    ):
        config = ssh.configure(
            folder.path,
            user=builder.ssh_user,
            private_key=way_in.private_key,
            connect=ssh.seconds_to_connect(builder.connect),
        )
        order = {"MinCount": count, "MaxCount": count, "UserData": _ENDS_ITSELF.format(seconds=math.ceil(lifetime))}
        asked, started, ids = _launch(cloud, ami, way_in, order, builder=builder, instance_type=instance_type)
        hosts = {HOST if number == 1 else f"{HOST}-{number}": one for number, one in enumerate(ids, start=1)}
        say(f"{', '.join(ids)} of {ami} {'is' if count == 1 else 'are'} starting")
        boot = _Boot(cloud, builder.connect, config, started, within, say)
        try:
            seconds = boot.await_all(hosts)
            yield tuple(
                Booted(instance, host, config, way_in.public_key, asked, seconds[host])
                for host, instance in hosts.items()
            )
        finally:
            for host in hosts:
                ssh.disconnect(config, host)


def _launch(
    cloud: Cloud,
    ami: str,
    way_in: Access,
    order: Mapping[str, Any],
    *,
    builder: Builder,
    instance_type: str,
) -> tuple[float, float, list[str]]:
    """Start the instances; return when they were asked for, by both clocks, and their ids."""
    marks = things.as_tags(way_in.tags)
    network: dict[str, Any] = {"SecurityGroupIds": [way_in.group]}
    if builder.subnet:
        interface = {"DeviceIndex": 0, "SubnetId": builder.subnet, "Groups": [way_in.group]}
        if builder.connect != "session-manager":
            # Session Manager only needs a way out, which a subnet has by itself: the builder says nothing either.
            interface["AssociatePublicIpAddress"] = builder.connect == "public-ip"
        network = {"NetworkInterfaces": [interface]}
    profile = way_in.profile or builder.profile
    # What is looked at needs no role, and shall be able to do nothing: but Systems Manager reaches only who has one.
    role = {"IamInstanceProfile": {"Name": profile}} if profile and builder.connect == "session-manager" else {}
    launch = functools.partial(
        cloud.client("ec2").run_instances,
        ImageId=ami,
        InstanceType=instance_type,
        KeyName=way_in.name,
        InstanceInitiatedShutdownBehavior="terminate",
        MetadataOptions={"HttpTokens": "required", "HttpEndpoint": "enabled"},
        TagSpecifications=[{"ResourceType": kind, "Tags": marks} for kind in ("instance", "volume")],
        **order,
        **network,
        **role,
    )
    with aws_errors(f"start an instance of {ami}"):
        # The moments come first, and anew with each try: all times until something is ready begin there.
        asked, started, answer = roles.as_soon_as_known(lambda: (time.time(), time.monotonic(), launch()))
    return asked, started, [str(one["InstanceId"]) for one in answer["Instances"]]


@dataclass(frozen=True)
class _Boot:
    """Instances that are on their way to their first answer; each is waited for in a thread of its own.

    Attributes:
        connect: ``ami.builder.connect``.
        started: when they were asked for, on the monotonic clock.
        within: seconds that they have from then on.
        over: set when one of them failed, or the user gave up: nobody needs to wait any longer.
    """

    cloud: Cloud
    connect: str
    config: Path
    started: float
    within: float
    say: Say
    over: threading.Event = field(default_factory=threading.Event)

    def await_all(self, hosts: Mapping[str, str]) -> dict[str, float]:
        """Return host -> seconds until its first answer."""
        with ThreadPoolExecutor(len(hosts)) as pool:
            waiting = {pool.submit(self._await, host, instance): host for host, instance in hosts.items()}
            try:
                return {waiting[done]: done.result() for done in as_completed(waiting)}
            finally:
                self.over.set()

    def _await(self, host: str, instance: str) -> float:
        address = self._address(instance)
        if address is None:
            proxy = tunnel.proxy_command(instance, self.cloud.environment.region, self.cloud.endpoint)
            ssh.add_host(self.config, host, address=instance, proxy=proxy)
        else:
            ssh.add_host(self.config, host, address=address)
        self._await_answer(host, instance)
        seconds = round(time.monotonic() - self.started, 1)
        self.say(f"{instance} answers {f'at {address}' if address else 'through Session Manager'} after {seconds} s")
        return seconds

    def _address(self, instance: str) -> str | None:
        """Return where it is reached; None: through Session Manager, as soon as it runs."""
        key = {"public-ip": "PublicIpAddress", "private-ip": "PrivateIpAddress"}.get(self.connect)
        while True:
            found = self._described(instance)
            state = found["State"]["Name"] if found else "pending"
            if state == "running" and (key is None or found.get(key)):
                return str(found[key]) if key else None
            if state not in {"pending", "running"}:
                reason = found.get("StateReason", {}).get("Message", "no reason given")
                raise VerifyError(
                    f"{instance} did not start but is {state}: {reason}", hint="is the instance type offered there?"
                )
            if self._is_over():
                raise VerifyError(
                    f"{instance} is {state} and has no {self.connect} address in the time of verify.within",
                    hint="give verify.within more time, or correct ami.builder.subnet and connect",
                )

    def _described(self, instance: str) -> Mapping[str, Any]:
        """Return what EC2 says of it: at first it may not know an instance that it has just started."""
        try:
            with aws_errors(f"describe {instance}"):
                answer = self.cloud.client("ec2").describe_instances(InstanceIds=[instance])
        except CloudError as problem:
            if error_code(problem) != "InvalidInstanceID.NotFound":
                raise
            return {}
        return next((one for group in answer["Reservations"] for one in group["Instances"]), {})

    def _await_answer(self, host: str, instance: str) -> None:
        while True:
            done = ssh.run(self.config, host, ["true"], within=_ANSWER, over=self.over)
            if done.returncode == 0:
                return
            if self._is_over():
                raise VerifyError(
                    f"{instance} does not answer by SSH in the time of verify.within: {done.stderr.strip()}",
                    hint="give verify.within more time; does a route lead there, and is ami.builder.ssh_user right?",
                )

    def _is_over(self) -> bool:
        """Wait for a moment, and return whether waiting longer makes no sense."""
        return self.over.wait(_PAUSE) or time.monotonic() > self.started + self.within
