"""The locked model files on this machine: fetched once into a cache, laid out as the AMI has them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from splitbake import contract, files, sources
from splitbake.cloud import Cloud
from splitbake.errors import VerifyError
from splitbake.project import Project
from splitbake.sources import cache
from splitbake.ui import Say


@contextmanager
def laid_out(project: Project, cloud: Cloud, say: Say) -> Iterator[Path]:
    """Yield a temporary folder that is like ``models.root`` of the AMI: every model file, and the contract.

    The files are links into the cache where the file system allows it: mount them read-only.

    Raises:
        SourceError, CloudError: a model cannot be fetched, or its content is not the locked one.
        VerifyError: they cannot be laid out.
    """
    home = cache.folder()
    with files.writing(home, VerifyError):
        home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tree-", dir=home) as name:
        root = Path(name) / "models"
        source_of = sources.opener(cloud, project.root)
        for file in project.lock.files:
            cached, target = cache.fetched(source_of(file.source), file, say), root / file.path
            with files.writing(target, VerifyError):
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(cached, target)
        offer = root / contract.FOLDER / contract.OFFER_FILE
        files.replace(offer, contract.offer_text(project.manifest, project.lock), VerifyError)
        for folder, _, _ in os.walk(root):
            Path(folder).chmod(0o755)  # whatever the umask is, the image's user reads them
        yield root


def _link(cached: Path, target: Path) -> None:
    try:
        target.hardlink_to(cached)
    except OSError:  # a file system without links
        shutil.copyfile(cached, target)
