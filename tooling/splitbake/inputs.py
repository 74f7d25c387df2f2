"""The inputs of a half: everything that can change its content, and the digest of it, its fingerprint.

The digest covers names and contents alone: no time, no path of the checkout, no order in which a tool lists files.
docs/fingerprints.md says what enters and how it is written; a change of either needs a new scheme.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from splitbake.artifact import Half

#: Stands in every digest, so that a later scheme never takes an artifact of this one for its own.
SCHEME: Final = "splitbake-fingerprint-3"
#: Values that are generated texts, as their lines: they change with the manifest, or with splitbake.
TEXTS: Final = ("Dockerfile", "Packer template")


@dataclass(frozen=True)
class Inputs:
    """What one half is made from.

    Attributes:
        half: which one.
        values: name -> plain data (JSON).
        files: ``kind/path`` -> what is in it, as SHA-256, after its mode where that matters. Kinds: ``file`` (of the
            build context), ``model``, ``script`` (that provisions the AMI, or comes with the image), ``wheel``.
    """

    half: Half
    values: Mapping[str, Any]
    files: Mapping[str, str]

    @cached_property
    def fingerprint(self) -> str:
        """The digest of ``text``, ``sha256:…``."""
        return f"sha256:{hashlib.sha256(self.text).hexdigest()}"

    @cached_property
    def text(self) -> bytes:
        """JSON in one form only: keys sorted by code point, no blanks, ASCII with ``\\u`` escapes. As ``jq -cSaj``."""
        body = {"scheme": SCHEME, "half": self.half, "values": self.values, "files": self.files}
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    @classmethod
    def from_text(cls, text: bytes) -> Self | None:
        """Read what ``text`` says; None where it is of another scheme, which cannot be compared with this one.

        Raises:
            ValueError: it is not a text of inputs.
        """
        match json.loads(text):
            case {"scheme": str(scheme)} if scheme != SCHEME:
                return None
            case {"half": "ami" | "image" as half, "values": dict(values), "files": dict(files)}:
                return cls(half, values, files)
            case _:
                raise ValueError("these are no inputs")
