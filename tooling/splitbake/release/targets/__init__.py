"""The places that name an artifact: one file a kind.

A target's fields are what the manifest holds; its ``plan`` reads what is live and returns the steps that make it
name the new pair, none where it does already.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from splitbake.spec import Spec

if TYPE_CHECKING:
    from splitbake.artifact import Artifact
    from splitbake.release.live import Live
    from splitbake.release.steps import Output, Step


@dataclass(frozen=True)
class Pair:
    """An AMI and an image that are released together.

    Attributes:
        promoted_from: key of the other environment's record that it was promoted from.
    """

    ami: Artifact
    image: Artifact
    promoted_from: str | None = None


@dataclass(frozen=True)
class RootVolume:
    """The root volume that an AMI asks for; ``size`` in GiB."""

    device: str
    size: int


@dataclass(frozen=True)
class DataVolume:
    """A volume beside the root that an AMI brings: the models.

    Attributes:
        device: its name in the AMI's block device mapping.
        snapshot: id of the snapshot it is made from.
        size: GiB.
        initialize: MiB/s at which EC2 fills it on each new instance; None: as it is read.
    """

    device: str
    snapshot: str
    size: int
    initialize: int | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a target plans with.

    Attributes:
        live: AWS, to read from.
        root: the folder of the project.
        release: the id of this release.
        pair: what is released.
        volume: the root volume of the pair's AMI.
        data: its other volumes.
        models_root: where the models lie on the host.
        runtime_root: where host and container have the runtime; None: the image needs none.
        mounts: folder below it -> path in the container, read-only.
        versions: launch template id -> its version with the pair's AMI, of the templates planned so far.
    """

    live: Live
    root: Path
    release: str
    pair: Pair
    volume: RootVolume
    models_root: str
    mounts: Mapping[str, str]
    data: tuple[DataVolume, ...] = ()
    runtime_root: str | None = None
    versions: Mapping[str, str | Output] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A target's part of the plan; ``versions`` adds to those of the context."""

    steps: tuple[Step, ...] = ()
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str | Output] = field(default_factory=dict)


class Target(Spec, ABC):
    """A place that names an artifact.

    Attributes:
        kind: its key in the manifest, which is also the field that names it.
        needs_versions: whether it names a version of a launch template, so is planned after those.
    """

    kind: ClassVar[str]
    needs_versions: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """How people read it: ``launch_template video-analysis-gpu``."""
        return f"{self.kind} {getattr(self, self.kind)}"

    @abstractmethod
    def plan(self, context: Context) -> Planned:
        """Read what is live and plan what has to change; changes nothing.

        Raises:
            ReleaseError: the target is missing, or cannot be released to as it is.
            PatchError: a text cannot be patched.
            CloudError: AWS cannot be asked.
        """
