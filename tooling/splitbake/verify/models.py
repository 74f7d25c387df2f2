"""The locked model files on this machine: fetched once into a cache, laid out as the AMI has them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from splitbake import contract, files, sources, units
from splitbake.cloud import Cloud
from splitbake.errors import VerifyError
from splitbake.lock import LockedFile
from splitbake.project import Project
from splitbake.ui import Say


@contextmanager
def laid_out(project: Project, cloud: Cloud, say: Say) -> Iterator[Path]:
    """Yield a temporary folder that is like ``models.root`` of the AMI: every model file, and the contract.

    The files are links into the cache where the file system allows it: mount them read-only.

    Raises:
        SourceError, CloudError: a model cannot be fetched, or its content is not the locked one.
        VerifyError: there is no room.
    """
    cache = _cache()
    with tempfile.TemporaryDirectory(prefix=".tree-", dir=cache) as name:
        root = Path(name) / "models"
        source_of = sources.opener(cloud, project.root)
        for file in project.lock.files:
            cached, target = cache / file.sha256, root / file.path
            with files.writing(cached, VerifyError):
                if not _holds(cached, file):
                    say(f"fetching {file.path} ({units.format_size(file.size)})")
                    sources.download(source_of(file.source), file, cached)
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(cached, target)
        offer = root / contract.FOLDER / contract.OFFER_FILE
        files.replace(offer, contract.offer_text(project.manifest, project.lock), VerifyError)
        for folder, _, _ in os.walk(root):
            Path(folder).chmod(0o755)  # whatever the umask is, the image's user reads them
        yield root


def _cache() -> Path:
    """Return ``$XDG_CACHE_HOME/splitbake/models``, where each file is named by its SHA-256."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "splitbake" / "models"
    with files.writing(folder, VerifyError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _holds(cached: Path, file: LockedFile) -> bool:
    """Return whether ``cached`` has the locked content: a disk can spoil it, and anybody can write to a cache."""
    if not cached.is_file() or cached.stat().st_size != file.size:
        return False
    with cached.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _link(cached: Path, target: Path) -> None:
    try:
        target.hardlink_to(cached)
    except OSError:  # a file system without links
        shutil.copyfile(cached, target)
