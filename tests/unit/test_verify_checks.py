"""The checks of an AMI as functions: what they say of a host that is not as it should be."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import testinfra

from splitbake import hygiene
from splitbake.generate import host as on_host
from splitbake.verify import probe
from splitbake.verify.checks import ami, boot

SETTLE = (Path(on_host.__file__).parent / "scripts" / "10-settle.sh").read_text(encoding="utf-8")
KEY = "ssh-ed25519 AAAA of the boot"


class Host:
    """Answers commands by what they begin with; everything else ends with 1 and says nothing."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        self.answers = answers

    def run(self, command: str, *arguments: str) -> Any:
        asked = command % tuple(map(shlex.quote, arguments)) if arguments else command
        found = [text for begin, text in self.answers.items() if asked.startswith(begin)]
        return SimpleNamespace(rc=0 if found else 1, stdout=found[0] if found else "", stderr="")

    def check_output(self, command: str, *arguments: str) -> str:
        return str(self.run(command, *arguments).stdout.rstrip("\n"))


@pytest.fixture
def saw() -> list[str]:
    return []


# Hygiene


def rule(monkeypatch: pytest.MonkeyPatch, *paths: Path, **options: bool) -> str:
    """Put a rule for these files in the place of all others, and return its name."""
    made = hygiene.Rule("mine", "why", tuple(map(str, paths)), reborn=True, **options)
    monkeypatch.setattr(ami, "_RULES", {"mine": made, "authorized keys": made})
    return "mine"


def test_a_file_of_the_builder_to_which_a_daemon_appends_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saw: list[str]
) -> None:
    log = tmp_path / "agent.log"
    log.write_text("of the builder\nof this boot\n", encoding="utf-8")
    boot_time = time.time() + 100
    os.utime(log, (boot_time + 50, boot_time + 50))
    with pytest.raises(AssertionError, match=f"left from the build: {log}"):
        ami.test_hygiene(testinfra.get_host("local://"), saw.append, boot_time, rule(monkeypatch, log))
    ami.test_hygiene(testinfra.get_host("local://"), saw.append, time.time(), rule(monkeypatch, log))
    assert saw == ["1 file, all of this boot"]


def test_a_file_that_the_bake_emptied_is_older_than_what_is_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saw: list[str]
) -> None:
    log = tmp_path / "messages"
    log.write_text("of this boot\n", encoding="utf-8")
    boot_time = time.time() + 100
    name = rule(monkeypatch, log, emptied=True)
    with pytest.raises(AssertionError, match="left from the build"):
        ami.test_hygiene(testinfra.get_host("local://"), saw.append, boot_time, name)
    os.utime(log, (boot_time + 50, boot_time + 50))
    ami.test_hygiene(testinfra.get_host("local://"), saw.append, boot_time, name)


def test_where_nobody_knows_when_a_file_was_made_its_last_change_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saw: list[str]
) -> None:
    name = rule(monkeypatch, tmp_path / "x")
    ami.test_hygiene(Host({"sh -c": f"0 2000 5 {tmp_path}/x\n"}), saw.append, 1000, name)
    with pytest.raises(AssertionError, match="left from the build"):
        ami.test_hygiene(Host({"sh -c": f"0 900 5 {tmp_path}/x\n"}), saw.append, 1000, name)


def test_a_key_is_found_in_whichever_file_sshd_may_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saw: list[str]
) -> None:
    assert any("authorized_keys*" in path for path in ami._RULES["authorized keys"].paths)
    rule(monkeypatch, tmp_path / "authorized_keys*")
    host, expected = testinfra.get_host("local://"), {"public_key": KEY}
    (tmp_path / "authorized_keys").write_text(KEY, encoding="utf-8")
    ami.test_only_the_boot_key_may_log_in(host, expected, saw.append)
    assert saw == ["1 key, the boot's own"]
    (tmp_path / "authorized_keys2").write_text("ssh-ed25519 BBBB intruder\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="1 other keys may log in: intruder"):
        ami.test_only_the_boot_key_may_log_in(host, expected, saw.append)


# What the base had

NOTES = f"cat {on_host.BASE_NOTES}"
BOTH = "package kernel-6.1\nunit docker.service enabled\nunit ecs.service enabled\n"


def test_the_builder_notes_of_each_unit_that_needs_volumes_whether_the_base_has_it(tmp_path: Path) -> None:
    """With a systemctl that knows docker.service alone."""
    (listed,) = re.findall(r"for unit in (.+); do", SETTLE)
    assert tuple(listed.split()) == on_host.NEED_VOLUMES
    tool = tmp_path / "systemctl"
    tool.write_text(
        '#!/bin/sh\n[ "$2" = docker.service ] || exit 1\n[ "$1" = cat ] || echo enabled\n', encoding="utf-8"
    )
    tool.chmod(0o755)
    _, _, after = SETTLE.partition("    for unit in")
    script = f"set -eu\nfor unit in{after.partition('} >/etc/splitbake/base')[0]}"
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "unit docker.service enabled\n"


@pytest.mark.parametrize(
    ("states", "finding"),
    [
        ({"ecs.service": "enabled"}, "docker.service is gone, in the base AMI it was enabled"),
        (
            {"docker.service": "enabled", "ecs.service": "disabled"},
            "ecs.service is disabled, in the base AMI it was enabled",
        ),
    ],
)
def test_docker_and_agent_that_a_bake_lost_are_missed(states: dict[str, str], finding: str, saw: list[str]) -> None:
    host = Host({NOTES: BOTH, **{f"systemctl is-enabled {unit}": state for unit, state in states.items()}})
    with pytest.raises(AssertionError) as told:
        ami.test_services_of_the_base_are_there(host, saw.append)
    assert str(told.value) == finding


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        (BOTH, "docker.service enabled, ecs.service enabled"),
        ("unit docker.service indirect\n", "docker.service indirect"),
        ("package kernel-6.1\n", "this base has neither Docker nor ECS"),
    ],
)
def test_services_that_are_as_they_were_are_told(notes: str, said: str, saw: list[str]) -> None:
    states = dict(line.split()[1:] for line in notes.splitlines() if line.startswith("unit"))
    host = Host({NOTES: notes, **{f"systemctl is-enabled {unit}": state for unit, state in states.items()}})
    ami.test_services_of_the_base_are_there(host, saw.append)
    assert saw == [said]


# The runtime


def runtime(found: dict[str, Any], saw: list[str], monkeypatch: pytest.MonkeyPatch, moment: str) -> list[str]:
    """Look at a runtime of which the probe says ``found``; return the probe's arguments."""
    asked: list[str] = []

    def ask(_host: Any, *arguments: str) -> dict[str, Any]:
        asked.extend(arguments)
        return {"packages": {"Torch_X": "2.4"}, "files": 7, "count": 0, "wrong": [], **found}

    monkeypatch.setattr(probe, "ask", ask)
    monkeypatch.setattr(ami, "moment", lambda: moment)
    host = Host({"cat /opt/x/.splitbake/runtime": "sha256:1\n", "du ": "1000 /opt/x"})
    wanted = {"root": "/opt/x", "digest": "sha256:1", "packages": {"torch-x": "2.4"}, "budget": 2000}
    ami.test_runtime(host, {"runtime": wanted}, saw.append)
    return asked


def test_files_of_the_runtime_are_counted_on_the_builder_and_read_on_an_instance(
    monkeypatch: pytest.MonkeyPatch, saw: list[str]
) -> None:
    assert runtime({}, saw, monkeypatch, "builder") == ["runtime", "/opt/x"]
    assert runtime({}, saw, monkeypatch, "instance") == ["runtime", "/opt/x", "content"]
    assert saw == ["1 package, 7 files, 1.0 kB of 2.0 kB"] * 2


def test_a_runtime_that_is_not_what_its_records_say_is_told(monkeypatch: pytest.MonkeyPatch, saw: list[str]) -> None:
    found = {"count": 9, "wrong": ["torch/a.so has other content", "sitecustomize.py is in no RECORD"]}
    with pytest.raises(AssertionError) as told:
        runtime(found, saw, monkeypatch, "instance")
    assert str(told.value) == (
        "9 files not as RECORD says: torch/a.so has other content, sitecustomize.py is in no RECORD"
    )


# The GPU

ONE = {"devices": ["0000:00:1e.0"], "GPUs": ["NVIDIA L4"]}
DRIVER = {"versions": {"loaded module": "570.1", "user-space library": "570.1"}}


def gpu(
    monkeypatch: pytest.MonkeyPatch, *, wanted: bool = False, container: Any = None, **found: Any
) -> dict[str, Any]:
    """Let the probes find this; return what the checks of the GPU are given."""
    answers = {"gpu": {"devices": [], "GPUs": [], **DRIVER, **found}, "container": container}
    monkeypatch.setattr(probe, "ask", lambda _, name, *__: answers[name])
    return {"gpu": wanted, "root": "/opt", "files": {"x": {}}}


def test_a_gpu_is_looked_at_where_there_is_one(monkeypatch: pytest.MonkeyPatch, saw: list[str]) -> None:
    boot.test_gpu_driver_is_one(None, gpu(monkeypatch, **ONE), saw.append)
    boot.test_gpu_in_a_container(None, gpu(monkeypatch, **ONE, container={"problem": None}), saw.append)
    assert saw == ["NVIDIA L4; driver 570.1", "nvidia-smi -L lists it"]
    with pytest.raises(AssertionError, match="nvidia-smi finds none of 1 GPU"):
        boot.test_gpu_driver_is_one(None, gpu(monkeypatch, devices=["x"]), saw.append)


@pytest.mark.parametrize("check", [boot.test_gpu_driver_is_one, boot.test_gpu_in_a_container])
def test_without_a_gpu_nothing_is_tried_unless_one_is_wanted(
    monkeypatch: pytest.MonkeyPatch, saw: list[str], check: Any
) -> None:
    with pytest.raises(pytest.skip.Exception, match="this instance has no GPU"):
        check(None, gpu(monkeypatch), saw.append)
    with pytest.raises(AssertionError, match=r"there is no GPU, and verify\.gpu wants one"):
        check(None, gpu(monkeypatch, wanted=True), saw.append)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (False, "Skipped: this host has no Docker"),
        (True, "AssertionError: this host has no Docker, and verify.gpu wants a GPU in a container"),
    ],
)
def test_a_host_that_can_start_no_container_is_a_finding_where_a_gpu_is_wanted(
    monkeypatch: pytest.MonkeyPatch, saw: list[str], wanted: bool, said: str
) -> None:
    found = gpu(monkeypatch, wanted=wanted, container={"without": "this host has no Docker"}, **ONE)
    with pytest.raises((AssertionError, pytest.skip.Exception)) as told:
        boot.test_gpu_in_a_container(None, found, saw.append)
    assert f"{told.type.__name__}: {told.value}" == said


@pytest.mark.parametrize("problem", ["", "nvidia-smi ended with 139: it said nothing"])
def test_any_problem_of_a_gpu_in_a_container_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, saw: list[str], problem: str
) -> None:
    with pytest.raises(AssertionError):
        boot.test_gpu_in_a_container(None, gpu(monkeypatch, **ONE, container={"problem": problem}), saw.append)
