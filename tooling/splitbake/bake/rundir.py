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

_NAME = re.compile("splitbake-(?P<run>[0-9a-f]{12})")


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
        remove(path)
        os.close(lock)


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, whatever others remove of it meanwhile: ssh its socket, for example."""
    while path.exists():
        with suppress(FileNotFoundError):  # rmtree ends at the first file that is gone (until Python 3.13)
            shutil.rmtree(path)


def is_alive(run: str) -> bool:
    """Whether a process of this machine is at work for ``run``; of another user's run it may always be."""
    try:
        lock = os.open(_path(run), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except PermissionError:
        return True
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
        if name and is_ours(path):
            folders[name["run"]] = path
    return folders


def is_ours(path: Path) -> bool:
    """Whether ``path`` is a folder of this user: in a shared /tmp anybody can give a folder any name."""
    return path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()


def _path(run: str) -> Path:
    return Path(tempfile.gettempdir()) / f"splitbake-{run}"
