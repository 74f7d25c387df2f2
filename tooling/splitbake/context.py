"""What travels into the image: exactly the files that the manifest includes, found and checked.

A pattern names files below ``image.context`` by the rules of ``splitbake.patterns``. A link to a file counts as that
file; the requirements file travels to the build, and into the image only where a pattern includes it.
"""

from __future__ import annotations

import gc
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from splitbake import contract, digests, gitignore, patterns, requirements, travel, units
from splitbake.errors import BuildError
from splitbake.manifest.image import Image
from splitbake.project import Project

#: Bytes. No source file comes near; what does is a model, a video or an archive that lost its way.
LARGEST_FILE = 100 * 1000**2

#: What running Python leaves beside its sources, all that git knows, and the folder that is splitbake's own: none of it
#: ever travels.
LEFTOVERS = ("**/__pycache__/", "**/.git", f"{contract.FOLDER}/")

#: Below the project's folder: the digests of the files of the latest context.
CACHE = f"{digests.FOLDER}/context"

_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW


class Entry(NamedTuple):
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


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Spare Python looking for garbage while many objects are made and none is garbage: a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_no_garbage_collection()
def collect(project: Project, *, cached: bool = True) -> list[Entry]:
    """Return the files of the build context in the order of their paths (by code point, as UTF-8 bytes sort too).

    Args:
        project: whose image is meant.
        cached: whether to spare reading files that provably have not changed since the last time.

    Raises:
        BuildError: a pattern matches nothing, a link leaves the context, a secret, a model or another very large file
            would travel, all of it is more than the budget, or git cannot say what it ignores.
        ToolError: git is to be asked and is not there.
    """
    image = project.manifest.image
    root, cache = project.root / image.context, project.root / CACHE
    if not root.is_dir():
        raise BuildError(f"image.context {root} is not a folder", hint="correct image.context in the manifest")
    search = _Search(image, root, cache.parent)
    search.run()
    if image.gitignore:
        search.leave_out(gitignore.ignored(root, [*search.paths, *search.links]))
    search.follow_links()
    build_only = image.requirements if image.requirements not in search.paths else None
    if build_only:
        search.follow(build_only)
    paths, sizes = search.paths, [size for size, _ in digests.sizes_and_modes(search.states)]
    _refuse_large(root, paths, sizes)
    travel.refuse_names(root, paths, image.include, search.steps)
    travel.refuse_more_than(image.budget, root, paths, sizes)
    states, contents = _read(root, search, cache if cached else None)
    _refuse_models(project, root, paths, contents)
    entries = [
        Entry(path, 0o755 if mode & 0o100 else 0o644, size, digest, path != build_only)
        for path, (size, mode), digest in zip(paths, digests.sizes_and_modes(states), contents, strict=True)
    ]
    entries.sort(key=itemgetter(0))
    paths.sort()
    _refuse_odd_names(root, paths)
    travelling = [path for path in paths if path != build_only]
    _refuse_idle_patterns(image, root, travelling)
    _refuse_hidden(image, root, travelling)
    if image.requirements:
        _refuse_other_requirements(root / image.requirements)
    return entries


def as_inputs(entries: Iterable[Entry]) -> dict[str, str]:
    """Return what a fingerprint takes in of them: ``file/PATH`` -> mode and digest."""
    return {f"file/{entry.path}": f"{entry.mode:o} {entry.sha256}" for entry in entries}


class _Search:
    """Goes through the context; where no pattern can take anything, nothing is even listed.

    Each folder is listed through a descriptor, which spares the system the way from the top to each file in it.

    Attributes:
        paths: of what is included.
        states: of the files that they are or lead to.
        links: what is included and was not followed yet: links, and what is no file.
        targets: where links lead to: path -> path.
        steps: the paths that they lead through, from their own to that one.
    """

    def __init__(self, image: Image, root: Path, own: Path) -> None:
        """Prepare for the ``image`` whose context is ``root``; ``own`` changes by being looked at, so it never is."""
        self.paths: list[str] = []
        self.states: list[bytes] = []
        self.links: list[str] = []
        self.targets: dict[str, str] = {}
        self.steps: dict[str, list[str]] = {}
        self._root, self._top, self._include = root, os.path.realpath(root), image.include
        self._never = os.path.relpath(os.path.realpath(own), self._top)
        excluded = (*image.exclude, *LEFTOVERS)
        self._includes_folder = patterns.naming(image.include)
        self._includes_file = patterns.naming(_of_files(image.include))
        self._excludes_folder = patterns.naming(excluded)
        self._excludes_file = patterns.naming(_of_files(excluded))
        self._folders = [("", False)]  # and whether a pattern takes all that is below

    def run(self) -> None:
        """Look everywhere."""
        while self._folders:
            folder, whole = self._folders.pop()
            try:
                descriptor = os.open(f"{self._top}/{folder}", _FOLDER)
                try:
                    with os.scandir(descriptor) as children:
                        self._look(children, f"{folder}/" if folder else "", whole)
                finally:
                    os.close(descriptor)
            except OSError as problem:
                raise BuildError(
                    f"cannot list {self._root / folder}: {problem}", hint="check its permissions"
                ) from problem

    def leave_out(self, unwanted: Collection[str]) -> None:
        """Forget these of what was found."""
        kept = [index for index, path in enumerate(self.paths) if path not in unwanted]
        self.paths, self.states = [self.paths[index] for index in kept], [self.states[index] for index in kept]
        self.links = [path for path in self.links if path not in unwanted]

    def follow_links(self) -> None:
        """Take every link as what it leads to within the context, where that may travel itself."""
        for path in self.links:
            self.follow(path)
            target = self.targets[path]
            above = [str(folder) for folder in PurePosixPath(target).parents][:-1]
            if self._excludes_file(target) or any(map(self._excludes_folder, above)):
                raise BuildError(
                    f"{self._root / path} is a link to {target}, which may not travel",
                    hint="exclude the link as well, or put a copy in its place",
                )

    def follow(self, path: str) -> None:
        """Take ``path`` as what it leads to within the context."""
        self.targets[path], status = _followed(self._root, path)
        self.steps[path] = [*_steps(self._top, path)]
        self.paths.append(path)
        self.states.append(digests.state(status))

    def _look(self, children: Iterable[os.DirEntry[str]], prefix: str, whole: bool) -> None:
        includes, excludes, state = self._includes_file, self._excludes_file, digests.state
        add_path, add_state = self.paths.append, self.states.append
        for child in children:
            path = prefix + child.name
            if child.is_dir(follow_symlinks=False):
                self._enter(path, whole)
            elif (whole or includes(path)) and not excludes(path):
                if child.is_file(follow_symlinks=False):  # down real folders a regular file cannot lie outside
                    add_path(path)
                    add_state(state(child.stat(follow_symlinks=False)))
                else:
                    self.links.append(path)

    def _enter(self, folder: str, whole: bool) -> None:
        if folder == self._never or self._excludes_folder(folder):
            return
        if whole or self._includes_folder(folder):
            self._folders.append((folder, True))
        elif any(patterns.may_take_below(pattern, folder) for pattern in self._include):
            self._folders.append((folder, False))


def _of_files(wanted: Iterable[str]) -> Iterator[str]:
    return (pattern for pattern in wanted if not pattern.endswith("/"))


def _refuse_idle_patterns(image: Image, root: Path, found: Sequence[str]) -> None:
    idle = [pattern for pattern in image.include if next(patterns.taken(pattern, found), None) is None]
    if idle:
        raise BuildError(
            f"image.include takes no file below {root} with: {', '.join(idle)}",
            hint="correct or remove the pattern, or look whether image.exclude or git takes everything out again",
        )


def _refuse_hidden(image: Image, root: Path, paths: Sequence[str]) -> None:
    """Refuse files that no container would see, as one of ``image.mounts`` lies there."""
    for where in image.mounts.values():
        place = where.removeprefix(f"{image.workdir}/")
        if hidden := [path for path in paths if path == place or path.startswith(f"{place}/")]:
            raise BuildError(
                f"what is mounted at {where} hides these files:\n{travel.listed(root, hidden)}",
                hint="take them out with image.exclude, or mount it elsewhere",
            )


def _refuse_odd_names(root: Path, paths: Sequence[str]) -> None:
    """Refuse names that no JSON can spell: fingerprints and records are JSON."""
    try:
        "".join([str(root), *paths]).encode()
    except UnicodeEncodeError:
        odd = next(path for path in paths if not _is_text(f"{root}/{path}"))
        raise BuildError(f"the name of {f'{root}/{odd}'!r} is not UTF-8", hint="rename it, or exclude it") from None


def _is_text(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _followed(root: Path, path: str) -> tuple[str, os.stat_result]:
    """Return path and status of what the link ``path`` leads to; of itself where it only lies below a link."""
    file, top = root / path, root.resolve()
    try:
        target = Path(os.path.realpath(file, strict=True))  # unlike Path.resolve it tells a circle as an OSError
        status = target.stat()
    except OSError as problem:
        hint = "is it there? correct image.requirements or image.include, or the link that leads nowhere"
        raise BuildError(f"cannot read {file}: {problem.strerror}", hint=hint) from problem
    if not target.is_relative_to(top):
        raise BuildError(
            f"{file} is a link to {target}, outside the context {root}",
            hint="copy what is needed into the project, or exclude the link",
        )
    if not stat.S_ISREG(status.st_mode):
        raise BuildError(f"{file} is no regular file (nor a link to one)", hint="name the folder it points to instead")
    return str(target.relative_to(top)), status


def _steps(top: str, path: str) -> Iterator[str]:
    """Yield the paths from ``path`` in the folder ``top`` up to what it leads to, each one in its real folder."""
    to = Path(top, path)
    while True:
        at = to.parent.resolve() / to.name
        yield os.path.relpath(at, top)
        if not at.is_symlink():
            return
        to = at.parent / at.readlink()


def _refuse_large(root: Path, paths: Sequence[str], sizes: Sequence[int]) -> None:
    if max(sizes, default=0) > LARGEST_FILE:
        size, path = max(zip(sizes, paths, strict=True))
        raise BuildError(
            f"{root / path} has {units.format_size(size)}; no file of the image may be larger than "
            f"{units.format_size(LARGEST_FILE)}",
            hint="list a model in models.files; take anything else out with image.exclude",
        )


def _read(root: Path, search: _Search, cache: Path | None) -> tuple[Sequence[bytes], Sequence[str]]:
    files = [search.targets.get(path, path) for path in search.paths] if search.targets else search.paths
    try:
        return digests.read(root, files, search.states, cache=cache)
    except OSError as problem:
        raise BuildError(
            f"cannot read {problem.filename}: {problem.strerror}",
            hint="check its permissions; a file that changes all the time does not belong into the image",
        ) from problem


def _refuse_models(project: Project, root: Path, paths: Sequence[str], contents: Sequence[str]) -> None:
    models = {file.sha256: file.path for file in project.lock.files if file.size}
    if models.keys().isdisjoint(contents):
        return
    path, model = min((path, models[digest]) for path, digest in zip(paths, contents, strict=True) if digest in models)
    raise BuildError(
        f"{root / path} is the model {model}: models travel in the AMI, never in the image",
        hint="take it out with image.exclude, and let the code read it from its mount",
    )


def _refuse_other_requirements(file: Path) -> None:
    if line := requirements.elsewhere(file.read_text(encoding="utf-8", errors="replace")):
        raise BuildError(
            f"{file}:{line}: refers to another file, which does not travel into the build",
            hint="compile everything into one file: pip-compile or uv pip compile",
        )
