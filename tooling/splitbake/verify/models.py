"""The locked model files on this machine: fetched once into a cache, laid out as the AMI has them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from splitbake import sources, units
from splitbake.cloud import Cloud
from splitbake.errors import VerifyError
from splitbake.lock import LockedFile
from splitbake.project import Project
from splitbake.ui import Say


@contextmanager
def laid_out(project: Project, cloud: Cloud, say: Say) -> Iterator[Path]:
    """Yield a temporary folder with every model file at its place below ``models.root``.

    The files are links into the cache where the file system allows it: mount them read-only.

    Raises:
        SourceError, CloudError: a model cannot be fetched, or its content is not the locked one.
        VerifyError: there is no room.
    """
    cache = _cache()
    with tempfile.TemporaryDirectory(prefix=".tree-", dir=cache) as name:
        root = Path(name) / "models"
        root.mkdir()
        for file in project.lock.files:
            target = root / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(fetch(project, cloud, file, say), target)
        yield root


def fetch(project: Project, cloud: Cloud, file: LockedFile, say: Say) -> Path:
    """Return the content of ``file`` in ``$XDG_CACHE_HOME/splitbake/models/<sha256>``, fetched if need be."""
    cached = _cache() / file.sha256
    if not (cached.is_file() and cached.stat().st_size == file.size):
        say(f"fetching {file.path} ({units.format_size(file.size)})")
        try:
            sources.download(sources.of(file.source, cloud, project.root), file, cached)
        except OSError as problem:
            raise VerifyError(
                f"cannot keep {file.path} in {cached.parent}: {problem}", hint="is the disk full?"
            ) from None
    return cached


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "splitbake" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _link(cached: Path, target: Path) -> None:
    try:
        target.hardlink_to(cached)
    except OSError:  # a file system without links
        shutil.copyfile(cached, target)
