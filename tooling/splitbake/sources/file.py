"""Model files that lie in the project; the bake uploads them to the build machine.

Hashing them again is spared where they provably have not changed (``splitbake.digests``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from splitbake import digests
from splitbake.cloud import Cloud
from splitbake.errors import SourceError
from splitbake.lock import LockedFile
from splitbake.manifest import ModelFile
from splitbake.sources import Found, Readable, pointers
from splitbake.ui import Say

#: Below the project's folder: the digests of the model files in it.
CACHE = f"{digests.FOLDER}/models"


class FileSource:
    """A file or folder below the project's folder. Links are followed, but never out of the project."""

    def __init__(self, cloud: Cloud, root: Path) -> None:
        self._root = root

    @staticmethod
    def check(uri: str) -> None:
        """See Source."""
        path = PurePosixPath(uri)
        if path.is_absolute() or ".." in path.parts or str(path) != uri.removesuffix("/"):
            raise ValueError("expected a path below the project's folder, for example models/yolo.onnx")

    def find(self, entry: ModelFile) -> list[Found]:
        """See Source. There is no entity tag: the lock is for every machine, and a file's times are this one's."""
        if not entry.is_folder:
            return [self._found(entry.path, entry.source)]
        folder = self._inside(entry.source.removesuffix("/"))
        if not folder.is_dir():
            raise SourceError(
                f"{entry.source} is not a folder", hint="a folder is written with a trailing /, a file without"
            )
        names = sorted(self._walk(folder, entry.source))
        if not names:
            raise SourceError(f"no file lies below {entry.source}", hint=_PUT_IT_THERE)
        return [self._found(entry.path + name, entry.source + name) for name in names]

    def contents(self, found: Sequence[Found], say: Say) -> dict[str, tuple[int, str]]:
        """Return source -> bytes and SHA-256 of files that were found; ``say`` takes each one that must be read.

        Raises:
            SourceError: one is gone by now, or cannot be read.
        """
        root = self._root.resolve()
        real = {file.source: self._regular(file.source) for file in found}
        try:
            paths = [str(path.relative_to(root)) for path in real.values()]
            seen = [digests.state(path.stat()) for path in real.values()]
            states, contents = digests.read(root, paths, seen, cache=self._root / CACHE, say=say)
        except OSError as problem:
            raise SourceError(
                f"{problem.filename} cannot be read: {problem.strerror}", hint="run it again when the file is at rest"
            ) from problem
        sizes = [size for size, _ in digests.sizes_and_modes(states)]
        return dict(zip(real, zip(sizes, contents, strict=True), strict=True))

    def open(self, file: Readable) -> AbstractContextManager[BinaryIO]:
        """See Source."""
        try:
            return self._regular(file.source).open("rb")
        except OSError as problem:
            raise SourceError(f"{file.source} cannot be read: {problem.strerror}") from problem

    def url(self, file: LockedFile) -> Path:
        """See Source."""
        return self._regular(file.source)

    def _found(self, path: str, source: str) -> Found:
        found = Found(path, source, size=self._regular(source).stat().st_size)
        if found.size is not None and found.size <= pointers.LARGEST:
            with self.open(found) as content:
                pointers.refuse(source, content.read(pointers.LARGEST))
        return found

    def _walk(self, folder: Path, source: str) -> list[str]:
        """Return the files below ``folder``, relative to it; a linked folder is refused: it may lead in a circle."""
        names: list[str] = []
        for parent, folders, files in os.walk(folder, onerror=_cannot_list):
            for name in folders:
                if (Path(parent) / name).is_symlink():
                    raise SourceError(
                        f"{source}: {(Path(parent) / name).relative_to(folder)} is a link to a folder",
                        hint="name the folder that it leads to in an entry of its own",
                    )
            names += [(Path(parent) / name).relative_to(folder).as_posix() for name in files]
        return names

    def _regular(self, source: str) -> Path:
        path = self._inside(source)
        if path.is_dir():
            raise SourceError(f"{source} is a folder", hint="write path and from with a trailing / to take all of it")
        if not path.is_file():
            raise SourceError(f"{source} is not a regular file", hint="a device, socket or pipe cannot be a model")
        return path

    def _inside(self, source: str) -> Path:
        root = self._root.resolve()
        try:
            path = (root / source).resolve(strict=True)
        except FileNotFoundError:
            if (root / source).is_symlink() and ".git/annex/objects/" in str((root / source).readlink()):
                raise SourceError(
                    f"{source} is a link of git-annex to a model that is not here", hint=f"git annex get {source}"
                ) from None
            raise SourceError(f"{source} does not exist in {root}", hint=_PUT_IT_THERE) from None
        except (OSError, RuntimeError) as problem:  # RuntimeError: links in a circle, before Python 3.13
            raise SourceError(f"{source} cannot be read: {problem}", hint=_PUT_IT_THERE) from None
        if not path.is_relative_to(root):
            raise SourceError(
                f"{source} leads out of the project, to {path}",
                hint="model files are named in the manifest, so they must lie in the project; copy or move them there",
            )
        return path


_PUT_IT_THERE = "put it there, or correct from in models.files"


def _cannot_list(problem: OSError) -> None:
    raise SourceError(f"{problem.filename} cannot be listed: {problem.strerror}") from problem
