"""What makes the dependencies image: the interface of the kinds that ``image.builder`` chooses from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from splitbake import files
from splitbake.artifact import Weight
from splitbake.cloud import Cloud
from splitbake.ecr import Credentials
from splitbake.errors import BuildError
from splitbake.project import Project
from splitbake.ui import Say

#: In the context: what is built.
DOCKERFILE: Final = "Dockerfile"


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a builder is asked for.

    Attributes:
        context: a folder that holds exactly what the build reads, ``Dockerfile`` among it.
        platform: what the image is for, as ``linux/amd64``.
        repository: URI of the repository.
        tag: of the image in that repository.
        arguments: build arguments.
        secrets: id of a build secret -> its value, which nobody but the installer may see.
        network: ``host``, or None for the builder's default.
        credentials: of the registry.
        budget: the most bytes, uncompressed, that the image may have beside its code; a larger one is not pushed.
        compressed_budget: the most that it may have compressed by gzip; None: any.
        log: the file for everything that the builder says.
        project: what the image is for.
        cloud: where it goes.
        cache: the name of an image in which layers are kept for builds on other machines; None: nowhere.
    """

    context: Path
    platform: str
    repository: str
    tag: str
    arguments: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    network: str | None
    credentials: Credentials
    budget: int
    log: Path
    project: Project
    cloud: Cloud
    cache: str | None = None
    compressed_budget: int | None = None

    @property
    def name(self) -> str:
        """The image's name, ``repository:tag``."""
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True)
class Made:
    """What a builder made.

    Attributes:
        digest: ``sha256:…`` of the manifest that the registry has.
        size: bytes uncompressed.
        heaviest: the layers and distributions that take most room in it.
        tools: name of what was at work -> its version, where it was told.
    """

    digest: str
    size: int
    heaviest: tuple[Weight, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)


class ImageBuilder(Protocol):
    """What builds and pushes the dependencies image; the manifest chooses one by ``image.builder``."""

    def health(self) -> None:
        """Return if this machine can build with it; ToolError says what is missing."""

    def make(self, order: Order, say: Say) -> Made:
        """Build the image, push it, and tell what the registry has.

        Raises:
            OverBudgetError: the image breaks a budget; nothing was pushed.
            BuildError: the build failed, or the registry could not be reached, or refused it.
        """


@contextmanager
def secret_files(secrets: Mapping[str, str]) -> Iterator[Mapping[str, Path]]:
    """Yield a file for each secret, which only this user can read, and which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="splitbake-secrets-") as name:
        paths = {each: Path(name) / each for each in secrets}
        for each, path in paths.items():
            files.replace(path, secrets[each], BuildError, mode=0o600)
        yield paths
