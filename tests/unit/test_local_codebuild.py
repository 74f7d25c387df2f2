"""CodeBuild of the local cloud without an engine: buildspecs, the agent, the books, and how a build ends."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import boto3
import docker
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.codebuild.responses import CodeBuildResponse

from splitbake.errors import ToolError
from splitbake.local import codebuild, codebuild_image
from splitbake.local.codebuild_builds import Build, Context
from splitbake.local.codebuild_role import split_secret
from splitbake.local.codebuild_runner import Runner
from splitbake.local.codebuild_spec import BuildspecError, Phase, parse

AGENT = Path(codebuild.__file__).parent / "recipes/codebuild/agent"
MARK = "0123abcd "
SPEC = "version: 0.2\nphases: {build: {commands: ['true']}}\n"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "codebuild.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
HOOKED = ("create_project", "update_project", "batch_get_projects", "start_build", "batch_get_builds", "stop_build")


# --- buildspecs


def test_a_buildspec_is_read_whole():
    spec = parse("""
version: 0.2
env:
  shell: bash
  variables: {A: 1, B: yes, C: 'x: y'}
  parameter-store: {P: /a/b}
  secrets-manager: {S: 'name:key'}
  exported-variables: [DIGEST]
artifacts: {files: ['**/*']}
phases:
  pre_build:
    on-failure: CONTINUE
    commands: [one, "two\\nlines"]
    finally: [last]
  build: {commands: [three]}
""")
    assert spec.variables == {"A": "1", "B": "yes", "C": "x: y"}, "texts, whatever YAML makes of them"
    assert (spec.parameters, spec.secrets, spec.exported) == ({"P": "/a/b"}, {"S": "name:key"}, ("DIGEST",))
    assert spec.shell == "bash"
    assert spec.phases == {
        "pre_build": Phase(("one", "two\nlines"), ("last",), "CONTINUE"),
        "build": Phase(("three",)),
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "expected the node content"),
        ("- a", "a buildspec is a mapping"),
        ("version: 0.1", "version 0.1 is not known"),
        ("phases: {}", "version None is not known"),
        ("version: 0.2", "Expected phases to be of mapping type"),
        ("version: 0.2\nphases: {deploy: {}}", "phases has deploy"),
        ("version: 0.2\nphases: {build: {commands: echo}}", "Expected Commands to be of sequence type"),
        ("version: 0.2\nphases: {build: {commands: [a, {b: c}]}}", "Commands[1] to be of string type: found subkeys"),
        ("version: 0.2\nphases: {build: {run-as: me}}", "phases/build has run-as, which the local cloud does not know"),
        ("version: 0.2\nphases: {build: {on-failure: RETRY}}", "on-failure is RETRY"),
        ("version: 0.2\nphases: {}\nreports: {}", "the buildspec has reports"),
        ("version: 0.2\nphases: {}\nenv: {shell: powershell.exe}", "env/shell is powershell.exe"),
        ("version: 0.2\nphases: {}\nenv: {variables: {A: [b]}}", "Expected env/variables/A to be of string type"),
        ("version: 0.2\nphases: {}\nenv: {git-credential-helper: yes}", "env has git-credential-helper"),
    ],
)
def test_what_is_not_understood_is_refused(text, problem):
    with pytest.raises(BuildspecError) as refused:
        parse(text)
    assert problem in str(refused.value)


def test_a_secret_is_named_by_its_parts():
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:team/index-a1b2c3"
    assert split_secret("name") == ("name", "", "", "")
    assert split_secret("name:key") == ("name", "key", "", "")
    assert split_secret(f"{arn}:key:AWSPREVIOUS") == (arn, "key", "AWSPREVIOUS", "")
    assert split_secret(f"{arn}:::v1") == (arn, "", "", "v1")


# --- the agent


@pytest.fixture
def agent(tmp_path):
    """Run the agent as in a container: ``agent(build=[…])`` returns its lines and what it told, by phase."""

    def run(source=None, shell="sh", exported=(), **phases):
        folder, place = tmp_path / "codebuild", tmp_path / "output/src"
        folder.mkdir()
        if source:
            (folder / "source.zip").write_bytes(source)
        order = {
            "mark": MARK, "source": str(place), "docker": False, "shell": shell, "exported": exported,
            "environment": {"GIVEN": "a b", "CODEBUILD_BUILD_SUCCEEDING": "1", "CODEBUILD_SRC_DIR": str(place)},
            "phases": {name: one if isinstance(one, dict) else {"commands": one} for name, one in phases.items()},
        }  # fmt: skip
        (folder / "order.json").write_text(json.dumps(order))
        (folder / "go").touch()
        done = subprocess.run(
            [sys.executable, str(AGENT), str(folder)], capture_output=True, text=True, check=True, timeout=60
        )
        assert not (folder / "order.json").exists(), "it holds secrets"
        assert done.stderr == ""
        said = [line.partition(MARK) for line in done.stdout.splitlines()]
        told = [json.loads(event) for _, marked, event in said if marked]
        lines = [text for text, marked, _ in said if text or not marked]
        return SimpleNamespace(
            lines=[line for line in lines if not line.startswith("[Container]")],
            own=[line for line in lines if line.startswith("[Container]")],
            left={one["left"]: one["message"] for one in told if "left" in one},
            exported={one["exported"]: one["value"] for one in told if "exported" in one},
            last=told[-1],
        )

    return run


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_all_commands_share_one_shell(agent, shell):
    done = agent(
        shell=shell,
        install=["mkdir deep && cd deep", "local_one=1; export GIVEN=changed", "greet() { echo hello $1; }"],
        build=["pwd", "greet $local_one$GIVEN", "cat; echo no input"],
        post_build=["basename $PWD"],
    )
    assert [line.rpartition("/")[2] for line in done.lines] == ["deep", "hello 1changed", "no input", "deep"]
    assert done.left == dict.fromkeys(["INSTALL", "PRE_BUILD", "BUILD", "POST_BUILD"], "")
    assert done.last == {"ended": True, "succeeded": True}


def test_a_shell_that_ends_leaves_its_environment(agent):
    done = agent(
        pre_build=["export KEPT=1; mkdir deep; cd deep", "lost=1"],
        build=["exit 3", "echo never"],
        post_build=["echo $KEPT ${lost-lost} $(basename $PWD) $CODEBUILD_BUILD_SUCCEEDING"],
    )
    assert done.lines == ["1 lost deep 0"]
    assert done.left["BUILD"] == "Error while executing command: exit 3. Reason: exit status 3"
    assert done.last["succeeded"] is False


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("false\ntrue", 0), ("set -e\nfalse\ntrue", 1), ("kill -9 $$", 137), ("if", 2), ("exec sh -c 'exit 7'", 7),
        ("nowhere", 127), ("return 4", 4),
    ],
)  # fmt: skip
def test_the_status_of_a_command_is_its_own(agent, command, status):
    done = agent(build=[command])
    assert done.left["BUILD"].endswith(f"Reason: exit status {status}" if status else "")
    assert bool(done.left["BUILD"]) == bool(status)


def test_finally_runs_in_any_case(agent):
    done = agent(
        pre_build={"commands": ["true"], "last": ["echo fine $CODEBUILD_BUILD_SUCCEEDING"]},
        build={"commands": ["false", "echo never"], "last": ["echo cleared $CODEBUILD_BUILD_SUCCEEDING", "exit 9"]},
    )
    assert done.lines == ["fine 1", "cleared 0"]
    assert done.left["BUILD"].startswith("Error while executing command: false."), "the first is the reason"


@pytest.mark.parametrize(
    ("failing", "policy", "ran"),
    [
        ("install", "", ["INSTALL"]),
        ("pre_build", "", ["INSTALL", "PRE_BUILD"]),
        ("pre_build", "CONTINUE", ["INSTALL", "PRE_BUILD", "BUILD", "POST_BUILD"]),
        ("build", "", ["INSTALL", "PRE_BUILD", "BUILD", "POST_BUILD"]),
        ("build", "ABORT", ["INSTALL", "PRE_BUILD", "BUILD"]),
        ("post_build", "", ["INSTALL", "PRE_BUILD", "BUILD", "POST_BUILD"]),
    ],
)
def test_which_phases_follow_a_failed_one(agent, failing, policy, ran):
    done = agent(**{failing: {"commands": ["false"], "on_failure": policy}})
    assert [*done.left] == ran
    assert done.last == {"ended": True, "succeeded": False}


def test_exported_variables_are_told_and_others_are_not(agent):
    done = agent(exported=["DIGEST", "GIVEN", "LOST", "PLAIN"], build=["export DIGEST='sha256:é\n2'", "PLAIN=1"])
    assert done.exported == {"DIGEST": "sha256:é\n2", "GIVEN": "a b"}


def test_the_source_keeps_its_modes(agent):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("bin/run me")
        entry.external_attr = 0o100755 << 16
        archive.writestr(entry, "#!/bin/sh\necho ran\n")
        archive.writestr("../outside", "x")
    done = agent(source=buffer.getvalue(), build=["'bin/run me'", "ls; ls .."])
    assert done.lines == ["ran", "bin", "outside", "src"], "nothing leaves the folder"


def test_the_log_names_commands_as_codebuild_does(agent):
    done = agent(build=["printf unfinished", "false"])
    text = "\n".join(line.split(" ", 3)[3] for line in done.own)
    assert "Entering phase BUILD\nRunning command printf unfinished\n" in text
    assert "Command did not exit successfully false exit status 1\nPhase complete: BUILD State: FAILED\n" in text
    assert "Phase context status code: COMMAND_EXECUTION_ERROR Message: Error while executing command: false." in text


# --- the books


class Runs:
    """Stands for the runner: builds are started, and stay so."""

    def __init__(self):
        self.started = []

    def start(self, build):
        self.started.append(build)

    def stop(self, build):
        build.finish("STOPPED", Context())


@pytest.fixture
def books(monkeypatch):
    for name in HOOKED:  # what a hook replaces comes back after the test
        monkeypatch.setattr(CodeBuildResponse, name, getattr(CodeBuildResponse, name, None), raising=False)
    monkeypatch.setattr(codebuild, "_TYPE", "LINUX_CONTAINER")
    with mock_aws():
        runs = Runs()
        codebuild.hook(codebuild.Builds(runs))
        yield runs


def client(service):
    return boto3.client(service, region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")


def created(name="app", trust=TRUST, **settings):
    with suppress(ClientError):
        client("iam").create_role(RoleName="builds", AssumeRolePolicyDocument=json.dumps(trust))
    environment = {"type": "LINUX_CONTAINER", "computeType": "BUILD_GENERAL1_SMALL", "image": "standard"}
    return client("codebuild").create_project(
        name=name,
        **{
            "source": {"type": "NO_SOURCE", "buildspec": SPEC},
            "artifacts": {"type": "NO_ARTIFACTS"},
            "environment": environment | settings.pop("environment", {}),
            "serviceRole": "arn:aws:iam::123456789012:role/builds",
        }
        | settings,
    )["project"]


def test_a_project_is_what_was_given(books):
    made = created(description="first", tags=[{"key": "a", "value": "b"}], cache={"type": "LOCAL", "modes": []})
    assert (made["timeoutInMinutes"], made["queuedTimeoutInMinutes"]) == (60, 480)
    assert made["arn"] == "arn:aws:codebuild:eu-west-1:123456789012:project/app"
    codebuild = client("codebuild")
    codebuild.update_project(name="app", timeoutInMinutes=30, cache={"type": "NO_CACHE"}, vpcConfig={})
    codebuild.update_project(name="app", logsConfig={"s3Logs": {"status": "DISABLED"}})
    got = codebuild.batch_get_projects(names=["app", made["arn"], "other"])
    assert (got["projects"][0]["timeoutInMinutes"], got["projects"][0]["description"]) == (30, "first")
    assert got["projects"][0]["cache"] == {"type": "NO_CACHE"}
    assert got["projectsNotFound"] == ["other"]
    assert codebuild.list_projects()["projects"] == ["app"]
    codebuild.delete_project(name="app")
    assert codebuild.batch_get_projects(names=["app"])["projects"] == []


@pytest.mark.parametrize(
    "settings",
    [
        {"source": {"type": "GITHUB", "location": "https://github.com/a/b"}},
        {"source": {"type": "S3"}},
        {"source": {"type": "S3", "location": "bucket/folder/"}},
        {"source": {"type": "NO_SOURCE"}},
        {"artifacts": {"type": "S3", "location": "bucket"}},
        {"cache": {"type": "S3", "location": "bucket/cache"}},
        {"vpcConfig": {"vpcId": "vpc-0a1b2c3d", "subnets": ["subnet-0a1b2c3d"], "securityGroupIds": ["sg-0a1b2c3d"]}},
        {"logsConfig": {"s3Logs": {"status": "ENABLED", "location": "bucket/logs"}}},
        {"environment": {"type": "LINUX_GPU_CONTAINER"}},
        {"environment": {"computeType": "BUILD_LAMBDA_1GB"}},
        {"secondarySources": [{"type": "NO_SOURCE", "buildspec": "x"}]},
        {"serviceRole": "arn:aws:iam::123456789012:role/other"},
        {"trust": {**TRUST, "Statement": [{**TRUST["Statement"][0], "Principal": {"Service": "ec2.amazonaws.com"}}]}},
    ],
)
def test_a_project_that_cannot_be_built_is_refused(books, settings):
    with pytest.raises(ClientError, match="InvalidInputException"):
        created(**settings)
    assert client("codebuild").list_projects()["projects"] == []


def test_a_role_may_trust_one_project_only(books):
    of = {"StringEquals": {"aws:SourceArn": "arn:aws:codebuild:eu-west-1:123456789012:project/app"}}
    trust = {**TRUST, "Statement": [{**TRUST["Statement"][0], "Condition": of}]}
    assert created(trust=trust)["name"] == "app"
    with pytest.raises(ClientError, match="CodeBuild is not authorized to perform: sts:AssumeRole on arn:aws:iam"):
        created("other", trust=trust)


def test_a_build_has_the_settings_of_its_call(books):
    created(environment={"environmentVariables": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]})
    build = client("codebuild").start_build(
        projectName="app",
        sourceTypeOverride="S3",
        sourceLocationOverride="bucket/a.zip",
        computeTypeOverride="BUILD_GENERAL1_LARGE",
        imageOverride="other",
        privilegedModeOverride=True,
        timeoutInMinutesOverride=7,
        environmentVariablesOverride=[{"name": "B", "value": "3", "type": "PARAMETER_STORE"}],
    )["build"]
    assert (build["buildStatus"], build["currentPhase"], build["buildNumber"]) == ("IN_PROGRESS", "QUEUED", 1)
    assert build["source"] == {"type": "S3", "location": "bucket/a.zip", "buildspec": SPEC}
    environment = build["environment"]
    assert (environment["computeType"], environment["image"]) == ("BUILD_GENERAL1_LARGE", "other")
    assert [(one["name"], one["value"]) for one in environment["environmentVariables"]] == [("A", "1"), ("B", "3")]
    assert build["timeoutInMinutes"] == 7
    assert "groupName" not in build["logs"]
    project = client("codebuild").batch_get_projects(names=["app"])["projects"][0]
    assert project["source"]["type"] == "NO_SOURCE", "for this build only"
    assert client("codebuild").start_build(projectName="app")["build"]["buildNumber"] == 2
    listed = client("codebuild").list_builds_for_project(projectName="app")["ids"]
    assert listed == [one.id for one in reversed(books.started)]


def test_a_token_is_one_build_for_five_minutes(books, monkeypatch):
    created()
    start = client("codebuild").start_build
    first = start(projectName="app", idempotencyToken="t")["build"]["id"]
    assert start(projectName="app", idempotencyToken="t")["build"]["id"] == first
    assert len(books.started) == 1
    with pytest.raises(ClientError, match="used before with other parameters"):
        start(projectName="app", idempotencyToken="t", imageOverride="x")
    assert start(projectName="app")["build"]["id"] != start(projectName="app")["build"]["id"]
    later = time.monotonic() + 301
    monkeypatch.setattr(codebuild, "time", SimpleNamespace(monotonic=lambda: later))
    assert start(projectName="app", idempotencyToken="t")["build"]["id"] != first


def test_builds_are_found_by_id_and_arn_and_stopped_once(books):
    created()
    codebuild = client("codebuild")
    build = codebuild.start_build(projectName="app")["build"]
    got = codebuild.batch_get_builds(ids=[build["id"], build["arn"], "app:lost"])
    assert [one["id"] for one in got["builds"]] == [build["id"]] * 2
    assert got["buildsNotFound"] == ["app:lost"]
    stopped = codebuild.stop_build(id=build["id"])["build"]
    assert (stopped["buildStatus"], stopped["currentPhase"]) == ("STOPPED", "COMPLETED")
    assert [one.get("phaseStatus") for one in stopped["phases"]] == ["SUCCEEDED", "STOPPED", None]
    assert codebuild.stop_build(id=build["id"])["build"]["endTime"] == stopped["endTime"]
    for wrong, error in (("app", "InvalidInputException"), ("app:lost", "ResourceNotFoundException")):
        with pytest.raises(ClientError, match=error):
            codebuild.stop_build(id=wrong)
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        codebuild.start_build(projectName="other")


# --- how a build ends


class Inside:
    """Stands for the containers: a build says what a test wants it to, and is killed or not."""

    def __init__(self, *lines):
        self.lines, self.orders, self.killed, self.removed = lines, [], threading.Event(), []
        self.refuses = None

    def create(self, uuid, compute, *, privileged):
        if self.refuses:
            raise self.refuses
        return object()

    def start(self, container, uuid):
        self.uuid = uuid

    def hand_over(self, container, order, source):
        self.orders.append(order)

    def follow(self, container):
        for line in self.lines:
            if line is None:
                self.killed.wait(30)
                return
            text = line if isinstance(line, str) else f"{self.orders[-1]['mark']}{json.dumps(line)}"
            yield [(int(time.time() * 1000), text)]

    def kill(self, container):
        self.killed.set()

    def remove(self, container, uuid):
        self.removed.append(uuid)


ENDED = {"ended": True, "succeeded": True}
ALLOWED = {"Effect": "Allow", "Action": ["logs:*", "ssm:*", "secretsmanager:*", "s3:*"], "Resource": "*"}


@pytest.fixture
def run():
    """Run a build on what stands for its container: ``run(inside, …)`` returns it when it has ended."""
    with mock_aws():
        client("iam").create_role(RoleName="builds", AssumeRolePolicyDocument=json.dumps(TRUST))

        def run(inside, *, allowed=ALLOWED, background=False, **settings):
            document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
            client("iam").put_role_policy(RoleName="builds", PolicyName="p", PolicyDocument=document)
            environment = {"AWS_ENDPOINT_URL": "http://here", "AWS_ACCESS_KEY_ID": "of the account"}
            runner = Runner(SimpleNamespace(environment=lambda *_: environment), inside)
            variables = settings.pop("variables", [])
            build = Build(
                account="123456789012", region="eu-west-1", number=1, uuid="0a1b", project="app",
                settings={
                    "arn": "arn:aws:codebuild:eu-west-1:123456789012:project/app", "timeoutInMinutes": 60,
                    "source": {"type": "NO_SOURCE", "buildspec": SPEC},
                    "serviceRole": "arn:aws:iam::123456789012:role/builds",
                    "environment": {
                        "computeType": "BUILD_GENERAL1_SMALL", "image": "x", "environmentVariables": variables,
                    },
                } | settings,
            )  # fmt: skip
            if background:
                runner.start(build)
                return build, runner
            runner.run(build)
            return build

        yield run


def why(build):
    """The phase that broke off, its status, and what it says."""
    return [
        (one["phaseType"], one["phaseStatus"], one["contexts"][0]["statusCode"], one["contexts"][0]["message"])
        for one in build.describe()["phases"]
        if "contexts" in one
    ]


def logged(build):
    where = build.describe()["logs"]
    events = client("logs").get_log_events(
        logGroupName=where["groupName"], logStreamName=where["streamName"], startFromHead=True
    )["events"]
    return [one["message"] for one in events]


def wait(build):
    deadline = time.monotonic() + 30
    while not build.complete:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_build_is_given_its_role_and_its_variables(run):
    client("ssm").put_parameter(Name="/a", Value="hidden one", Type="SecureString")
    client("secretsmanager").create_secret(Name="s", SecretString=json.dumps({"k": "hidden two\nand three"}))
    inside = Inside("before hidden one", "and three", {"exported": "DIGEST", "value": "d"}, ENDED)
    spec = "version: 0.2\nenv: {variables: {A: spec, B: spec}, parameter-store: {P: /a}}\n" + SPEC.partition("\n")[2]
    variables = [{"name": "B", "value": "call"}, {"name": "S", "value": "s:k", "type": "SECRETS_MANAGER"}]
    build = run(inside, source={"type": "NO_SOURCE", "buildspec": spec}, variables=variables)
    assert (build.status, build.exported) == ("SUCCEEDED", {"DIGEST": "d"})
    given = inside.orders[0]["environment"]
    assert [given[name] for name in "ABPS"] == ["spec", "call", "hidden one", "hidden two\nand three"]
    assert given["AWS_ENDPOINT_URL"] == "http://here"
    assert given["AWS_ACCESS_KEY_ID"].startswith("ASIA"), "a session of the role"
    assert given["CODEBUILD_BUILD_ID"] == "app:0a1b"
    assert logged(build)[-2:] == ["before ***\n", "***\n"]
    assert inside.removed == ["0a1b"]


@pytest.mark.parametrize(
    ("allowed", "phase", "code", "text"),
    [
        ("s3:*", "PROVISIONING", "ACCESS_DENIED", "does not allow AWS CodeBuild to create Amazon CloudWatch Logs log"),
        ("logs:*", "DOWNLOAD_SOURCE", "CLIENT_ERROR", "AccessDenied: Access Denied status code: 403"),
        ("*", "DOWNLOAD_SOURCE", "CLIENT_ERROR", "NoSuchBucket"),
    ],
)
def test_what_the_role_may_not_do_fails_the_build(run, allowed, phase, code, text):
    source = {"type": "S3", "location": "bucket/a.zip"}
    build = run(Inside(ENDED), allowed={"Effect": "Allow", "Action": allowed, "Resource": "*"}, source=source)
    (found,) = why(build)
    assert found[:3] == (phase, "FAILED", code)
    assert text in found[3]
    assert build.status == "FAILED"


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b"no zip", "CLIENT_ERROR", "not a valid zip file"),
        (None, "CLIENT_ERROR", "NoSuchKey"),
        ({}, "YAML_FILE_ERROR", "/src/buildspec.yml: no such file or directory"),
        ({"buildspec.yml": "- a"}, "YAML_FILE_ERROR", "a buildspec is a mapping"),
        ({"buildspec.yml": b"\xff"}, "YAML_FILE_ERROR", "not text"),
    ],
)
def test_a_source_that_cannot_be_used_fails_the_build(run, body, code, text):
    client("s3").create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    if isinstance(body, dict):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in {**body, "other": "x"}.items():
                archive.writestr(name, content)
        body = buffer.getvalue()
    if body:
        client("s3").put_object(Bucket="bucket", Key="a.zip", Body=body)
    build = run(Inside(ENDED), source={"type": "S3", "location": "arn:aws:s3:::bucket/a.zip"})
    (found,) = why(build)
    assert found[:3] == ("DOWNLOAD_SOURCE", "FAILED", code)
    assert text in found[3]
    assert logged(build)[-1].endswith(f"Phase context status code: {code} Message: {found[3]}\n")


@pytest.mark.parametrize("value", ["lost", "s:other", "s:k:AWSPREVIOUS"])
def test_a_secret_that_is_not_there_fails_the_build(run, value):
    client("secretsmanager").create_secret(Name="s", SecretString='{"k": "v"}')
    build = run(Inside(ENDED), variables=[{"name": "S", "value": value, "type": "SECRETS_MANAGER"}])
    (found,) = why(build)
    assert found[:3] == ("DOWNLOAD_SOURCE", "FAILED", "Secrets Manager Error")
    assert found[3].startswith("ResourceNotFoundException: ")


def test_a_stopped_build_stays_stopped(run):
    inside = Inside({"entered": "BUILD"}, "begun", None)
    build, runner = run(inside, background=True)
    while build.phase != "BUILD":
        time.sleep(0.01)
    runner.stop(build)
    assert build.status == "STOPPED"
    assert inside.killed.is_set()
    while not inside.removed:
        time.sleep(0.01)
    assert [one["phaseType"] for one in build.describe()["phases"]][-2:] == ["BUILD", "COMPLETED"]
    assert build.status == "STOPPED"
    assert why(build) == []


def test_a_build_that_takes_too_long_is_killed(run):
    inside = Inside({"entered": "BUILD"}, None)
    build, _ = run(inside, background=True, timeoutInMinutes=0.005)
    wait(build)
    assert build.status == "TIMED_OUT"
    assert why(build) == [("BUILD", "TIMED_OUT", "BUILD_TIMED_OUT", "Build has timed out. ")]
    assert inside.killed.wait(30)


@pytest.mark.parametrize(
    ("lines", "refuses", "phase", "text"),
    [
        (({"entered": "BUILD"}, "begun"), None, "BUILD", "Build container found dead before completing the build."),
        (({"fault": "Docker did not start"},), None, "DOWNLOAD_SOURCE", "Docker did not start"),
        ((), ToolError("no AWS CLI"), "PROVISIONING", "no AWS CLI"),
        ((), docker.errors.APIError("no space"), "PROVISIONING", "no space"),
        ((), KeyError("oops"), "PROVISIONING", "The local cloud failed, its server.log says more: 'oops'"),
    ],
)
def test_what_no_command_did_is_a_fault(run, lines, refuses, phase, text):
    inside = Inside(*lines)
    inside.refuses = refuses
    build = run(inside)
    assert build.status == "FAULT"
    (found,) = why(build)
    assert found[:3] == (phase, "FAULT", "INTERNAL_SERVICE_ERROR")
    assert text in found[3]


def test_a_log_goes_where_the_project_says(run):
    config = {"cloudWatchLogs": {"status": "ENABLED", "groupName": "mine", "streamName": "builds"}}
    build = run(Inside("line", ENDED), logsConfig=config)
    assert build.logs == {"group": "mine", "stream": "builds/0a1b"}
    assert logged(build)[-1] == "line\n"
    silent = run(Inside("line", ENDED), logsConfig={"cloudWatchLogs": {"status": "DISABLED"}})
    assert silent.status == "SUCCEEDED"
    assert "groupName" not in silent.describe()["logs"]


# --- the image


def test_the_image_is_made_once_and_all_of_it_or_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seen = SimpleNamespace(installed=0, built=[])

    def install(folder):
        seen.installed += 1
        (folder / "awscli/examples").mkdir(parents=True)
        (folder / "awscli/examples/long.rst").touch()
        (folder / "awscli/__main__.py").touch()

    def get(tag):
        if tag not in seen.built:
            raise docker.errors.ImageNotFound(tag)

    def build(*, fileobj, tag, labels, **options):
        import tarfile

        with tarfile.open(fileobj=fileobj) as tar:
            seen.names = tar.getnames()
            seen.dockerfile = tar.extractfile("Dockerfile").read().decode()
        seen.built.append(tag)
        assert labels.keys() == {"splitbake.base"}, "no cloud owns it"

    monkeypatch.setattr(codebuild_image, "_install", install)
    client = SimpleNamespace(images=SimpleNamespace(get=get, build=build))
    tag = codebuild_image.ensure(client, "sha256:base")
    assert codebuild_image.ensure(client, "sha256:base") == tag
    assert (seen.installed, seen.built) == (1, [tag])
    assert "root/opt/awscli/awscli/__main__.py" in seen.names
    assert not any("examples" in name for name in seen.names)
    assert seen.dockerfile.startswith("FROM sha256:base\n")
    seen.built.clear()
    assert codebuild_image.ensure(client, "sha256:base") == tag
    assert seen.installed == 1, "the engine lost it, the cache did not"
    assert codebuild_image.ensure(client, "sha256:other") != tag
    assert [path.name for path in (tmp_path / "splitbake/local").glob("*.tar")] == [
        f"codebuild-{seen.built[-1].rpartition(':')[2]}.tar"
    ]


def test_an_index_that_has_no_aws_cli_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(codebuild_image, "uv", lambda: "/bin/false")

    def get(tag):
        raise docker.errors.ImageNotFound(tag)

    with pytest.raises(ToolError, match="cannot get awscli=="):
        codebuild_image.ensure(SimpleNamespace(images=SimpleNamespace(get=get)), "sha256:base")
    assert [path for path in (tmp_path / "splitbake/local").iterdir() if path.suffix != ".lock"] == []
