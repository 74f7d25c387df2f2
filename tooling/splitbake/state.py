"""Where records, artifacts and reports live: an S3 prefix, or a folder for one person.

Keys are slash-separated; values are small JSON texts. Nothing secret is ever stored.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from splitbake import files
from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError, StateError
from splitbake.manifest import Manifest

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class Store(Protocol):
    """A small key-value store; the only thing that state needs."""

    def get(self, key: str) -> bytes | None:
        """Return the value of ``key``, None where there is none."""

    def create(self, key: str, value: bytes) -> bool:
        """Store ``value`` unless ``key`` exists; return whether it was stored."""

    def put(self, key: str, value: bytes) -> None:
        """Store ``value``, replacing what is there; a reader sees the old or the new, never a part."""

    def keys(self, prefix: str) -> list[str]:
        """Return every key that starts with ``prefix``, sorted."""


class FolderStore:
    """State in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, key: str) -> bytes | None:
        """See Store."""
        try:
            return (self._root / key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise StateError(f"cannot read {self._root / key}: {problem}") from problem

    def create(self, key: str, value: bytes) -> bool:
        """See Store; ``link`` fails where the name exists, on every file system that has it."""
        target = self._root / key
        with files.writing(target, StateError), _beside(target, value) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
        return True

    def put(self, key: str, value: bytes) -> None:
        """See Store."""
        target = self._root / key
        with files.writing(target, StateError), _beside(target, value) as temporary:
            temporary.replace(target)

    def keys(self, prefix: str) -> list[str]:
        """See Store."""
        found = (path.relative_to(self._root).as_posix() for path in self._root.rglob("*.json"))
        return sorted(key for key in found if key.startswith(prefix))


@contextmanager
def _beside(target: Path, value: bytes) -> Iterator[Path]:
    """Lay ``value`` through to the disk beside ``target``; what is still there in the end is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


class S3Store:
    """State below an S3 prefix; creation is conditional (``If-None-Match: *``), so two writers never lose one."""

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def get(self, key: str) -> bytes | None:
        """See Store."""
        try:
            with aws_errors(f"read s3://{self._bucket}/{self._prefix}{key}"):
                return self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()
        except CloudError as problem:
            if error_code(problem) == "NoSuchKey":
                return None
            raise

    def create(self, key: str, value: bytes) -> bool:
        """See Store."""
        try:
            with aws_errors(f"create s3://{self._bucket}/{self._prefix}{key}"):
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=value, IfNoneMatch="*")
        except CloudError as problem:
            if error_code(problem) == "PreconditionFailed":
                return False
            raise
        return True

    def put(self, key: str, value: bytes) -> None:
        """See Store."""
        with aws_errors(f"write s3://{self._bucket}/{self._prefix}{key}"):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=value)

    def keys(self, prefix: str) -> list[str]:
        """See Store."""
        with aws_errors(f"list s3://{self._bucket}/{self._prefix}{prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            names = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return sorted(name.removeprefix(self._prefix) for name in names)


def open_store(manifest: Manifest, root: Path, cloud: Cloud) -> Store:
    """Return the store that the manifest names; a relative folder lies below ``root``, the project's folder."""
    if manifest.state.startswith("s3://"):
        bucket, _, prefix = manifest.state.removeprefix("s3://").partition("/")
        return S3Store(cloud.client("s3"), bucket, prefix)
    return FolderStore(root / manifest.state)
