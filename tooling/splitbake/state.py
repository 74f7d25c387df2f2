"""Where records, artifacts and reports live: an S3 prefix, or a folder for one person.

Keys are slash-separated; values are small JSON texts. Nothing secret is ever stored, and nothing is ever deleted.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from splitbake import files
from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError, StateError
from splitbake.manifest import Manifest

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


@dataclass(frozen=True)
class Stored:
    """What stands under a key.

    Attributes:
        value: the text.
        version: tells this value from every other one that stood or will stand there; equal values may share one.
    """

    value: bytes
    version: str


class Store(Protocol):
    """A small key-value store with compare-and-swap; the only thing that state needs.

    A conditional write that answers False may still have been stored where its first answer was lost on the way and
    S3's client sent it again: whoever must know looks with ``get``.
    """

    def get(self, key: str) -> Stored | None:
        """Return what stands under ``key``, None where there is nothing."""

    def create(self, key: str, value: bytes) -> bool:
        """Store ``value`` unless ``key`` exists; return whether it was stored."""

    def replace(self, key: str, value: bytes, version: str) -> bool:
        """Store ``value`` if what stands there still is ``version``; return whether it was stored."""

    def put(self, key: str, value: bytes) -> None:
        """Store ``value``, replacing what is there; a reader sees the old or the new, never a part."""

    def keys(self, prefix: str) -> list[str]:
        """Return every key that starts with ``prefix``, sorted."""


#: No part of a key is empty or begins with a dot: so none leads out of its root, or hides among a folder's own files.
_KEY = re.compile(r"[^./\x00-\x1f\x7f][^/\x00-\x1f\x7f]*(/[^./\x00-\x1f\x7f][^/\x00-\x1f\x7f]*)*")


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise StateError(f"{key!r} cannot be a key of the state: a part of it is empty or begins with a dot")
    return key


class FolderStore:
    """State in a folder.

    Who writes holds the lock on the folder's ``.lock``, so several processes of one machine never lose a write. On NFS
    that holds between machines only where the mount has working locks (no ``nolock``, no ``local_lock``); S3 is
    the better place to share.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, key: str) -> Stored | None:
        """See Store."""
        path = self._root / _checked(key)
        try:
            value = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise StateError(f"cannot read {path}: {problem}") from problem
        return Stored(value, hashlib.sha256(value).hexdigest())

    def create(self, key: str, value: bytes) -> bool:
        """See Store."""
        return self._write(key, value, lambda: self.get(key) is None)

    def replace(self, key: str, value: bytes, version: str) -> bool:
        """See Store."""

        def unchanged() -> bool:
            there = self.get(key)
            return there is not None and there.version == version

        return self._write(key, value, unchanged)

    def put(self, key: str, value: bytes) -> None:
        """See Store."""
        self._write(key, value, lambda: True)

    def keys(self, prefix: str) -> list[str]:
        """See Store; reads the folder that the prefix names, and below it only what begins with the rest of it."""
        folder, slash, start = prefix.rpartition("/")
        top = self._root / _checked(folder) if slash else self._root
        try:
            return sorted(f"{folder}{slash}{name}" for name in _names(top, start))
        except OSError as problem:
            raise StateError(f"cannot list {top}: {problem}") from problem

    def _write(self, key: str, value: bytes, may: Callable[[], bool]) -> bool:
        """Write ``value`` where ``may`` allows it under the lock; a crash leaves the old value or the new one."""
        target = self._root / _checked(key)
        with files.writing(target, StateError):
            target.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._root / ".lock"):
                if not may():
                    return False
                _lay(target, value)
        return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:  # NFS wants a lock's file open for writing
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lay(target: Path, value: bytes) -> None:
    """Put ``value`` in the place of ``target``, through to the disk: first the content, then the name."""
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _names(folder: Path, start: str = "") -> Iterator[str]:
    """Yield the keys below ``folder``, relative to it, that begin with ``start``."""
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.startswith(start):
                continue
            if entry.is_dir():
                yield from (f"{entry.name}/{name}" for name in _names(Path(entry)))
            else:
                yield entry.name


#: Seconds before each further try of a write that met another one on its way.
_AGAIN_AFTER = (0.1, 0.2, 0.4, 0.8, 1.6)


class S3Store:
    """State below an S3 prefix; conditional writes decide between two writers.

    ``If-None-Match: *`` creates and ``If-Match: ETAG`` replaces. 412 PreconditionFailed, and 404 NoSuchKey for an
    object that is gone, say that somebody else was there. 409 ConditionalRequestConflict says only that something
    else was on its way: nothing was stored, and the condition decides when it is sent again ("on a 409 failure you
    should retry the upload", API reference of PutObject).
    """

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def get(self, key: str) -> Stored | None:
        """See Store."""
        try:
            with aws_errors(f"read {self._uri(key)}"):
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + _checked(key))
                return Stored(answer["Body"].read(), answer["ETag"])
        except CloudError as problem:
            if error_code(problem) == "NoSuchKey":
                return None
            raise

    def create(self, key: str, value: bytes) -> bool:
        """See Store."""
        return self._put_if(key, value, {"IfNoneMatch": "*"})

    def replace(self, key: str, value: bytes, version: str) -> bool:
        """See Store."""
        return self._put_if(key, value, {"IfMatch": version})

    def put(self, key: str, value: bytes) -> None:
        """See Store."""
        self._put(key, value, {})

    def keys(self, prefix: str) -> list[str]:
        """See Store."""
        with aws_errors(f"list {self._uri(prefix)}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            names = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return sorted(name.removeprefix(self._prefix) for name in names)

    def _put_if(self, key: str, value: bytes, condition: dict[str, Any]) -> bool:
        pauses = iter(_AGAIN_AFTER)
        while True:
            try:
                self._put(key, value, condition)
            except CloudError as problem:
                code = error_code(problem)
                if code in ("PreconditionFailed", "NoSuchKey"):
                    return False
                pause = next(pauses, None)
                if code != "ConditionalRequestConflict" or pause is None:
                    raise
                time.sleep(pause)
            else:
                return True

    def _put(self, key: str, value: bytes, condition: dict[str, Any]) -> None:
        with aws_errors(f"write {self._uri(key)}"):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + _checked(key), Body=value, **condition)

    def _uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"


def open_store(manifest: Manifest, root: Path, cloud: Cloud) -> Store:
    """Return the store that the manifest names; a relative folder lies below ``root``, the project's folder."""
    if manifest.state.startswith("s3://"):
        bucket, _, prefix = manifest.state.removeprefix("s3://").partition("/")
        return S3Store(cloud.client("s3"), bucket, prefix)
    return FolderStore(root / manifest.state)
