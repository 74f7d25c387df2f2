"""CodeBuild in the local cloud: builds that are run, fail, are stopped and take too long as on AWS."""

from __future__ import annotations

import hashlib
import io
import json
import time
import uuid
import zipfile

import boto3
import pytest
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError

from splitbake.local import down, up
from splitbake.local.engine import connect

pytestmark = pytest.mark.engine

ENDS = {"SUCCEEDED", "FAILED", "FAULT", "TIMED_OUT", "STOPPED"}
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "codebuild.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}
LOGS = {
    "Effect": "Allow",
    "Action": ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"],
    "Resource": "arn:aws:logs:*:*:log-group:/aws/codebuild/*",
}


def until(read, wanted, seconds=120):
    deadline = time.monotonic() + seconds
    while (value := read()) not in wanted:
        assert time.monotonic() < deadline, f"still {value}"
        time.sleep(0.1)
    return value


def buildspec(env=None, **phases):
    document = {"version": 0.2, "phases": {name: {"commands": commands} for name, commands in phases.items()}}
    return yaml.safe_dump(document | ({"env": env} if env else {}))


def packed(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


class Project:
    """A project of CodeBuild, with a role that may do what it is given."""

    def __init__(self, aws, name, *statements, **settings):
        self.name, self.codebuild, self.logs, self.iam = name, aws("codebuild"), aws("logs"), aws("iam")
        self.role = self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]["Arn"]
        self.allow(LOGS, *statements)
        self.made = self.codebuild.create_project(
            name=name,
            source=settings.pop("source", {"type": "NO_SOURCE", "buildspec": buildspec(build=["true"])}),
            artifacts={"type": "NO_ARTIFACTS"},
            environment={
                "type": "LINUX_CONTAINER", "computeType": "BUILD_GENERAL1_SMALL",
                "image": "aws/codebuild/standard:7.0", "privilegedMode": settings.pop("privileged", False),
            },
            serviceRole=self.role,
            **settings,
        )["project"]  # fmt: skip

    def allow(self, *statements):
        document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
        self.iam.put_role_policy(RoleName=self.name, PolicyName="build", PolicyDocument=document)

    def start(self, **options):
        return self.codebuild.start_build(projectName=self.name, **options)["build"]["id"]

    def build(self, build_id):
        return self.codebuild.batch_get_builds(ids=[build_id])["builds"][0]

    def end(self, build_id):
        until(lambda: self.build(build_id)["buildStatus"], ENDS)
        return self.build(build_id)

    def run(self, **options):
        return self.end(self.start(**options))

    def log(self, build):
        where = build["logs"]
        lines, token = [], {}
        while True:
            page = self.logs.get_log_events(
                logGroupName=where["groupName"], logStreamName=where["streamName"], startFromHead=True, **token
            )
            if not page["events"]:
                return lines
            lines += [event["message"].rstrip("\n") for event in page["events"]]
            token = {"nextToken": page["nextForwardToken"]}


def contexts(build):
    return {
        phase["phaseType"]: (phase["phaseStatus"], *(one["message"] for one in phase.get("contexts", [])))
        for phase in build["phases"][:-1]
    }


def containers(cloud, build):
    label = [f"splitbake.cloud={cloud.id}", f"splitbake.build={build['id'].rpartition(':')[2]}"]
    return connect().containers.list(all=True, filters={"label": label}, ignore_removed=True)


@pytest.fixture(scope="module")
def project(cloud, aws):
    return Project(aws, "plain")


@pytest.fixture(scope="module")
def bucket(aws):
    aws("s3").create_bucket(Bucket="codebuild-source")
    return "codebuild-source"


def test_an_image_is_built_and_pushed_by_the_docker_of_the_build(cloud, aws, bucket):
    repository = aws("ecr").create_repository(repositoryName="built")["repository"]
    uri, arn = repository["repositoryUri"], repository["repositoryArn"]
    base = f"{cloud.registry}/docker-hub/library/python:3.11-slim"
    spec = buildspec(
        {"variables": {"DOCKER_BUILDKIT": "1", "WHO": "buildspec"}, "exported-variables": ["DIGEST", "LOST"]},
        pre_build=[
            "aws ecr get-login-password | docker login --username AWS --password-stdin ${REPOSITORY%%/*}",
            "cd app && TAG=one",
        ],
        build=["docker version --format '{{.Server.Version}}'",
               'docker build --network host --build-arg "BASE=$BASE" --label "who=$WHO" --tag "$REPOSITORY:$TAG" .'],
        post_build=[
            'if [ "$CODEBUILD_BUILD_SUCCEEDING" = 1 ]; then docker push "$REPOSITORY:$TAG"; fi',
            "export DIGEST=$(docker image inspect --format '{{index .RepoDigests 0}}' \"$REPOSITORY:$TAG\")",
        ],
    )  # fmt: skip
    reach = f"import urllib.request as web; print('reached', web.urlopen('{cloud.endpoint}/.splitbake').status)"
    dockerfile = (
        "ARG BASE\nFROM $BASE\nCOPY hello.txt /\nRUN --mount=type=cache,target=/cache cat /hello.txt\n"
        f'RUN python3 -c "{reach}"\n'
    )
    files = {"buildspec.yml": spec, "app/Dockerfile": dockerfile, "app/hello.txt": "hello from the source\n"}
    aws("s3").put_object(Bucket=bucket, Key="contexts/a.zip", Body=packed(files))
    project = Project(
        aws, "docker",
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/contexts/*"},
        {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
        {"Effect": "Allow", "Action": "ecr:*", "Resource": arn},
        source={"type": "S3", "location": f"{bucket}/contexts/never.zip"}, privileged=True,
    )  # fmt: skip
    build = project.run(
        sourceLocationOverride=f"{bucket}/contexts/a.zip",
        environmentVariablesOverride=[
            {"name": "REPOSITORY", "value": uri},
            {"name": "BASE", "value": base},
            {"name": "WHO", "value": "a b: c"},
        ],
    )
    lines = project.log(build)
    assert build["buildStatus"] == "SUCCEEDED", "\n".join(lines)
    image = aws("ecr").describe_images(repositoryName="built")["imageDetails"][0]
    assert image["imageTags"] == ["one"]
    assert build["exportedEnvironmentVariables"] == [{"name": "DIGEST", "value": f"{uri}@{image['imageDigest']}"}]
    assert any(line.startswith("20.10.") for line in lines)
    assert any("hello from the source" in line for line in lines), "BuildKit shows what RUN says"
    assert any("reached 204" in line for line in lines), "what is built reaches a server at the cloud's bridge"
    assert [phase["phaseType"] for phase in build["phases"]] == [
        "SUBMITTED", "QUEUED", "PROVISIONING", "DOWNLOAD_SOURCE", "INSTALL", "PRE_BUILD", "BUILD", "POST_BUILD",
        "UPLOAD_ARTIFACTS", "FINALIZING", "COMPLETED",
    ]  # fmt: skip
    assert {phase["phaseStatus"] for phase in build["phases"][:-1]} == {"SUCCEEDED"}
    assert (build["currentPhase"], build["buildComplete"], build["buildNumber"]) == ("COMPLETED", True, 1)
    until(lambda: containers(cloud, build), [[]])
    lost = project.run()
    assert contexts(lost)["DOWNLOAD_SOURCE"][1].startswith("NoSuchKey: The specified key does not exist.")
    assert project.log(lost)[-1].startswith("[Container]")


def test_a_failed_command_says_which_it_was_and_post_build_runs(project):
    build = project.run(
        buildspecOverride=buildspec(
            build=["echo before", "ls /nowhere/at/all", "echo never"],
            post_build=["echo succeeding: $CODEBUILD_BUILD_SUCCEEDING"],
        )
    )
    assert (build["buildStatus"], build["currentPhase"]) == ("FAILED", "COMPLETED")
    reason = "Error while executing command: ls /nowhere/at/all. Reason: exit status 2"
    assert contexts(build)["BUILD"] == ("FAILED", reason)
    assert contexts(build)["POST_BUILD"] == ("SUCCEEDED",)
    failed = next(phase for phase in build["phases"] if phase["phaseType"] == "BUILD")
    assert failed["contexts"][0]["statusCode"] == "COMMAND_EXECUTION_ERROR"
    lines = project.log(build)
    assert "before" in lines
    assert "never" not in lines
    assert "succeeding: 0" in lines
    assert any("No such file or directory" in line for line in lines)
    assert any(line.endswith(f"Phase context status code: COMMAND_EXECUTION_ERROR Message: {reason}") for line in lines)


def test_an_early_failure_ends_the_build(project):
    build = project.run(buildspecOverride=buildspec(pre_build=["exit 3"], build=["true"], post_build=["true"]))
    assert contexts(build)["PRE_BUILD"] == ("FAILED", "Error while executing command: exit 3. Reason: exit status 3")
    assert not {"BUILD", "POST_BUILD"} & contexts(build).keys()


def test_a_stopped_build_is_killed(project, cloud):
    build_id = project.start(buildspecOverride=buildspec(build=["echo begun", "sleep 600"]))
    until(lambda: project.build(build_id)["currentPhase"], {"BUILD"})
    until(lambda: "begun" in project.log(project.build(build_id)), {True})
    stopped = project.codebuild.stop_build(id=build_id)["build"]
    assert (stopped["buildStatus"], stopped["buildComplete"]) == ("STOPPED", True)
    until(lambda: containers(cloud, stopped), [[]])
    time.sleep(0.5)
    build = project.build(build_id)
    assert build["buildStatus"] == "STOPPED", "it stays so"
    assert contexts(build)["BUILD"] == ("STOPPED",)


def test_a_build_that_takes_too_long_is_ended(project, cloud):
    # AWS takes five minutes or more. A session of its own: the default one has the key of the cloud that came first.
    impatient = boto3.Session().client("codebuild", config=Config(parameter_validation=False))
    build_id = impatient.start_build(
        projectName=project.name, timeoutInMinutesOverride=0.05, buildspecOverride=buildspec(build=["sleep 600"])
    )["build"]["id"]
    build = project.end(build_id)
    assert build["buildStatus"] == "TIMED_OUT"
    last = build["phases"][-2]
    assert (last["phaseStatus"], last["contexts"][0]["statusCode"]) == ("TIMED_OUT", "BUILD_TIMED_OUT")
    until(lambda: containers(cloud, build), [[]])


def test_a_container_that_dies_ends_the_build(project, cloud):
    build_id = project.start(buildspecOverride=buildspec(build=["sleep 600"]))
    until(lambda: project.build(build_id)["currentPhase"], {"BUILD"})
    containers(cloud, project.build(build_id))[0].kill()
    build = project.end(build_id)
    assert build["buildStatus"] == "FAULT"
    assert contexts(build)["BUILD"][1].startswith("Build container found dead before completing the build.")


def test_a_token_starts_one_build(project):
    token = str(uuid.uuid4())
    first = project.start(idempotencyToken=token)
    assert project.start(idempotencyToken=token) == first
    with pytest.raises(ClientError, match="InvalidInputException"):
        project.start(idempotencyToken=token, imageOverride="other")
    assert project.start(idempotencyToken=str(uuid.uuid4())) != first
    listed = project.codebuild.list_builds_for_project(projectName=project.name)["ids"]
    assert listed.count(first) == 1
    assert project.end(first)["buildStatus"] == "SUCCEEDED"


def test_secrets_reach_the_commands_and_not_the_log(aws):
    plain, keyed, stored = (uuid.uuid4().hex for _ in range(3))
    arns = [
        aws("secretsmanager").create_secret(Name="plain", SecretString=plain)["ARN"],
        aws("secretsmanager").create_secret(Name="keyed", SecretString=json.dumps({"password": keyed}))["ARN"],
    ]
    aws("ssm").put_parameter(Name="/index/url", Value=stored, Type="SecureString")
    spec = buildspec(
        {"secrets-manager": {"KEYED": "keyed:password"}, "parameter-store": {"STORED": "/index/url"}},
        build=["echo told: $PLAIN $KEYED $STORED", "env", "printf %s $PLAIN$KEYED$STORED | sha256sum"],
    )
    reading = [
        {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": arns},
        {"Effect": "Allow", "Action": "ssm:GetParameters", "Resource": "arn:aws:ssm:*:*:parameter/index/*"},
    ]
    project = Project(aws, "secrets", *reading)
    variables = [{"name": "PLAIN", "value": arns[0], "type": "SECRETS_MANAGER"}]
    build = project.run(buildspecOverride=spec, environmentVariablesOverride=variables)
    text = "\n".join(project.log(build))
    assert build["buildStatus"] == "SUCCEEDED", text
    assert "told: *** *** ***" in text
    assert hashlib.sha256((plain + keyed + stored).encode()).hexdigest() in text, "the commands have them"
    assert not any(secret in text for secret in (plain, keyed, stored))
    assert "AWS_SECRET_ACCESS_KEY=***" in text
    assert build["environment"]["environmentVariables"] == variables
    project.allow(LOGS, reading[1])
    build = project.run(buildspecOverride=spec, environmentVariablesOverride=variables)
    status, message = contexts(build)["DOWNLOAD_SOURCE"]
    assert status == "FAILED"
    assert "is not authorized to perform: secretsmanager:GetSecretValue on resource: arn:aws:secretsmanager" in message


def test_builds_run_side_by_side(project):
    ids = [project.start(buildspecOverride=buildspec(build=["sleep 4", f"echo I am {number}"])) for number in range(3)]
    ended = [project.end(build_id) for build_id in ids]
    assert [build["buildStatus"] for build in ended] == ["SUCCEEDED"] * 3
    spans = [next((p["startTime"], p["endTime"]) for p in b["phases"] if p["phaseType"] == "BUILD") for b in ended]
    assert max(start for start, _ in spans) < min(end for _, end in spans)
    for number, build in enumerate(ended):
        assert [line for line in project.log(build) if line.startswith("I am")] == [f"I am {number}"]


def test_the_role_is_what_a_build_can_do(aws, project):
    build = project.run(
        buildspecOverride=buildspec(build=["aws sts get-caller-identity", "aws ecr describe-repositories"])
    )
    lines = "\n".join(project.log(build))
    assert f"assumed-role/{project.name}/AWSCodeBuild-{build['id'].rpartition(':')[2]}" in lines
    assert "AccessDenied" in lines
    assert build["buildStatus"] == "FAILED"
    mute = Project(aws, "mute")
    mute.allow({"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"})
    build = mute.run()
    assert build["buildStatus"] == "FAILED"
    assert (
        "does not allow AWS CodeBuild to create Amazon CloudWatch Logs log streams"
        in contexts(build)["PROVISIONING"][1]
    )
    assert "groupName" not in build["logs"]


def test_docker_is_for_privileged_builds_only(project):
    build = project.run(buildspecOverride=buildspec(build=["docker info"]))
    assert build["buildStatus"] == "FAILED"
    assert any("Cannot connect to the Docker daemon" in line for line in project.log(build))


def test_projects_are_kept_changed_and_deleted(aws, project):
    codebuild = project.codebuild
    arn = project.made["arn"]
    got = codebuild.batch_get_projects(names=[project.name, "nobody"])
    assert (got["projects"][0]["arn"], got["projectsNotFound"]) == (arn, ["nobody"])
    assert got["projects"][0]["timeoutInMinutes"] == 60
    changed = codebuild.update_project(name=project.name, description="changed", timeoutInMinutes=30)["project"]
    assert (changed["description"], changed["timeoutInMinutes"], changed["serviceRole"]) == (
        "changed",
        30,
        project.role,
    )
    same = {name: project.made[name] for name in ("name", "source", "artifacts", "environment", "serviceRole")}
    with pytest.raises(ClientError, match="ResourceAlreadyExistsException"):
        codebuild.create_project(**same)
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        codebuild.update_project(name="nobody", description="x")
    other = Project(aws, "gone")
    assert "gone" in codebuild.list_projects()["projects"]
    build = other.run()
    codebuild.delete_project(name="gone")
    assert "gone" not in codebuild.list_projects()["projects"]
    assert codebuild.batch_get_builds(ids=[build["id"]])["builds"][0]["buildStatus"] == "SUCCEEDED", "builds stay"
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        other.start()


@pytest.mark.parametrize(
    "options",
    [
        {"sourceTypeOverride": "GITHUB", "sourceLocationOverride": "https://github.com/a/b"},
        {"environmentTypeOverride": "WINDOWS_SERVER_2022_CONTAINER"},
        {"computeTypeOverride": "BUILD_LAMBDA_1GB"},
        {"secondarySourcesOverride": [{"type": "NO_SOURCE", "buildspec": "x"}]},
        {"serviceRoleOverride": "arn:aws:iam::123456789012:role/nobody"},
        {"sourceTypeOverride": "S3", "sourceLocationOverride": "bucket-only"},
    ],
)
def test_what_cannot_be_done_is_refused(project, options):
    with pytest.raises(ClientError, match="InvalidInputException"):
        project.start(**options)


def test_a_role_that_does_not_trust_codebuild_is_refused(aws):
    aws("iam").create_role(RoleName="distant", AssumeRolePolicyDocument=json.dumps(TRUST).replace("codebuild", "ec2"))
    with pytest.raises(ClientError, match="not authorized to perform: sts:AssumeRole"):
        aws("codebuild").create_project(
            name="distant",
            source={"type": "NO_SOURCE", "buildspec": buildspec(build=["true"])},
            artifacts={"type": "NO_ARTIFACTS"},
            environment={"type": "LINUX_CONTAINER", "computeType": "BUILD_GENERAL1_SMALL", "image": "x"},
            serviceRole=aws("iam").get_role(RoleName="distant")["Role"]["Arn"],
        )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version: 0.2\nphases: {build: {commands: [{echo a: b}]}}\n", "Expected Commands[0] to be of string type"),
        ("version: 0.1\nphases: {}\n", "version 0.1"),
        ("other.yml", "/src/other.yml: no such file or directory"),
    ],
)
def test_a_buildspec_that_cannot_be_read_fails_the_build(project, bucket, aws, text, problem):
    options = {}
    if "\n" not in text:
        aws("s3").put_object(Bucket=bucket, Key="empty.zip", Body=packed({"a": ""}))
        project.allow(LOGS, {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"})
        options = {"sourceTypeOverride": "S3", "sourceLocationOverride": f"{bucket}/empty.zip"}
    build = project.run(buildspecOverride=text, **options)
    assert build["buildStatus"] == "FAILED"
    phase = build["phases"][3]
    assert (phase["phaseType"], phase["contexts"][0]["statusCode"]) == ("DOWNLOAD_SOURCE", "YAML_FILE_ERROR")
    assert problem in phase["contexts"][0]["message"]


def test_down_ends_builds_and_leaves_nothing(tmp_path):
    cloud = up(tmp_path / "cloud")
    try:

        def aws(service):
            key = cloud.keys.of(cloud.account)
            session = boto3.Session(key.id, key.secret, region_name=cloud.region)
            return session.client(service, endpoint_url=cloud.endpoint)

        project = Project(aws, "left-behind", privileged=True)
        build_id = project.start(buildspecOverride=buildspec(build=["docker info && sleep 600"]))
        until(lambda: project.build(build_id)["currentPhase"], {"BUILD"})
        assert len(containers(cloud, project.build(build_id))) == 1
    finally:
        down(tmp_path / "cloud")
    mine = {"filters": {"label": f"splitbake.cloud={cloud.id}"}}
    client = connect()
    assert [*client.containers.list(all=True, **mine), *client.volumes.list(**mine), *client.images.list(**mine)] == []
