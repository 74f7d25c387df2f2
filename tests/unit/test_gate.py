"""The gate before the snapshot: what it lays out, what it says, and how the script starts it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from splitbake.artifact import Check, Report
from splitbake.errors import VerifyError
from splitbake.verify import gate, suite

SCRIPT = Path(str(files("splitbake.generate"))) / "scripts" / "80-gate.sh"
ADDRESS = {gate.HOST: "localhost", gate.PORT: "8022", gate.USER: "ec2-user"}
GOOD = Check(name="model file: a", passed=True, saw="5 B")


@pytest.fixture
def prepared(small: Any, cloud: Any, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "key").write_text("a private key", encoding="ascii")
    names = gate.prepare(
        small.project,
        cloud,
        "sha256:1",
        folder=tmp_path / "gate",
        private_key=tmp_path / "key",
        public_key="ssh-ed25519 AAAA x",
    )
    return {**names, **ADDRESS}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, prepared: dict[str, str]) -> Any:
    """Replace the suite: it finds these checks, or cannot look."""

    def set_(*checks: Check | VerifyError) -> dict[str, Any]:
        asked: dict[str, Any] = {}

        def run(*modules: str, artifact: Any, standard: str, say: Any, **options: Any) -> Report:
            asked.update(options, modules=modules, artifact=artifact)
            for check in checks:
                if isinstance(check, VerifyError):
                    raise check
                say(f"{check.mark} {check.name}")
            made = tuple(check for check in checks if isinstance(check, Check))
            named = {"half": "ami", "artifact": artifact.id, "fingerprint": artifact.fingerprint}
            return Report(**named, standard=standard, created="then", seconds=1.0, checks=made)

        monkeypatch.setattr(suite, "run", run)
        return asked

    return set_


def test_what_is_laid_out_is_private_and_holds_no_key(prepared: dict[str, str]) -> None:
    folder = Path(prepared[gate.FOLDER])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (order,) = folder.iterdir()
    assert stat.S_IMODE(order.stat().st_mode) == 0o600
    assert "a private key" not in order.read_text(encoding="utf-8")
    assert "a private key" not in "".join(prepared.values())


def test_the_builder_is_looked_at_over_the_run_s_own_key(found: Any, prepared: dict[str, str]) -> None:
    asked = found(GOOD)
    assert gate.main(prepared) == 0
    assert asked["modules"] == ("ami",)
    assert asked["expected"]["moment"] == "builder"
    assert asked["expected"]["public_key"] == "ssh-ed25519 AAAA x"
    assert asked["hosts"].startswith("ssh://builder?sudo=true")
    shown = subprocess.run(
        ["ssh", "-G", "-F", str(asked["ssh_config"]), "builder"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    key = Path(prepared[gate.FOLDER]).parent / "key"
    assert {"hostname localhost", "port 8022", "user ec2-user", f"identityfile {key}"} <= set(shown)
    assert {"identitiesonly yes", "batchmode yes", "stricthostkeychecking accept-new"} <= set(shown)


def test_what_is_seen_is_said(found: Any, prepared: dict[str, str], capsys: Any) -> None:
    found(GOOD)
    assert gate.main(prepared) == 0
    assert capsys.readouterr().out == "splitbake: check: ✔ model file: a\n"


def test_a_finding_ends_the_bake_and_is_its_reason(found: Any, prepared: dict[str, str], capsys: Any) -> None:
    found(GOOD, *(Check(name=f"n{number}", passed=False, saw="is wrong") for number in range(5)))
    assert gate.main(prepared) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "splitbake: gate: n0 (is wrong); n1 (is wrong); n2 (is wrong) and 2 more"


def test_no_check_is_no_pass(found: Any, prepared: dict[str, str], capsys: Any) -> None:
    found(Check(name="a", passed=True, skipped=True))
    assert gate.main(prepared) == 1
    assert "splitbake: gate: no check was made" in capsys.readouterr().out


def test_a_builder_that_does_not_answer_ends_the_bake(found: Any, prepared: dict[str, str], capsys: Any) -> None:
    found(VerifyError("it is gone\nand more"))
    assert gate.main(prepared) == 1
    assert capsys.readouterr().out == "splitbake: gate: the builder could not be checked: it is gone\n"


def script(**environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(["sh", str(SCRIPT)], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("environment", [{}, {gate.FOLDER: ""}])
def test_a_bake_by_hand_is_not_checked_and_says_so(environment: dict[str, str]) -> None:
    done = script(**environment)
    assert done.returncode == 0
    assert done.stdout.startswith("splitbake: check: nothing is checked before the snapshot")


@pytest.mark.parametrize("status", [0, 1, 130])
def test_the_script_ends_as_the_gate_does(tmp_path: Path, status: int) -> None:
    python = tmp_path / "a python $(x)"
    python.write_text(f'#!/bin/sh\necho "$@"\nexit {status}\n', encoding="utf-8")
    python.chmod(0o755)
    done = script(**{gate.FOLDER: "/somewhere", gate.PYTHON: str(python)})
    assert (done.stdout, done.returncode) == ("-P -m splitbake.verify.gate\n", status)


def test_modules_of_the_folder_in_which_packer_runs_are_none_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the user has a json.py')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done = script(**{gate.FOLDER: str(tmp_path / "gate"), gate.PYTHON: sys.executable})
    assert "the user has a json.py" not in done.stderr
    assert "gate.json" in done.stderr, "there is nothing to look at"


@pytest.mark.parametrize("environment", [{}, {gate.PYTHON: ""}, {gate.PYTHON: "/no/such/python"}])
def test_a_gate_without_python_stays_shut(environment: dict[str, str]) -> None:
    done = script(**{gate.FOLDER: "/somewhere"}, **environment)
    assert done.returncode == 1
    assert done.stderr.startswith("splitbake: gate: ")


def test_nothing_of_the_project_is_in_the_order_but_what_is_compared(prepared: dict[str, str]) -> None:
    order = json.loads((Path(prepared[gate.FOLDER]) / "gate.json").read_text(encoding="utf-8"))
    assert order.keys() == {"artifact", "standard", "private_key", "connect", "limit", "expected"}


@pytest.mark.parametrize("way", [("private-ip", 5), ("session-manager", 30)])
def test_a_connection_has_as_long_as_its_way_takes(
    small: Any, cloud: Any, found: Any, tmp_path: Path, way: tuple[str, int]
) -> None:
    connect, seconds = way
    small.manifest["ami"]["builder"] = {"connect": connect, "profile": "p"}
    key = tmp_path / "key"
    names = gate.prepare(small.project, cloud, "sha256:1", folder=tmp_path / "g", private_key=key, public_key="a b")
    asked = found(GOOD)
    assert gate.main({**names, **ADDRESS}) == 0
    assert asked["hosts"].endswith(f"&timeout={seconds}")
    assert f'ConnectTimeout "{seconds}"' in asked["ssh_config"].read_text(encoding="utf-8")
