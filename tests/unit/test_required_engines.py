"""The rule of tests/conftest.py: where engines are required, no engine test may fall silent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

SKIPS = """
import pytest

def test_docker():
    pytest.skip("needs Docker")

def test_cloud():
    pytest.skip("the AWS API of the local cloud does not answer")

@pytest.mark.skip(reason="needs a GPU")
def test_gpu():
    pass

@pytest.mark.skipif(True, reason="Terraform is not installed")
def test_terraform():
    pass

@pytest.mark.xfail(reason="a known bug", strict=True)
def test_xfail():
    assert False
"""


def outcome(tmp_path: Path, folder: str, text: str, *, required: bool) -> tuple[int, str]:
    """Run pytest on one test file beside a copy of our conftest; return exit code and summary."""
    shutil.copy(CONFTEST, tmp_path / "conftest.py")
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "test_it.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
        env={**os.environ, "SPLITBAKE_REQUIRE_ENGINES": "1" if required else "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_skip_for_a_missing_tool_fails_where_engines_are_required(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, "engine", SKIPS, required=True)
    assert code == 1
    assert "2 failed, 2 skipped, 1 xfailed" in text
    assert "may not be skipped here (SPLITBAKE_REQUIRE_ENGINES=1): Skipped: needs Docker" in text


@pytest.mark.parametrize(("folder", "required"), [("engine", False), ("unit", True)])
def test_elsewhere_a_skip_stays_a_skip(tmp_path: Path, folder: str, required: bool) -> None:
    code, text = outcome(tmp_path, folder, SKIPS, required=required)
    assert code == 0
    assert "4 skipped, 1 xfailed" in text


def test_a_whole_module_cannot_skip_itself_either(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, "e2e", "import pytest\npytest.importorskip('no_such_module')\n", required=True)
    assert code != 0
    assert "may not be skipped here" in text
