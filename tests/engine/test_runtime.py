"""The runtime for real: wheels chosen by uv, installed as the AMI has them, reached from the Python of an image."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from splitbake.errors import SourceError, VerifyError
from splitbake.manifest.runtime import Runtime
from splitbake.runtime import LockedRuntime
from splitbake.sources import wheels
from splitbake.ui import silent
from splitbake.verify import runtime

pytestmark = pytest.mark.engine


@pytest.fixture
def resolve(tmp_path, monkeypatch, package_index):
    """Resolve a requirements file with this text for Python 3.11 on x86-64."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", package_index("127.0.0.1"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))

    def resolve(text: str) -> LockedRuntime:
        (tmp_path / "gpu.txt").write_text(text, encoding="utf-8")
        wanted = Runtime(requirements="gpu.txt", python="3.11", budget="1 GiB")
        return wheels.resolve(wanted, tmp_path, "x86_64", silent)

    return resolve


def test_each_wheel_is_locked_with_address_size_and_hash(resolve, tmp_path):
    found = resolve("heavy\n")
    (heavy,) = found.wheels
    file = tmp_path / "index/simple/heavy" / heavy.file
    assert (heavy.name, heavy.version, heavy.size) == ("heavy", "1.0", file.stat().st_size)
    assert "-cp311-" in heavy.file
    assert "-manylinux_2_17_x86_64" in found.installer.file
    assert resolve("heavy\n") == found


def test_what_has_no_wheel_for_the_image_is_refused(resolve):
    with pytest.raises(SourceError, match=r"gpu\.txt cannot be resolved to wheels for Python 3\.11") as caught:
        resolve("heavy==2.0\n")
    assert "heavy==2.0" in caught.value.message


def test_it_is_installed_once_and_found_by_its_digest(resolve):
    found = resolve("heavy\n")
    folder = runtime.installed(found, silent)
    assert (folder / "heavy/__init__.py").is_file()
    assert (folder / ".splitbake/runtime").read_text() == f"{found.digest}\n"
    (folder / "mark").touch()
    assert (runtime.installed(found, silent) / "mark").exists()


def test_nothing_in_it_says_where_it_came_from(resolve):
    folder = runtime.installed(resolve("heavy\n"), silent)
    assert (folder / "heavy-1.0.dist-info/METADATA").is_file()
    assert not [*folder.rglob("direct_url.json"), *folder.rglob(".lock")]


def test_any_user_can_read_it_whatever_the_umask(resolve):
    found, before = resolve("heavy\n"), os.umask(0o077)
    try:
        folder = runtime.installed(found, silent)
    finally:
        os.umask(before)
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_a_wheel_with_other_content_is_refused(resolve, tmp_path):
    found = resolve("heavy\n")
    (heavy,) = found.wheels
    forged = found.model_copy(update={"wheels": (heavy.model_copy(update={"sha256": "0" * 64}),)})
    with pytest.raises(VerifyError, match="cannot be installed here"):
        runtime.installed(forged, silent)
    assert not list(Path(tmp_path, "cache/splitbake/runtimes").iterdir())


def test_the_python_of_the_image_imports_from_it(resolve, tmp_path):
    folder = runtime.installed(resolve("heavy\n"), silent)
    site = tmp_path / "site"
    site.mkdir()
    (site / "splitbake-runtime.pth").write_text(f"import site; site.addsitedir({str(folder)!r})\n", encoding="utf-8")
    program = f"import site, sys; site.addsitedir({str(site)!r}); import heavy; print(heavy.weight, sys.heavy_pth)"
    done = subprocess.run(["python3", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "a ton True\n"
