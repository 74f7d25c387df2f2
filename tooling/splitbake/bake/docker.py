"""Building with the Docker engine of this machine, through BuildKit."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from splitbake import dockercli
from splitbake.artifact import Weight
from splitbake.bake import weights
from splitbake.bake.builders import Order
from splitbake.bake.engines import Access, Engine, Run
from splitbake.ecr import Credentials

_PUSHED = re.compile(r"\bdigest: (sha256:[0-9a-f]{64}) size: \d+")


class DockerBuilder(Engine):
    """The ``docker`` kind of image builder."""

    program = "docker"

    def health(self) -> None:
        """See ImageBuilder."""
        dockercli.require_buildx()

    def platforms(self) -> set[str]:
        """See Engine. A builder that was not started yet tells none, and is given a chance."""
        done = subprocess.run(["docker", "buildx", "inspect"], capture_output=True, text=True, check=False)
        return platforms(done.stdout)

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
        return ["docker", *access.options, "buildx", "build", *options, *ours]

    def push(self, name: str, access: Access, run: Run) -> str | None:
        """See Engine."""
        said = run(["docker", *access.options, "image", "push", name])
        # What this very push says: the image may have other digests in the repository, of other compressions.
        return next((found[1] for line in reversed(said) if (found := _PUSHED.search(line))), None)


def platforms(inspected: str) -> set[str]:
    """Return what a builder says that it builds for, in the answer of ``docker buildx inspect``."""
    lines = [line.removeprefix("Platforms:") for line in inspected.splitlines() if line.startswith("Platforms:")]
    return {name.strip(" *") for line in lines for name in line.split(",") if name.strip()}
