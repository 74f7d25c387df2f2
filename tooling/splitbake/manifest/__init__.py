"""The manifest ``splitbake.yaml``: what the user wants, read into one strict, immutable model.

A wrong file gives every problem at once (ManifestError), each with file:line:column, what was expected, and the
nearest valid key or value.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field

from splitbake import contract, registry, units
from splitbake.errors import ManifestError
from splitbake.manifest import yamldoc
from splitbake.manifest.ami import Ami
from splitbake.manifest.contradictions import contradictions
from splitbake.manifest.image import Image
from splitbake.manifest.problems import explain
from splitbake.manifest.runtime import Runtime
from splitbake.spec import (
    AbsolutePath,
    Account,
    InstanceType,
    Module,
    Name,
    Region,
    RelativePath,
    S3Object,
    Sha256,
    Spec,
    Text,
    Variable,
    nearest,
    tag,
    tag_name,
)

FILE_NAME = "splitbake.yaml"

if TYPE_CHECKING:
    from splitbake.release.targets import Target

    ReleaseItem = Target
else:

    def _kind(item: Any) -> str | None:
        """Return which registered key a release item has: that key is its kind."""
        keys = item.keys() if isinstance(item, Mapping) else ()
        return next((tag_name(key) for key in keys if key in registry.TARGETS), None)

    ReleaseItem = Annotated[
        functools.reduce(
            operator.or_,
            [Annotated[registry.load(registry.TARGETS, kind), tag(kind)] for kind in registry.TARGETS],
        ),
        Discriminator(
            _kind,
            custom_error_type="one_key_of",
            custom_error_message="expected a target: a mapping with one of the keys {keys}",
            custom_error_context={"keys": ", ".join(registry.TARGETS)},
        ),
    ]


def _of_a_source(uri: str) -> str:
    scheme = registry.scheme(uri)
    if scheme not in registry.MODEL_SOURCES:
        schemes = [name for name in registry.MODEL_SOURCES if name]
        known = ", ".join(f"{name}://" for name in schemes)
        raise ValueError(f"expected {known} or a path in the project{nearest(scheme, schemes)}")
    registry.load(registry.MODEL_SOURCES, scheme).check(uri)
    return uri


class ModelFile(Spec):
    """One model file, or with a trailing ``/`` on both sides every file below a prefix or folder."""

    path: Annotated[RelativePath, AfterValidator(contract.beside_folder)] = Field(
        description="where it lies below models.root; a trailing / means a folder"
    )
    source: Annotated[Text, AfterValidator(_of_a_source)] = Field(
        alias="from",
        description="s3://bucket/key, https://host/path, hf://org/repository@revision/path, or a path in the project",
        examples=["s3://my-models/models/yolo.onnx", "hf://my-org/llava@main/checkpoints/"],
    )
    sha256: Sha256 | None = Field(default=None, description="insist on this content; the lock refuses any other")

    @property
    def is_folder(self) -> bool:
        """Whether this entry stands for every file below a prefix."""
        return self.path.endswith("/")

    @property
    def scheme(self) -> str:
        """Which kind of source it comes from: a key of ``registry.MODEL_SOURCES``."""
        return registry.scheme(self.source)


class Models(Spec):
    """The model files of the AMI."""

    root: AbsolutePath = Field(default="/opt/dl-models", description="where they lie on the host")
    files: tuple[ModelFile, ...] = Field(min_length=1, strict=False, description="what to put there, and from where")
    budget: units.Size = Field(description="the most that all model files together may take, for example 3 GiB")
    mode: Literal["0755", "0555"] = Field(default="0755", description="of files and folders alike")
    placement: Literal["volume", "root"] = Field(
        default="volume", description="on an EBS volume of their own, mounted read-only, or on the root volume"
    )
    prewarm: Literal["read", "none"] = Field(
        default="read", description="read them once at boot: blocks of a snapshot come slowly at their first reading"
    )


class Verify(Spec):
    """What verification needs to know beyond the lock."""

    instance_type: InstanceType = Field(default="m6i.large", description="the AMI is booted on one of these")
    instances: int = Field(default=2, ge=1, le=4, description="as many at the same time: their identities must differ")
    gpu: bool = Field(default=False, description="insist on a working GPU: instance_type must have one")
    imports: tuple[Module, ...] = Field(default=(), strict=False, description="modules that must import in the image")
    run: tuple[Text, ...] | None = Field(
        default=None,
        strict=False,
        description="a command that must succeed in the image with the models mounted",
        examples=[["python", "run.py", "--self-test"]],
    )
    within: units.Duration = Field(
        default="5 min", validate_default=True, description="the time that the AMI has to answer by SSH"
    )


class Smoke(Spec):
    """One real job, submitted on what is released."""

    queue: Text = Field(description="the Batch job queue")
    job_definition: Text = Field(description="the Batch job definition, by name")
    environment: dict[Variable, str] = Field(default_factory=dict, description="variables of the job")
    presign: dict[Variable, S3Object] = Field(
        default_factory=dict, description="variable: S3 object that the job reads by a presigned URL"
    )
    within: units.Duration = Field(default="10 min", validate_default=True, description="the time that the job has")


def _each_once(items: tuple[ReleaseItem, ...]) -> tuple[ReleaseItem, ...]:
    places = Counter((item.label, getattr(item, item.kind)) for item in items)
    twice = [label for (label, _), count in places.items() if count > 1]
    if twice:
        raise ValueError(f"a target can be listed once; listed again: {', '.join(twice)}")
    return items


class Promote(Spec):
    """What an environment releases that builds nothing of its own: the pair of another one."""

    origin: Name = Field(alias="from", description="the environment whose last good release is released here")
    ami: Literal["copy", "share"] = Field(
        default="copy", description="into another account: copied there, or launched as it is; regions: copied"
    )


class Environment(Spec):
    """One account and region with the targets that a release moves there."""

    account: Account = Field(description="12 digits, in quotes; every change is refused with other credentials")
    region: Region = Field(description="where everything of this environment is")
    endpoint: Literal["aws", "custom"] = Field(
        default="aws",
        description="custom: AWS_ENDPOINT_URL must be set (the local cloud); aws: it must not be",
    )
    release: Annotated[tuple[ReleaseItem, ...], AfterValidator(_each_once)] = Field(
        default=(), strict=False, description="what names the AMI and the image"
    )
    promote: Promote | None = Field(default=None, description="release the very pair of another environment")
    smoke: Smoke | None = Field(default=None, description="the job that splitbake smoke submits")


def _folder_or_s3(state: str) -> str:
    scheme = registry.scheme(state)
    if scheme not in {"", "s3"} or state.rstrip("/") == "s3:":
        raise ValueError(f"expected a folder or s3://bucket/prefix{nearest(scheme, ['s3'])}")
    return state


class Manifest(Spec):
    """The whole file. ``load`` checks more than this model alone: what its parts say about each other."""

    version: Literal[1] = Field(description="of this format")
    project: Name = Field(description="names what is built")
    contract: int = Field(
        default=1, ge=1, description="raise it when old code cannot use new models although paths are the same"
    )
    state: Annotated[Text, AfterValidator(_folder_or_s3)] = Field(
        description="where records live: a folder, or s3://bucket/prefix",
        examples=["s3://my-splitbake/video-analysis", ".splitbake/state"],
    )
    models: Models
    runtime: Runtime | None = Field(default=None, description="heavy Python packages that live on the host")
    ami: Ami
    image: Image
    verify: Verify = Field(default_factory=Verify)
    environments: dict[Name, Environment] = Field(min_length=1, description="the first one is the default")


def load(path: Path) -> Manifest:
    """Read and check the manifest at ``path``.

    Raises:
        ManifestError: with every problem of the file, each on a line of its own.
    """
    document = yamldoc.read(path)
    manifest, problems = explain(Manifest, document, contradictions)
    if problems or manifest is None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ManifestError(f"{path} has {count}:\n{lines}", hint="splitbake schema prints what each key may hold")
    return manifest
