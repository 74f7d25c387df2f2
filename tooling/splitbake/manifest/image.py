"""The part of the manifest about the image: which files, on which base, and how it is built."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from splitbake import contract, registry, units
from splitbake.manifest.codebuild import CodeBuild
from splitbake.spec import (
    AbsolutePath,
    FolderPath,
    ImageReference,
    RelativePath,
    Repository,
    Spec,
    Text,
    Variable,
    nearest,
)

#: Links on a merged /usr, and what leads to memory: a layer with a folder there would hide what the base has.
LINKS: Final = (
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/var/run",
    "/var/lock",
    "/proc",
    "/sys",
    "/dev",
)


def _known_builder(name: str) -> str:
    if name not in registry.IMAGE_BUILDERS:
        raise ValueError(
            f"expected one of {', '.join(registry.IMAGE_BUILDERS)}{nearest(name, registry.IMAGE_BUILDERS)}"
        )
    return name


def _beside_links(path: str) -> str:
    for link in LINKS:
        if PurePosixPath(path).is_relative_to(link):
            raise ValueError(f"expected a folder that no base has for a link or for itself, as {link} is")
    return path


class Ecr(Spec):
    """How the repository is made; one that exists is left as it is."""

    immutable: bool = Field(default=False, description="no tag can be moved to another image")
    scan: bool = Field(default=False, description="each image is scanned for known weaknesses when it is pushed")
    keep: int | None = Field(
        default=None, ge=10, le=1000, description="so many images stay, besides what is released; the oldest go first"
    )


class Image(Spec):
    """The half that changes with the code."""

    base: ImageReference = Field(
        description="an image reference, or ecr://repository:tag in the account's own registry",
        examples=["python:3.11-slim", "ecr://docker-hub/library/python:3.11-slim"],
    )
    builder: Annotated[Text, AfterValidator(_known_builder)] = Field(
        default="docker",
        description="what builds and pushes it",
        json_schema_extra={"enum": [*registry.IMAGE_BUILDERS]},
    )
    installer: Literal["uv", "pip"] = Field(default="uv", description="what installs requirements in the build")
    secrets: tuple[Variable, ...] = Field(
        default=(),
        strict=False,
        description="variables of the building machine that the installer gets, and nothing else ever sees",
        examples=[["UV_INDEX_URL"]],
    )
    codebuild: CodeBuild | None = Field(default=None, description="where builder: codebuild builds")
    ecr: Ecr = Field(default_factory=Ecr, description="how the repository is made where it does not exist")
    cache: Repository | None = Field(
        default=None, description="another ECR repository, where builds of the dependencies find each other's layers"
    )
    context: FolderPath = Field(default=".", description="the folder that include is relative to")
    include: tuple[RelativePath, ...] = Field(
        min_length=1,
        strict=False,
        description="glob patterns; a trailing / takes a folder; nothing else travels",
        examples=[["run.py", "lib/"]],
    )
    exclude: tuple[RelativePath, ...] = Field(default=(), strict=False, description="glob patterns taken out again")
    gitignore: bool = Field(default=False, description="leave out as well what git ignores")
    order: Literal["declared", "auto"] = Field(
        default="declared", description="of the layers: as in include, or as seldom as git saw each pattern change"
    )
    requirements: Annotated[RelativePath, AfterValidator(contract.beside_folder)] | None = Field(
        default=None, description="a requirements file in the context, with a hash for every distribution"
    )
    workdir: Annotated[AbsolutePath, AfterValidator(_beside_links), AfterValidator(contract.beside_ours)] = Field(
        default="/app", description="where the code lies in the image"
    )
    mounts: dict[RelativePath, Annotated[AbsolutePath, AfterValidator(contract.beside_ours)]] = Field(
        min_length=1,
        description="folder below models.root: where the container sees it, read-only",
        examples=[{"models": "/workspace/models"}],
    )
    needs: tuple[RelativePath, ...] | None = Field(
        default=None,
        min_length=1,
        strict=False,
        description="files below models.root without which it refuses to start, or folders with a trailing /",
        examples=[["models/yolo.onnx", "checkpoints/llava/"]],
    )
    command: tuple[Text, ...] = Field(
        min_length=1, strict=False, description="what the container runs", examples=[["python", "run.py"]]
    )
    uid: int = Field(default=10001, ge=1, le=2**31 - 1, description="the user that runs it; never root")
    repository: Repository = Field(description="the ECR repository that it is pushed to")
    budget: units.Size = Field(description="the most that the image may take uncompressed, for example 500 MB")
    compressed_budget: units.Size | None = Field(
        default=None, description="the most that it may take in the registry, for example 200 MB"
    )
