"""Building and pushing with the client of Docker: what it is asked, what is said of it, and that it ends with us."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from splitbake.bake.docker import DockerBuilder
from splitbake.bake.builders import Made, Order
from splitbake.ecr import Credentials
from splitbake.errors import BuildError
from splitbake.ui import silent

DIGEST = "sha256:" + "a" * 64
#: A client of Docker: it writes down what it is asked for, and does what $ACT says.
DOCKER = """\
#!/bin/sh
case "$*" in
*"buildx inspect"*) echo "Platforms: linux/amd64" ;;
*"image inspect"*) echo '[{"Id": "sha256:1", "Size": 42}]' ;;
*"image push"*) printf '%s\\n' "$@" >"$ASKED.push"; eval "$PUSH" ;;
*history*|*" run "*|"run "*) echo "10	what" ;;
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
    monkeypatch.setenv("PUSH", f"echo 'tag: digest: {DIGEST} size: 1'")
    return tmp_path / "asked"


def order(folder: Path, **more: Any) -> Order:
    values: dict[str, Any] = {
        "context": folder / "context",
        "platform": "linux/amd64",
        "repository": "registry.example/app",
        "tag": "tag",
        "arguments": {"REGISTRY": "registry.example", "A": "a b"},
        "secrets": {},
        "network": None,
        "credentials": Credentials("registry.example", "c2VjcmV0"),
        "budget": 100,
        "project": None,
        "cloud": None,
        "log": folder / "image.log",
    }
    return Order(**{**values, **more})


def test_a_build_is_asked_for_with_plain_progress(tmp_path, asked, monkeypatch):
    monkeypatch.setenv("ACT", "echo '#1 one' >&2; echo '#2 two' >&2")
    said: list[str] = []
    made = DockerBuilder().make(order(tmp_path), said.append)
    assert made == Made(DIGEST, 42, ("10 B  layer what", "10 B  distribution what"))
    assert said[:2] == ["#1 one", "#2 two"]
    assert (tmp_path / "image.log").read_text().startswith("#1 one\n#2 two\n")
    client, config, *arguments = asked.read_text().splitlines()
    assert (client, config.startswith("/")) == ("--config", True)
    assert arguments == [
        "buildx",
        "build",
        "--load",
        "--provenance=false",
        "--progress=plain",
        "--platform=linux/amd64",
        f"--file={tmp_path}/context/Dockerfile",
        "--tag=registry.example/app:tag",
        "--build-arg=REGISTRY=registry.example",
        "--build-arg=A=a b",
        f"{tmp_path}/context",
    ]


def test_a_build_on_the_machines_own_network_is_asked_for_so(tmp_path, asked):
    DockerBuilder().make(order(tmp_path, network="host"), silent)
    assert {"--network=host", "--allow=network.host"} <= {*asked.read_text().splitlines()}


def test_a_secret_is_a_private_file_that_goes_with_the_build(tmp_path, asked, monkeypatch):
    monkeypatch.setenv("ACT", 'for each in "$@"; do case $each in --secret=*) f=${each#*src=}; stat -c %a "$f"; cat "$f"; esac; done >"$ASKED.secret"')
    DockerBuilder().make(order(tmp_path, secrets={"INDEX": "https://me:secret@x"}), silent)
    assert Path(f"{asked}.secret").read_text() == "600\nhttps://me:secret@x"
    (option,) = [each for each in asked.read_text().splitlines() if each.startswith("--secret=id=INDEX,src=")]
    assert not Path(option.partition("src=")[2]).exists()
    assert "me:secret" not in asked.read_text()
    assert "me:secret" not in repr(order(tmp_path, secrets={"INDEX": "https://me:secret@x"}))


def test_an_image_that_breaks_its_budget_is_not_pushed(tmp_path, asked):
    with pytest.raises(BuildError, match="42 B uncompressed, 2 B over image.budget") as caught:
        DockerBuilder().make(order(tmp_path, budget=40), silent)
    assert "10 B  distribution what" in caught.value.message
    assert not Path(f"{asked}.push").exists()


def test_a_build_that_fails_says_why(tmp_path, asked, monkeypatch):
    monkeypatch.setenv("ACT", "for n in $(seq 20); do echo \"#$n step\" >&2; done; echo 'ERROR: no luck' >&2; exit 17")
    with pytest.raises(BuildError) as caught:
        DockerBuilder().make(order(tmp_path), silent)
    lines = caught.value.message.splitlines()
    assert (lines[0], lines[-1], len(lines)) == (
        "could not build registry.example/app:tag: #10 step",
        "ERROR: no luck",
        12,
    )
    assert "a b" not in caught.value.message
    assert f"everything is in {tmp_path}/image.log" in caught.value.hint


def test_a_push_that_is_refused_is_told(tmp_path, asked, monkeypatch):
    monkeypatch.setenv("PUSH", "echo 'denied: not you' >&2; exit 1")
    with pytest.raises(BuildError, match=r"could not push registry\.example/app:tag: denied: not you"):
        DockerBuilder().make(order(tmp_path), silent)
    monkeypatch.setenv("PUSH", "true")
    with pytest.raises(BuildError, match="Docker told no digest of it"):
        DockerBuilder().make(order(tmp_path), silent)


@pytest.mark.parametrize("work", ["ACT", "PUSH"])
def test_an_interrupt_ends_the_client_and_its_plugin(tmp_path, asked, monkeypatch, work):
    """SIGTERM, as from a cancelled CI job, comes to splitbake alone."""
    monkeypatch.setenv(work, BUILDS)

    def interrupt(_line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DockerBuilder().make(order(tmp_path), interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path(f"{asked}.pid").read_text()), 0)
