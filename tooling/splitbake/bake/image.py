"""Building the image half: stage the context, build, weigh, push, and read back what the registry has."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from splitbake import artifact as artifacts
from splitbake import context, contract, ecr, explain, files, registry, units
from splitbake.artifact import Artifact
from splitbake.bake import staging
from splitbake.cloud import Cloud
from splitbake.context import Entry
from splitbake.ecr import Credentials
from splitbake.errors import BuildError, ToolError
from splitbake.generate import dockerfile
from splitbake.inputs import Inputs
from splitbake.project import Project
from splitbake.ui import Say

#: Below the project's folder: everything that the builder said, of the latest build.
LOG = "build/logs/image.log"
#: Where a CA bundle for the build is looked for, in this order.
CA_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
#: ``host`` lets the build use the machine's own network, for an engine without NAT.
NETWORK_VARIABLE = "SPLITBAKE_BUILD_NETWORK"


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a builder is asked for.

    Attributes:
        context: a folder that holds exactly the files that may travel.
        dockerfile: with its ``.dockerignore`` beside it.
        platform: what the image is for, as ``linux/amd64``.
        repository: URI of the repository.
        tag: of the image in that repository.
        arguments: build arguments.
        ca: a CA bundle that the build needs to reach a package index, as a secret.
        network: ``host``, or None for the builder's default.
        credentials: of the registry.
        log: the file for everything that the builder says.
    """

    context: Path
    dockerfile: Path
    platform: str
    repository: str
    tag: str
    arguments: Mapping[str, str]
    ca: Path | None
    network: str | None
    credentials: Credentials
    log: Path

    @property
    def name(self) -> str:
        """The image's name, ``repository:tag``."""
        return f"{self.repository}:{self.tag}"


class ImageBuilder(Protocol):
    """What builds and pushes an image; the manifest chooses one by ``image.builder``."""

    def health(self) -> None:
        """Return if this machine can build with it; ToolError says what is missing."""

    def build(self, order: Order, say: Say) -> int:
        """Build the image, push nothing, and return its uncompressed size in bytes.

        Raises:
            BuildError: the build failed.
        """

    def heaviest(self, order: Order) -> Sequence[str]:
        """Say what takes most room in the image that was built."""

    def push(self, order: Order, say: Say) -> str:
        """Push the image that was built and return its digest, ``sha256:…``.

        Raises:
            BuildError: the registry could not be reached, or refused it.
        """


def build(project: Project, cloud: Cloud, inputs: Inputs, *, say: Say) -> Artifact:
    """Build and push the image of exactly these inputs.

    Raises:
        BuildError: the context is wrong or is not what ``inputs`` says, the build or the push failed, or the image
            breaks its budget; in the last case nothing was pushed.
        ToolError: the builder cannot work on this machine.
        CloudError: ECR could not be asked.
    """
    started = time.monotonic()
    image = project.manifest.image
    builder: ImageBuilder = registry.load(registry.IMAGE_BUILDERS, image.builder)()
    builder.health()
    entries = context.collect(project)
    _require(inputs, entries)
    uri = ecr.ensure_repository(cloud, image.repository)
    with tempfile.TemporaryDirectory(prefix="splitbake-image-") as scratch:
        travels = units.format_size(sum(entry.size for entry in entries))
        say(f"{units.counted(len(entries), 'file')}, {travels} in the build context")
        staged = staging.stage(project, entries, Path(scratch))
        order = _order(project, cloud, staged, uri, inputs.fingerprint)
        size = builder.build(order, say)
        if size > image.budget:
            raise _too_large(size, image.budget, builder.heaviest(order))
        digest = builder.push(order, say)
    pushed = ecr.find_image(cloud, image.repository, digest=digest)
    if pushed is None:
        raise BuildError(f"{order.name} was pushed as {digest}, but ECR does not have it", hint="build again")
    return Artifact(
        half="image",
        id=digest,
        location=uri,
        fingerprint=inputs.fingerprint,
        created=artifacts.now(),
        seconds=round(time.monotonic() - started, 3),
        size=size,
        compressed_size=pushed.size,
        needs=contract.need(project.manifest, project.lock),
    )


def _require(inputs: Inputs, entries: Sequence[Entry]) -> None:
    """Compare what goes to the builder: files may have changed since the fingerprint was made."""
    beside = {name: content for name, content in inputs.files.items() if not name.startswith("file/")}
    changes = explain.explain(inputs, dataclasses.replace(inputs, files=beside | context.as_inputs(entries)))
    if changes:
        raise BuildError(
            f"the project changed when the build of the image began: {'; '.join(changes)}",
            hint="build again when it is at rest",
        )


def _order(project: Project, cloud: Cloud, staged: Path, uri: str, fingerprint: str) -> Order:
    """Write the Dockerfile, as manifest and lock say it now, beside ``staged``; prepare what else a builder needs."""
    texts = dockerfile.render(project.manifest, project.lock)
    for path, text in texts.items():
        files.replace(staged.parent / Path(path).name, text, BuildError)
    log = project.root / LOG
    files.replace(log, "", BuildError)
    credentials = ecr.credentials(cloud)
    arguments = {"FINGERPRINT": fingerprint, "REVISION": _revision(project.root)}
    if "ARG REGISTRY" in texts[dockerfile.DOCKERFILE].splitlines():
        arguments["REGISTRY"] = credentials.host
    return Order(
        context=staged,
        dockerfile=staged.parent / Path(dockerfile.DOCKERFILE).name,
        platform=contract.platform(project.lock),
        repository=uri,
        tag=fingerprint.removeprefix("sha256:")[:12],
        arguments=arguments,
        ca=_ca(),
        network=_network(),
        credentials=credentials,
        log=log,
    )


def _ca() -> Path | None:
    chosen = next((name for name in CA_VARIABLES if os.environ.get(name)), None)
    if chosen is None:
        return None
    bundle = Path(os.environ[chosen])
    if not bundle.is_file():
        raise ToolError(f"{chosen} names {bundle}, which is not a file", hint=f"correct or unset {chosen}")
    return bundle


def _network() -> str | None:
    network = os.environ.get(NETWORK_VARIABLE) or None
    if network not in (None, "host"):
        raise ToolError(f"{NETWORK_VARIABLE} is {network!r}", hint="set it to host, or unset it")
    return network


def _revision(root: Path) -> str:
    """Return the commit that the project lies at, with ``-dirty`` where files differ; empty outside of git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _too_large(size: int, budget: int, heaviest: Sequence[str]) -> BuildError:
    lines = "\n".join(f"  {line}" for line in heaviest)
    return BuildError(
        f"the image has {units.format_size(size)} uncompressed, {units.format_size(size - budget)} over image.budget "
        f"({units.format_size(budget)}); nothing was pushed. What takes most:\n{lines}",
        hint="exclude what the job does not need, take a slimmer base, or raise image.budget",
    )
