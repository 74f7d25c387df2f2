"""Where model files come from: one module a kind, registered by URI scheme in ``registry.MODEL_SOURCES``.

A source lists what an entry of the manifest stands for, opens one file as a stream, and tells how a build machine
gets at it. It never holds a file in memory, and it knows nothing of locks: ``splitbake.resolve`` hashes and compares.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from splitbake import registry
from splitbake.cloud import Cloud
from splitbake.errors import SourceError
from splitbake.lock import LockedFile
from splitbake.manifest import ModelFile
from splitbake.sources import web

#: Bytes read at a time: large enough for hashing at full speed, small beside anything else in memory.
CHUNK = 1024 * 1024

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Stream(Protocol):
    """What can be read piece by piece: a file, an S3 body, an HTTP answer."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""


class Readable(Protocol):
    """What names one content of one file: a ``Found`` before it is locked, a ``LockedFile`` afterwards.

    All but ``source`` may be None, where the source gives no such thing.
    """

    @property
    def source(self) -> str:
        """URI of this very file."""

    @property
    def etag(self) -> str | None:
        """The entity tag that the content must still have."""

    @property
    def modified(self) -> str | None:
        """The time of change that the content must still have."""

    @property
    def version(self) -> str | None:
        """The version to be read, whatever came after it."""

    @property
    def resolved(self) -> str | None:
        """Where ``source`` leads; it is read there."""


@dataclass(frozen=True)
class Found:
    """One file that an entry stands for, before it is locked. ``LockedFile`` tells what the other fields mean.

    Attributes:
        path: where it goes below ``models.root``.
        source: URI of this very file (for a local one: its path in the project).
        size: bytes, as the source tells; None where only reading it can tell.
        etag: an entity tag that changes whenever the content does; None where there is no such promise.
        sha256: the digest of the whole content, as its source computed it.
    """

    path: str
    source: str
    size: int | None
    etag: str | None = None
    modified: str | None = None
    version: str | None = None
    resolved: str | None = None
    checksum: str | None = None
    sha256: str | None = None


class Source(Protocol):
    """One kind of place that model files come from."""

    def __init__(self, cloud: Cloud, root: Path) -> None:
        """Take what sources need: AWS as the environment sees it, and the project's folder."""

    @staticmethod
    def check(uri: str) -> None:
        """Look at the text alone; ValueError says what this source expects instead."""

    def find(self, entry: ModelFile) -> list[Found]:
        """Return the file that ``entry`` names, or every file below its prefix or folder (at least one).

        Raises:
            SourceError: it is not there, or cannot be a model file.
            CloudError: AWS could not be asked.
        """

    def open(self, file: Readable) -> AbstractContextManager[Stream]:
        """Open the content of ``file``; refuses one that is not that of the moment when ``file`` was found.

        Raises:
            SourceError: it is gone, or has changed.
            CloudError: AWS could not be asked.
        """

    def url(self, file: LockedFile) -> str | Path:
        """Return where a build machine gets ``file``: an https URL, or the path of a file to be uploaded.

        A signed URL is valid for hours and is a secret: it belongs neither in a log nor in argv nor in an artifact.

        Raises:
            SourceError: it is gone, or cannot be handed on.
            CloudError: AWS could not be asked.
        """


def opener(cloud: Cloud, root: Path) -> Callable[[str], Source]:
    """Return what finds the source of a URI, which is ``ModelFile.source`` or ``LockedFile.source``.

    All files of one scheme share one source, and so its connections and what it knows of buckets.
    """

    @functools.cache
    def of_scheme(scheme: str) -> Source:
        source: Source = registry.load(registry.MODEL_SOURCES, scheme)(cloud, root)
        return source

    return lambda uri: of_scheme(registry.scheme(uri))


def side_by_side(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, threads: int, stopped: threading.Event | None = None
) -> list[_Result]:
    """Return ``work`` of each item, in their order.

    After the first error, or Ctrl-C, nothing more begins, and ``stopped`` tells what has begun to end soon.
    """
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(work, item) for item in items]
        try:
            return [job.result() for job in jobs]
        except BaseException:
            if stopped:
                stopped.set()  # or the end of the block would wait for gigabytes
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def download(source: Source, file: LockedFile, target: Path) -> None:
    """Copy ``file`` to ``target``, all of it or nothing, and only if its content is what the lock says.

    Raises:
        SourceError: it is gone, or its content is not the locked one.
        CloudError: AWS could not be asked.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".part-", dir=target.parent)
    partial = Path(name)
    try:
        digest, size = hashlib.sha256(), 0
        with os.fdopen(descriptor, "wb") as copy, source.open(file) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
                copy.write(chunk)
        if (size, digest.hexdigest()) != (file.size, file.sha256):
            raise SourceError(
                f"{web.unsigned(file.source)} is not what the lock says: {size} bytes with sha256 "
                f"{digest.hexdigest()}, locked are {file.size} bytes with sha256 {file.sha256}",
                hint="run splitbake lock if the change is meant",
            )
        partial.chmod(0o644)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
