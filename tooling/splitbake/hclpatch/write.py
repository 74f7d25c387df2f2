"""Write a patch: all its files or none."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import PatchError
from .patch import FileChange, Patch

_WRITABLE = 0o222


@dataclass(frozen=True, slots=True)
class _Staged:
    """A change whose new and old bytes already lie beside the file, each one rename away from taking its place."""

    real: Path
    change: FileChange
    new: Path
    old: Path


def write(patch: Patch) -> tuple[Path, ...]:
    """Write all files of a patch, or leave all as they were; a patch that changes nothing touches nothing.

    Symbolic links are written through; mode and (for root) owner stay. All bytes, those to go back to as well,
    are on disk before the first file is replaced, so what is left to fail then are renames.

    Returns:
        The paths written.

    Raises:
        PatchError: a file has changed since it was read, is read-only, or cannot be written; none is changed.
    """
    staged: list[_Staged] = []
    current: Path | None = None
    try:
        for change in patch.changes:
            current = change.path
            staged.append(_stage(change))
        for one in staged:
            current = one.change.path
            _refuse_if_edited(one.change)
            one.new.replace(one.real)
            _sync_folder(one.real.parent)
    except BaseException as error:  # an interrupt, too, must not leave half of it
        _go_back(staged)
        if isinstance(error, OSError):
            raise PatchError(
                f"{current}: cannot be written: {error.strerror or error}; no file was changed",
                hint="Check the free space and the permissions of its folder.",
            ) from error
        raise
    for one in staged:
        one.old.unlink()
    return tuple(change.path for change in patch.changes)


def _go_back(staged: list[_Staged]) -> None:
    """Undo the renames that were done, and clear the rest away."""
    lost = []
    for one in staged:
        try:
            if one.new.exists():
                one.old.unlink()
            else:
                one.old.replace(one.real)
            one.new.unlink(missing_ok=True)
        except OSError as error:
            lost.append(f"{one.change.path}: {error.strerror}; its former text is in {one.old}")
    if lost:
        raise PatchError("writing failed, and so did going back:\n" + "\n".join(lost))


def _stage(change: FileChange) -> _Staged:
    _refuse_if_edited(change)
    real = change.path.resolve(strict=True)
    status = real.stat()
    if not (status.st_mode & _WRITABLE and os.access(real, os.W_OK)):
        raise PatchError(f"{change.path}: is read-only; no file was changed", hint="Make it writable (chmod u+w).")
    new = _beside(real, change.after, status)
    try:
        old = _beside(real, change.before, status)
    except BaseException:
        new.unlink()
        raise
    os.utime(old, ns=(status.st_atime_ns, status.st_mtime_ns))
    return _Staged(real, change, new, old)


def _beside(real: Path, content: bytes, status: os.stat_result) -> Path:
    """Write a temporary file into the folder of `real`, through to the disk."""
    handle, name = tempfile.mkstemp(prefix=f".{real.name}.", suffix=".splitbake", dir=real.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(handle, status.st_mode & 0o7777)
            if os.geteuid() == 0:  # nobody else may give files away
                os.fchown(handle, status.st_uid, status.st_gid)
            os.fsync(handle)
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name)


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_if_edited(change: FileChange) -> None:
    if change.path.read_bytes() != change.before:
        raise PatchError(
            f"{change.path}: has changed since it was read; no file was changed",
            hint="Somebody else is editing it. Run the command again.",
        )
