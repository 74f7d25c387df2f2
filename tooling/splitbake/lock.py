"""The lock ``splitbake.lock``: what the manifest resolved to, pinned by id, digest and checksum.

It is JSON with sorted keys and holds no time of its own making, so locking twice gives the same bytes.
Resolving (the only part that talks to the outside) is in ``splitbake.resolve``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, Literal, get_args

from pydantic import Field, ValidationError

from splitbake import files
from splitbake import runtime as runtimes
from splitbake.errors import LockError
from splitbake.manifest import Manifest
from splitbake.manifest.ami import BaseByName, BaseBySsm
from splitbake.runtime import LockedRuntime
from splitbake.spec import RelativePath, Sha256, Spec, Text

FILE_NAME = "splitbake.lock"

#: What can be locked anew by itself: base AMI and base image, the models, the runtime, or the order of layers.
Part = Literal["base", "models", "runtime", "order"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)

_RELOCK = "run splitbake lock"


class LockedFile(Spec):
    """One model file: where it comes from, and the content that it must have."""

    path: RelativePath = Field(description="below models.root")
    source: Text
    size: int = Field(ge=0, description="bytes")
    sha256: Sha256
    etag: Text | None = Field(default=None, description="its entity tag then, or git's name of its content")
    modified: Text | None = Field(default=None, description="its time of change then, where it has no entity tag")
    version: Text | None = Field(default=None, description="its version in a bucket that keeps versions: it is read")
    resolved: Text | None = Field(default=None, description="where redirects from source led: it is read there")
    checksum: Text | None = Field(default=None, description="what its source keeps besides; equal for equal content")


class LockedModels(Spec):
    """What one entry of ``models.files`` resolved to: one file, or every file below a prefix."""

    path: RelativePath
    source: Text = Field(description="as the manifest names it")
    files: tuple[LockedFile, ...] = Field(strict=False)


class LockedBaseAmi(Spec):
    """The base AMI of one region."""

    request: Text = Field(description="what the manifest asked for")
    id: Text
    name: Text
    owner: Text
    created: Text = Field(description="ISO 8601, as EC2 gives it")
    architecture: Text
    region: Text
    root_device: Text
    root_size: int = Field(ge=1, description="bytes of the base's root snapshot; no volume may be smaller")
    deprecated: Text | None = Field(default=None, description="when its owner gives it up, ISO 8601; None: not told")


class LockedBaseImage(Spec):
    """The base image by digest."""

    request: Text
    digest: Text


class Lock(Spec):
    """The whole file."""

    version: Literal[1] = 1
    base_ami: LockedBaseAmi
    base_image: LockedBaseImage
    models: tuple[LockedModels, ...] = Field(strict=False)
    runtime: LockedRuntime | None = None
    order: tuple[Text, ...] | None = Field(
        default=None, strict=False, description="image.include by how seldom git saw it change; for image.order: auto"
    )

    @property
    def files(self) -> list[LockedFile]:
        """Every model file, by path."""
        return sorted((file for entry in self.models for file in entry.files), key=lambda file: file.path)

    @property
    def models_size(self) -> int:
        """The bytes of all model files together."""
        return sum(file.size for file in self.files)

    @property
    def models_digest(self) -> str:
        """One digest over all model files; the order of entries and where they come from do not matter."""
        lines = "".join(f"{file.sha256} {file.size} {file.path}\n" for file in self.files)
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"

    def to_text(self) -> str:
        """Return the bytes of the lock file as text."""
        body = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def base_request(manifest: Manifest) -> str:
    """Return the wish for a base AMI in one line, as the lock remembers it."""
    base = manifest.ami.base
    if isinstance(base, BaseBySsm):
        return f"ssm:{base.ssm}"
    if isinstance(base, BaseByName):
        return f"name:{base.name} owner:{base.owner}"
    return base


def read(path: Path) -> Lock:
    """Read the lock at ``path``; LockError where it is missing or damaged."""
    try:
        return Lock.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise LockError(f"{path} does not exist", hint=_RELOCK) from None
    except (OSError, ValidationError) as problem:
        raise LockError(f"{path} cannot be used: {problem}", hint=f"restore it from git, or {_RELOCK}") from None


def read_if_usable(path: Path) -> Lock | None:
    """Read the lock at ``path`` for one that will replace it: None where it is missing or damaged."""
    try:
        return read(path)
    except LockError:
        return None


def write(path: Path, lock: Lock) -> None:
    """Write ``lock`` to ``path``, all of it or nothing; the same bytes are not written again.

    Raises:
        LockError: it cannot be written; what was there before is untouched.
    """
    text = lock.to_text()
    if not path.is_file() or path.read_bytes() != text.encode():
        files.replace(path, text, LockError)


def read_for(manifest: Manifest, path: Path) -> Lock:
    """Read the lock at ``path`` and insist that it belongs to ``manifest``; no network is asked.

    Raises:
        LockError: it is missing, damaged, or the manifest asks for something else by now.
    """
    lock = read(path)
    changes = list(mismatches(manifest, lock, path.parent))
    if changes:
        lines = "\n".join(f"  {change}" for change in changes)
        raise LockError(f"{path} does not belong to the manifest any more:\n{lines}", hint=_RELOCK)
    return lock


def mismatches(manifest: Manifest, lock: Lock, root: Path, parts: Collection[Part] = PARTS) -> Iterator[str]:
    """Yield what the manifest of the project in ``root`` asks for and these parts of the lock do not answer."""
    if "base" in parts:
        if lock.base_ami.request != base_request(manifest):
            yield f"ami.base is {base_request(manifest)}, locked is {lock.base_ami.request}"
        if lock.base_image.request != manifest.image.base:
            yield f"image.base is {manifest.image.base}, locked is {lock.base_image.request}"
    if "models" in parts:
        yield from _model_mismatches(manifest, lock)
    if "runtime" in parts:
        yield from _runtime_mismatches(manifest, lock, root)
    if "order" in parts:
        wanted = set(manifest.image.include) if manifest.image.order == "auto" else set()
        if set(lock.order or ()) != wanted:
            yield f"image.order is {manifest.image.order}, the order of the layers is locked for other patterns"


def _model_mismatches(manifest: Manifest, lock: Lock) -> Iterator[str]:
    wanted = {(entry.path, entry.source): entry for entry in manifest.models.files}
    locked = {(entry.path, entry.source): entry for entry in lock.models}
    for path, source in sorted(wanted.keys() - locked.keys()):
        yield f"{path} from {source} is not locked"
    for path, source in sorted(locked.keys() - wanted.keys()):
        yield f"{path} from {source} is locked, but the manifest does not name it"
    for key in sorted(wanted.keys() & locked.keys()):
        pinned = wanted[key].sha256
        found = [file.sha256 for file in locked[key].files]
        if pinned and found != [pinned]:
            yield f"{key[0]} must have sha256 {pinned}, locked is {', '.join(found)}"


def _runtime_mismatches(manifest: Manifest, lock: Lock, root: Path) -> Iterator[str]:
    requirements = None
    if manifest.runtime:
        with contextlib.suppress(OSError):  # told as a file that cannot be read
            requirements = (root / manifest.runtime.requirements).read_bytes()
    yield from runtimes.mismatches(manifest, requirements, lock.runtime, lock.base_ami.architecture)
