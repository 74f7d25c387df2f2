"""The models that an image is verified with: the locked content, whatever lay in the cache."""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from splitbake.errors import SourceError
from splitbake.lock import LockedFile
from splitbake.ui import silent
from splitbake.verify import models

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def project(tmp_path: Path) -> Any:
    (tmp_path / "weights.bin").write_bytes(CONTENT)
    file = LockedFile(path="models/deep/weights.bin", source="weights.bin", size=len(CONTENT), sha256=SHA256)
    lock = SimpleNamespace(files=[file], base_ami=SimpleNamespace(architecture="x86_64"))
    return SimpleNamespace(root=tmp_path, lock=lock, manifest=SimpleNamespace(contract=2, runtime=None))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/splitbake/models"


def laid_out(project: Any) -> tuple[bytes, list[str]]:
    """Return what an image would read, and what was fetched for it."""
    said: list[str] = []
    with models.laid_out(project, SimpleNamespace(), said.append) as root:
        return (root / "models/deep/weights.bin").read_bytes(), said


def test_a_model_is_fetched_once(project: Any, cache: Path) -> None:
    assert laid_out(project) == (CONTENT, ["fetching models/deep/weights.bin (7.0 kB)"])
    assert laid_out(project) == (CONTENT, [])
    assert [path.name for path in cache.iterdir()] == [SHA256]


def test_the_contract_lies_beside_them_as_on_the_ami(project: Any, cache: Path) -> None:
    with models.laid_out(project, SimpleNamespace(), silent) as root:
        text = (root / ".splitbake/contract").read_text(encoding="utf-8")
    assert text == "contract\t2\narchitecture\tx86_64\nfile\t7000\tmodels/deep/weights.bin\n"


@pytest.mark.parametrize("spoiled", [CONTENT[:-1], b"", b"x" + CONTENT[1:]])
def test_a_spoiled_file_of_the_cache_is_fetched_again(project: Any, cache: Path, spoiled: bytes) -> None:
    cache.mkdir(parents=True)
    (cache / SHA256).write_bytes(spoiled)
    content, said = laid_out(project)
    assert content == CONTENT
    assert len(said) == 1


def test_any_user_can_read_them_whatever_the_umask(project: Any, cache: Path) -> None:
    before = os.umask(0o077)
    try:
        with models.laid_out(project, SimpleNamespace(), silent) as root:
            modes = [path.stat().st_mode & 0o777 for path in (root, *sorted(root.rglob("*")))]
    finally:
        os.umask(before)
    assert modes == [*[0o755] * 2, 0o644, *[0o755] * 2, 0o644]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """What a full disk is like: what is there stays, more cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_leaves_nothing(project: Any, cache: Path) -> None:
    with no_file_larger_than(1000), pytest.raises(SourceError, match=f"cannot write .*{SHA256}: File too large"):
        laid_out(project)
    assert list(cache.iterdir()) == []
