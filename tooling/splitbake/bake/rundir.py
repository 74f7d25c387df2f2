"""The folder of one run on this machine: private, named by the run, and locked for as long as the run lives.

The kernel lets the lock go when the last process that holds it ends, however it ends. So whoever finds the folder
knows whether its run is over.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

#: Kinds of what lies beside the folders of runs: staged contexts, registry logins and the like, each named
#: ``splitbake-KIND-`` and chance. Nothing says whether its process lives.
SCRATCH = ("apt", "docker", "image", "lock", "netns", "podman", "runtime", "sbom", "secrets", "verify")

_NAME = re.compile("splitbake-(?P<run>[0-9a-f]{12})")
_SCRATCH = re.compile(rf"splitbake-({'|'.join(SCRATCH)})-[a-z0-9_]{{8}}(\.txt)?")


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its keys and what Packer reads.

    Attributes:
        path: mode 0700.
        lock: a file descriptor; a child that gets it belongs to the run.
    """

    path: Path
    lock: int


@contextmanager
def opened(run: str) -> Iterator[RunFolder]:
    """Make the folder of ``run``, and remove it at the end."""
    path = _path(run)
    path.mkdir(mode=0o700)
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield RunFolder(path, lock)
    finally:
        try:
            remove(path)
        finally:
            os.close(lock)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, whatever others remove of it meanwhile: ssh its socket."""
    while path.exists():
        with suppress(FileNotFoundError):  # rmtree ends at the first file that is gone (until Python 3.13)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def is_alive(run: str) -> bool | None:
    """Whether a process of this machine is at work for ``run``; None of another user's, whose lock is closed to us."""
    try:
        lock = os.open(_path(run), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except PermissionError:
        return None
    except OSError:  # there is none, or it is something else
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def found() -> dict[str, Path]:
    """Return the folders of ours on this machine: run -> folder."""
    folders = {}
    for path in Path(tempfile.gettempdir()).iterdir():
        name = _NAME.fullmatch(path.name)
        if name and path.is_dir() and _is_ours(path):
            folders[name["run"]] = path
    return folders


def scratch() -> list[Path]:
    """Return what of ours is of the kinds of ``SCRATCH`` on this machine: folders, and files."""
    paths = Path(tempfile.gettempdir()).iterdir()
    return [path for path in paths if _SCRATCH.fullmatch(path.name) and _is_ours(path)]


def _is_ours(path: Path) -> bool:
    """Whether ``path`` is this user's, and no link: in a shared /tmp anybody can give a folder any name."""
    return not path.is_symlink() and path.exists() and path.stat().st_uid == os.getuid()


def _path(run: str) -> Path:
    return Path(tempfile.gettempdir()) / f"splitbake-{run}"
