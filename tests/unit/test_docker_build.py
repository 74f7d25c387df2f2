"""Building and pushing with the client of Docker: what it is asked, what is said of it, and that it ends with us."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from splitbake.bake.docker import DockerBuilder
from splitbake.bake.image import Order
from splitbake.ecr import Credentials
from splitbake.errors import BuildError
from splitbake.ui import silent

#: A client of Docker: it writes down what it is asked for, and does what $ACT says.
DOCKER = """\
#!/bin/sh
case "$*" in
*"buildx inspect"*) echo "Platforms: linux/amd64" ;;
*"image inspect"*) echo '[{"Id": "sha256:1", "Size": 42}]' ;;
*) printf '%s\\n' "$@" >"$ASKED"; eval "$ACT" ;;
esac
"""
#: The client leaves a build to its plugin, and waits for that whatever comes.
BUILDS = "trap '' TERM; (trap - TERM; echo '#1 step' >&2; exec sleep 60) & echo $! >\"$ASKED.pid\"; wait $!; wait"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the client on PATH; the file tells what it was asked for."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(DOCKER, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("ACT", "")
    return tmp_path / "asked"


def order(folder: Path, **more: Any) -> Order:
    values: dict[str, Any] = {
        "context": folder / "context",
        "dockerfile": folder / "Dockerfile",
        "platform": "linux/amd64",
        "repository": "registry.example/app",
        "tag": "tag",
        "arguments": {"FINGERPRINT": "sha256:1", "REVISION": "a b"},
        "ca": None,
        "network": None,
        "credentials": Credentials("registry.example", "c2VjcmV0"),
        "log": folder / "image.log",
    }
    return Order(**{**values, **more})


def test_a_build_is_asked_for_with_plain_progress(tmp_path, asked, monkeypatch):
    monkeypatch.setenv("ACT", "echo '#1 one' >&2; echo '#2 two' >&2")
    said: list[str] = []
    assert DockerBuilder().build(order(tmp_path), said.append) == 42
    assert said == ["#1 one", "#2 two"]
    assert (tmp_path / "image.log").read_text() == "#1 one\n#2 two\n"
    client, config, *arguments = asked.read_text().splitlines()
    assert (client, config.startswith("/")) == ("--config", True)
    assert arguments == [
        "buildx",
        "build",
        "--load",
        "--provenance=false",
        "--progress=plain",
        "--platform=linux/amd64",
        f"--file={tmp_path}/Dockerfile",
        "--tag=registry.example/app:tag",
        "--build-arg=FINGERPRINT=sha256:1",
        "--build-arg=REVISION=a b",
        f"{tmp_path}/context",
    ]


def test_a_build_on_the_machines_own_network_with_a_ca_is_asked_for_so(tmp_path, asked):
    DockerBuilder().build(order(tmp_path, network="host", ca=tmp_path / "ca.pem"), silent)
    arguments = asked.read_text().splitlines()
    assert {f"--secret=id=ca,src={tmp_path}/ca.pem", "--network=host", "--allow=network.host"} <= {*arguments}


def test_a_build_that_fails_says_why(tmp_path, asked, monkeypatch):
    monkeypatch.setenv("ACT", "for n in $(seq 20); do echo \"#$n step\" >&2; done; echo 'ERROR: no luck' >&2; exit 17")
    with pytest.raises(BuildError) as caught:
        DockerBuilder().build(order(tmp_path), silent)
    lines = caught.value.message.splitlines()
    assert (lines[0], lines[-1], len(lines)) == (
        "could not build registry.example/app:tag: #10 step",
        "ERROR: no luck",
        12,
    )
    assert "FINGERPRINT" not in caught.value.message
    assert f"everything is in {tmp_path}/image.log" in caught.value.hint


def test_a_push_tells_its_digest(tmp_path, asked, monkeypatch):
    digest = "sha256:" + "a" * 64
    monkeypatch.setenv("ACT", f"echo 'tag: digest: {digest} size: 1'")
    assert DockerBuilder().push(order(tmp_path), silent) == digest
    assert asked.read_text().splitlines()[-3:] == ["image", "push", "registry.example/app:tag"]
    monkeypatch.setenv("ACT", "echo 'denied: not you' >&2; exit 1")
    with pytest.raises(BuildError, match=r"could not push registry\.example/app:tag: denied: not you"):
        DockerBuilder().push(order(tmp_path), silent)


@pytest.mark.parametrize("work", ["build", "push"])
def test_an_interrupt_ends_the_client_and_its_plugin(tmp_path, asked, monkeypatch, work):
    """SIGTERM, as from a cancelled CI job, comes to splitbake alone."""
    monkeypatch.setenv("ACT", BUILDS)

    def interrupt(_line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        getattr(DockerBuilder(), work)(order(tmp_path), interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path(f"{asked}.pid").read_text()), 0)
