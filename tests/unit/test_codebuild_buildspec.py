"""What a build of CodeBuild runs, in real shells with a Docker that only writes down what it was asked."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from splitbake.bake import codebuild_buildspec as buildspec
from splitbake.bake.builders import Order
from splitbake.cloud import Cloud
from splitbake.ecr import Credentials
from splitbake.errors import BuildError
from splitbake.manifest import Environment

ODD = "a \"b\" 'c' $(touch pwned) `touch pwned` ${HOME} \\ \n: # ünï\n\n"
#: Writes down its arguments, its input, and every secret with the mode of its file.
TOOL = """\
#!{python}
import json, os, re, stat, sys
seen = {{"argv": sys.argv[1:], "tool": os.path.basename(sys.argv[0]), "secrets": {{}}, "in": ""}}
for text in sys.argv:
    if found := re.fullmatch("id=(.*?),src=(.*)", text):
        with open(found[2], newline="") as file:
            seen["secrets"][found[1]] = [file.read(), oct(stat.S_IMODE(os.stat(found[2]).st_mode)), found[2]]
if "--password-stdin" in sys.argv:
    seen["in"] = sys.stdin.read()
with open({log!r}, "a") as file:
    file.write(json.dumps(seen) + "\\n")
status, text = json.load(open({answers!r})).get(" ".join([seen["tool"], *sys.argv[1:2]]), [0, ""])
if "dockerd" in open({log!r}).read() and sys.argv[1:2] == ["info"]:
    status = 0
print(text, end="")
sys.exit(status)
"""
SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]


class Machine:
    """A build environment: runs the phases of a buildspec, one shell for all of their commands, as CodeBuild does."""

    def __init__(self, folder: Path, shell: str) -> None:
        self.folder, self.shell = folder, shutil.which(shell)
        self.path = f"{folder}/bin:/usr/bin:/bin"
        self.answers: dict[str, list[Any]] = {
            "aws ecr": [0, "password"],
            "docker history": [0, "200 RUN pip\n3000 FROM base\n0 ENV x\n"],
            "docker run": [0, "40 numpy 2.0\n500 torch 3\n"],
            "docker image": [0, "12345\n"],
            "docker save": [0, "x" * 100_000],
            "docker version": [0, "28.1.0 28.1.1\n"],
            "docker push": [0, f"The push refers to it\ndeps-1: digest: sha256:{'a' * 64} size: 1234\n"],
        }
        (folder / "source/context").mkdir(parents=True)
        (folder / "bin").mkdir()
        text = TOOL.format(python=sys.executable, log=str(folder / "log"), answers=str(folder / "answers"))
        for name in ("docker", "aws", "dockerd", "sleep"):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)

    def run(self, variables: list[dict[str, str]], values: dict[str, str] | None = None) -> dict[str, str]:
        """Run all phases; return how each ended, what was said, and the exported variables."""
        (self.folder / "answers").write_text(json.dumps(self.answers))
        given = {one["name"]: (values or {}).get(one["name"], one["value"]) for one in variables}
        spec = yaml.safe_load(buildspec.text())
        script = [f"cd {self.folder}/source", "export CODEBUILD_BUILD_SUCCEEDING=1"]
        for phase, what in spec["phases"].items():
            script.append("failed=0")
            for number, command in enumerate(what["commands"]):
                (self.folder / f"{phase}{number}").write_text(command)
                script.append(f'[ $failed = 0 ] && {{ . "{self.folder}/{phase}{number}" || failed=1; }}')
            script.append(f'echo "{phase}=$failed" >&3; [ $failed = 0 ] || CODEBUILD_BUILD_SUCCEEDING=0')
        script += [f'echo "{name}=${{{name}-}}" >&3' for name in spec["env"]["exported-variables"]]
        environment = {"PATH": self.path, "TMPDIR": str(self.folder), **given}
        done = subprocess.run(
            [self.shell, "-c", f'{{\n{chr(10).join(script)}\n}} 3>"{self.folder}/ends"'],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        ends = dict(line.split("=", 1) for line in (self.folder / "ends").read_text().splitlines())
        return {**ends, "said": done.stdout + done.stderr}

    def calls(self, *words: str) -> list[dict[str, Any]]:
        log = self.folder / "log"
        lines = map(json.loads, log.read_text().splitlines() if log.exists() else [])
        return [one for one in lines if [one["tool"], *one["argv"]][: len(words)] == list(words)]


@pytest.fixture(params=SHELLS)
def machine(tmp_path: Path, request: Any) -> Machine:
    return Machine(tmp_path, request.param)


def order(**changes: Any) -> Order:
    values: dict[str, Any] = {
        "context": Path("unused"),
        "platform": "linux/arm64",
        "repository": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/faces",
        "tag": "deps-1",
        "arguments": {},
        "secrets": {},
        "network": None,
        "credentials": Credentials("unused", "token"),
        "budget": 20_000,
        "compressed_budget": None,
        "log": Path("unused"),
        "project": None,
        "cloud": Cloud("dev", Environment.model_validate({"account": "123456789012", "region": "eu-west-1"})),
    }
    return Order(**{**values, **changes})


def test_it_logs_in_builds_weighs_and_pushes(machine):
    outcome = machine.run(buildspec.variables(order(), {}))
    assert [outcome[phase] for phase in ("pre_build", "build", "post_build")] == ["0", "0", "0"], outcome["said"]
    assert (outcome["DIGEST"], outcome["SIZE"]) == (f"sha256:{'a' * 64}", "12345")
    (asked,) = machine.calls("aws")
    assert asked["argv"] == ["ecr", "get-login-password", "--region", "eu-west-1"]
    (login,) = machine.calls("docker", "login")
    host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    assert login["argv"] == ["login", "--username", "AWS", "--password-stdin", host]
    assert login["in"] == "password"
    image = f"{host}/team/faces:deps-1"
    (build,) = machine.calls("docker", "build")
    assert build["argv"] == [
        *("build", "--file", "context/Dockerfile", "--platform", "linux/arm64", "--progress", "plain"),
        *("--tag", image, "context"),
    ]
    assert [one["argv"] for one in machine.calls("docker", "push")] == [["push", image]]
    weighed = [buildspec.WEIGHED.fullmatch(line) for line in outcome["said"].splitlines()]
    assert [(one["kind"], one["size"], one["what"]) for one in weighed if one] == [
        ("layer", "3000", "FROM base"),
        ("layer", "200", "RUN pip"),
        ("layer", "0", "ENV x"),
        ("distribution", "500", "torch 3"),
        ("distribution", "40", "numpy 2.0"),
        ("image", "12345", "of 20000 bytes"),
    ]


def test_values_are_values_whatever_is_in_them(machine):
    (machine.folder / "source/ca.pem").write_text("certificates")
    wanted = order(arguments={"ODD": ODD, "EMPTY": "", "PATH": "/nowhere"}, network="host")
    variables = buildspec.variables(wanted, {"UV_INDEX_URL": "team/index"})
    assert {"name": "SECRET_UV_INDEX_URL", "value": "team/index", "type": "SECRETS_MANAGER"} in variables
    outcome = machine.run(variables, {"SECRET_UV_INDEX_URL": ODD})
    assert outcome["build"] == "0", outcome["said"]
    (build,) = machine.calls("docker", "build")
    options = list(itertools.pairwise(build["argv"]))
    assert [value for key, value in options if key == "--build-arg"] == [f"ODD={ODD}", "EMPTY=", "PATH=/nowhere"]
    assert ("--network", "host") in options
    value, mode, path = build["secrets"]["UV_INDEX_URL"]
    assert (value, mode) == (ODD, "0o600")
    assert not Path(path).parent.exists()
    assert build["secrets"]["ca"][0] == "certificates"
    assert not list(machine.folder.rglob("pwned"))
    assert not any(ODD in json.dumps(one["argv"]) for one in machine.calls("docker") if one != build)


def test_secrets_go_when_the_build_fails(machine):
    machine.answers["docker build"] = [137, "killed\n"]
    outcome = machine.run(buildspec.variables(order(), {"S": "secret"}))
    assert [outcome[phase] for phase in ("pre_build", "build", "post_build")] == ["0", "1", "0"]
    (build,) = machine.calls("docker", "build")
    assert not Path(build["secrets"]["S"][2]).parent.exists()
    assert machine.calls("docker", "push") == machine.calls("docker", "image") == []
    assert (outcome["DIGEST"], outcome["SIZE"]) == ("", "")


def test_nothing_is_pushed_over_the_budget(machine):
    outcome = machine.run(buildspec.variables(order(budget=12_344), {}))
    assert outcome["build"] == "1"
    assert (outcome["DIGEST"], outcome["SIZE"]) == ("", "12345")
    assert machine.calls("docker", "push") == []
    assert machine.run(buildspec.variables(order(budget=12_345), {}))["build"] == "0"


@pytest.mark.parametrize("over", [False, True])
def test_what_is_compressed_is_weighed_only_where_there_is_a_budget_for_it(machine, over):
    size = len(gzip.compress(b"x" * 100_000, mtime=0))
    plain = machine.run(buildspec.variables(order(), {}))
    assert (plain["build"], plain["COMPRESSED"], machine.calls("docker", "save")) == ("0", "", [])
    (machine.folder / "log").unlink()
    outcome = machine.run(buildspec.variables(order(compressed_budget=size - over), {}))
    assert (outcome["build"], outcome["COMPRESSED"]) == (str(int(over)), str(size)), outcome["said"]
    assert f"splitbake:compressed {size} of {size - over} bytes" in outcome["said"]
    assert bool(machine.calls("docker", "push")) is not over


def test_an_image_that_cannot_be_weighed_compressed_is_not_pushed(machine):
    machine.answers["docker save"] = [1, ""]
    outcome = machine.run(buildspec.variables(order(compressed_budget=10_000), {}))
    assert outcome["build"] == "1"
    assert machine.calls("docker", "push") == []


def test_an_engine_that_does_not_run_is_started(machine):
    machine.answers["docker info"] = [1, ""]
    outcome = machine.run(buildspec.variables(order(), {}))
    assert (outcome["pre_build"], outcome["post_build"]) == ("0", "0"), outcome["said"]
    assert (len(machine.calls("dockerd")), outcome["DOCKER"]) == (1, "28.1.0 28.1.1")


def test_an_engine_that_runs_is_left_alone(machine):
    machine.run(buildspec.variables(order(), {}))
    assert machine.calls("dockerd") == []


def test_an_engine_that_cannot_be_started_is_told(machine):
    (machine.folder / "bin/dockerd").write_text("#!/bin/sh\necho no rights for it; exit 1\n")
    machine.answers |= {"docker info": [1, ""], "docker version": [1, "28.1.0 "]}
    outcome = machine.run(buildspec.variables(order(), {}))
    assert outcome["pre_build"] == "1"
    assert "no Docker Engine answers in the build environment; dockerd says:\nno rights for it" in outcome["said"]
    assert machine.calls("docker", "login") == []


def test_programs_that_the_environment_lacks_are_named(machine, tmp_path):
    machine.path = f"{tmp_path}/few"
    (tmp_path / "few").mkdir()
    for name in ("cat", "mktemp", "rm", "sed", "sleep", "sort", "tail", "wc"):
        (tmp_path / "few" / name).symlink_to(shutil.which(name))
    (tmp_path / "few/docker").symlink_to(machine.folder / "bin/docker")
    outcome = machine.run(buildspec.variables(order(), {}))
    assert outcome["pre_build"] == "1"
    assert "the build environment lacks: aws awk gzip head\n" in outcome["said"]


def test_a_login_that_fails_ends_the_build(machine):
    machine.answers["docker login"] = [1, "denied\n"]
    outcome = machine.run(buildspec.variables(order(), {}))
    assert outcome["pre_build"] == "1"
    assert machine.calls("docker", "push") == []


@pytest.mark.parametrize("answer", [[1, f"x: digest: sha256:{'b' * 64} size: 1\ndenied\n"], [0, "pushed nothing\n"]])
def test_a_push_that_fails_or_tells_no_digest_fails_the_build(machine, answer):
    machine.answers["docker push"] = answer
    outcome = machine.run(buildspec.variables(order(), {}))
    assert outcome["post_build"] == "1"
    assert answer[1] in outcome["said"]


def test_what_cannot_be_weighed_does_not_fail_the_build(machine):
    machine.answers["docker run"] = [125, "no python3\n"]
    assert machine.run(buildspec.variables(order(), {}))["build"] == "0"


@given(name=st.text(max_size=10), value=st.text(max_size=30))
def test_the_text_is_the_same_for_everything_and_names_are_names(name, value):
    before = buildspec.text()
    for arguments, secrets in (({name: value}, {}), ({}, {name: "x"})):
        if name.isascii() and name.isidentifier():
            found = buildspec.variables(order(arguments=arguments), secrets)
            assert all(one["value"] for one in found)
        else:
            with pytest.raises(BuildError, match="is no name of a build argument or secret"):
                buildspec.variables(order(arguments=arguments), secrets)
    assert buildspec.text() == before


def test_no_variable_is_empty_and_no_secret_is_plain():
    found = buildspec.variables(order(arguments={"A": ""}), {"S": "id"})
    assert all(one["value"] for one in found)
    assert [one["name"] for one in found if one["type"] != "PLAINTEXT"] == ["SECRET_S"]


def test_the_commands_are_good_posix_shell(tmp_path):
    """SC2086 is about the two lists of names; SC2154 and SC2016 about variables that come with the build, and awk."""
    spec = yaml.safe_load(buildspec.text())
    assert spec["version"] == 0.2
    for number, command in enumerate(one for what in spec["phases"].values() for one in what["commands"]):
        path = tmp_path / f"{number}.sh"
        path.write_text(f"#!/bin/sh\n{command}")
        path.chmod(stat.S_IRWXU)
        done = subprocess.run(
            [Path(sys.executable).parent / "shellcheck", "--exclude=SC2086,SC2154,SC2016", path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
