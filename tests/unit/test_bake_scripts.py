"""What scripts of a bake refuse before they touch anything, and what they say when a tool fails: run with stand-ins."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splitbake.generate import packer
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.runtime import PLATFORMS

BUDGET = 2 * 1024**3


def scripts(small: Any, models: Path, runtime: Path) -> dict[str, str]:
    """Return the scripts of a bake on the root volume: name -> text."""
    small.manifest["models"] |= {"root": str(models), "placement": "root"}
    small.manifest["runtime"] = {
        "requirements": "gpu.txt",
        "python": "3.11",
        "budget": "2 GiB",
        "root": str(runtime),
    }
    wheel = {"name": "uv", "version": "1", "url": "https://example.com/uv-1-py3-none-any.whl", "size": 1}
    small.lock["runtime"] = {
        "requirements": "0" * 64,
        "python": "3.11",
        "platform": PLATFORMS["x86_64"],
        "wheels": [],
        "installer": wheel | {"sha256": "0" * 64},
    }
    # Not by way of the project, which refuses folders below /tmp.
    manifest, lock = Manifest.model_validate(small.manifest), Lock.model_validate(small.lock)
    return {path.rpartition("/")[2]: text for path, text in packer.scripts(manifest, lock).items()}


@pytest.fixture
def run(small: Any, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script; ``tools`` (name -> shell) stand in for programs of the builder."""
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs/runtime.txt").touch()

    def run(name: str, **tools: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "tools").mkdir()
        for tool, body in tools.items():
            (tmp_path / "tools" / tool).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
            (tmp_path / "tools" / tool).chmod(0o755)
        text = scripts(small, tmp_path / "models", tmp_path / "runtime")[name]
        text = text.replace("inputs=/var/tmp/splitbake", f"inputs={tmp_path}/inputs")
        env = {"PATH": f"{tmp_path}/tools:{os.environ['PATH']}"}
        return subprocess.run(["sh", "-c", text], env=env, capture_output=True, text=True, check=False)

    return run


FETCHES = "case $* in *fetch.py*) echo fetches; exit 7 ;; esac"


@pytest.mark.parametrize(
    ("script", "part", "own"),
    [("30-models.sh", "models", ".splitbake-fetch"), ("40-runtime.sh", "runtime", ".installing")],
)
def test_a_folder_of_somebody_else_is_not_taken_over(
    tmp_path: Path, run: Any, script: str, part: str, own: str
) -> None:
    """Below it, owner and mode of everything are set."""
    for name in (own, ".theirs"):
        (tmp_path / part / name).mkdir(parents=True)
    done = run(script, python3=FETCHES)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"splitbake: folder: {tmp_path}/{part} has content already, whose owner and mode would change\n"
    )


@pytest.mark.parametrize(("script", "part"), [("30-models.sh", "models"), ("40-runtime.sh", "runtime")])
def test_a_file_is_no_folder(tmp_path: Path, run: Any, script: str, part: str) -> None:
    (tmp_path / part).touch()
    done = run(script, python3=FETCHES)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"splitbake: folder: {tmp_path}/{part} ")


@pytest.mark.parametrize("own", [None, ".", ".splitbake-fetch"], ids=["no folder", "an empty one", "an earlier run"])
def test_what_a_killed_run_has_left_is_no_content(tmp_path: Path, run: Any, own: str | None) -> None:
    if own:
        (tmp_path / "models" / own).mkdir(parents=True)
    done = run("30-models.sh", python3=FETCHES)
    assert (done.returncode, done.stdout) == (7, "fetches\n")


#: Instead of python3, which unpacks the installer.
UNPACKS = """case $* in *zipfile*)
mkdir -p "$5/uv/scripts" && cp "${0%/*}/uv" "$5/uv/scripts/uv"
esac"""
FULL = "error: Failed to download heavy\n  cause: No space left on device (os error 28)"


@pytest.mark.parametrize(
    ("mounted", "says", "kind"),
    [
        (True, FULL, f"budget: the wheels do not fit on the volume that runtime.budget, {BUDGET} bytes, asks for"),
        (False, FULL, "disk-full: the wheels do not fit on the root volume"),
        (True, "error: hash mismatch", "runtime: the wheels cannot be installed; the lines above say why"),
    ],
)
def test_wheels_that_do_not_fit_are_told_as_such(run: Any, mounted: bool, says: str, kind: str) -> None:
    """uv removes what it could not finish, so that nothing is full any more when it has failed."""
    done = run(
        "40-runtime.sh", python3=UNPACKS, uv=f"echo '{says}' >&2; exit 1", findmnt="true" if mounted else "exit 1"
    )
    assert (done.returncode, done.stderr) == (1, f"{says}\nsplitbake: {kind}\n")
