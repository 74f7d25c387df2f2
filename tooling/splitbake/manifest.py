"""The manifest ``splitbake.yaml``: what the user wants, read into one strict, immutable model.

A wrong file gives every problem at once (ManifestError), each with file:line:column, what was expected, and the
nearest valid key or value.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from splitbake import registry, units, yamldoc
from splitbake.errors import ManifestError
from splitbake.problems import explain
from splitbake.spec import AbsolutePath, Account, Name, Region, RelativePath, Sha256, Spec, Text

FILE_NAME = "splitbake.yaml"

if TYPE_CHECKING:
    from splitbake.release.targets import Target

    ReleaseItem = Target
else:

    def _kind(item: Any) -> str | None:
        """Return which registered key a release item has: that key is its kind."""
        keys = item.keys() if isinstance(item, Mapping) else ()
        return next((key for key in keys if key in registry.TARGETS), None)

    ReleaseItem = Annotated[
        functools.reduce(
            operator.or_,
            [Annotated[registry.load(registry.TARGETS, kind), Tag(kind)] for kind in registry.TARGETS],
        ),
        Discriminator(
            _kind,
            custom_error_type="target_kind",
            custom_error_message=f"expected a target with one of the keys {', '.join(registry.TARGETS)}",
        ),
    ]


def _known_scheme(source: str) -> str:
    scheme = source.partition("://")[0] if "://" in source else ""
    if scheme not in registry.MODEL_SOURCES:
        known = ", ".join(f"{name}://" for name in registry.MODEL_SOURCES if name)
        raise ValueError(f"{scheme}:// is no model source; expected {known} or a path in the project")
    return source


class ModelFile(Spec):
    """One model file, or with a trailing ``/`` on both sides every file below a prefix or folder."""

    path: RelativePath = Field(description="where it lies below models.root; a trailing / means a folder")
    source: Annotated[Text, AfterValidator(_known_scheme)] = Field(
        alias="from", description="s3://bucket/key, https://…, or a path in the project"
    )
    sha256: Sha256 | None = Field(default=None, description="insist on this content; the lock refuses any other")

    @model_validator(mode="after")
    def _both_folders_or_none(self) -> ModelFile:
        if self.is_folder != self.source.endswith("/"):
            raise ValueError("path and from must both end with / (a folder) or neither (a file)")
        if self.is_folder and self.sha256:
            raise ValueError("sha256 belongs to one file; a folder's digests are in the lock")
        return self

    @property
    def is_folder(self) -> bool:
        """Whether this entry stands for every file below a prefix."""
        return self.path.endswith("/")


class Models(Spec):
    """The model files of the AMI."""

    root: AbsolutePath = Field(default="/opt/dl-models", description="where they lie on the host")
    files: tuple[ModelFile, ...] = Field(min_length=1, strict=False)
    budget: units.Size = Field(description="the most that all model files together may take, for example 3 GiB")
    mode: Literal["0755", "0555"] = Field(default="0755", description="of files and folders alike")

    @model_validator(mode="after")
    def _no_path_twice(self) -> Models:
        paths = [entry.path for entry in self.files]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise ValueError(f"two entries want the same path: {', '.join(twice)}")
        return self


class BaseBySsm(Spec):
    """A base AMI named by an SSM parameter that holds its id, or JSON with an ``image_id``."""

    ssm: Text


class BaseByName(Spec):
    """The newest AMI with this name (``*`` allowed) and owner."""

    name: Text
    owner: Text


class Builder(Spec):
    """The instance on which Packer bakes."""

    instance_type: Text = "m6i.xlarge"
    subnet: Text | None = Field(default=None, description="default: the default VPC's")
    profile: Text | None = Field(default=None, description="an instance profile that exists already")
    ssh_user: Name = "ec2-user"
    connect: Literal["public-ip", "private-ip"] = "public-ip"


class Volume(Spec):
    """The root volume of the builder, which becomes the AMI's snapshot."""

    size: units.Size | None = Field(default=None, description="default: the base's size and room for the models")
    throughput: units.Rate = Field(default=125 * 1024**2, validate_default=False, description="gp3: 125 to 1000 MiB/s")


#: Names for bases that most people want -> the SSM parameter that AWS keeps for them.
KNOWN_BASES: Mapping[str, str] = {
    "ecs-gpu-al2023": "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended",
}


def _known_base(text: str) -> str:
    if text not in KNOWN_BASES and not text.startswith("ami-"):
        raise ValueError(f"expected an AMI id (ami-…), {{ssm: …}}, {{name: …, owner: …}} or {', '.join(KNOWN_BASES)}")
    return text


def _base_form(base: Any) -> str:
    """Return which of its forms a base AMI is written in, so that only that form's problems are told."""
    if not isinstance(base, Mapping):
        return "text"
    return "ssm" if "ssm" in base else "name"


Base = Annotated[
    Annotated[Text, AfterValidator(_known_base), Tag("text")]
    | Annotated[BaseBySsm, Tag("ssm")]
    | Annotated[BaseByName, Tag("name")],
    Discriminator(_base_form),
]


class Ami(Spec):
    """The half that changes with the models."""

    base: Base
    builder: Builder = Builder()
    volume: Volume = Volume()
    provision: tuple[RelativePath, ...] = Field(
        default=(),
        strict=False,
        description="shell scripts of yours, run as root before the models are fetched",
    )


def _known_builder(name: str) -> str:
    if name not in registry.IMAGE_BUILDERS:
        raise ValueError(f"expected one of {', '.join(registry.IMAGE_BUILDERS)}")
    return name


class Image(Spec):
    """The half that changes with the code."""

    base: Text = Field(description="python:3.11-slim, or ecr://repository:tag in the account's own registry")
    builder: Annotated[Text, AfterValidator(_known_builder)] = "docker"
    context: RelativePath | Literal["."] = Field(default=".", description="the folder that include is relative to")
    include: tuple[RelativePath, ...] = Field(
        min_length=1,
        strict=False,
        description="glob patterns; a trailing / takes a folder; nothing else travels",
    )
    exclude: tuple[RelativePath, ...] = Field(default=(), strict=False, description="glob patterns taken out again")
    requirements: RelativePath | None = Field(default=None, description="a pip requirements file in the context")
    workdir: AbsolutePath = "/app"
    mounts: dict[RelativePath, AbsolutePath] = Field(
        min_length=1, description="folder below models.root: where the container sees it, read-only"
    )
    command: tuple[Text, ...] = Field(min_length=1, strict=False)
    uid: int = Field(default=10001, ge=1, description="the user that runs it; never root")
    repository: Annotated[str, Field(pattern=r"^[a-z0-9]+([._/-][a-z0-9]+)*$")]
    budget: units.Size = Field(description="the most that the image may take uncompressed, for example 500 MB")


class Verify(Spec):
    """What verification needs to know beyond the lock."""

    instance_type: Text = Field(default="m6i.large", description="the AMI is booted on one of these")
    imports: tuple[Text, ...] = Field(default=(), strict=False, description="modules that must import in the image")
    run: tuple[Text, ...] | None = Field(
        default=None,
        strict=False,
        description="a command that must succeed in the image with the models mounted",
    )
    within: units.Duration = Field(default=300, validate_default=False, description="for the AMI to answer by SSH")


class Smoke(Spec):
    """One real job, submitted on what is released."""

    queue: Text
    job_definition: Text
    environment: dict[Text, Text] = Field(default_factory=dict)
    presign: dict[Text, Annotated[str, Field(pattern=r"^s3://[^/]+/.+")]] = Field(
        default_factory=dict, description="variable: S3 object that the job reads by a presigned URL"
    )
    within: units.Duration = Field(default=600, validate_default=False)


class Environment(Spec):
    """One account and region with the targets that a release moves there."""

    account: Account
    region: Region
    endpoint: Literal["aws", "custom"] = Field(
        default="aws",
        description="custom: AWS_ENDPOINT_URL must be set (the local cloud); aws: it must not be",
    )
    release: tuple[ReleaseItem, ...] = Field(default=(), strict=False)
    smoke: Smoke | None = None


class Manifest(Spec):
    """The whole file."""

    version: Literal[1]
    project: Name
    state: Text = Field(description="where records live: a folder, or s3://bucket/prefix")
    models: Models
    ami: Ami
    image: Image
    verify: Verify = Verify()
    environments: dict[Name, Environment] = Field(min_length=1)

    @model_validator(mode="after")
    def _mounts_have_models(self) -> Manifest:
        paths = [entry.path for entry in self.models.files]
        for folder in self.image.mounts:
            if not any(path.startswith(f"{folder.rstrip('/')}/") for path in paths):
                raise ValueError(f"image.mounts names {folder!r}, but no model file lies below it in models.files")
        return self


def load(path: Path) -> Manifest:
    """Read and check the manifest at ``path``.

    Raises:
        ManifestError: with every problem of the file, each on a line of its own.
    """
    document = yamldoc.read(path)
    manifest, problems = explain(Manifest, document)
    if problems or manifest is None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ManifestError(f"{path} has {count}:\n{lines}", hint="splitbake schema prints what each key may hold")
    return manifest


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the manifest, for editors."""
    schema = Manifest.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "splitbake.yaml", **schema}
