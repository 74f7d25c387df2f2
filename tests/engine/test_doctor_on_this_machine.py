"""The doctor on the machine that runs the tests: all that these tests need is there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.engine


def doctor(*options: str) -> tuple[int, dict]:
    """Call ``splitbake doctor --json`` as a user would."""
    done = subprocess.run(
        [sys.executable, "-m", "splitbake", "doctor", "--json", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_all_that_is_required_is_here() -> None:
    code, report = doctor()
    lacking = [
        f"{each['name']} is {each['status']}" for each in report["findings"] if each["required"] and each["remedy"]
    ]
    if lacking:
        pytest.skip("; ".join(lacking))
    assert code == 0
    assert report["ok"] is True
    versions = {each["name"]: each["found"] for each in report["findings"]}
    assert versions["Docker Engine"]
    assert versions["Packer"]


def test_fix_has_nothing_to_do_where_all_is_there() -> None:
    before = doctor()
    if before[0]:
        pytest.skip("the doctor finds " + ", ".join(e["name"] for e in before[1]["findings"] if e["remedy"]))
    assert doctor("--fix", "--yes") == before


def test_an_engine_that_does_not_answer_is_found_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/socket")
    code, report = doctor()
    (engine,) = [each for each in report["findings"] if each["name"] == "Docker Engine"]
    assert code == 2
    assert engine["status"] in {"not running", "missing"}
    assert engine["remedy"]
    assert not any("dockerd" in action or "systemctl" in action for action in report["fixable"])
