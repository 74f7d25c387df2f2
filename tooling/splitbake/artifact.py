"""What building made and verification found, as the state remembers it."""

from __future__ import annotations

import datetime
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from splitbake.errors import StateError
from splitbake.spec import Spec, Text
from splitbake.state import Store

Half = Literal["ami", "image"]


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

    @property
    def uri(self) -> str:
        """How others name it: the AMI id, or ``repository@digest``."""
        return self.id if self.half == "ami" else f"{self.location}@{self.id}"


class Check(Spec):
    """One thing that was looked at."""

    name: Text
    passed: bool
    saw: str = Field(default="", description="what was found, in words")
    seconds: float = 0.0


class Report(Spec):
    """What verifying one artifact found."""

    half: Half
    artifact: Text = Field(description="the artifact's id")
    fingerprint: Text
    standard: Text = Field(description="digest of what was demanded: Manifest.standard")
    created: Text
    seconds: float
    checks: tuple[Check, ...] = Field(strict=False)

    @property
    def passed(self) -> bool:
        """Whether there were checks and none failed."""
        return bool(self.checks) and all(check.passed for check in self.checks)


Kind = TypeVar("Kind", Artifact, Report)


def now() -> str:
    """Return the present moment as the state writes it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def save(store: Store, item: Artifact | Report) -> None:
    """Remember ``item`` under its fingerprint; the latest of one fingerprint counts."""
    store.put(_key(type(item), item.half, item.fingerprint), item.model_dump_json(indent=2).encode())


def find_artifact(store: Store, half: Half, fingerprint: str) -> Artifact | None:
    """Return the artifact that was built from exactly these inputs, None where there is none."""
    return _find(store, Artifact, half, fingerprint)


def find_report(store: Store, artifact: Artifact, standard: str) -> Report | None:
    """Return the report about exactly this artifact by this standard, None where it was never verified so."""
    report = _find(store, Report, artifact.half, artifact.fingerprint)
    return report if report and (report.artifact, report.standard) == (artifact.id, standard) else None


def _find(store: Store, kind: type[Kind], half: Half, fingerprint: str) -> Kind | None:
    """Read what ``save`` wrote.

    Raises:
        StateError: something else stands there.
    """
    key = _key(kind, half, fingerprint)
    value = store.get(key)
    try:
        return None if value is None else kind.model_validate_json(value)
    except ValidationError as problem:
        raise StateError(
            f"{key} in the state is damaged, or of another version of splitbake: {problem.errors()[0]['msg']}",
            hint=f"remove it; then splitbake build {half} and splitbake verify {half} make it anew",
        ) from problem


def _key(kind: type[Spec], half: Half, fingerprint: str) -> str:
    return f"{kind.__name__.lower()}s/{half}/{fingerprint.replace(':', '-')}.json"
