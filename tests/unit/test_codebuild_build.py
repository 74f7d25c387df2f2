"""A build of CodeBuild, followed: every way in which it can go, by answers as AWS gives them."""

from __future__ import annotations

import functools
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.exceptions import NoCredentialsError, ReadTimeoutError
from botocore.stub import Stubber

from splitbake.bake import codebuild, codebuild_buildspec, codebuild_follow, codebuild_project
from splitbake.bake.builders import Made, Order
from splitbake.bake.codebuild import CodeBuildBuilder
from splitbake.cloud import Cloud
from splitbake.ecr import Credentials
from splitbake.errors import BuildError, CloudError, InterruptError
from splitbake.manifest.codebuild import CodeBuild
from splitbake.project import Project

ACCOUNT, REGION = "123456789012", "eu-west-1"
NAME, GROUP = "splitbake-faces-image", "/aws/codebuild/splitbake-faces-image"
ID = f"{NAME}:0a1b2c3d"
FIRST = "t1"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/faces:deps-1"
DIGEST = f"sha256:{'d' * 64}"
DONE = [{"name": "DIGEST", "value": DIGEST}, {"name": "SIZE", "value": "4000"}]
STREAM = {"groupName": GROUP, "streamName": "0a1b2c3d"}
SERVICES = ("s3", "codebuild", "logs", "ecr")


@functools.cache
def session() -> boto3.Session:
    return boto3.Session("testing", "testing", region_name=REGION)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.pauses = 1000.0, list[float]()
        self.at: dict[int, Callable[[], None]] = {}

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)
        self.at.get(len(self.pauses), lambda: None)()


class World:
    """An account in which all is ready for a build, and a way to say what it will answer."""

    def __init__(self, project: Project, folder: Path, clock: Clock, **settings: Any) -> None:
        given = CodeBuild.model_validate({"role": "builds", "bucket": "my-builds", **settings})
        manifest = project.manifest
        image = manifest.image.model_copy(update={"builder": "codebuild", "codebuild": given})
        project.__dict__["manifest"] = manifest.model_copy(update={"image": image})
        self.project, self.clock = project, clock
        clients = {name: session().client(name) for name in SERVICES}
        self.cloud = Cloud("dev", manifest.environments["dev"], clients)
        self.stubs = {name: Stubber(client) for name, client in clients.items()}
        self.folder, self.said = folder, list[str]()
        (folder / "context").mkdir()
        (folder / "context/Dockerfile").write_text("FROM scratch\n")
        self.log = folder / "image.log"

    def order(self, **changes: Any) -> Order:
        values: dict[str, Any] = {
            "context": self.folder / "context",
            "platform": "linux/amd64",
            "repository": IMAGE.rpartition(":")[0],
            "tag": "deps-1",
            "arguments": {},
            "secrets": {},
            "network": None,
            "credentials": Credentials("unused", "token"),
            "budget": 5000,
            "compressed_budget": None,
            "log": self.log,
            "project": self.project,
            "cloud": self.cloud,
        }
        return Order(**{**values, **changes})

    def make(self, **changes: Any) -> Made:
        return CodeBuildBuilder().make(self.order(**changes), self.said.append)

    def ready(self) -> None:
        """Answer what comes before a build: all is there as it should be."""
        self.stubs["s3"].add_response("list_objects_v2", {"ResponseMetadata": {}})
        self.stubs["s3"].add_client_error("head_object", "404", http_status_code=404)
        self.stubs["s3"].add_response("put_object", {}, None)
        self.stubs["logs"].add_client_error("create_log_group", "ResourceAlreadyExistsException")
        group = {"logGroupName": GROUP, "retentionInDays": 7}
        self.stubs["logs"].add_response("describe_log_groups", {"logGroups": [group]})
        plan = codebuild_project.plan(self.project.manifest, self.cloud, "linux/amd64")
        tags = [{"key": "splitbake:project", "value": "faces"}]
        there = {"name": NAME, **plan.definition, "tags": tags}
        self.stubs["codebuild"].add_response("batch_get_projects", {"projects": [there]})

    def start(self) -> None:
        self.ready()
        self.stubs["codebuild"].add_response("start_build", {"build": {"id": ID, "buildStatus": "IN_PROGRESS"}})

    def look(self, phase: str, status: str = "IN_PROGRESS", **more: Any) -> None:
        build = {"id": ID, "currentPhase": phase, "buildStatus": status, **more}
        self.stubs["codebuild"].add_response("batch_get_builds", {"builds": [build]}, {"ids": [ID]})

    def lines(self, *messages: str, token: str = "", then: str = "t1") -> None:
        """Answer a reading of the log: some lines, and then that there are no more."""
        given = {"logGroupName": GROUP, "logStreamName": "0a1b2c3d", "startFromHead": True}
        after = {**given, "nextToken": token} if token else given
        events = [{"message": message} for message in messages]
        if messages or then != token:
            self.stubs["logs"].add_response("get_log_events", {"events": events, "nextForwardToken": then}, after)
        end = {**given, "nextToken": then}
        self.stubs["logs"].add_response("get_log_events", {"events": [], "nextForwardToken": then}, end)

    def quiet(self, token: str = FIRST) -> None:
        """Answer a reading of the log with nothing new."""
        self.lines(token=token, then=token)

    def pushed(self, *, found: bool = True) -> None:
        if found:
            answer = {"imageDetails": [{"imageDigest": DIGEST, "imageSizeInBytes": 1000}]}
            self.stubs["ecr"].add_response("describe_images", answer)
        else:
            self.stubs["ecr"].add_client_error("describe_images", "ImageNotFoundException")

    def stopped(self) -> None:
        self.stubs["codebuild"].add_response("stop_build", {"build": {"id": ID}}, {"id": ID})

    def hear(self, operation: str, heard: Callable[[Mapping[str, Any]], None]) -> None:
        """Tell ``heard`` the parameters of each call before it is made."""
        self.cloud.client("codebuild").meta.events.register(
            f"provide-client-params.codebuild.{operation}", lambda params, **_: heard(params)
        )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(codebuild_follow, "time", clock)
    monkeypatch.setattr(codebuild, "time", clock)
    return clock


@pytest.fixture
def settings() -> dict[str, Any]:
    return {}


@pytest.fixture
def world(small: Any, tmp_path: Path, clock: Clock, settings: dict[str, Any]) -> Iterator[World]:
    world = World(small.project, tmp_path, clock, **settings)
    for stub in world.stubs.values():
        stub.activate()
    yield world
    for stub in world.stubs.values():
        stub.assert_no_pending_responses()


def failed(phase: str, *messages: str, status: str = "FAILED", code: str = "X_ERROR") -> list[dict[str, Any]]:
    before = [{"phaseType": "SUBMITTED", "phaseStatus": "SUCCEEDED"}]
    contexts = [{"statusCode": code, "message": message} for message in messages]
    return [*before, {"phaseType": phase, "phaseStatus": status, "contexts": contexts}, {"phaseType": "COMPLETED"}]


def test_an_image_is_built_pushed_and_seen_in_ecr(world):
    world.start()
    world.look("QUEUED")
    world.look("PROVISIONING", logs={})
    world.look("BUILD", logs=STREAM)
    world.lines("one\ntwo\n", "\n", "splitbake:layer 3000 FROM x", "splitbake:distribution 900 numpy 2\n")
    world.look("BUILD", logs=STREAM)
    world.lines("splitbake:image 4000 of 5000 bytes\n", token="t1", then="t2")
    world.look("COMPLETED", "SUCCEEDED", logs=STREAM, exportedEnvironmentVariables=DONE)
    world.quiet("t2")
    world.pushed()
    made = world.make()
    heaviest = [("layer", 3000, "FROM x"), ("distribution", 900, "numpy 2")]
    assert [(one.kind, one.size, one.name) for one in made.heaviest] == heaviest
    assert (made.digest, made.size) == (DIGEST, 4000)
    uploading, *rest = world.said
    assert re.fullmatch(r"uploading 1 file, 13 B to build from \(\d+ B as a zip\)", uploading)
    assert rest == [
        f"started build {ID} of CodeBuild",
        "CodeBuild: QUEUED",
        "CodeBuild: PROVISIONING",
        "CodeBuild: BUILD",
        "one",
        "two",
        "CodeBuild: COMPLETED",
    ]
    assert world.log.read_text() == (
        "one\ntwo\n\nsplitbake:layer 3000 FROM x\nsplitbake:distribution 900 numpy 2\n"
        "splitbake:image 4000 of 5000 bytes\n"
    )


def test_what_a_build_is_told(world):
    asked: list[Mapping[str, Any]] = []
    world.hear("StartBuild", asked.append)
    for _ in range(2):
        world.start()
        world.look("COMPLETED", "SUCCEEDED", exportedEnvironmentVariables=DONE)
        world.pushed()
        world.make(arguments={"REGISTRY": "host"})
    one, other = asked
    assert one["projectName"] == NAME
    assert one["sourceTypeOverride"] == "S3"
    assert one["sourceLocationOverride"].startswith("my-builds/splitbake/contexts/")
    assert yaml.safe_load(one["buildspecOverride"])["env"]["exported-variables"] == [
        *("DIGEST", "SIZE", "COMPRESSED", "DOCKER")
    ]
    assert {"name": "ARGUMENT_REGISTRY", "value": "host", "type": "PLAINTEXT"} in one["environmentVariablesOverride"]
    assert one["computeTypeOverride"] == "BUILD_GENERAL1_SMALL"
    assert one["environmentTypeOverride"] == "LINUX_CONTAINER"
    assert one["timeoutInMinutesOverride"] == 60
    assert one["serviceRoleOverride"] == f"arn:aws:iam::{ACCOUNT}:role/builds"
    assert one["imagePullCredentialsTypeOverride"] == "CODEBUILD"
    assert one["cacheOverride"] == {"type": "LOCAL", "modes": ["LOCAL_DOCKER_LAYER_CACHE"]}
    assert one["idempotencyToken"] != other["idempotencyToken"]
    assert {**one, "idempotencyToken": ""} == {**other, "idempotencyToken": ""}


def test_looks_become_rare_without_news_and_frequent_with_them(world):
    world.start()
    for _ in range(9):
        world.look("QUEUED")
    world.look("BUILD")
    world.look("BUILD")
    world.look("COMPLETED", "SUCCEEDED", exportedEnvironmentVariables=DONE)
    world.pushed()
    world.make()
    pauses = world.clock.pauses
    assert pauses[:9] == sorted(pauses[:9])
    assert (pauses[0], pauses[8], pauses[9]) == (1, 10, 1)


def test_a_failure_says_phase_reason_and_the_last_lines(world):
    world.start()
    reason = "Error while executing command: (\n set -eu\n). Reason: exit status 1"
    world.look("BUILD", logs=STREAM)
    command = yaml.safe_load(codebuild_buildspec.text())["phases"]["build"]["commands"][0]
    world.lines(f"[Container] 2026/11/21 23:36:56 Running command {command}\n", *(f"line {n}\n" for n in range(40)))
    phases = [*failed("BUILD", reason, code="COMMAND_EXECUTION_ERROR"), *failed("POST_BUILD", "later")]
    world.look("COMPLETED", "FAILED", logs=STREAM, phases=phases)
    echo = f"[Container] 2026/11/21 23:36:57 Command did not exit successfully {command} exit status 1\n"
    world.lines("ERROR: no space left on device\n", echo, "[Container] Phase complete\n", token="t1", then="t2")
    world.quiet("t2")
    with pytest.raises(BuildError) as told:
        world.make()
    first, _, *lines = told.value.message.splitlines()
    assert first == (
        f"build {ID} of CodeBuild, for {IMAGE}, failed in its phase BUILD: COMMAND_EXECUTION_ERROR: exit status 1"
    )
    assert lines == [*(f"  line {n}" for n in range(12, 40)), "  ERROR: no space left on device", "  ) exit status 1"]
    assert "the disk is full" in told.value.hint
    assert str(world.log) in told.value.hint
    assert world.log.read_text().count("\n") == 42 + 2 * len(command.splitlines())
    assert not any("set -eu" in line for line in world.said)


@pytest.mark.parametrize("where", ["context", "log"])
def test_exit_137_asks_for_a_larger_machine(world, where):
    world.start()
    world.look("BUILD", logs=STREAM)
    world.lines("ERROR: process did not complete successfully: exit code: 137\n" if where == "log" else "building\n")
    reason = f"Error while executing command: x. Reason: exit status {137 if where == 'context' else 1}"
    world.look("COMPLETED", "FAILED", logs=STREAM, phases=failed("BUILD", reason))
    world.quiet()
    world.quiet()
    with pytest.raises(BuildError) as told:
        world.make()
    assert "raise image.codebuild.compute, which is BUILD_GENERAL1_SMALL" in told.value.hint


@pytest.mark.parametrize("logs", [None, {}, {"groupName": "null", "streamName": "null"}, STREAM])
def test_a_build_that_dies_before_it_has_a_log_is_no_riddle(world, logs):
    world.start()
    more = {"logs": logs} if logs is not None else {}
    world.look("PROVISIONING", **more)
    reason = "Unable to assume role"
    world.look("COMPLETED", "FAILED", phases=failed("PROVISIONING", reason, code="ACCESS_DENIED"), **more)
    for _ in range(5 if logs else 0):  # each look at what is not there
        world.stubs["logs"].add_client_error("get_log_events", "ResourceNotFoundException")
    with pytest.raises(BuildError) as told:
        world.make()
    assert told.value.message.endswith("failed in its phase PROVISIONING: ACCESS_DENIED: Unable to assume role")
    assert told.value.hint.startswith("check the role's policy and trust policy")
    assert told.value.hint.endswith("it has no log")
    assert not world.log.exists()


@pytest.mark.parametrize(
    "settings", [{"vpc": {"id": "vpc-0a1b2c3d", "subnets": ["subnet-0a1b2c3d"], "security_groups": ["sg-0a1b2c3d"]}}]
)
def test_in_a_vpc_provisioning_fails_for_other_reasons_too(world):
    world.start()
    world.look("COMPLETED", "FAILED", phases=failed("PROVISIONING", "no ENI", code="VPC_CLIENT_ERROR"))
    with pytest.raises(BuildError) as told:
        world.make()
    assert "image.codebuild.vpc" in told.value.hint


@pytest.mark.parametrize(
    ("status", "phase", "said", "hint"),
    [
        ("STOPPED", "BUILD", "was stopped by somebody in its phase BUILD", "build again"),
        ("TIMED_OUT", "BUILD", "took too long and was ended in its phase BUILD", "raise image.codebuild.timeout"),
        ("TIMED_OUT", "QUEUED", "took too long and was ended in its phase QUEUED", "no machine was free"),
        ("FAULT", "PROVISIONING", "failed by a fault of CodeBuild itself in its phase PROVISIONING", "build again"),
    ],
)
def test_other_ends(world, status, phase, said, hint):
    world.start()
    world.look("COMPLETED", status, phases=failed(phase, "", status=status))
    with pytest.raises(BuildError, match=said) as told:
        world.make()
    assert hint in told.value.hint


def test_an_end_without_any_phase_is_told_all_the_same(world):
    world.start()
    world.look("COMPLETED", "FAULT")
    with pytest.raises(BuildError, match=r"failed by a fault of CodeBuild itself$"):
        world.make()


@pytest.mark.parametrize("exported", [[], [{"name": "SIZE", "value": "6000"}, {"name": "DIGEST"}]])
def test_over_the_budget_it_says_what_takes_most(world, exported):
    world.start()
    world.look("BUILD", logs=STREAM)
    world.lines("splitbake:layer 5900 RUN uv pip install\n", "splitbake:image 6000 of 5000 bytes\n", "end\n")
    reason = "Error while executing command: echo. Reason: exit status 1"
    phases = failed("BUILD", reason)
    world.look("COMPLETED", "FAILED", logs=STREAM, phases=phases, exportedEnvironmentVariables=exported)
    world.quiet()
    world.quiet()
    with pytest.raises(BuildError, match=r"6\.0 kB uncompressed, 1\.0 kB over image\.budget") as told:
        world.make()
    assert "5.9 kB  RUN uv pip install" in told.value.message


def test_over_the_compressed_budget_it_says_what_is_heavy_as_installed(world):
    world.start()
    world.look("BUILD", logs=STREAM)
    weighed = (
        "splitbake:layer 3000 RUN uv",
        "splitbake:distribution 900 numpy 2",
        "splitbake:image 4000 of 5000 bytes",
    )
    world.lines(*weighed, "splitbake:compressed 2000 of 1500 bytes\n", "end\n")
    phases = failed("BUILD", "Error while executing command: echo. Reason: exit status 1")
    world.look("COMPLETED", "FAILED", logs=STREAM, phases=phases)
    world.quiet()
    world.quiet()
    with pytest.raises(BuildError, match=r"2\.0 kB in the registry, 500 B over image\.compressed_budget") as told:
        world.make(compressed_budget=1500)
    assert "nothing was pushed" in told.value.message
    assert "numpy 2" in told.value.message
    assert "RUN uv" not in told.value.message


def test_the_record_has_what_was_at_work(world):
    world.start()
    told = [*DONE, {"name": "DOCKER", "value": "28.1.0 28.1.1"}]
    image = {"type": "LINUX_CONTAINER", "image": "aws/codebuild/x:5.0", "computeType": "BUILD_GENERAL1_SMALL"}
    world.look("COMPLETED", "SUCCEEDED", exportedEnvironmentVariables=told, environment=image)
    world.pushed()
    assert world.make().tools == {
        "docker": "28.1.0",
        "docker engine": "28.1.1",
        "codebuild image": "aws/codebuild/x:5.0",
        "codebuild build": ID,
    }


def test_throttling_and_a_lost_network_are_waited_out(world, monkeypatch):
    world.start()
    for code in ("ThrottlingException", "ServiceUnavailable", "InternalFailure"):
        world.stubs["codebuild"].add_client_error("batch_get_builds", code)
    world.look("BUILD", logs=STREAM)
    world.stubs["logs"].add_client_error("get_log_events", "ThrottlingException")
    world.look("COMPLETED", "SUCCEEDED", logs=STREAM, exportedEnvironmentVariables=DONE)
    world.lines("splitbake:image 4000 of 5000 bytes\n")
    world.pushed()
    assert world.make().digest == DIGEST
    assert world.clock.pauses[:3] == [10, 10, 10]


def test_who_hears_nothing_for_too_long_gives_up_and_stops_the_build(world):
    world.start()
    for _ in range(31):
        world.stubs["codebuild"].add_client_error("batch_get_builds", "ThrottlingException")
    world.stopped()
    with pytest.raises(CloudError, match="ThrottlingException"):
        world.make()
    assert world.said[-1] == f"stopped build {ID} of CodeBuild"


def test_who_may_not_look_says_so_and_stops_the_build(world):
    world.start()
    world.stubs["codebuild"].add_client_error("batch_get_builds", "AccessDeniedException")
    world.stubs["codebuild"].add_client_error("stop_build", "AccessDeniedException")
    with pytest.raises(CloudError, match="AccessDeniedException") as told:
        world.make()
    assert f"; build {ID} of CodeBuild may still run, and costs money: could not stop build" in told.value.message
    assert told.value.hint.startswith("look at it in the console of CodeBuild, and stop it there; the role lacks")


def test_a_log_that_may_not_be_read_ends_no_build(world):
    world.start()
    world.look("BUILD", logs=STREAM)
    world.stubs["logs"].add_client_error("get_log_events", "AccessDeniedException")
    world.look("BUILD", logs=STREAM)
    world.look("COMPLETED", "SUCCEEDED", logs=STREAM, exportedEnvironmentVariables=DONE)
    world.pushed()
    assert world.make() == Made(DIGEST, 4000, (), {"codebuild build": ID})
    assert sum("no lines of the build will be seen" in line for line in world.said) == 1


def unknown(world: World, times: int) -> None:
    for _ in range(times):
        world.stubs["codebuild"].add_response("batch_get_builds", {"builds": [], "buildsNotFound": [ID]})


def test_a_build_that_is_not_known_yet_is_waited_for_and_one_that_stays_unknown_is_told(world):
    world.start()
    unknown(world, 2)
    world.look("COMPLETED", "SUCCEEDED", exportedEnvironmentVariables=DONE)
    world.pushed()
    assert world.make().digest == DIGEST
    world.start()
    unknown(world, 31)
    world.stopped()
    with pytest.raises(BuildError, match=f"knows no build {ID}"):
        world.make()


@pytest.mark.parametrize("settings", [{"timeout": "5 min"}])
def test_a_build_that_never_ends_is_stopped(world, monkeypatch):
    world.start()
    running = {"id": ID, "currentPhase": "BUILD", "buildStatus": "IN_PROGRESS"}
    monkeypatch.setattr(codebuild_follow.Following, "_look", lambda self, **_: running)
    world.stopped()
    with pytest.raises(BuildError, match=r"did not end build .* within 40 min 00 s"):  # 5, 30 in the queue, 5 of grace
        world.make()
    assert 40 * 60 < world.clock.now - 1000 < 41 * 60
    assert world.said[-1] == f"stopped build {ID} of CodeBuild"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["following", "starting"])
def test_an_interrupt_stops_the_build(world, monkeypatch, number, when):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(number, interrupt)
    world.start()
    if when == "following":
        world.look("BUILD")
        world.clock.at[1] = lambda: os.kill(os.getpid(), number)
    else:
        world.hear("StartBuild", lambda _: os.kill(os.getpid(), number))
    world.stopped()
    with pytest.raises(KeyboardInterrupt):
        world.make()
    assert world.said[-1] == f"stopped build {ID} of CodeBuild"


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def lost(*_: Any) -> None:
    raise ReadTimeoutError(endpoint_url="https://codebuild")


@pytest.mark.parametrize("why", ["refused", "another Ctrl-C"])
def test_an_interrupt_that_cannot_stop_the_build_is_told_in_the_error(world, why):
    signal.signal(signal.SIGINT, interrupted)
    world.start()
    world.look("BUILD")
    world.clock.at[1] = lambda: os.kill(os.getpid(), signal.SIGINT)
    if why == "refused":
        world.stubs["codebuild"].add_client_error("stop_build", "AccessDeniedException", "no")
    else:
        world.hear("StopBuild", lambda _: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)] and None)
    with pytest.raises(InterruptError, match=f"interrupted; build {ID} of CodeBuild may still run, and costs") as told:
        world.make()
    assert told.value.hint == "look at it in the console of CodeBuild, and stop it there"
    assert "no" in told.value.message


def test_a_signal_after_the_build_was_stopped_changes_nothing(world):
    signal.signal(signal.SIGINT, interrupted)
    world.start()
    world.stubs["codebuild"].add_client_error("batch_get_builds", "AccessDeniedException")
    world.hear("StopBuild", lambda _: os.kill(os.getpid(), signal.SIGINT))
    world.stopped()
    with pytest.raises(KeyboardInterrupt):
        world.make()


def test_a_bug_while_a_build_runs_on_names_it(world, monkeypatch):
    world.start()
    monkeypatch.setattr(codebuild_follow.Following, "wait", lambda *_: {}["gone"])
    world.stubs["codebuild"].add_client_error("stop_build", "AccessDeniedException")
    with pytest.raises(KeyError) as told:
        world.make()
    assert f"build {ID} of CodeBuild may still run" in told.value.__notes__[0]


@pytest.mark.parametrize("how", ["timeout", "500"])
def test_an_answer_that_was_lost_is_asked_for_again_by_the_same_token(world, how):
    tokens: list[str] = []

    def asked(params: Mapping[str, Any]) -> None:
        tokens.append(params["idempotencyToken"])
        if how == "timeout" and len(tokens) == 1:
            lost()

    world.hear("StartBuild", asked)
    world.ready()
    if how == "500":
        world.stubs["codebuild"].add_client_error("start_build", "InternalFailure", http_status_code=500)
    world.stubs["codebuild"].add_response("start_build", {"build": {"id": ID, "buildStatus": "IN_PROGRESS"}})
    world.look("COMPLETED", "SUCCEEDED", exportedEnvironmentVariables=DONE)
    world.pushed()
    assert world.make().digest == DIGEST
    assert len(tokens) == 2
    assert len({*tokens}) == 1


@pytest.mark.parametrize(("took", "asked"), [(10, 2), (301, 1)])
def test_a_build_that_nobody_knows_of_is_told(world, took, asked):
    """After five minutes the token is forgotten: to ask again would start another build."""
    calls: list[int] = []

    def answered(_: Mapping[str, Any]) -> None:
        calls.append(1)
        world.clock.now += took
        lost()

    world.hear("StartBuild", answered)
    world.ready()
    with pytest.raises(CloudError, match="could not start a build in CodeBuild: Read timeout") as told:
        world.make()
    assert told.value.message.endswith(f"; a build of the project {NAME} may run in CodeBuild, and costs money")
    assert told.value.hint.startswith("look at it in the console of CodeBuild, and stop it there; ")
    assert len(calls) == asked


def test_a_build_that_nobody_knows_of_is_told_after_an_interrupt_too(world):
    signal.signal(signal.SIGINT, interrupted)

    def answered(_: Mapping[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        lost()

    world.hear("StartBuild", answered)
    world.ready()
    with pytest.raises(InterruptError, match=f"^interrupted; a build of the project {NAME} may run in CodeBuild"):
        world.make()


def test_what_was_never_sent_started_nothing(world):
    def unsent(_: Mapping[str, Any]) -> None:
        raise NoCredentialsError

    world.hear("StartBuild", unsent)
    world.ready()
    with pytest.raises(CloudError) as told:
        world.make()
    assert "may run" not in told.value.message


def test_a_build_that_could_not_start_needs_no_stop(world):
    world.ready()
    world.stubs["codebuild"].add_client_error("start_build", "AccountLimitExceededException", "no more builds")
    with pytest.raises(CloudError, match="no more builds"):
        world.make()


@pytest.mark.parametrize("exported", [[], DONE[:1], DONE[1:], [{"name": "DIGEST", "value": "sha256:short"}, DONE[1]]])
def test_success_without_digest_or_size_is_none(world, exported):
    world.start()
    world.look("COMPLETED", "SUCCEEDED", exportedEnvironmentVariables=exported)
    with pytest.raises(BuildError, match="told no digest and size"):
        world.make()


def test_what_ecr_does_not_have_was_not_pushed(world):
    world.start()
    world.look("COMPLETED", "SUCCEEDED", exportedEnvironmentVariables=DONE)
    world.pushed(found=False)
    with pytest.raises(BuildError, match=f"pushed as {DIGEST}, but ECR does not have it"):
        world.make()


@pytest.mark.parametrize("settings", [{"secrets": {"UV_INDEX_URL": "team/index:url"}}])
def test_a_secret_of_secrets_manager_is_named_and_a_ca_travels_in_the_zip(world):
    sent: dict[str, Any] = {}
    s3 = world.cloud.client("s3")
    s3.meta.events.register("provide-client-params.s3.PutObject", lambda params, **_: sent.update(zip=params["Body"]))
    world.hear("StartBuild", sent.update)
    world.start()
    world.look("COMPLETED", "SUCCEEDED", exportedEnvironmentVariables=DONE)
    world.pushed()
    world.make(secrets={"UV_INDEX_URL": "https://me:secret@index", "OTHER": "secret@index", "ca": "certificates"})
    found = {one["name"]: one for one in sent["environmentVariablesOverride"]}
    assert found["SECRET_UV_INDEX_URL"]["value"] == "team/index:url"
    assert found["SECRET_UV_INDEX_URL"]["type"] == "SECRETS_MANAGER"
    assert "secret@index" not in str(sent)
    assert b"ca.pem" in sent["zip"]
