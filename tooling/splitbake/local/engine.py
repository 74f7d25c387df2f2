"""The Docker engine behind the local cloud, and the label by which each object of a cloud is found again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from ipaddress import IPv4Network
from typing import Any

from splitbake.errors import LocalCloudError, ToolError
from splitbake.local.state import Cloud

#: Every container, image, volume and network of a cloud carries this label with the cloud's id.
LABEL = "splitbake.cloud"


def connect() -> Any:
    """Return a client of the engine that ``DOCKER_HOST`` names (the local socket by default).

    Raises:
        ToolError: no engine answers.
    """
    try:
        import docker
    except ModuleNotFoundError as problem:
        raise ToolError(
            f"The local cloud is not installed: Python has no module {problem.name!r}.",
            hint="pip install 'splitbake[local]'; in a checkout: pip install '.[local]'",
        ) from problem

    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except docker.errors.DockerException as problem:
        raise ToolError(
            f"The local cloud needs a Docker engine, and none answers: {problem}",
            hint="Start it (`systemctl start docker`), or run `splitbake doctor` to see what is missing.",
        ) from problem
    return client


@contextmanager
def refusals(doing: str) -> Iterator[None]:
    """Turn what the engine refuses while ``doing`` into one of our errors.

    Raises:
        ToolError: the engine refused, with its own words, or was not to be heard any more.
    """
    try:
        yield
    except failures() as problem:
        raise ToolError(
            f"Docker failed while {doing}: {getattr(problem, 'explanation', None) or problem}",
            hint="See `docker info` and the log of the engine; is its disk full, or its address pool used up "
            "(`docker network ls`)?",
        ) from problem


def failures() -> tuple[type[Exception], ...]:
    """Return what a call of the engine may raise: docker-py lets the errors of its connection through as they are."""
    import docker
    import requests

    return docker.errors.DockerException, requests.RequestException


def labels(cloud_id: str, **more: str) -> dict[str, str]:
    """Return the labels of an object of ``cloud_id``; ``more`` goes under ``splitbake.<key>``."""
    return {LABEL: cloud_id} | {f"splitbake.{key}": value for key, value in more.items()}


def create_network(client: Any, cloud_id: str) -> tuple[str, str]:
    """Create the bridge network of a cloud and return its name and the host's address on it.

    Raises:
        LocalCloudError: the engine gave it no address of the host (it runs on another machine).
    """
    network = client.networks.create(f"splitbake-{cloud_id}", driver="bridge", labels=labels(cloud_id))
    network.reload()
    for pool in network.attrs["IPAM"]["Config"]:
        if "Gateway" in pool and "." in pool["Gateway"]:
            return str(network.name), str(pool["Gateway"])
    raise LocalCloudError(
        f"The Docker network {network.name} has no IPv4 gateway.",
        hint="The local cloud needs a Docker engine that runs on this machine, with bridge networks.",
    )


def subnet(client: Any, cloud: Cloud) -> IPv4Network:
    """Return the addresses of a cloud's network."""
    pools = client.networks.get(cloud.network).attrs["IPAM"]["Config"]
    return next(IPv4Network(pool["Subnet"]) for pool in pools if pool.get("Gateway") == cloud.gateway)


def sweep(client: Any, cloud_id: str, registry: str) -> list[str]:
    """Remove every container, volume, image and network of ``cloud_id``, and say what went.

    Names of images in the cloud's own ``registry`` (``host:port``) go as well: nobody can pull them any more.
    Idempotent: what another ``down`` removed in the meantime counts as removed.

    Raises:
        docker.errors.APIError: something stays, and this is why; all the rest is gone.
    """
    import docker

    removed: list[str] = []
    problems: list[Exception] = []
    of_cloud = {"label": f"{LABEL}={cloud_id}"}

    def remove(kind: str, name: str, call: Any, **options: Any) -> None:
        try:
            call(**options)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as problem:
            problems.append(problem)
            return
        removed.append(f"{kind} {name}")

    for container in client.containers.list(all=True, filters=of_cloud, ignore_removed=True):
        remove("container", container.name, _remove, container=container)
    for volume in client.volumes.list(filters=of_cloud):
        remove("volume", volume.name, volume.remove, force=True)
    for image in client.api.images(all=True, filters=of_cloud):
        remove("image", image["Id"][:19], client.images.remove, image=image["Id"], force=True)
    for name in _names(client, f"{registry}/") if registry else []:
        remove("image name", name, client.images.remove, image=name, force=True)
    for network in client.networks.list(filters=of_cloud):
        remove("network", network.name, network.remove)
    if problems:
        raise problems[0]
    return removed


def _remove(container: Any) -> None:
    """Remove a container with its anonymous volumes; one that somebody else removes at this moment is waited for."""
    import docker

    try:
        container.remove(force=True, v=True)
    except docker.errors.APIError as problem:
        if problem.status_code != HTTPStatus.CONFLICT:
            raise
        container.wait(condition="removed")


def _names(client: Any, prefix: str) -> list[str]:
    """Return the names of the engine's images that start with ``prefix``: a pushed image has one by its digest, too.

    From the list itself: to look at each image would fail where another cloud removes one of its own meanwhile.
    """
    names = [name for image in client.api.images() for key in ("RepoTags", "RepoDigests") for name in image[key] or []]
    return [name for name in names if name.startswith(prefix)]
