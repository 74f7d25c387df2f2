"""Model files that were fetched to this machine, each named by its SHA-256."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from splitbake import files, units
from splitbake.errors import SourceError
from splitbake.lock import LockedFile
from splitbake.sources import Source, download
from splitbake.ui import Say, silent


def folder() -> Path:
    """Return ``$XDG_CACHE_HOME/splitbake/models``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "splitbake" / "models"


def fetched(source: Source, file: LockedFile, say: Say = silent) -> Path:
    """Return the path of ``file`` on this machine; it is fetched, and ``say`` told, where it is not there yet.

    Raises:
        SourceError: it is gone, its content is not the locked one, or there is no room for it.
        CloudError: AWS could not be asked.
    """
    cached = folder() / file.sha256
    with files.writing(cached, SourceError):
        if not _holds(cached, file):
            say(f"fetching {file.path} ({units.format_size(file.size)})")
            download(source, file, cached)
    return cached


def _holds(cached: Path, file: LockedFile) -> bool:
    """Return whether ``cached`` has the locked content: a disk can spoil it, and anybody can write to a cache."""
    if not cached.is_file() or cached.stat().st_size != file.size:
        return False
    with cached.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
