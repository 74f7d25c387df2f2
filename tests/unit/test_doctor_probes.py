"""Reading what tools say: captured outputs in, readings out."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake.doctor.catalogue import CHECKS
from splitbake.doctor.model import Output, Status
from splitbake.doctor.probes import ask, last_line, read_engine, version_key

#: What each tool really printed, by the name of its check, and the version that must be read from it.
ANSWERS = [
    ("Docker CLI", "Docker version 28.2.2, build e6534b4\n", "28.2.2"),
    ("Docker CLI", "Docker version 20.10.24+dfsg1, build 297e128\n", "20.10.24+dfsg1"),
    ("Docker buildx", "github.com/docker/buildx 0.13.1+ds1 0.13.1+ds1-3\n", "0.13.1+ds1"),
    ("Docker buildx", "github.com/docker/buildx v0.19.3 48d6a39\n", "0.19.3"),
    ("Packer", "1.6.6\n", "1.6.6"),
    ("Packer", "Packer v1.11.2\n", "1.11.2"),
    ("docker-registry", "docker-registry github.com/docker/distribution 2.8.2+ds1\n", "2.8.2+ds1"),
    ("mmdebstrap", "mmdebstrap 1.3.5\n", "1.3.5"),
    ("ssh client", "OpenSSH_9.2p1 Debian-2+deb12u6, OpenSSL 3.0.19 27 Jan 2026\n", "9.2p1"),
    ("git", "git version 2.39.5\n", "2.39.5"),
    ("syft", "syft 1.18.1\n", "1.18.1"),
    ("Terraform", "Terraform v1.11.4\non linux_amd64\n", "1.11.4"),
    ("shellcheck", "ShellCheck - shell script analysis tool\nversion: 0.9.0\nlicense: GNU\n", "0.9.0"),
]

NO_DAEMON = "\nCannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n"
NO_PERMISSION = (
    "\npermission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock\n"
)


@pytest.mark.parametrize(("name", "text", "version"), ANSWERS)
def test_every_version_is_read_from_the_real_answer(name: str, text: str, version: str) -> None:
    (check,) = [check for check in CHECKS if check.name == name]
    reading = check.probe(lambda _: Output(0, text))
    assert (reading.status, reading.version) == (Status.OK, version)


@pytest.mark.parametrize("check", [c for c in CHECKS if "keyring" not in c.name], ids=lambda check: check.name)
def test_no_program_is_missing(check) -> None:
    assert check.probe(lambda _: Output(None)).status is Status.MISSING


def test_a_client_without_the_plugin_has_no_buildx() -> None:
    (check,) = [check for check in CHECKS if check.name == "Docker buildx"]
    reading = check.probe(lambda _: Output(1, "docker: 'buildx' is not a docker command.\nSee 'docker --help'\n"))
    assert reading.status is Status.MISSING
    assert reading.detail == "See 'docker --help'"


def test_podman_in_the_place_of_docker_is_no_docker() -> None:
    (check,) = [check for check in CHECKS if check.name == "Docker CLI"]
    assert check.probe(lambda _: Output(0, "podman version 4.3.1\n")).status is Status.MISSING


@pytest.mark.parametrize(
    ("output", "installed", "status"),
    [
        (Output(0, "20.10.24+dfsg1\n"), True, Status.OK),
        (Output(1, NO_DAEMON), True, Status.NOT_RUNNING),
        (Output(1, NO_DAEMON), False, Status.MISSING),
        (Output(1, NO_PERMISSION), True, Status.NO_ACCESS),
        (Output(None), False, Status.MISSING),
        (Output(0, "\n"), True, Status.NOT_RUNNING),
    ],
)
def test_the_engine_is_told_apart(output: Output, installed: bool, status: Status) -> None:
    assert read_engine(output, installed=installed).status is status


def test_the_engine_says_why() -> None:
    assert "Is the docker daemon running?" in read_engine(Output(1, NO_DAEMON), installed=True).detail


@pytest.mark.parametrize(
    ("version", "key"),
    [("20.10.24+dfsg1", (20, 10, 24)), ("9.2p1", (9, 2)), ("1.6.6", (1, 6, 6)), ("", ()), ("dev", ())],
)
def test_version_key(version: str, key: tuple[int, ...]) -> None:
    assert version_key(version) == key


@given(st.lists(st.integers(0, 999), min_size=1, max_size=4), st.sampled_from(["", "+ds1", "-rc1", "~git", "p1"]))
def test_a_version_key_orders_as_its_numbers(numbers: list[int], suffix: str) -> None:
    assert version_key(".".join(map(str, numbers)) + suffix) == tuple(numbers)


@given(st.text())
def test_last_line_is_one_line_of_the_text(text: str) -> None:
    line = last_line(text)
    assert line in text
    assert len(line.splitlines()) <= 1


def test_ask_returns_both_streams_and_the_exit_status() -> None:
    script = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
    assert ask((sys.executable, "-c", script)) == Output(3, "out\nerr\n")


def test_ask_takes_a_missing_program_for_an_answer() -> None:
    assert ask(("no-such-program-anywhere",)) == Output(None)


def test_ask_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitbake.doctor.probes.PATIENCE_S", 0.2)
    output = ask((sys.executable, "-c", "import time; time.sleep(30)"))
    assert output.code == 124
    assert "no answer" in output.text
