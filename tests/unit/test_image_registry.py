"""Names of base images, and the login that leaves no trace."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from splitbake import dockercli
from splitbake.bake import dependencies
from splitbake.ecr import Credentials
from splitbake.errors import BuildError, ToolError
from splitbake.sources.base_image import BaseImage, parse

LOGIN = Credentials("registry.example", "c2VjcmV0")


@pytest.mark.parametrize(
    ("reference", "parsed"),
    [
        ("python:3.11-slim", BaseImage("docker.io", "library/python", "3.11-slim")),
        ("python", BaseImage("docker.io", "library/python", "latest")),
        ("nvidia/cuda:12.4", BaseImage("docker.io", "nvidia/cuda", "12.4")),
        ("docker.io/library/python:3", BaseImage("docker.io", "library/python", "3")),
        ("public.ecr.aws/x/y:1", BaseImage("public.ecr.aws", "x/y", "1")),
        ("localhost:5000/py:1", BaseImage("localhost:5000", "py", "1")),
        ("localhost/py:1", BaseImage("localhost", "py", "1")),
        ("registry:5000/py:1", BaseImage("registry:5000", "py", "1")),
        ("127.0.0.1:5000/a/b", BaseImage("127.0.0.1:5000", "a/b", "latest")),
        ("ecr://docker-hub/library/python:3.11", BaseImage("", "docker-hub/library/python", "3.11")),
    ],
)
def test_base_image_names(reference, parsed):
    assert parse(reference) == parsed
    assert parsed.in_ecr == reference.startswith("ecr://")


def test_a_login_lives_in_a_private_folder_and_goes_with_it(tmp_path, monkeypatch):
    home = tmp_path / "docker"
    (home / "cli-plugins").mkdir(parents=True)
    (home / "cli-plugins" / "docker-x").touch()
    settings = {"auths": {"other.example": {"auth": "x"}}, "credsStore": "keychain", "currentContext": "far"}
    before = json.dumps(settings)
    (home / "config.json").write_text(before)
    monkeypatch.setenv("DOCKER_CONFIG", str(home))
    with dockercli.login(LOGIN) as docker:
        folder = Path(docker.client_config.config)
        config = folder / "config.json"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert json.loads(config.read_text()) == settings | {
            "auths": {"other.example": {"auth": "x"}, "registry.example": {"auth": "c2VjcmV0"}},
            "credHelpers": {"registry.example": ""},
        }
        assert (folder / "cli-plugins" / "docker-x").exists()
    assert not folder.exists()
    assert (home / "config.json").read_text() == before
    assert (home / "cli-plugins" / "docker-x").exists()


def test_a_login_goes_when_it_is_interrupted(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    seen = []

    def work():
        with dockercli.login(LOGIN) as docker:
            seen.append(Path(docker.client_config.config))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not seen[0].exists()


def test_a_broken_docker_configuration_is_told(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(ToolError, match="cannot be read"), dockercli.login(LOGIN):
        pass


def test_the_password_shows_in_no_repr():
    assert "c2VjcmV0" not in repr(LOGIN)


@pytest.mark.parametrize(
    ("said", "kind", "hint"),
    [
        ("write /x: no space left on device", BuildError, "the disk is full"),
        ("dial tcp: lookup r.example: no such host", BuildError, "cannot be reached"),
        ("denied: not authorized", BuildError, "refused these credentials"),
        ("tag invalid: The image tag 'x' already exists and the repository is immutable", BuildError, "immutable"),
        ("Cannot connect to the Docker daemon at unix:///x", ToolError, "start the engine"),
        ("something new", BuildError, "the last lines say why"),
    ],
)
def test_failures_of_docker_in_our_words(said, kind, hint):
    from python_on_whales.exceptions import DockerException

    def fail():
        with dockercli.told("push it", BuildError, log="image.log"):
            raise DockerException(["docker", "--build-arg", "SECRET=1"], 1, stderr=f"#1 x\n\n{said}\n".encode())

    with pytest.raises(kind) as caught:
        fail()
    assert caught.value.message == f"could not push it: #1 x\n{said}"
    assert hint in caught.value.hint
    assert "image.log" in caught.value.hint
    assert "SECRET" not in caught.value.message


def test_the_ca_bundle_and_the_network_come_from_the_environment(tmp_path, monkeypatch):
    for name in (*dependencies.CA_VARIABLES, dependencies.NETWORK_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    assert (dependencies._ca(), dependencies._network()) == (None, None)
    bundle = tmp_path / "ca.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with pytest.raises(ToolError, match=r"SSL_CERT_FILE names .*ca\.pem"):
        dependencies._ca()
    bundle.write_text("CA")
    assert dependencies._ca() == "CA"
    monkeypatch.setenv(dependencies.NETWORK_VARIABLE, "bridge")
    with pytest.raises(ToolError, match="'bridge'"):
        dependencies._network()
    monkeypatch.setenv(dependencies.NETWORK_VARIABLE, "host")
    assert dependencies._network() == "host"
