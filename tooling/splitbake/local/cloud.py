"""Start, find and end a local cloud."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import string
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from splitbake.errors import LocalCloudError
from splitbake.local.state import ACCOUNT, Cloud, Process, load, locked, save
from splitbake.signals import uninterrupted
from splitbake.spec import nearest

#: Seconds that the server and the registry get to answer after they were started.
START_TIMEOUT = 60.0

Progress = Callable[[str], None]


def default_directory() -> Path:
    """Return the state folder: ``$SPLITBAKE_LOCAL_DIR``, or ``.splitbake/local`` below the current folder."""
    return Path(os.environ.get("SPLITBAKE_LOCAL_DIR") or ".splitbake/local").resolve()


def up(directory: Path, *, region: str = "us-east-1", progress: Progress = lambda _: None) -> Cloud:
    """Start the local cloud of ``directory``, or return the one that runs there.

    What a killed server or a broken-off ``up`` left behind is removed first.

    Raises:
        ToolError: Docker, mmdebstrap or the registry is missing or failed.
        LocalCloudError: the cloud did not come up, or runs in another region, or there is no such region.
    """
    check_region(region)
    directory = directory.resolve()
    with locked(directory / "lock"):
        cloud = load(directory)
        if cloud and healthy(cloud):
            if cloud.region != region:
                raise LocalCloudError(
                    f"The local cloud of {directory} runs in {cloud.region}, not in {region}.",
                    hint="Run `splitbake local down` first, or use another state folder (SPLITBAKE_LOCAL_DIR).",
                )
            return cloud
        if cloud:
            progress("cleaning up after a cloud that did not end properly")
            _end(cloud)
        return _start(directory, region, progress)


def down(directory: Path, *, purge: bool = False) -> list[str]:
    """End the local cloud of ``directory`` and remove everything that belongs to it; return what was removed.

    Args:
        directory: its state folder.
        purge: drop the base images and their cache as well, which all clouds of this machine share.
    """
    directory = directory.resolve()
    removed: list[str] = []
    if directory.exists():
        with locked(directory / "lock"):
            cloud = load(directory)
            removed += _end(cloud) if cloud else []
            (directory / "lock").unlink()
        with suppress(OSError):  # it is not empty: somebody keeps other things in it
            directory.rmdir()
    if purge:
        from splitbake.local import engine, images

        removed += images.purge(engine.connect())
    return removed


def status(directory: Path) -> Cloud | None:
    """Return the cloud of ``directory`` if it runs and answers, else None."""
    cloud = load(directory.resolve())
    return cloud if cloud and healthy(cloud) else None


def check_region(region: str) -> None:
    """Refuse a region that AWS does not have: moto knows those of botocore, and falls over any other.

    Raises:
        LocalCloudError: there is no such region.
    """
    from botocore.loaders import create_loader
    from botocore.regions import EndpointResolver

    resolver = EndpointResolver(create_loader().load_data("endpoints"))
    partitions = resolver.get_available_partitions()
    known = [name for partition in partitions for name in resolver.get_available_endpoints("ec2", partition)]
    if region not in known:
        raise LocalCloudError(f"AWS has no region {region!r}{nearest(region, known)}")


def healthy(cloud: Cloud) -> bool:
    """Whether all processes of ``cloud`` are alive and its server answers under its own name."""
    return len(cloud.processes) > 1 and all(process.alive for process in cloud.processes) and _answers(cloud)


def _start(directory: Path, region: str, progress: Progress) -> Cloud:
    from splitbake.local import engine, images

    client = engine.connect()
    cloud = _draft(directory, region)
    try:
        save(cloud)  # before anything is made: the following `up` or `down` finds all of it by this id
        with engine.refusals("making the base images"):
            instance_image, python_image = images.ensure(client, progress)
        with engine.refusals("making a network"), uninterrupted():
            network, gateway = engine.create_network(client, cloud.id)
        cloud = replace(
            cloud,
            instance_image=instance_image,
            python_image=python_image,
            network=network,
            gateway=gateway,
            endpoint=f"http://{gateway}:{_free_port(gateway)}",
            registry=f"127.0.0.1:{_free_port('127.0.0.1')}",
        )
        save(cloud)
        progress(f"starting the AWS API at {cloud.endpoint} and the registry at {cloud.registry}")
        cloud = _spawn(cloud, [sys.executable, "-m", "splitbake.local.server", str(directory)], "server.log")
        cloud = _start_registry(cloud, client)
        _await(cloud, "server", lambda: _answers(cloud))
    except BaseException:
        _end(load(directory) or cloud)  # processes are noted there as they start
        raise
    return cloud


def _start_registry(cloud: Cloud, client: Any) -> Cloud:
    """Start the registry with the Python base image in it."""
    from splitbake.local import images, registry

    folder = cloud.directory / "registry"
    kept = images.cache() / f"registry-{cloud.python_image.removeprefix('sha256:')[:12]}"
    seeded = registry.restore(folder / "storage", kept)
    port = int(cloud.registry.rpartition(":")[2])
    cloud = _spawn(cloud, registry.command(folder, port, cloud.registry_password), "registry.log")
    at = registry.Registry(cloud.registry, cloud.registry_password)
    _await(cloud, "registry", at.ready)
    if not seeded:
        at.push(client, cloud.python_image, registry.PULL_THROUGH, registry.PULL_THROUGH_TAG)
        registry.keep(folder / "storage", kept)
    return cloud


def _draft(directory: Path, region: str) -> Cloud:
    letters = string.ascii_uppercase + "234567"
    return Cloud(
        id=secrets.token_hex(4),
        directory=directory,
        region=region,
        account=ACCOUNT,
        endpoint="",
        registry="",
        network="",
        gateway="",
        access_key="AKIA" + "".join(secrets.choice(letters) for _ in range(16)),
        instance_image="",
        python_image="",
        secret_key=secrets.token_urlsafe(30),
        registry_password=secrets.token_urlsafe(30),
    )


def _spawn(cloud: Cloud, command: list[str], log: str) -> Cloud:
    """Start ``command`` as a session of its own and note it in the state."""
    hidden = ("AWS_", "MOTO_", "SPLITBAKE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    with uninterrupted(), (cloud.directory / log).open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
        process.returncode = 0  # it outlives us on purpose: no warning about a child that still runs
        started = replace(cloud, processes=(*cloud.processes, Process.of(process.pid)))
        save(started)
    return started


def _await(cloud: Cloud, what: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not ready():
        if not all(process.alive for process in cloud.processes) or time.monotonic() > deadline:
            log = cloud.directory / f"{what}.log"
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-10:]
            raise LocalCloudError(
                f"The {what} of the local cloud did not start. Its last lines:\n" + "\n".join(last),
                hint="Run `splitbake local up` again: it takes other ports.",
            )
        time.sleep(0.05)


def _answers(cloud: Cloud) -> bool:
    """Ask who listens at the endpoint: the port may have gone to somebody else's server."""
    from splitbake.local.guard import PROBE, PROBE_HEADER

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(cloud.endpoint + PROBE, timeout=10) as answer:
            return bool(answer.headers.get(PROBE_HEADER) == cloud.id)
    except (OSError, ValueError):
        return False


def _end(cloud: Cloud) -> list[str]:
    """Stop the processes of ``cloud`` and remove its Docker objects and files; the lock file stays."""
    from splitbake.local import calls, disks, engine, throttle

    for process in reversed(cloud.processes):
        process.stop()
    with engine.refusals(f"removing what belongs to the local cloud {cloud.id}"):
        client = engine.connect()
        removed = engine.sweep(client, cloud.id, cloud.registry) + disks.sweep(client, cloud)
    if (cloud.directory / "registry").exists():
        shutil.rmtree(cloud.directory / "registry")
    for name in ("server.log", "registry.log", throttle.FILE, *calls.FILES, "cloud.json"):  # the last, for a second try
        (cloud.directory / name).unlink(missing_ok=True)
    return [*removed, f"{len(cloud.processes)} processes"] if cloud.processes else removed


def _free_port(address: str) -> int:
    """Return a port that is free at ``address``.

    Raises:
        LocalCloudError: this machine does not have the address.
    """
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError as problem:
            raise LocalCloudError(
                f"The local cloud cannot listen at {address}, the host's address on its Docker network: {problem}.",
                hint="It needs a Docker engine on this machine itself: not Docker Desktop, rootless or remote.",
            ) from problem
        port: int = probe.getsockname()[1]
    return port
