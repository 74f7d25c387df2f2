"""The base of everything that a manifest can hold, and the string types shared by its parts."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints


class Spec(BaseModel):
    """A strict, immutable piece of the manifest: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


def _no_control_characters(text: str) -> str:
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("control characters such as newlines and tabs cannot stand here")
    return text


def _relative(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or text in {"", "."}:
        raise ValueError("expected a path below the folder it belongs to: not absolute, no '..'")
    return text


def _absolute(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or str(path) != text or text == "/":
        raise ValueError("expected an absolute path without '..', '//' or a final '/', for example /opt/dl-models")
    return text


Text = Annotated[str, StringConstraints(min_length=1), AfterValidator(_no_control_characters)]
RelativePath = Annotated[Text, AfterValidator(_relative)]
AbsolutePath = Annotated[Text, AfterValidator(_absolute)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Account = Annotated[str, StringConstraints(pattern=r"^\d{12}$")]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{1,62}$")]
