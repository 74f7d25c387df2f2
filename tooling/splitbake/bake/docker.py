"""Building with the Docker engine of this machine, through BuildKit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final

from splitbake import dockercli
from splitbake.artifact import Weight
from splitbake.bake import weights
from splitbake.bake.builders import Made, Order
from splitbake.bake.engines import Access, Engine, Run
from splitbake.ecr import Credentials
from splitbake.errors import BuildError
from splitbake.ui import Say

#: The builder within the engine; the others run BuildKit elsewhere and export caches.
_ENGINE: Final = "docker"
_PUSHED = re.compile(r"\bdigest: (sha256:[0-9a-f]{64}) size: \d+")


class DockerBuilder(Engine):
    """The ``docker`` kind of image builder."""

    program = "docker"
    versions = "{{.Client.Version}} {{.Server.Version}}"

    def health(self) -> None:
        """See ImageBuilder."""
        dockercli.require_buildx()

    def make(self, order: Order, say: Say) -> Made:
        """See ImageBuilder."""
        if order.cache and driver(self._inspected()) == _ENGINE:
            say("this engine's own builder cannot export a cache, so image.cache does nothing (docs/ecr.md)")
            order = replace(order, cache=None)
        return super().make(order, say)

    def platforms(self) -> set[str]:
        """See Engine. A builder that was not started yet tells none, and is given a chance."""
        return platforms(self._inspected())

    def layers(self, name: str) -> tuple[Weight, ...]:
        """See Engine."""
        return weights.read(
            "layer", self.answer("history", "--no-trunc", "--human=false", "--format", weights.LAYERS, name)
        )

    @contextmanager
    def login(self, credentials: Credentials) -> Iterator[Access]:
        """See Engine."""
        with dockercli.configuration(credentials) as folder:
            yield Access(folder, ("--config", str(folder)))

    def build(self, order: Order, access: Access) -> list[str]:
        """See Engine."""
        ours = ["--allow=network.host"] if order.network == "host" else []
        options = ["--load", "--provenance=false", "--progress=plain"]
        cached = cache_options(order.cache) if order.cache else []
        return ["docker", *access.options, "buildx", "build", *options, *cached, *ours]

    def push(self, name: str, access: Access, run: Run) -> str | None:
        """See Engine."""
        said = run(["docker", *access.options, "image", "push", name])
        # What this very push says: the image may have other digests in the repository, of other compressions.
        return next((found[1] for line in reversed(said) if (found := _PUSHED.search(line))), None)

    def forget(self, access: Access) -> None:
        """See Engine. BuildKit itself ends a build that nobody waits for any more, and clears up."""

    def _inspected(self) -> str:
        with suppress(BuildError):
            return self.answer("buildx", "inspect")
        return ""


def cache_options(name: str) -> list[str]:
    """Return how a builder is told to keep layers in the image ``name`` of a registry, and to look for them there.

    ECR takes a cache as an image manifest of the OCI only, by default it is an index ("Announcing remote cache support
    in Amazon ECR for BuildKit clients", AWS containers blog). ``max`` keeps the layers of all stages. What is built
    needs no cache, so its failure is none of the build.
    """
    kept = "mode=max,image-manifest=true,oci-mediatypes=true,ignore-error=true"
    return [f"--cache-from=type=registry,ref={name}", f"--cache-to=type=registry,ref={name},{kept}"]


def driver(inspected: str) -> str:
    """Return what kind of builder it is, in the answer of ``docker buildx inspect``; empty where it does not say."""
    lines = (line.partition(":") for line in inspected.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == "Driver"), "")


def platforms(inspected: str) -> set[str]:
    """Return what a builder says that it builds for, in the answer of ``docker buildx inspect``."""
    lines = [line.removeprefix("Platforms:") for line in inspected.splitlines() if line.startswith("Platforms:")]
    return {name.strip(" *") for line in lines for name in line.split(",") if name.strip()}
