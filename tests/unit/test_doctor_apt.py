"""apt's own words, as captured, and what is made of failing commands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from splitbake.doctor.apply import dockerd_options, engine_log
from splitbake.doctor.apt import answer, candidates, find_site, isolate, stream
from splitbake.doctor.model import Machine
from splitbake.errors import ToolError

POLICY = """\
docker.io:
  Installed: (none)
  Candidate: 20.10.24+dfsg1-1+deb12u1+b6
  Version table:
     20.10.24+dfsg1-1+deb12u1+b6 500
        500 http://mirror.example/debian bookworm/main amd64 Packages
docker-cli:
  Installed: (none)
  Candidate: (none)
  Version table:
git:
  Installed: 1:2.39.5-0+deb12u3
  Candidate: 1:2.39.5-0+deb12u3
  Version table:
"""

TARGETS = """\
bookworm-security main http://security.example/debian-security
bookworm contrib http://mirror.example/other
bookworm main http://mirror.example/debian
bookworm-updates main http://mirror.example/debian
"""


def test_only_packages_with_a_candidate_can_be_installed() -> None:
    assert candidates(POLICY) == {"docker.io", "git"}
    assert candidates("") == set()


def test_the_mirror_is_the_one_of_this_release() -> None:
    assert find_site(TARGETS, "bookworm") == "http://mirror.example/debian"
    assert find_site("stable main http://mirror.example/debian\n", "bookworm") == "http://mirror.example/debian"
    assert find_site(TARGETS, "noble") == ""


def test_apt_is_isolated_from_the_machines_sources(tmp_path: Path) -> None:
    options = isolate(tmp_path, "deb [signed-by=/k.gpg] http://mirror.example/debian trixie main\n")
    assert f"Dir::Etc::SourceList={tmp_path}/sources.list" in options
    assert "Dir::Etc::SourceParts=/dev/null" in options
    assert "trixie main" in (tmp_path / "sources.list").read_text()
    assert not any("AllowUnauthenticated" in option or "AllowInsecure" in option for option in options)


def test_a_failing_command_is_told_with_its_last_lines() -> None:
    lines: list[str] = []
    script = "[print(f'line {n}') for n in range(20)]; print('E: Unable to locate package'); raise SystemExit(1)"
    with pytest.raises(ToolError) as caught:
        stream((sys.executable, "-c", script), lines.append, hint="look there")
    assert "exit code 1" in caught.value.message
    assert caught.value.message.endswith("E: Unable to locate package")
    assert "line 2\n" not in caught.value.message
    assert caught.value.hint == "look there"
    assert lines[0] == "line 0"


def test_answer_raises_what_the_command_said() -> None:
    with pytest.raises(ToolError, match="no such thing"):
        answer((sys.executable, "-c", "import sys; sys.exit('no such thing')"))


def test_without_nat_tables_the_engine_leaves_iptables_alone() -> None:
    assert dockerd_options(has_nat=True) == ()
    assert dockerd_options(has_nat=False) == ("--iptables=false",)


def test_a_users_engine_log_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    ana = Machine(codename="noble", apt=True, prefix=("sudo", "-n"), systemd=False, user="ana")
    assert engine_log(ana) == tmp_path / "splitbake" / "dockerd.log"
    root = Machine(codename="noble", apt=True, prefix=(), systemd=False, user="")
    assert engine_log(root) == Path("/var/log/dockerd.log")
