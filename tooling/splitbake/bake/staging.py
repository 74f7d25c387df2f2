"""The folder that the builder gets: the files of the build context as they were collected, and nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from splitbake import contract, files
from splitbake.context import Entry
from splitbake.errors import BuildError
from splitbake.generate import entrypoint
from splitbake.project import Project

#: Seconds since 1970 that every staged file is dated to (the earliest that a zip file can hold).
STAGED_TIME = 315532800


def stage(project: Project, entries: Iterable[Entry], directory: Path) -> None:
    """Copy ``entries`` and the entry check below ``directory``, with their normalised modes and one fixed time.

    Raises:
        BuildError: a file changed since it was collected, or there is no room.
    """
    root = project.root / project.manifest.image.context
    folders = set()
    for entry in entries:
        target = directory / entry.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / entry.path, target)
            with target.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as problem:
            raise BuildError(
                f"cannot copy {entry.path} into the build context: {problem}", hint="is the disk full (TMPDIR)?"
            ) from problem
        if digest != entry.sha256:
            raise BuildError(f"{root / entry.path} changed during the build", hint="build again when it is at rest")
        target.chmod(entry.mode)
        os.utime(target, (STAGED_TIME, STAGED_TIME))
        folders |= {parent for parent in target.parents if parent.is_relative_to(directory)}
    _stage_entry_check(project, directory)
    for folder in {*folders, directory / contract.FOLDER}:
        folder.chmod(0o755)
        os.utime(folder, (STAGED_TIME, STAGED_TIME))


def _stage_entry_check(project: Project, directory: Path) -> None:
    """Write the generated files that every image gets."""
    texts = entrypoint.render(project.manifest, project.lock)
    for path, (name, mode) in entrypoint.STAGED.items():
        target = directory / path
        files.replace(target, texts[name], BuildError, mode=mode)
        os.utime(target, (STAGED_TIME, STAGED_TIME))
