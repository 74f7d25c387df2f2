"""What ``splitbake doctor`` says of the builder that the project at hand has chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splitbake import dockercli
from splitbake.bake.codebuild import CodeBuildBuilder
from splitbake.bake.podman import PodmanBuilder
from splitbake.cli import cli
from splitbake.cloud import Cloud, Identity
from splitbake.doctor import builder, diagnose, machine
from splitbake.doctor.model import Check, Finding, Machine, Output, Status
from splitbake.errors import GuardError, ToolError
from splitbake.project import Project

MANIFEST = """\
version: 1
project: faces
state: state
models: {files: [{path: models/a, from: a}], budget: 1 GB}
ami: {base: ecs-gpu-al2023}
image:
  builder: BUILDER
  base: python:3.11-slim
  include: [run.py]
  mounts: {models: /models}
  command: [python3, run.py]
  repository: faces
  budget: 500 MB
environments: {dev: {account: "123456789012", region: eu-west-1}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a project in the present folder with a builder of that name."""
    monkeypatch.chdir(tmp_path)

    def made(name: str) -> Project:
        (tmp_path / "splitbake.yaml").write_text(MANIFEST.replace("BUILDER", name), encoding="utf-8")
        return Project(Path("splitbake.yaml"))

    return made


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Call ``splitbake doctor --json`` on a Debian 12 that has every tool but podman; return exit code and answer."""
    facts = Machine(codename="bookworm", apt=True, prefix=(), systemd=False, user="")
    monkeypatch.setattr(machine, "look", lambda: facts)

    def ask(argv: tuple[str, ...]) -> Output:
        if argv[0] == "docker" and "no docker" in machine.look().user:
            return Output(None)
        said = {"docker": "Docker version 28.1 buildx v0.30\n", "git": "git version 2.39.5\n", "ssh": "OpenSSH_9.2\n"}
        said |= {
            "packer": "1.6.6\n",
            "docker-registry": "docker/distribution v2.8.2\n",
            "mmdebstrap": "mmdebstrap 1.3\n",
        }
        if argv[:2] == ("docker", "version"):
            return Output(0, "28.1\n")
        return Output(0, said[argv[0]]) if argv[0] in said else Output(None)

    original = diagnose.diagnose

    def diagnosed(machine: Machine, checks: tuple[Check, ...]) -> tuple[Finding, ...]:
        programs = [check for check in checks if "keyring" not in check.name]  # a file, which is there or is not
        keyring = Finding("Debian archive keyring", Status.OK, "", "any", "", required=True)
        return (*original(machine, checks=programs, ask=ask), keyring)

    monkeypatch.setattr(diagnose, "diagnose", diagnosed)

    def called(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = cli.main(["doctor", "--json", *arguments], standalone_mode=False)
        return code, json.loads(capsys.readouterr().out)

    return called


def of(report: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in report["findings"] if each["name"].startswith(name)]
    return found


def test_without_a_manifest_nobody_is_asked(doctor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dockercli, "require_buildx", lambda: pytest.fail("Docker was asked"))
    code, report = doctor()
    assert code == 0
    assert not [each for each in report["findings"] if each["name"].startswith("image.builder")]


def test_a_builder_that_can_work_is_told(doctor, project, monkeypatch):
    project("docker")
    monkeypatch.setattr(dockercli, "require_buildx", lambda: None)
    code, report = doctor()
    assert code == 0
    assert of(report, "image.builder") | {"why": ""} == {
        "name": "image.builder: docker", "status": "ok", "found": "", "needed": "any", "why": "", "required": True,
        "detail": "", "remedy": "",
    }  # fmt: skip


def test_a_builder_that_cannot_work_is_a_finding_with_its_cure(doctor, project, monkeypatch):
    project("docker")

    def broken() -> None:
        raise ToolError("could not ask the Docker engine: no engine", hint="start it")

    monkeypatch.setattr(dockercli, "require_buildx", broken)
    code, report = doctor()
    found = of(report, "image.builder")
    assert (code, found["status"], found["remedy"]) == (2, "broken", "start it")
    assert "no engine" in found["detail"]


def test_podman_is_required_where_the_project_builds_with_it(doctor, project, monkeypatch):
    monkeypatch.setattr(dockercli, "require_buildx", lambda: None)
    monkeypatch.setattr(PodmanBuilder, "health", lambda _: None)
    project("docker")
    code, report = doctor()
    assert (code, of(report, "podman")["required"], report["fixable"]) == (0, False, [])
    project("podman")
    code, report = doctor()
    assert (code, of(report, "podman")["status"]) == (2, "missing")
    assert report["fixable"] == ["apt-get install podman slirp4netns uidmap"]


def test_a_manifest_elsewhere_is_looked_at_where_it_is_named(doctor, project, tmp_path, monkeypatch):
    project("podman")
    monkeypatch.setattr(PodmanBuilder, "health", lambda _: None)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    _, report = doctor("--manifest", "../splitbake.yaml")
    assert of(report, "image.builder")["name"] == "image.builder: podman"


def test_a_manifest_that_is_wrong_breaks_nothing(doctor, project, tmp_path):
    wrong = project("podman").manifest_path
    wrong.write_text("version: 1\n", encoding="utf-8")
    code, report = doctor()
    found = of(report, "image.builder")
    assert (code, found["status"], found["required"]) == (0, "broken", False)
    assert "splitbake.yaml" in found["detail"]
    assert "splitbake generate --check" in found["remedy"]
    assert builder.tools(Project(wrong)) == ()


@pytest.mark.parametrize("kind", ["podman", "codebuild"])
def test_docker_is_optional_where_another_builder_is_chosen(doctor, project, monkeypatch, kind):
    facts = Machine(codename="bookworm", apt=True, prefix=(), systemd=False, user="no docker")
    monkeypatch.setattr(machine, "look", lambda: facts)
    for builder_of in (PodmanBuilder, CodeBuildBuilder):
        monkeypatch.setattr(builder_of, "health", lambda _: None)
    monkeypatch.setattr(CodeBuildBuilder, "check", lambda *_: None)
    monkeypatch.setattr(Cloud, "guard", lambda _: None)
    project("docker")
    monkeypatch.setattr(dockercli, "require_buildx", lambda: None)
    code, report = doctor()
    assert (code, of(report, "Docker Engine")["required"]) == (2, True)
    project("codebuild\n  codebuild: {role: builds, bucket: my-builds}" if kind == "codebuild" else kind)
    code, report = doctor()
    assert code == (0 if kind == "codebuild" else 2)  # podman itself is missing
    for name in ("Docker CLI", "Docker Engine"):
        found = of(report, name)
        assert (found["status"], found["required"], found["why"]) == ("missing", False, "verify image, local cloud")
    assert of(report, "Docker buildx")["required"] is False
    assert not [action for action in report["fixable"] if "docker" in action]
    assert of(doctor("Docker CLI")[1], "Docker CLI")["required"] is True


@pytest.fixture
def builds_in_codebuild(project, monkeypatch) -> list[str]:
    """A project for CodeBuild with two environments; the credentials are for the second. Returns what was checked."""
    path = project("codebuild\n  codebuild: {role: builds, bucket: my-builds}").manifest_path
    text = path.read_text().replace("eu-west-1}}", 'eu-west-1}, prod: {account: "111111111111", region: eu-west-1}}')
    path.write_text(text)
    monkeypatch.setattr(CodeBuildBuilder, "health", lambda _: None)
    checked: list[str] = []
    monkeypatch.setattr(CodeBuildBuilder, "check", lambda _, project, cloud: checked.append(cloud.name))

    def guard(cloud: Cloud) -> Identity:
        if cloud.name == "dev":
            raise GuardError("environment 'dev' belongs to somebody else", hint="choose the right profile")
        return Identity("111111111111", "arn", "eu-west-1", None)

    monkeypatch.setattr(Cloud, "guard", guard)
    return checked


def test_codebuild_is_checked_in_the_environment_of_the_credentials(doctor, builds_in_codebuild):
    _, report = doctor()
    assert builds_in_codebuild == ["prod"]
    assert of(report, "image.builder")["status"] == "ok"


def test_what_stands_in_the_way_of_codebuild_is_a_finding(doctor, builds_in_codebuild, monkeypatch):
    def refuse(*_: Any) -> None:
        raise ToolError("there is no role builds", hint="make it")

    monkeypatch.setattr(CodeBuildBuilder, "check", refuse)
    code, report = doctor()
    found = of(report, "image.builder")
    assert (code, found["status"], found["detail"], found["remedy"]) == (
        *(2, "broken", "there is no role builds", "make it"),
    )


def test_credentials_for_no_environment_are_a_finding(doctor, builds_in_codebuild, monkeypatch):
    def guard(cloud: Cloud) -> Identity:
        raise GuardError(f"environment {cloud.name!r} belongs to somebody else", hint="choose the right profile")

    monkeypatch.setattr(Cloud, "guard", guard)
    _, report = doctor()
    found = of(report, "image.builder")
    assert (found["detail"], found["remedy"]) == (
        "environment 'dev' belongs to somebody else",
        "choose the right profile",
    )
    assert builds_in_codebuild == []
