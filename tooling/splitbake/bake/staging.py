"""The folder that the builder gets: the files of the build context as they were collected, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from splitbake import contract, files
from splitbake.context import Entry
from splitbake.errors import BuildError
from splitbake.generate import entrypoint
from splitbake.project import Project

#: Seconds since 1970 that every staged file is dated to (the earliest that a zip file can hold).
STAGED_TIME = 315532800


def stage(project: Project, entries: Sequence[Entry], parent: Path) -> Path:
    """Copy ``entries`` and the entry check into a new folder in ``parent``, with normalised modes and one fixed time.

    The folder is named by what is in it. BuildKit keeps what it was sent under the name of the folder, and takes a file
    of the same name, size, mode and time for the same file: under one name it would build an old content.

    Raises:
        BuildError: a file changed since it was collected, or there is no room.
    """
    root = project.root / project.manifest.image.context
    texts = entrypoint.render(project.manifest, project.lock)
    directory = parent / f"context-{_digest(entries, texts)}"
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
    _stage_entry_check(texts, directory)
    for folder in {*folders, directory / contract.FOLDER}:
        folder.chmod(0o755)
        os.utime(folder, (STAGED_TIME, STAGED_TIME))
    return directory


def _digest(entries: Sequence[Entry], texts: Mapping[str, str]) -> str:
    content = [[[entry.path, entry.mode, entry.sha256] for entry in entries], texts]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _stage_entry_check(texts: Mapping[str, str], directory: Path) -> None:
    """Write the generated files that every image gets."""
    for path, (name, mode) in entrypoint.STAGED.items():
        target = directory / path
        files.replace(target, texts[name], BuildError, mode=mode)
        os.utime(target, (STAGED_TIME, STAGED_TIME))
