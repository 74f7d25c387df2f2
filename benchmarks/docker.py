"""Images as people build and push them without splitbake: ``docker build && docker push``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import process
from benchmarks.harness import Stage
from benchmarks.service import service

#: On every image that is made here, so that all of them are found again.
_LABEL = "splitbake.benchmark"
#: As splitbake does: the build gets the machine's own network and its CA bundle where these variables say so.
_NETWORK = "SPLITBAKE_BUILD_NETWORK"
_BUNDLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True)
class Docker:
    """The client, logged in to the registry of a project's cloud.

    Attributes:
        registry: its address.
        base: the base image of the project, by digest.
        env: for the client.
    """

    registry: str
    base: str
    env: Mapping[str, str]

    def name(self, repository: str) -> str:
        """Return the name of an image in the registry."""
        return f"{self.registry}/{repository}:latest"

    def build(self, folder: Path, recipe: Path, repository: str) -> float:
        """Build an image of ``folder`` by the Dockerfile ``recipe``, and return the seconds."""
        options = (*network("--network="), *(f"--secret=id=ca,src={path}" for path in bundle()))
        named = (f"--file={recipe}", f"--tag={self.name(repository)}", f"--label={_LABEL}")
        return self.seconds("build", "--quiet", *options, *named, str(folder))

    def push(self, repository: str) -> float:
        """Push it, and return the seconds."""
        return self.seconds("push", "--quiet", self.name(repository))

    def seconds(self, *arguments: str) -> float:
        """Run a command of Docker."""
        return process.run(("docker", *arguments), cwd=Path("/"), env=self.env).seconds


def network(option: str) -> tuple[str, ...]:
    """Return ``option`` with the network of a build, where it is to be another one than Docker's own."""
    return (f"{option}{os.environ[_NETWORK]}",) if os.environ.get(_NETWORK) else ()


def bundle() -> tuple[str, ...]:
    """Return the path of the CA bundle that this machine needs, if it names one."""
    return tuple(os.environ[name] for name in _BUNDLES if os.environ.get(name))[:1]


@contextmanager
def engine(stage: Stage) -> Iterator[Docker]:
    """Log in to the registry of the local cloud; in the end all images of ours go, and what BuildKit kept of them."""
    before = _cached()
    folder = stage.folder / "docker"
    shutil.rmtree(folder, ignore_errors=True)
    project = stage.use(service)
    told = project.ask("registry")
    try:
        _configure(folder, {told["host"]: {"auth": told["token"]}})
        yield Docker(told["host"], told["base"], {**project.env, "DOCKER_CONFIG": str(folder), "DOCKER_BUILDKIT": "1"})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        images = _docker("image", "ls", "--all", "--quiet", "--filter", f"label={_LABEL}").split()
        if images:
            _docker("image", "rm", "--force", *sorted(set(images)))
        _prune(before)


def _configure(folder: Path, auths: Mapping[str, object]) -> None:
    """Write a configuration of our own; plugins, contexts and builders of the user stay reachable."""
    folder.mkdir(mode=0o700)
    home = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    for entry in home.iterdir() if home.is_dir() else ():
        if entry.name != "config.json":
            (folder / entry.name).symlink_to(entry)
    (folder / "config.json").write_text(json.dumps({"auths": auths}), encoding="utf-8")


def _prune(before: set[str]) -> None:
    """Remove what BuildKit has kept since ``before``; a record goes only after those that lie on it."""
    left: set[str] = set()
    while (kept := _cached() - before) and kept != left:
        for record in kept:
            _docker("builder", "prune", "--force", "--filter", f"id={record}")
        left = kept


def _cached() -> set[str]:
    """Return the ids of what BuildKit keeps and does not use at this moment."""
    rows = [line.split() for line in _docker("buildx", "du").splitlines()]
    return {row[0].rstrip("*") for row in rows if len(row) > 1 and row[1] == "true"}


def _docker(*arguments: str) -> str:
    return process.run(("docker", *arguments), cwd=Path("/"), env=process.environment()).output
