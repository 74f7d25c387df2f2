"""From manifest to lock: ask the outside what it has today, and write it down by id, digest and checksum."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

from pydantic import ValidationError

from splitbake import registry, sources
from splitbake.cloud import Cloud
from splitbake.errors import LockError, SourceError
from splitbake.lock import Lock, LockedBaseImage, LockedFile, LockedModels
from splitbake.manifest import Manifest
from splitbake.project import Project
from splitbake.sources import CHUNK, Found, Source
from splitbake.sources.file import FileSource
from splitbake.ui import Say, silent
from splitbake.units import format_size

#: Files that are read at once. More streams than this fill no line faster.
_THREADS = 8

#: How many of the biggest files a broken budget names.
_BIGGEST = 5


def resolve(project: Project, cloud: Cloud, previous: Lock | None, say: Say) -> Lock:
    """Return the lock that answers the project's manifest now.

    Args:
        project: whose manifest is resolved.
        cloud: AWS as the chosen environment sees it.
        previous: an earlier lock; spares hashing files that provably have not changed.
        say: takes each file that is being read.

    Raises:
        SourceError: something is not there, or is not what it must be.
        LockError: the files together break the budget, or want one path.
        CloudError: AWS could not be asked.
    """
    manifest = project.manifest
    models = resolve_models(project, cloud, previous, say)
    _check_budget(manifest, models)
    from splitbake.sources import base_ami, base_image

    say("base AMI")
    ami = base_ami.resolve(cloud, manifest)
    say("base image")
    image = LockedBaseImage(request=manifest.image.base, digest=base_image.resolve_base(cloud, manifest.image.base))
    return Lock(base_ami=ami, base_image=image, models=models)


def resolve_models(project: Project, cloud: Cloud, previous: Lock | None, say: Say) -> tuple[LockedModels, ...]:
    """Return every entry of ``models.files`` with the size and SHA-256 of each file, by path."""
    entries = project.manifest.models.files
    known: dict[str, LockedFile] = {file.source: file for file in previous.files} if previous else {}
    source_of = sources.opener(cloud, project.root)
    found = [
        (entry, source_of(entry.source), source_of(entry.source).find(entry))
        for entry in sorted(entries, key=lambda entry: entry.path)
    ]
    _check_paths(file.path for _, _, files in found for file in files)
    in_project = [file for _, source, files in found if isinstance(source, FileSource) for file in files]
    local = FileSource(cloud, project.root).contents(in_project, say)
    stopped = threading.Event()
    lock_file = functools.partial(_lock_file, known=known, local=local, stopped=stopped, say=say)
    with ThreadPoolExecutor(_THREADS) as pool:
        jobs = [
            (entry, [pool.submit(lock_file, source, file, entry.sha256) for file in files])
            for entry, source, files in found
        ]
        try:
            return tuple(
                LockedModels(
                    path=entry.path,
                    source=entry.source,
                    files=tuple(sorted((job.result() for job in files), key=lambda file: file.path)),
                )
                for entry, files in jobs
            )
        except BaseException:
            stopped.set()  # or the end of the block would wait for gigabytes
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def changed_models(project: Project) -> list[str]:
    """Return the model files in the project that are not what the lock says: changed, gone, or new in a folder.

    By their paths in the project, sorted. Takes milliseconds where nothing was touched since the last time.

    Raises:
        LockError: the lock does not belong to the manifest.
        SourceError: a file cannot be read.
    """
    entries = [entry for entry in project.manifest.models.files if entry.scheme == ""]
    if not entries:
        return []
    locked = {file.source: file.sha256 for file in project.lock.files if registry.scheme(file.source) == ""}
    source = FileSource(project.cloud(), project.root)
    there: list[Found] = []
    for entry in entries:
        with contextlib.suppress(SourceError):  # all that it had is gone then; splitbake lock will say why
            there += source.find(entry)
    present = {path: sha256 for path, (_, sha256) in source.contents(there, silent).items()}
    return sorted(path for path in locked.keys() | present.keys() if locked.get(path) != present.get(path))


def _lock_file(
    source: Source,
    file: Found,
    pinned: str | None,
    *,
    known: Mapping[str, LockedFile],
    local: Mapping[str, tuple[int, str]],
    stopped: threading.Event,
    say: Say,
) -> LockedFile:
    old = known.get(file.source)
    if file.source in local:
        size, sha256 = local[file.source]
    elif old and file.etag and (old.etag, old.size) == (file.etag, file.size):
        size, sha256 = old.size, old.sha256
    else:
        say(file.source)
        size, sha256 = _hash(source, file, stopped)
    if file.size not in {None, size}:
        raise SourceError(
            f"{file.source} should have {file.size} bytes, but {size} came",
            hint="was it replaced just now, or did the connection break off? run splitbake lock again",
        )
    if pinned not in {None, sha256}:
        raise SourceError(
            f"{file.source} has the wrong checksum: sha256 {sha256}, the manifest insists on {pinned}",
            hint="correct sha256 in models.files if the new content is meant; if not, do not use this file",
        )
    try:
        return LockedFile(path=file.path, source=file.source, size=size, sha256=sha256, etag=file.etag)
    except ValidationError as problem:
        reasons = "; ".join(error["msg"].removeprefix("Value error, ") for error in problem.errors())
        raise SourceError(
            f"{file.source!r} cannot be a model file: {reasons}", hint="rename it at its source"
        ) from problem


def _hash(source: Source, file: Found, stopped: threading.Event) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with source.open(file) as stream:
        while not stopped.is_set() and (chunk := stream.read(CHUNK)):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _check_paths(paths: Iterable[str]) -> None:
    """Refuse files that cannot lie beside each other below ``models.root``."""
    counts = Counter(paths)
    twice = sorted(path for path, count in counts.items() if count > 1)
    if twice:
        raise LockError(
            f"two entries of models.files bring a file to the same path: {', '.join(twice)}",
            hint="change path of one of them, or name its folder more narrowly",
        )
    for path in sorted(counts):
        for parent in PurePosixPath(path).parents:
            if str(parent) in counts:
                raise LockError(
                    f"{parent} would have to be a file and a folder (of {path}) at once",
                    hint="change path of one of the two in models.files",
                )


def _check_budget(manifest: Manifest, models: Iterable[LockedModels]) -> None:
    files = sorted((file for entry in models for file in entry.files), key=lambda file: -file.size)
    total, budget = sum(file.size for file in files), manifest.models.budget
    if total > budget:
        lines = "\n".join(f"  {format_size(file.size):>9}  {file.path}" for file in files[:_BIGGEST])
        raise LockError(
            f"the models take {format_size(total)}, models.budget is {format_size(budget)}; the biggest:\n{lines}",
            hint="leave files out, or raise models.budget",
        )
