"""The CodeBuild kind of image builder, in the local cloud's CodeBuild: builds that run, under the policies we print."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from splitbake import build as builds
from splitbake import ecr
from splitbake import lock as locks
from splitbake.bake import codebuild_project
from splitbake.bake.builders import Order
from splitbake.bake.codebuild import CodeBuildBuilder
from splitbake.cloud import Cloud
from splitbake.errors import BuildError, CloudError, SplitbakeError, ToolError
from splitbake.iam.policies import Scope, policies
from splitbake.local import sessions
from splitbake.lock import Lock, LockedBaseAmi, LockedBaseImage, LockedFile, LockedModels
from splitbake.project import Project
from splitbake.sources import base_image

pytestmark = pytest.mark.engine

BUCKET = "codebuild-contexts"
NAME = "splitbake-built-elsewhere-image"
SECRET = "p4ssw0rd 'of' \"the\" $index"
ODD = "a 'b' \"c\" $(d) \\ e"
MANIFEST = f"""
version: 1
project: built.elsewhere
state: state
models:
  files: [{{path: models/weights.bin, from: weights.bin}}]
  budget: 1 GiB
ami: {{base: ecs-gpu-al2023}}
image:
  base: ecr://docker-hub/library/python:3.11-slim
  include: [run.py]
  mounts: {{models: /workspace/models}}
  command: [python3, run.py]
  repository: built/elsewhere
  budget: 900 MB
  builder: codebuild
  secrets: [INDEX]
  codebuild: {{role: image-builds, bucket: {BUCKET}, secrets: {{INDEX: "team/index:password"}}}}
environments: {{local: {{account: "123456789012", region: us-east-1, endpoint: custom}}}}
"""
DOCKERFILE = """\
ARG REGISTRY
FROM ${REGISTRY}/docker-hub/library/python:3.11-slim
ARG ODD
COPY ["notes.txt", "/built/"]
RUN --mount=type=secret,id=INDEX --mount=type=secret,id=ca \\
    sha256sum < /run/secrets/INDEX > /built/secret && cp /run/secrets/ca /built/ca && printf %s "$ODD" > /built/odd
"""
TRUST = {"Effect": "Allow", "Principal": {"Service": "codebuild.amazonaws.com"}, "Action": "sts:AssumeRole"}
ANYBODY = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


class Place:
    """A project whose image is built in CodeBuild: who asks and what builds are held to the policies of splitbake."""

    def __init__(self, cloud: Any, aws: Any, folder: Path) -> None:
        self.local, self.aws, self.folder = cloud, aws, folder
        (folder / "splitbake.yaml").write_text(MANIFEST)
        self.project = Project(folder / "splitbake.yaml")
        self.said: list[str] = []
        aws("s3").create_bucket(Bucket=BUCKET)
        aws("secretsmanager").create_secret(Name="team/index", SecretString=json.dumps({"password": SECRET}))
        aws("iam").create_role(RoleName="image-builds", AssumeRolePolicyDocument=document(TRUST))
        aws("iam").create_role(RoleName="image-asks", AssumeRolePolicyDocument=document(ANYBODY))
        self.give()
        # The owner makes the repository; who builds in CodeBuild needs no more than to push to it.
        self.uri = aws("ecr").create_repository(repositoryName="built/elsewhere")["repository"]["repositoryUri"]

    def give(self, without: str = "") -> None:
        """Put the printed policies in force, all but one action."""
        scope = Scope(self.project.manifest, "local")
        for name, role in (("image-builds", "codebuild"), ("image-asks", "builder")):
            for policy in policies(scope, role):
                statements = policy.document()["Statement"]
                for one in statements:
                    one["Action"] = [action for action in one["Action"] if action != without]
                kept = document(*(one for one in statements if one["Action"]))
                self.aws("iam").put_role_policy(RoleName=name, PolicyName=policy.name, PolicyDocument=kept)

    def order(self, name: str = "context", text: str = DOCKERFILE, **changes: Any) -> Order:
        context = self.folder / name
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(text)
        (context / "notes.txt").write_text(f"travels in {name}\n")
        cloud = Cloud("local", self.project.manifest.environments["local"])
        values: dict[str, Any] = {
            "context": context,
            "platform": "linux/amd64",
            "repository": self.uri,
            "tag": f"deps-{name}",
            "arguments": {"REGISTRY": self.local.registry, "ODD": ODD},
            "secrets": {"ca": "certificates\n"},
            "network": None,
            "credentials": ecr.credentials(cloud),
            "budget": 900_000_000,
            "log": self.folder / "image.log",
            "project": self.project,
            "cloud": cloud,
        }
        return Order(**{**values, **changes})

    def make(self, order: Order) -> Any:
        self.said.clear()
        return CodeBuildBuilder().make(order, self.said.append)

    def builds(self) -> list[dict[str, Any]]:
        """Return the builds so far, the newest first."""
        ids = self.aws("codebuild").list_builds_for_project(projectName=NAME)["ids"]
        return list(self.aws("codebuild").batch_get_builds(ids=ids)["builds"]) if ids else []

    def images(self) -> list[dict[str, Any]]:
        return list(self.aws("ecr").describe_images(repositoryName="built/elsewhere")["imageDetails"])


@pytest.fixture(scope="module")
def place(cloud: Any, aws: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(cloud, aws, tmp_path_factory.mktemp("elsewhere"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sessions.assume(cloud.environment(), cloud.keys.home, "image-asks").items():
            patch.setenv(name, value)
        yield place
    name = f"{place.uri}*"
    found = docker("images", "--quiet", "--filter", f"reference={name}").split()
    if found:
        docker("rmi", "--force", *set(found))


@pytest.fixture(scope="module")
def made(place: Place) -> Any:
    """The first image, which makes bucket, log and project what they are for all that come later."""
    made = place.make(place.order())
    return made, list(place.said), (place.folder / "image.log").read_text()


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def test_an_image_is_made_without_any_docker_of_ours(place, made):
    image, said, log = made
    assert [one["imageDigest"] for one in place.images()] == [image.digest]
    assert place.images()[0]["imageTags"] == ["deps-context"]
    assert said[0].startswith("uploading 3 files, ")
    assert f"creating the project {NAME} in CodeBuild" in said
    assert any(line.startswith("CodeBuild: ") for line in said)
    assert "exporting to image" in log
    assert {"layer", "distribution"} >= {each.kind for each in image.heaviest} >= {"layer"}, image.heaviest
    assert image.tools.keys() == {"docker", "docker engine", "codebuild image", "codebuild build"}
    assert image.tools["docker engine"].startswith("20.10.")

    config = docker_config(place)
    reference = f"{place.uri}@{image.digest}"
    docker("--config", config, "pull", "--quiet", reference)
    inside = docker("run", "--rm", "--network=none", "--entrypoint=cat", reference, "/built/odd")
    assert inside == ODD
    seen = docker("run", "--rm", "--network=none", "--entrypoint=cat", reference, "/built/secret", "/built/ca")
    assert seen.split() == [hashlib.sha256(SECRET.encode()).hexdigest(), "-", "certificates"]
    assert image.size == int(docker("image", "inspect", "--format={{.Size}}", reference))
    history = docker("history", "--no-trunc", reference)
    (build,) = place.builds()
    for text in (history, log, json.dumps(build, default=str), " ".join(said)):
        assert SECRET not in text
        assert "p4ssw0rd" not in text
    assert build["logs"]["groupName"] == f"/aws/codebuild/{NAME}"
    (group,) = place.aws("logs").describe_log_groups(logGroupNamePrefix=build["logs"]["groupName"])["logGroups"]
    assert group["retentionInDays"] == 30


def docker_config(place: Place) -> str:
    """Return a folder with a login to the registry."""
    folder = place.folder / "docker"
    folder.mkdir(exist_ok=True)
    credentials = ecr.credentials(Cloud("local", place.project.manifest.environments["local"]))
    (folder / "config.json").write_text(json.dumps({"auths": {credentials.host: {"auth": credentials.token}}}))
    return str(folder)


@pytest.mark.usefixtures("made")
def test_what_is_there_already_is_neither_sent_nor_made_again_and_a_log_is_not_needed(place):
    before = len(place.builds())
    place.give(without="logs:GetLogEvents")
    try:
        again = place.make(place.order(tag="deps-again"))
    finally:
        place.give()
    assert place.said[0].startswith("3 files, ")
    assert "are in S3 already" in place.said[0]
    assert place.said[1].startswith("started build ")
    assert sum("no lines of the build will be seen" in line for line in place.said) == 1
    assert len(place.builds()) == before + 1
    assert place.aws("codebuild").list_projects()["projects"] == [NAME]
    tagged = [one["imageDigest"] for one in place.images() if "deps-again" in one["imageTags"]]
    assert tagged == [again.digest]


@pytest.mark.usefixtures("made")
def test_over_the_budget_nothing_is_pushed(place):
    before = place.images()
    with pytest.raises(BuildError, match=r"over image\.budget") as told:
        place.make(place.order(tag="deps-heavy", budget=1_000_000))
    assert "nothing was pushed" in told.value.message
    assert "layers:" in told.value.message
    assert place.images() == before
    assert place.builds()[0]["buildStatus"] == "FAILED"


@pytest.mark.usefixtures("made")
def test_over_the_compressed_budget_nothing_is_pushed(place):
    before = place.images()
    with pytest.raises(BuildError, match=r"in the registry, .* over image\.compressed_budget") as told:
        place.make(place.order(tag="deps-packed", compressed_budget=1_000_000))
    assert place.images() == before
    found = re.search(r"the image has ([0-9.]+) MB", told.value.message)
    (image,) = [one for one in before if "deps-context" in one["imageTags"]]
    assert float(found[1]) * 1e6 == pytest.approx(image["imageSizeInBytes"], rel=0.05)  # gzip of the whole


@pytest.mark.usefixtures("made")
def test_what_has_no_end_or_another_one(place):
    """A log group that was made without an end gets one; one that somebody gave another end keeps it."""
    logs, order = place.aws("logs"), place.order()
    plan = codebuild_project.plan(place.project.manifest, order.cloud, order.platform)

    def ends() -> int | None:
        codebuild_project.ensure(order.cloud, plan, place.said.append)
        (group,) = logs.describe_log_groups(logGroupNamePrefix=plan.group)["logGroups"]
        return group.get("retentionInDays")

    logs.put_retention_policy(logGroupName=plan.group, retentionInDays=7)
    assert ends() == 7
    logs.delete_retention_policy(logGroupName=plan.group)
    assert ends() == 30


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("action", ["", "iam:GetRole"])
def test_the_check_of_the_doctor_needs_no_more_than_the_policy(place, action):
    place.give(without=action)
    try:
        with pytest.raises(CloudError, match=f"not authorized to perform: {action}") if action else nullcontext():
            CodeBuildBuilder().check(place.project, place.order().cloud)
    finally:
        place.give()


@pytest.mark.usefixtures("made")
def test_a_command_that_fails_is_told_with_its_last_lines(place):
    text = f"{DOCKERFILE}RUN echo the reason is this; exit 3\n"
    with pytest.raises(BuildError, match="failed in its phase BUILD: COMMAND_EXECUTION_ERROR: exit status") as told:
        place.make(place.order("failing", text))
    assert "the reason is this" in told.value.message
    assert str(place.folder / "image.log") in told.value.hint
    assert not any("deps-failing" in one["imageTags"] for one in place.images())


@pytest.mark.usefixtures("made")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the socket of a call cut in two
def test_a_signal_stops_the_build(place):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    order = place.order("slow", f"{DOCKERFILE}RUN echo has begun; sleep 600\n")

    def end_it() -> None:
        while not any("has begun" in line for line in place.said):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end_it)
    place.said.clear()
    ending.start()
    with pytest.raises(KeyboardInterrupt):
        CodeBuildBuilder().make(order, place.said.append)
    ending.join()
    assert place.said[-1].startswith(f"stopped build {NAME}:")
    assert place.builds()[0]["buildStatus"] == "STOPPED"


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    "action",
    [
        *(
            "s3:ListBucket",
            "s3:PutObject",
            "logs:CreateLogGroup",
            "logs:DescribeLogGroups",
            "codebuild:BatchGetProjects",
        ),
        *("codebuild:StartBuild", "codebuild:BatchGetBuilds"),
    ],
)
def test_who_asks_with_one_action_less_is_told_which(place, action):
    place.give(without=action)
    try:
        with pytest.raises((CloudError, ToolError)) as told:
            place.make(place.order(f"less-{action.replace(':', '-')}"))
    finally:
        place.give()
    assert action in f"{told.value.message} {told.value.__cause__}"
    assert place.builds()[0]["buildStatus"] != "IN_PROGRESS"


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("action", ["codebuild:CreateProject", "iam:PassRole", "codebuild:UpdateProject"])
def test_who_may_not_make_or_change_the_project_is_told_which(place, action):
    codebuild, order = place.aws("codebuild"), place.order()
    plan = codebuild_project.plan(place.project.manifest, order.cloud, order.platform)
    if action == "codebuild:CreateProject":
        codebuild.delete_project(name=NAME)
    else:
        codebuild.update_project(name=NAME, description="other")
    place.give(without=action)
    try:
        with pytest.raises(CloudError, match=f"not authorized to perform: {action}"):
            codebuild_project.ensure(order.cloud, plan, place.said.append)
    finally:
        place.give()
    codebuild_project.ensure(order.cloud, plan, place.said.append)
    project = codebuild.batch_get_projects(names=[NAME])["projects"][0]
    assert codebuild_project.differences(plan, project) == []


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("s3:GetObject", "failed in its phase DOWNLOAD_SOURCE: .*Access Denied"),
        ("secretsmanager:GetSecretValue", "secretsmanager:GetSecretValue"),
        ("ecr:GetAuthorizationToken", "failed in its phase PRE_BUILD"),
        ("logs:CreateLogStream", "logs:CreateLogStream"),
        ("logs:PutLogEvents", "logs:PutLogEvents"),
    ],
)
def test_builds_with_one_action_less_fail_and_say_so(place, action, said):
    order = place.order()
    take_from_builds(place, action)
    try:
        with pytest.raises(SplitbakeError, match=said):
            place.make(order)
    finally:
        place.give()


def take_from_builds(place: Place, action: str) -> None:
    """Take an action from the role of builds alone."""
    (policy,) = policies(Scope(place.project.manifest, "local"), "codebuild")
    statements: Sequence[dict[str, Any]] = policy.document()["Statement"]
    for one in statements:
        one["Action"] = [name for name in one["Action"] if name != action]
    kept = document(*(one for one in statements if one["Action"]))
    place.aws("iam").put_role_policy(RoleName="image-builds", PolicyName=policy.name, PolicyDocument=kept)


@pytest.mark.usefixtures("made")
def test_a_new_role_is_waited_for(place):
    """The role's trust comes a moment after the first try."""
    order = place.order()
    plan = codebuild_project.plan(place.project.manifest, order.cloud, order.platform)
    trust = document({**TRUST, "Principal": {"Service": "ec2.amazonaws.com"}})
    place.aws("codebuild").delete_project(name=NAME)
    place.aws("iam").update_assume_role_policy(RoleName="image-builds", PolicyDocument=trust)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "cannot assume the role" in line:
            place.aws("iam").update_assume_role_policy(RoleName="image-builds", PolicyDocument=document(TRUST))

    codebuild_project.ensure(order.cloud, plan, say)
    assert [line.rpartition("; ")[2] for line in said[1:]] == ["trying again in 2 s"]


@pytest.mark.usefixtures("made")
def test_a_whole_image_needs_no_engine_of_this_machine(place, monkeypatch):
    """``splitbake build image`` with the dependencies from CodeBuild and the code on top; then nothing to do."""
    project, cloud = place.project, Cloud("local", place.project.manifest.environments["local"])
    weights, request = b"weights", project.manifest.image.base
    (place.folder / "weights.bin").write_bytes(weights)
    (place.folder / "run.py").write_text("print('runs')\n")
    model = {"path": "models/weights.bin", "source": "weights.bin"}
    file = LockedFile(**model, size=len(weights), sha256=hashlib.sha256(weights).hexdigest())
    lock = Lock(
        base_ami=LockedBaseAmi(
            request=locks.base_request(project.manifest), id="ami-1", name="x", owner="x", created="x",
            architecture="x86_64", region="us-east-1", root_device="/dev/xvda", root_size=1,
        ),
        base_image=LockedBaseImage(request=request, digest=base_image.resolve_base(cloud, request)),
        models=(LockedModels(**model, files=(file,)),),
    )  # fmt: skip
    project.lock_path.write_text(lock.to_text())
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setenv("DOCKER_HOST", "unix:///nowhere")
        built = builds.build(project, cloud, "image", force=False, say=said.append)
        assert any(line.startswith("started build ") for line in said)
        again = builds.build(project, cloud, "image", force=False, say=pytest.fail)
    assert not built.reused
    assert again.reused
    artifact = built.artifact
    docker("--config", docker_config(place), "pull", "--quiet", artifact.uri)
    assert docker("run", "--rm", "--network=none", "--entrypoint=python3", artifact.uri, "run.py") == "runs"
