"""The base of everything that a manifest can hold, and the string types shared by its parts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, Tag
from pydantic_core import core_schema


class Spec(BaseModel):
    """A strict, immutable piece of the manifest: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


#: Begins the names of union members, which pydantic puts into the location of an error as if they were keys.
_TAG = "\0"


def tag(member: str) -> Tag:
    """Return the name of a union's member, written so that no key of a file can look like it."""
    return Tag(tag_name(member))


def tag_name(member: str) -> str:
    """Return what a discriminator answers for ``member``."""
    return _TAG + member


def is_tag(part: object) -> bool:
    """Return whether a part of an error's location is the name of a union's member."""
    return isinstance(part, str) and part.startswith(_TAG)


def nearest(word: str, valid: Iterable[str]) -> str:
    """Return "; did you mean …?" for the valid word that ``word`` is close to, "" where none is."""
    near = difflib.get_close_matches(word, list(valid), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True)
class Form:
    """Metadata of a text type: a check in words, and a pattern for editors, which understand nothing else.

    Attributes:
        check: returns the text; ValueError says what was expected.
        pattern: the same as a regular expression, in what Python and JSON Schema have in common.
        examples: valid values.
    """

    check: Callable[[str], str]
    pattern: str
    examples: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        examples = {"examples": list(self.examples)} if self.examples else {}
        return {"type": "string", "pattern": self.pattern, **examples}


def matching(pattern: str, expected: str, example: str) -> Form:
    """Return the form of a text that matches ``pattern`` as a whole.

    Args:
        pattern: without anchors.
        expected: completes "expected …", for people.
        example: a valid value.
    """
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"expected {expected}, for example {example}")
        return value

    return Form(check, f"^(?:{pattern})$", (example,))


def _plain(value: str) -> str:
    if not value:
        raise ValueError("expected some text")
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", value):
        raise ValueError("control characters such as newlines and tabs cannot stand here")
    return value


def _relative(value: str) -> str:
    path = PurePosixPath(_plain(value))
    if path.is_absolute() or ".." in path.parts or str(path) != value.removesuffix("/") or value == ".":
        raise ValueError("expected a path below the folder it belongs to: not absolute, without '.', '..' and '//'")
    return value


def _folder(value: str) -> str:
    return value if value == "." else _relative(value)


def _absolute(value: str) -> str:
    path = PurePosixPath(_plain(value))
    if not path.is_absolute() or ".." in path.parts or str(path) != value or value in {"/", "//"}:
        raise ValueError("expected an absolute path without '..', '//' or a final '/', for example /opt/dl-models")
    return value


# The grammar of github.com/distribution/reference, without digests: those are the lock's business.
_IMAGE_PART = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
IMAGE_HOST = "(?:localhost|[A-Za-z0-9-]+(?:[.][A-Za-z0-9-]+)+|[A-Za-z0-9.-]+(?=:[0-9]))(?::[0-9]+)?"
IMAGE_NAME = f"{_IMAGE_PART}(?:/{_IMAGE_PART})*"
IMAGE_TAG = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"

# A pattern for editors: no part of the path is empty, "." or "..".
_PART = r"(?!\.{1,2}(?:/|$))[^/\x00-\x1f\x7f]+"

Text = Annotated[str, Form(_plain, r"^[^\x00-\x1f\x7f]+$")]
RelativePath = Annotated[str, Form(_relative, rf"^{_PART}(?:/{_PART})*/?$")]
FolderPath = Annotated[str, Form(_folder, rf"^(?:\.|{_PART}(?:/{_PART})*/?)$")]
AbsolutePath = Annotated[str, Form(_absolute, rf"^(?:/{_PART})+$", ("/opt/dl-models",))]
Sha256 = Annotated[str, matching("[0-9a-f]{64}", "64 hexadecimal digits in lower case", "9f86d081" * 8)]
Account = Annotated[str, matching("[0-9]{12}", "the 12 digits of an AWS account", "123456789012")]
Region = Annotated[str, matching("[a-z]{2}(-[a-z]+)+-[0-9]", "an AWS region", "eu-west-1")]
Name = Annotated[
    str,
    matching("[a-z0-9][a-z0-9._-]{1,62}", "2 to 63 lower-case letters, digits and ._-", "video-analysis"),
]
InstanceType = Annotated[str, matching("[a-z][a-z0-9-]*[.][a-z0-9-]+", "an EC2 instance type", "m6i.xlarge")]
Repository = Annotated[
    str,
    matching("[a-z0-9]+([._/-][a-z0-9]+)*", "an ECR repository, in lower case and without registry", "team/processor"),
]
ImageReference = Annotated[
    str,
    matching(
        f"(?:ecr://|(?:{IMAGE_HOST}/)?){IMAGE_NAME}(?::{IMAGE_TAG})?",
        "the name of an image as Docker takes it, or ecr://repository:tag, without a digest, which the lock adds",
        "python:3.11-slim",
    ),
]
Module = Annotated[
    str,
    matching("[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*", "the name of a Python module", "numpy.linalg"),
]
Variable = Annotated[str, matching("[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable", "VIDEO_URL")]
S3Object = Annotated[
    str,
    matching(r"s3://[a-z0-9][a-z0-9.-]+/[^/\x00-\x1f\x7f][^\x00-\x1f\x7f]*", "an S3 object", "s3://bucket/key.mp4"),
]
