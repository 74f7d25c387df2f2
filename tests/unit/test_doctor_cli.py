"""``splitbake doctor`` as it is called, on machines that are made up."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from splitbake.cli import cli
from splitbake.doctor import diagnose, machine
from splitbake.doctor.model import Machine, Output
from splitbake.errors import UsageError


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Debian 12 with no tool at all, on which nothing may be installed by a test; and no manifest."""
    monkeypatch.chdir(tmp_path)
    facts = Machine(codename="bookworm", apt=True, prefix=(), systemd=False, user="")
    monkeypatch.setattr(machine, "look", lambda: facts)
    monkeypatch.setattr("splitbake.doctor.apply.apply", lambda *_: pytest.fail("the machine was changed"))
    monkeypatch.setattr(diagnose, "diagnose", partial(diagnose.diagnose, ask=lambda _: Output(None)))


@pytest.mark.usefixtures("bare_machine")
def test_without_a_terminal_and_without_yes_only_the_plan_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--fix"], standalone_mode=False) == 2
    told = capsys.readouterr()
    assert "To do on this machine:" in told.err
    assert "say --yes" in told.err
    assert "Packer is missing: apt-get install packer" in told.out


@pytest.mark.usefixtures("bare_machine")
def test_json_holds_findings_and_what_can_be_fixed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"], standalone_mode=False) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert {"name", "status", "found", "needed", "remedy", "required"} <= set(told["findings"][0])
    assert any("docker-buildx" in action for action in told["fixable"])


@pytest.mark.usefixtures("bare_machine")
def test_an_optional_tool_is_required_where_it_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def fixable(*arguments: str) -> str:
        assert cli.main(["doctor", *arguments, "--json"], standalone_mode=False) == 2
        return " ".join(json.loads(capsys.readouterr().out)["fixable"])

    assert "nginx-light" not in fixable()
    assert "nginx-light" in fixable("nginx")


def test_a_tool_that_nobody_knows_is_a_wrong_call() -> None:
    with pytest.raises(UsageError, match="'engine-x' is no tool") as told:
        cli.main(["doctor", "engine-x"], standalone_mode=False)
    assert "nginx" in told.value.hint
