"""Where the models are, and how the analysis looks at a video."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import yaml

WORKSPACE = Path("/workspace")


class ConfigError(Exception):
    """The host does not offer what this image needs: a model or its settings are missing or wrong."""


@dataclass(frozen=True)
class Inputs:
    """The files that the host mounts into the container, read-only.

    Attributes:
        face_model: CenterFace, finds faces.
        text_model: the text detector of PP-OCRv4, finds text.
        experiment: the settings that belong to these models.
    """

    face_model: Path
    text_model: Path
    experiment: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Take the mount points from MODELS_DIR, CHECKPOINTS_DIR and EXPERIMENTS_DIR, else below /workspace."""
        models = Path(environment.get("MODELS_DIR", WORKSPACE / "models"))
        checkpoints = Path(environment.get("CHECKPOINTS_DIR", WORKSPACE / "checkpoints"))
        experiments = Path(environment.get("EXPERIMENTS_DIR", WORKSPACE / "experiments"))
        return cls(
            face_model=models / "centerface.onnx",
            text_model=checkpoints / "ocr-det" / "ch_PP-OCRv4_det_infer.onnx",
            experiment=experiments / "faces.yaml",
        )

    def require(self) -> None:
        """Check that every file is there.

        Raises:
            ConfigError: naming all that are not.
        """
        missing = [path for path in (getattr(self, field.name) for field in fields(self)) if not path.is_file()]
        if missing:
            raise ConfigError(f"missing: {', '.join(map(str, missing))}; are the models of the AMI mounted?")


@dataclass(frozen=True)
class Settings:
    """The contents of ``faces.yaml``; probabilities and overlaps are in (0, 1), sizes in pixels."""

    longest_side: int
    face_threshold: float
    face_overlap: float
    text_threshold: float
    text_least_pixels: int
    text_every: int

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the settings.

        Raises:
            ConfigError: a setting is missing, unknown, or out of its range.
        """
        try:
            return cls.parse(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, ConfigError) as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def parse(cls, document: object) -> Self:
        """Build the settings from the parsed document; see `load`."""
        section = _Section.root(document, {"frame", "faces", "text"})
        frame = section.child("frame", {"longest_side"})
        faces = section.child("faces", {"threshold", "overlap"})
        text = section.child("text", {"threshold", "least_pixels", "every"})
        return cls(
            longest_side=frame.whole("longest_side", least=32),
            face_threshold=faces.share("threshold"),
            face_overlap=faces.share("overlap"),
            text_threshold=text.share("threshold"),
            text_least_pixels=text.whole("least_pixels", least=1),
            text_every=text.whole("every", least=1),
        )


@dataclass(frozen=True)
class _Section:
    """One mapping of the document, with its name for messages."""

    name: str
    values: Mapping[str, Any]

    @classmethod
    def root(cls, value: object, keys: set[str], name: str = "settings") -> Self:
        if not isinstance(value, dict) or set(value) != keys:
            raise ConfigError(f"{name}: expected exactly the keys {', '.join(sorted(keys))}")
        return cls(name, value)

    def child(self, key: str, keys: set[str]) -> Self:
        return self.root(self.values[key], keys, key)

    def whole(self, key: str, *, least: int) -> int:
        value = self.values[key]
        if type(value) is not int or value < least:
            raise ConfigError(f"{self.name}.{key}: expected a whole number of at least {least}, got {value!r}")
        return value

    def share(self, key: str) -> float:
        value = self.values[key]
        if type(value) is not float or not 0 < value < 1:
            raise ConfigError(f"{self.name}.{key}: expected a number between 0 and 1, got {value!r}")
        return value
