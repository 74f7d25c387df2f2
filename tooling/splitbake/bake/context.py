"""What travels into the image: exactly the files that the manifest includes, found, checked and staged.

A pattern names files below ``image.context`` by the rules of ``splitbake.patterns``. A link to a file counts as that
file; the requirements file travels to the build, and into the image only where a pattern includes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from splitbake import patterns, units
from splitbake.errors import BuildError
from splitbake.generate import dockerfile
from splitbake.lock import LockedFile
from splitbake.manifest import Image
from splitbake.project import Project

#: Bytes. No source file comes near; what does is a model, a video or an archive that lost its way.
LARGEST_FILE = 100 * 1000**2

#: Seconds since 1970 that every staged file is dated to (the earliest that a zip file can hold).
STAGED_TIME = 315532800

_ELSEWHERE = re.compile(r"^\s*(?:-r|-c|-e|--requirement|--constraint|--editable)\b", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One file of the build context.

    Attributes:
        path: below ``image.context``, with ``/``.
        mode: 0o755 where its owner may execute it, else 0o644.
        size: bytes.
        sha256: hexadecimal digest of its content.
        in_image: False for a requirements file that only the build reads.
    """

    path: str
    mode: int
    size: int
    sha256: str
    in_image: bool = True


def collect(project: Project) -> list[Entry]:
    """Return the files of the build context, sorted by path.

    Raises:
        BuildError: a pattern matches nothing, a link leaves the context, a model or another very large file would
            travel, or COPY could not take exactly these files.
    """
    image, root = project.manifest.image, project.root / project.manifest.image.context
    if not root.is_dir():
        raise BuildError(f"image.context {root} is not a folder", hint="correct image.context in the manifest")
    found = set(_walk(image, root, ""))
    _refuse_idle_patterns(image, root, found)
    wanted = sorted({*found, *([image.requirements] if image.requirements else [])})
    models = {file.sha256: file for file in project.lock.files if file.size}
    entries = [_entry(root, path, models, in_image=path in found) for path in wanted]
    if image.requirements:
        _refuse_other_requirements(root / image.requirements)
    _refuse_inexact_copies(image, entries)
    return entries


def stage(project: Project, entries: Sequence[Entry], directory: Path) -> None:
    """Copy ``entries`` below ``directory``, with their normalised modes and one fixed time.

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
    for folder in folders:
        folder.chmod(0o755)
        os.utime(folder, (STAGED_TIME, STAGED_TIME))


def _walk(image: Image, root: Path, folder: str) -> Iterator[str]:
    """Yield the included files below ``folder``; where no pattern can take anything, nothing is even listed."""
    exclude = dockerfile.excluded(image)
    try:
        children = list(os.scandir(root / folder))
    except OSError as problem:
        raise BuildError(f"cannot list {root / folder}: {problem}", hint="check its permissions") from problem
    for child in children:
        path = f"{folder}/{child.name}" if folder else child.name
        if child.is_dir(follow_symlinks=False):
            if any(patterns.names(pattern, path) for pattern in exclude):
                continue
            if any(patterns.may_take_below(pattern, path) for pattern in image.include):
                yield from _walk(image, root, path)
        elif _takes(image.include, path) and not _takes(exclude, path):
            yield path


def _takes(wanted: Sequence[str], path: str) -> bool:
    return any(patterns.takes(pattern, path) for pattern in wanted)


def _entry(root: Path, path: str, models: dict[str, LockedFile], *, in_image: bool) -> Entry:
    file = root / path
    _refuse_odd(root, file)
    status = file.stat()
    if status.st_size > LARGEST_FILE:
        raise BuildError(
            f"{file} has {units.format_size(status.st_size)}; no file of the image may be larger than "
            f"{units.format_size(LARGEST_FILE)}",
            hint="list a model in models.files; take anything else out with image.exclude",
        )
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as problem:
        raise BuildError(f"cannot read {file}: {problem}", hint="check its permissions") from problem
    if model := models.get(digest):
        raise BuildError(
            f"{file} is the model {model.path}: models travel in the AMI, never in the image",
            hint="take it out with image.exclude, and let the code read it from its mount",
        )
    return Entry(path, 0o755 if status.st_mode & 0o100 else 0o644, status.st_size, digest, in_image)


def _refuse_odd(root: Path, file: Path) -> None:
    """Refuse what is no regular file of this context, and names that no Dockerfile can spell."""
    try:
        str(file).encode()
        inside = file.resolve(strict=True).is_relative_to(root.resolve())
    except UnicodeEncodeError:
        raise BuildError(f"the name of {str(file)!r} is not UTF-8", hint="rename it, or exclude it") from None
    except OSError as problem:
        hint = "is it there? correct image.requirements or image.include, or the link that leads nowhere"
        raise BuildError(f"cannot read {file}: {problem.strerror}", hint=hint) from problem
    if not inside:
        raise BuildError(
            f"{file} is a link to {file.resolve()}, outside the context {root}",
            hint="copy what is needed into the project, or exclude the link",
        )
    if not file.is_file():
        raise BuildError(f"{file} is no regular file (nor a link to one)", hint="name the folder it points to instead")


def _refuse_idle_patterns(image: Image, root: Path, found: Collection[str]) -> None:
    idle = [pattern for pattern in image.include if not any(patterns.takes(pattern, path) for path in found)]
    if idle:
        raise BuildError(
            f"image.include takes no file below {root} with: {', '.join(idle)}",
            hint="correct or remove the pattern, or look whether image.exclude takes everything out again",
        )


def _refuse_other_requirements(file: Path) -> None:
    text = file.read_text(encoding="utf-8", errors="replace")
    if found := _ELSEWHERE.search(text):
        line = text.count("\n", 0, found.start() + len(found[0]) - len(found[0].lstrip())) + 1
        raise BuildError(
            f"{file}:{line}: refers to another file, which does not travel into the build",
            hint="compile everything into one file: pip-compile or uv pip compile",
        )


def _refuse_inexact_copies(image: Image, entries: Sequence[Entry]) -> None:
    """Make sure that the COPY instructions take each file to its place, and nothing else anywhere."""
    for entry in entries:
        for copy in dockerfile.copies(image):
            landing = copy.landing(entry.path)
            if landing is not None and not (entry.in_image and landing == entry.path):
                raise BuildError(
                    f"image.include: COPY {copy.source} would put {entry.path} at {landing} in the image",
                    hint="end a folder's pattern with /, and include the requirements file or move it elsewhere",
                )
