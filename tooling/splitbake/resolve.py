"""From manifest to lock: ask the outside what it has today, and write it down by id, digest and checksum."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from pydantic import ValidationError

from splitbake import lock as locks
from splitbake import registry, sources
from splitbake.cloud import Cloud
from splitbake.errors import LockError, SourceError
from splitbake.lock import PARTS, Lock, LockedBaseAmi, LockedBaseImage, LockedFile, LockedModels, Part
from splitbake.manifest import Manifest, ModelFile
from splitbake.project import Project
from splitbake.runtime import LockedRuntime
from splitbake.sources import Found, web
from splitbake.sources.contents import Content, Way, contents
from splitbake.sources.file import FileSource
from splitbake.ui import Say, silent
from splitbake.units import format_size

#: How many of the biggest files a broken budget names.
_BIGGEST = 5
#: Stands for the digest of a file that was not read yet.
_UNREAD = "0" * 64


@dataclass(frozen=True)
class Models:
    """The entries of ``models.files`` by path, and for each file how its digest is known (path -> way)."""

    entries: tuple[LockedModels, ...]
    ways: Mapping[str, Way]


@dataclass(frozen=True)
class Resolved:
    """A lock, and for each model that was looked at for it how its digest is known (path -> way)."""

    lock: Lock
    ways: Mapping[str, Way]


def resolve(project: Project, cloud: Cloud, previous: Lock | None, say: Say) -> Resolved:
    """Return the lock that answers the project's manifest now.

    Args:
        project: whose manifest is resolved.
        cloud: AWS as the chosen environment sees it.
        previous: an earlier lock; spares hashing files that provably have not changed.
        say: takes the progress.

    Raises:
        SourceError: something is not there, or is not what it must be.
        LockError: the files together break the budget, or want one path.
        CloudError: AWS could not be asked.
    """
    ami, image = _resolve_bases(project.manifest, cloud, say)
    runtime, order = _resolve_runtime(project, ami, say), _resolve_order(project)
    models = resolve_models(project, cloud, previous, say)  # last: gigabytes may have to be read
    lock = Lock(base_ami=ami, base_image=image, models=models.entries, runtime=runtime, order=order)
    return Resolved(lock, models.ways)


def update(project: Project, cloud: Cloud, previous: Lock, parts: Collection[Part], say: Say) -> Resolved:
    """Return ``previous`` with only ``parts`` of it resolved anew; otherwise like ``resolve``.

    Raises:
        LockError: besides, what is to stay does not answer the manifest, or does not go with what moved.
    """
    manifest, lock = project.manifest, previous
    stay = set(PARTS) - set(parts)
    _refuse_stale(project, lock, stay)
    if "models" in stay:
        _check_budget(manifest, lock.files)
    if "base" in parts:
        ami, image = _resolve_bases(manifest, cloud, say)
        lock = lock.model_copy(update={"base_ami": ami, "base_image": image})
    if "runtime" in parts:
        lock = lock.model_copy(update={"runtime": _resolve_runtime(project, lock.base_ami, say)})
    if "order" in parts:
        lock = lock.model_copy(update={"order": _resolve_order(project)})
    _refuse_stale(project, lock, stay)  # the base may be one for other machines now
    if "models" in stay:
        return Resolved(lock, {})
    models = resolve_models(project, cloud, previous, say)
    return Resolved(lock.model_copy(update={"models": models.entries}), models.ways)


def _refuse_stale(project: Project, lock: Lock, stay: Collection[Part]) -> None:
    if stale := list(locks.mismatches(project.manifest, lock, project.root, stay)):
        lines = "\n".join(f"  {line}" for line in stale)
        raise LockError(
            f"what is to stay in the lock does not belong to the manifest any more:\n{lines}",
            hint="update that part as well, or run splitbake lock",
        )


def resolve_models(project: Project, cloud: Cloud, previous: Lock | None, say: Say) -> Models:
    """Return every entry of ``models.files`` with the size and SHA-256 of each file.

    Nothing is read before all that can be refused without reading is.
    """
    source_of = sources.opener(cloud, project.root)
    entries = sorted(project.manifest.models.files, key=lambda entry: entry.path)
    found = [(entry, file) for entry in entries for file in source_of(entry.source).find(entry)]
    drafts = [_draft(file) for _, file in found]
    _check_paths(file.path for file in drafts)
    _check_budget(project.manifest, drafts)
    known = {file.source: file for file in previous.files} if previous else {}
    learnt = contents([(source_of(file.source), file) for _, file in found], known, say)
    locked: dict[str, list[LockedFile]] = {entry.path: [] for entry in entries}
    for (entry, _), draft, content in zip(found, drafts, learnt, strict=True):
        locked[entry.path].append(_locked(entry, draft, content))
    _check_budget(project.manifest, [file for files in locked.values() for file in files])
    ways = {file.path: content.way for (_, file), content in zip(found, learnt, strict=True)}
    return Models(tuple(_entry(entry, locked[entry.path]) for entry in entries), ways)


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


def _resolve_bases(manifest: Manifest, cloud: Cloud, say: Say) -> tuple[LockedBaseAmi, LockedBaseImage]:
    from splitbake.sources import base_ami, base_image

    say("base AMI")
    ami = base_ami.resolve(cloud, manifest)
    say("base image")
    return ami, LockedBaseImage(request=manifest.image.base, digest=base_image.resolve_base(cloud, manifest.image.base))


def _resolve_runtime(project: Project, base: LockedBaseAmi, say: Say) -> LockedRuntime | None:
    from splitbake.sources import wheels

    runtime = project.manifest.runtime
    return wheels.resolve(runtime, project.root, base.architecture, say) if runtime else None


def _resolve_order(project: Project) -> tuple[str, ...] | None:
    from splitbake.context import LEFTOVERS
    from splitbake.sources import history

    image = project.manifest.image
    if image.order != "auto":
        return None
    return history.order(image.include, project.root / image.context, (*image.exclude, *LEFTOVERS))


def _entry(entry: ModelFile, files: Iterable[LockedFile]) -> LockedModels:
    by_path = tuple(sorted(files, key=lambda file: file.path))
    return LockedModels(path=entry.path, source=entry.source, files=by_path)


def _draft(file: Found) -> LockedFile:
    """Return ``file`` as the lock will have it, as far as that is known without reading; refuse what no lock holds."""
    try:
        return LockedFile(
            path=file.path,
            source=file.source,
            size=file.size or 0,
            sha256=_UNREAD,
            etag=file.etag,
            modified=file.modified,
            version=file.version,
            resolved=file.resolved,
            checksum=file.checksum,
        )
    except ValidationError as problem:
        reasons = "; ".join(error["msg"].removeprefix("Value error, ") for error in problem.errors())
        raise SourceError(
            f"{file.source!r} cannot be a model file: {reasons}", hint="rename it at its source"
        ) from problem


def _locked(entry: ModelFile, draft: LockedFile, content: Content) -> LockedFile:
    if entry.sha256 not in {None, content.sha256}:
        raise SourceError(
            f"{web.unsigned(draft.source)} has the wrong checksum: sha256 {content.sha256}, the manifest insists on "
            f"{entry.sha256}",
            hint="correct sha256 in models.files if the new content is meant; if not, do not use this file",
        )
    return draft.model_copy(update={"size": content.size, "sha256": content.sha256})


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


def _check_budget(manifest: Manifest, models: Iterable[LockedFile]) -> None:
    files = sorted(models, key=lambda file: -file.size)
    total, budget = sum(file.size for file in files), manifest.models.budget
    if total > budget:
        lines = "\n".join(f"  {format_size(file.size):>9}  {file.path}" for file in files[:_BIGGEST])
        raise LockError(
            f"the models take {format_size(total)}, models.budget is {format_size(budget)}; the biggest:\n{lines}",
            hint="leave files out, or raise models.budget",
        )
