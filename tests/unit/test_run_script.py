"""``run``: what it does on machines that lack something, in a copy of its own."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

RUN = Path(__file__).parents[2] / "run"


@pytest.fixture
def run(tmp_path: Path) -> ModuleType:
    """The script as a module, in a folder of its own."""
    copy = Path(shutil.copy(RUN, tmp_path / "run"))
    loader = importlib.machinery.SourceFileLoader("run_script", str(copy))
    spec = importlib.util.spec_from_loader("run_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def executed(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The programs that the script would have become; environments are made without pip and nox."""
    calls: list[list[str]] = []
    monkeypatch.setattr(run.os, "execv", lambda _, argv: calls.append(list(argv)))

    def without_packages(argv: list[str | Path], **options: Any) -> None:
        if "pip" not in argv:
            subprocess.run([*argv, "--without-pip"], **options)  # noqa: PLW1510 (the caller says)

    monkeypatch.setattr(run, "subprocess", SimpleNamespace(**{**vars(subprocess), "run": without_packages}))
    return calls


def test_it_is_executable() -> None:
    assert os.access(RUN, os.X_OK)


def test_it_needs_nothing_but_the_standard_library() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", RUN, "--help"], capture_output=True, text=True, check=True)
    assert "./run demo --yes" in done.stdout


def test_a_session_gets_its_arguments_untouched(run: ModuleType) -> None:
    argv = run.nox_command(["tests", "-k", "lock and not ami", "--yes"])
    assert argv[-6:] == ["--session", "tests", "--", "-k", "lock and not ami", "--yes"]
    assert run.nox_command([])[-1] == "--list"


def test_the_second_call_finds_the_environment(run: ModuleType, executed: list[list[str]]) -> None:
    run.main(["demo", "--yes"])
    made = run.STAMP.stat().st_mtime_ns
    run.main(["demo"])
    assert len(executed) == 2
    assert run.STAMP.stat().st_mtime_ns == made


def test_a_call_killed_half_way_is_made_good(run: ModuleType, executed: list[list[str]]) -> None:
    (run.VENV / "bin").mkdir(parents=True)
    (run.VENV / "bin" / "python").write_text("half a file")
    run.main(["demo"])
    assert run.is_complete()
    assert subprocess.run([run.PYTHON, "-c", "print(1)"], capture_output=True, check=True).stdout == b"1\n"


def test_other_pins_or_another_place_make_it_anew(run: ModuleType, executed: list[list[str]]) -> None:
    run.main(["demo"])
    run.PINS = ("nox==0",)
    assert not run.is_complete()


@pytest.mark.usefixtures("executed")
def test_without_venv_it_says_what_to_install(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "has_venv", lambda: False)
    with pytest.raises(SystemExit) as caught:
        run.main(["demo"])
    assert "apt-get install --yes python3" in str(caught.value.code)
    assert "venv" in str(caught.value.code)
    assert "\n" not in str(caught.value.code)


def test_an_old_python_goes_on_under_a_newer_one(
    run: ModuleType, executed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.sys, "version_info", (3, 10, 12))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "python3.12" else None)
    run.become_newer(["demo", "--yes"])
    assert executed == [["/usr/bin/python3.12", str(run.__file__), "demo", "--yes"]]


@pytest.mark.usefixtures("executed")
def test_an_old_python_alone_says_what_to_install(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.sys, "version_info", (3, 10, 12))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SystemExit, match=r"Python 3\.10 is too old.*python3\.11 python3\.11-venv"):
        run.main(["demo"])


def test_pips_settings_hold_for_uv_unless_uv_has_its_own(run: ModuleType) -> None:
    environment = {"PIP_INDEX_URL": "https://index.example/simple", "PIP_CERT": "/ca.pem", "SSL_CERT_FILE": "/own.pem"}
    assert run.uv_settings(environment) == {"UV_DEFAULT_INDEX": "https://index.example/simple"}


def test_options_before_the_session_are_a_wrong_call() -> None:
    done = subprocess.run([sys.executable, RUN, "--session", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 64
