"""The suite: a run of checks in a pytest of its own, told live, told apart from a run that broke."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from splitbake.artifact import Artifact, Report
from splitbake.errors import VerifyError
from splitbake.verify import plugin, ssh, suite

pytestmark = pytest.mark.engine

ARTIFACT = Artifact(
    half="ami", id="ami-1", location="eu-west-1", fingerprint="sha256:1", created="2026-01-01", seconds=1.0, size=1
)


def checked(folder: Path, body: str, junit: Path | None = None, limit: float = 60) -> tuple[Report, list[str]]:
    module = folder / "checks_of_mine.py"
    module.write_text(f"import time\nimport pytest\n\n{body}", encoding="utf-8")
    said: list[str] = []
    report = suite.run(
        str(module),
        artifact=ARTIFACT,
        standard="sha256:standard",
        hosts="local://",
        expected={"word": "ünï"},
        junit=junit,
        say=said.append,
        limit=limit,
    )
    return report, said


def test_what_was_seen_and_why_it_failed_are_in_the_report(tmp_path: Path) -> None:
    report, said = checked(
        tmp_path,
        "def test_a_word(host, expected, saw):\n"
        "    saw(host.check_output('echo %s', expected['word']))\n"
        "@pytest.mark.parametrize('path', ['models/a b.onnx'])\n"
        "def test_model_file(host, path):\n"
        "    assert False, 'has 1 byte, locked are 2'\n",
    )
    assert [(check.name, check.passed, check.saw) for check in report.checks] == [
        ("a word", True, "ünï"),
        ("model file: models/a b.onnx", False, "has 1 byte, locked are 2"),
    ]
    assert not report.passed
    assert (report.artifact, report.fingerprint) == ("ami-1", "sha256:1")
    assert said == ["✔ a word (ünï)", "✘ model file: models/a b.onnx (has 1 byte, locked are 2)"]


def test_a_kind_of_check_with_nothing_to_check_is_no_check(tmp_path: Path) -> None:
    report, said = checked(
        tmp_path,
        "def test_a(host): pass\n@pytest.mark.parametrize('module', [])\ndef test_import(host, module): pass\n",
    )
    assert [check.name for check in report.checks] == ["a"]
    assert said == ["✔ a"]


def test_a_check_that_cannot_be_made_here_is_skipped_with_its_reason(tmp_path: Path) -> None:
    report, said = checked(tmp_path, "def test_a(host): pass\ndef test_gpu(host): pytest.skip('there is none')\n")
    (_, skipped) = report.checks
    assert (skipped.name, skipped.skipped, skipped.passed, skipped.saw) == ("gpu", True, True, "there is none")
    assert report.passed
    assert said == ["✔ a", "○ gpu (there is none)"]


def test_a_run_of_which_every_check_was_skipped_is_no_pass(tmp_path: Path) -> None:
    report, _ = checked(tmp_path, "def test_gpu(host): pytest.skip('there is none')\n")
    assert not report.passed
    assert report.failed == ()


def test_what_was_measured_is_in_the_report(tmp_path: Path) -> None:
    body = "def test_speed(host, measured):\n    measured('read, MB/s', 12.5)\n    measured('ready, s', 3)\n"
    report, _ = checked(tmp_path, body + "def test_more(host, measured):\n    measured('more, s', 1)\n    assert 0\n")
    assert report.checks[0].figures == {"read, MB/s": 12.5, "ready, s": 3}
    assert report.figures == {"read, MB/s": 12.5, "ready, s": 3, "more, s": 1}
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_report_of_before_there_were_figures_is_read(tmp_path: Path) -> None:
    report, _ = checked(tmp_path, "def test_a(host): pass\n")
    body = report.model_dump(mode="json")
    for check in body["checks"]:
        del check["figures"], check["skipped"]
    assert Report.model_validate_json(json.dumps(body)) == report


def test_modules_run_one_after_the_other_in_one_report(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.py").write_text(f"def test_{name}(host): pass\n", encoding="utf-8")
    junit = tmp_path / "both.xml"
    report = suite.run(
        str(tmp_path / "b.py"),
        str(tmp_path / "a.py"),
        artifact=ARTIFACT,
        standard="sha256:standard",
        hosts="local://",
        expected={},
        junit=junit,
        say=lambda _: None,
    )
    assert [check.name for check in report.checks] == ["b", "a"]
    assert 'tests="2"' in junit.read_text(encoding="utf-8")


READ = """
def test_once(host, expected, contents):
    first = contents(host, expected["folder"])
    (open(expected["folder"] + "/more", "w")).close()
    assert contents(host, expected["folder"]) is first
"""


def test_contents_are_read_once_a_run(tmp_path: Path) -> None:
    module, folder = tmp_path / "read.py", tmp_path / "models"
    module.write_text(READ, encoding="utf-8")
    folder.mkdir()
    (folder / "a").write_bytes(b"abc")
    report = suite.run(
        str(module),
        artifact=ARTIFACT,
        standard="sha256:standard",
        hosts="local://",
        expected={"folder": str(folder)},
        junit=None,
        say=lambda _: None,
    )
    assert report.passed


def test_progress_is_told_while_it_goes_on(tmp_path: Path) -> None:
    module = tmp_path / "slow.py"
    module.write_text("import time\ndef test_one(): pass\ndef test_two(): time.sleep(1)\n", encoding="utf-8")
    heard: list[float] = []
    suite.run(
        str(module),
        artifact=ARTIFACT,
        standard="sha256:standard",
        hosts="local://",
        expected={},
        junit=None,
        say=lambda _: heard.append(time.monotonic()),
    )
    assert heard[1] - heard[0] > 0.9


def test_junit_is_written(tmp_path: Path) -> None:
    junit = tmp_path / "reports" / "ami.xml"
    checked(tmp_path, "def test_one(): pass\ndef test_two(): assert False, 'no'\n", junit=junit)
    assert 'name="splitbake-ami" errors="0" failures="1" skipped="0" tests="2"' in junit.read_text(encoding="utf-8")


def test_an_exception_in_a_check_is_no_finding(tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match="'the host' could not be made: the line is dead"):
        checked(tmp_path, "def test_the_host(): raise RuntimeError('the line is dead')\n")


UNREACHABLE = """
@pytest.mark.parametrize("path", ["models/a", "models/b", "models/c"])
def test_model_file(host, contents, path):
    assert contents(host, "/opt")[path]
"""


def test_a_dead_connection_ends_all_checks_and_is_told_in_the_words_of_ssh(tmp_path: Path) -> None:
    module, said = tmp_path / "unreachable.py", []
    module.write_text(f"import pytest\n{UNREACHABLE}", encoding="utf-8")
    config = ssh.configure(tmp_path, user="ec2-user", private_key=tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ssh.add_host(config, "instance", address="127.0.0.1", port=silent.getsockname()[1])
        with pytest.raises(VerifyError) as told:
            suite.run(
                str(module),
                artifact=ARTIFACT,
                standard="sha256:standard",
                hosts=ssh.hostspec("instance", 1),
                expected={},
                ssh_config=config,
                junit=None,
                say=said.append,
            )
    reason = "ssh ended with 255: Connection timed out during banner exchange"
    assert told.value.message == f"the check 'model file: models/a' could not be made: {reason}"
    assert len(said) == 1


def test_a_broken_fixture_is_no_finding(tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match="could not be made: away"):
        checked(tmp_path, "@pytest.fixture\ndef it(): raise AssertionError('away')\ndef test_one(it): pass\n")


def test_a_module_that_does_not_load_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match=r"pytest ended with 2(?s:.*)no_such_module"):
        checked(tmp_path, "import no_such_module\n")


def test_no_check_at_all_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match="pytest ended with 5"):
        checked(tmp_path, "x = 1\n")


def test_a_check_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match="gave no answer in time"):
        checked(tmp_path, "def test_one(): pass\ndef test_two(): time.sleep(60)\n", limit=3)


def test_no_setting_of_python_lets_a_check_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    report, _ = checked(tmp_path, "def test_bad(host): assert host.run('false').rc == 0, 'it is bad'\n")
    assert report.failed == ("bad",)


@pytest.mark.parametrize("named", ["by the call", "by the module"])
def test_by_hand_a_python_without_assert_is_refused(tmp_path: Path, named: str) -> None:
    module = tmp_path / "checks_of_mine.py"
    plugins = f"pytest_plugins = [{plugin.__name__!r}]\n" if named == "by the module" else ""
    module.write_text(f"{plugins}def test_bad(): assert False\n", encoding="utf-8")
    argv = [sys.executable, "-m", "pytest", "-c", os.devnull, f"--rootdir={tmp_path}", str(module)]
    argv += ["-p", plugin.__name__] if named == "by the call" else []
    env = {**os.environ, "PYTHONOPTIMIZE": "1"}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode not in {0, 1}, "that would be a verdict"
    assert "no check could fail" in done.stdout + done.stderr


def test_nothing_of_the_users_pytest_is_picked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conftest.py").write_text("raise SystemExit('the conftest of the project')\n", encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n", encoding="utf-8")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    monkeypatch.chdir(tmp_path)
    report, _ = checked(tmp_path, "def test_one(): pass\n")
    assert report.passed
    assert not (tmp_path / ".pytest_cache").exists()
