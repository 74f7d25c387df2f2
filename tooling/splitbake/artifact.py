"""What building made and verification found, as data; ``splitbake.catalog`` remembers it."""

from __future__ import annotations

import datetime
from typing import Any, Literal

from pydantic import Field

from splitbake.contract import Need, Offer
from splitbake.spec import Spec, Text

Half = Literal["ami", "image"]
Work = Literal["build", "verify"]


class RegionalCopy(Spec):
    """The same AMI in another region."""

    region: Text
    id: Text


class Artifact(Spec):
    """An AMI or an image, with the fingerprint of everything it was made from."""

    half: Half
    id: Text = Field(description="ami-…, or sha256:… of the pushed image manifest")
    location: Text = Field(description="the region of an AMI; repository URI of an image")
    fingerprint: Text
    created: Text = Field(description="ISO 8601, UTC")
    seconds: float = Field(description="how long building took")
    size: int = Field(description="bytes: the model files of an AMI; an image uncompressed")
    compressed_size: int | None = Field(default=None, description="bytes in the registry, of an image")
    snapshots: tuple[Text, ...] = Field(default=(), strict=False)
    copies: tuple[RegionalCopy, ...] = Field(default=(), strict=False, description="of an AMI, in other regions")
    offers: Offer | None = Field(default=None, description="of an AMI: what an image finds on its hosts")
    needs: Need | None = Field(default=None, description="of an image: what it must find")
    promoted_from: Text | None = Field(default=None, description="the uri that this is a copy of")

    @property
    def uri(self) -> str:
        """How others name it: the AMI id, or ``repository@digest``."""
        return self.id if self.half == "ami" else f"{self.location}@{self.id}"


class Weight(Spec):
    """What something of an image takes."""

    kind: Literal["layer", "distribution", "file"]
    size: int = Field(description="bytes")
    name: Text


class Dependencies(Spec):
    """The image below code images: base and installed requirements."""

    key: Text = Field(description="digest of everything that it was made from")
    digest: Text = Field(description="sha256:… of its manifest")
    location: Text = Field(description="repository URI")
    size: int = Field(description="bytes uncompressed")
    heaviest: tuple[Weight, ...] = Field(default=(), strict=False, description="what takes most of it")
    created: Text = Field(description="ISO 8601, UTC")


Format = Literal["cyclonedx", "spdx"]


class Sbom(Spec):
    """The bill of materials of some layers of an image: the packages that they hold."""

    key: Text = Field(description="digest of the layers' diff ids")
    layers: tuple[Text, ...] = Field(strict=False, description="their diff ids, from the lowest")
    tool: Text = Field(description="what has read them, with its version")
    created: Text = Field(description="ISO 8601, UTC")
    packages: int
    documents: dict[Format, dict[str, Any]] = Field(description="format -> the document that the tool wrote")


class Check(Spec):
    """One thing that was looked at."""

    name: Text
    passed: bool = Field(description="nothing wrong was found")
    skipped: bool = Field(default=False, description="it could not be looked at here; saw says why")
    saw: str = Field(default="", description="what was found, in words")
    seconds: float = 0.0
    figures: dict[str, float] = Field(default={}, description="what was measured: name with its unit -> number")

    @property
    def mark(self) -> str:
        """One sign for people: passed, skipped, or failed."""
        return "○" if self.skipped else "✔" if self.passed else "✘"


class Report(Spec):
    """What verifying one artifact found."""

    half: Half
    artifact: Text = Field(description="the artifact's id")
    fingerprint: Text
    standard: Text = Field(description="digest of what was demanded: Project.standard")
    created: Text
    seconds: float
    checks: tuple[Check, ...] = Field(strict=False)

    @property
    def passed(self) -> bool:
        """Whether there were checks and none failed."""
        return any(not check.skipped for check in self.checks) and not self.failed

    @property
    def held(self) -> int:
        """How many checks passed; one that was skipped did not."""
        return sum(check.passed and not check.skipped for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the checks that failed."""
        return tuple(check.name for check in self.checks if not check.passed)

    @property
    def figures(self) -> dict[str, float]:
        """Everything that was measured: name with its unit -> number."""
        return {name: number for check in self.checks for name, number in check.figures.items()}


class Run(Spec):
    """One piece of work that was done: what the next one of its kind may be expected to take."""

    half: Half
    work: Work
    fingerprint: Text
    created: Text = Field(description="ISO 8601, UTC")
    seconds: float
    dollars: float | None = Field(default=None, description="of the instance, where its price is known")


def now() -> str:
    """Return the present moment as the state writes it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
