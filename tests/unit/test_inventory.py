"""Inventories: remembered beside the AMI, compared, and told by ``splitbake diff``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake import inventory
from splitbake.artifact import Artifact
from splitbake.cli import cli, run
from splitbake.errors import VerifyError
from splitbake.inventory import Change, Inventory, Model
from splitbake.verify import probe

OLD, NEW = "ami-0aaaaaaaaaaaaaaaa", "ami-0bbbbbbbbbbbbbbbb"
VERSIONS = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.sampled_from(["1", "2", "3-4, 5"]))


def of(ami: str = OLD, **values: Any) -> Inventory:
    found = {
        "fingerprint": "sha256:1",
        "taken": "2026-01-01T00:00:00+00:00",
        "system": "Amazon Linux 2023",
        "kernel": "6.1.1",
        "driver": "",
        "docker": "25.0.8",
        "ecs_agent": "1.90.0",
        "python": "3.9.20",
        "packages": {"bash": "5.2"},
        "images": {},
        "models": {},
        "sizes": {"/": 10_000_000},
    }
    return Inventory(ami=ami, **{**found, **values})


@given(VERSIONS, VERSIONS)
def test_the_changes_lead_from_one_to_the_other(before: dict[str, str], after: dict[str, str]) -> None:
    changes = inventory.compare(of(packages=before), of(NEW, packages=after))
    packages = dict(before)
    for change in changes:
        assert change.what == "package"
        assert packages.pop(change.name, "") == change.before != change.after
        packages |= {change.name: change.after} if change.after else {}
        expected = "added" if change.name not in before else "removed" if change.name not in after else "changed"
        assert change.kind == expected
    assert packages == after


def test_everything_is_compared() -> None:
    weights = {"models/a": Model(size=5, sha256="1" * 64), "models/b": Model(size=5, sha256="2" * 64)}
    trained = {"models/b": Model(size=5, sha256="3" * 64), "models/c": Model(size=7_000, sha256="4" * 64)}
    before = of(models=weights, images={"sha256:1": 5}, sizes={"/": 20_000_000, "/usr": 1, "/opt": 5_000_000})
    after = of(
        NEW,
        driver="570.133.20",
        kernel="6.12.3",
        ecs_agent="1.91.0",
        models=trained,
        images={"sha256:2": 5},
        runtime="sha256:9",
        wheels={"torch": "2.4.0"},
        sizes={"/": 30_000_000, "/usr": 2, "/opt": 5_000_001, "/srv": 8_000_000},
    )
    assert inventory.compare(before, after) == [
        Change("system", "driver", "", "570.133.20"),
        Change("system", "ecs agent", "1.90.0", "1.91.0"),
        Change("system", "kernel", "6.1.1", "6.12.3"),
        Change("system", "runtime", "", "sha256:9"),
        Change("model", "models/a", "5 B, sha256 111111111111", ""),
        Change("model", "models/b", "5 B, sha256 222222222222", "5 B, sha256 333333333333"),
        Change("model", "models/c", "", "7.0 kB, sha256 444444444444"),
        Change("wheel", "torch", "", "2.4.0"),
        Change("image", "sha256:1", "5 B", ""),
        Change("image", "sha256:2", "", "5 B"),
        Change("folder", "/", "20.0 MB", "30.0 MB"),
        Change("folder", "/srv", "", "8.0 MB"),
    ]


def test_where_nothing_else_differs_the_fingerprint_does() -> None:
    other = of(NEW, fingerprint="sha256:2")
    assert inventory.compare(of(), other) == [Change("system", "fingerprint", "sha256:1", "sha256:2")]
    (change,) = inventory.compare(of(), other.model_copy(update={"runtime": "sha256:9"}))
    assert change.name == "runtime"


def test_an_inventory_of_before_there_was_a_runtime_is_read() -> None:
    body = of().model_dump(exclude={"runtime", "wheels"})
    assert Inventory.model_validate(body) == of()


@pytest.mark.parametrize("runtime", [None, "/opt/run time"])
def test_the_folders_of_all_volumes_are_asked_for(
    small: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: str | None
) -> None:
    if runtime:
        small.manifest["runtime"] = {
            "requirements": "gpu.txt",
            "python": "3.11",
            "budget": "1 GB",
            "root": runtime,
        }
    manifest, asked = small.project.manifest, []

    def ask(_config: Path, _host: str, *arguments: str, within: float) -> dict[str, Any]:
        asked.extend(arguments)
        return of().model_dump(exclude={"ami", "fingerprint", "taken"})

    monkeypatch.setattr(probe, "ask_over_ssh", ask)
    artifact = Artifact(half="ami", id=OLD, location="x", fingerprint="y", created="z", seconds=1.0, size=1)
    found = inventory.take(tmp_path, "instance", artifact, manifest=manifest, within=1)
    assert (found.ami, found.fingerprint) == (OLD, "y")
    assert asked == ["inventory", manifest.models.root, *([runtime] if runtime else [])]


@pytest.fixture
def kept(small: Any, cloud: Any) -> list[str]:
    """Both inventories are in the project's state; the options of a call that finds it."""
    catalog = small.project.catalog(cloud)
    catalog.keep_inventory(of())
    catalog.keep_inventory(of(NEW, packages={"bash": "5.3", "jq": "1.7"}))
    assert catalog.inventory(NEW) == of(NEW, packages={"bash": "5.3", "jq": "1.7"})
    return [f"--manifest={small.root / 'splitbake.yaml'}"]


def called(*argv: str) -> int:
    return run(cli, prog_name="splitbake", argv=["diff", *argv])


def test_diff_shows_what_changed(kept: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert called(OLD, NEW, *kept) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert any({"~", "package", "bash", "5.2", "5.3"} <= set(line) for line in lines)
    assert any({"+", "package", "jq", "1.7"} <= set(line) for line in lines)


def test_one_ami_is_shown_whole(kept: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert called(NEW, *kept) == 0
    out = capsys.readouterr().out
    assert NEW in out
    lines = [line.split() for line in out.splitlines()]
    for wanted in ("package bash 5.3", "package jq 1.7", "system kernel 6.1.1", "folder / 10.0"):
        assert any(set(wanted.split()) <= set(line) for line in lines), wanted
    assert "driver" not in out, "what it does not have is not told"


def test_one_ami_for_scripts(kept: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert called(NEW, "--json", *kept) == 0
    told = Inventory.model_validate_json(capsys.readouterr().out)
    assert (told.ami, told.packages) == (NEW, {"bash": "5.3", "jq": "1.7"})


def test_one_ami_differs_from_none(kept: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert called(NEW, "--exit-code", *kept) == 64
    assert "only one was named" in capsys.readouterr().err


def test_diff_for_scripts(kept: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert called(OLD, NEW, "--json", "--exit-code", *kept) == 2
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "before": OLD,
        "after": NEW,
        "changes": [
            {"what": "package", "name": "bash", "before": "5.2", "after": "5.3", "kind": "changed"},
            {"what": "package", "name": "jq", "before": "", "after": "1.7", "kind": "added"},
        ],
    }


def test_the_same_ami_differs_in_nothing(kept: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert called(OLD, OLD, "--exit-code", *kept) == 0
    assert "hold the same" in capsys.readouterr().out


def test_an_ami_without_inventory_is_said(kept: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert called(OLD, "ami-0cccccccccccccccc", *kept) == 1
    told = capsys.readouterr().err
    assert "no inventory of ami-0cccccccccccccccc in eu-west-1" in told
    assert f"{OLD}, {NEW}" in told


def test_a_state_without_any_inventory_says_how_to_take_one(
    small: Any, cloud: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert small.project
    assert called(OLD, NEW, f"--manifest={small.root / 'splitbake.yaml'}") == 1
    assert "splitbake verify ami" in capsys.readouterr().err


@pytest.mark.parametrize("status", [255, 1])
def test_a_probe_that_finds_no_machine_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    stand_in = tmp_path / "ssh"
    stand_in.write_text(f"#!/bin/sh\necho 'No route to host' >&2; exit {status}\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(VerifyError, match="No route to host") as told:
        probe.ask_over_ssh(tmp_path / "config", "instance", "inventory", within=60)
    assert told.value.hint == ("is the machine still there?" if status == 255 else "")
