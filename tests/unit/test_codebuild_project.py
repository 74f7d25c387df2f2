"""The project in CodeBuild: what it should be, and that it is touched only where it is not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from splitbake import manifest as manifests
from splitbake.bake import codebuild_project as projects
from splitbake.bake.codebuild import CodeBuildBuilder
from splitbake.cloud import Cloud
from splitbake.errors import BuildError, CloudError, ToolError
from splitbake.manifest import Environment
from splitbake.manifest.codebuild import CodeBuild

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/builds"
NAME, GROUP = "splitbake-faces-image", "/aws/codebuild/splitbake-faces-image"
VPC = {"id": "vpc-0a1b2c3d", "subnets": ["subnet-0a1b2c3d", "subnet-1a1b2c3d"], "security_groups": ["sg-0a1b2c3d"]}

Make = Callable[..., manifests.Manifest]


@functools.cache
def session() -> boto3.Session:
    return boto3.Session("testing", "testing", region_name="eu-west-1")


@pytest.fixture
def make(small: Any) -> Make:
    """``make(role=…)``: a manifest with such an ``image.codebuild``; ``state`` and ``project`` are its own."""

    def made(**settings: Any) -> manifests.Manifest:
        whole = {key: settings.pop(key) for key in ("state", "project") if key in settings}
        manifest = small.project.manifest
        codebuild = CodeBuild.model_validate({"role": "builds", "bucket": "my-builds", **settings})
        image = manifest.image.model_copy(update={"builder": "codebuild", "codebuild": codebuild})
        return manifest.model_copy(update={"image": image, **whole})

    return made


@pytest.fixture
def cloud() -> Cloud:
    return at("eu-west-1")


def at(region: str) -> Cloud:
    clients = {name: session().client(name, region_name=region) for name in ("codebuild", "iam", "logs", "s3")}
    return Cloud("dev", Environment.model_validate({"account": ACCOUNT, "region": region}), clients)


@pytest.fixture
def codebuild(cloud: Cloud) -> Iterator[Stubber]:
    with Stubber(cloud.client("codebuild")) as stub:
        yield stub
        stub.assert_no_pending_responses()


@pytest.fixture
def logs(cloud: Cloud) -> Iterator[Stubber]:
    with Stubber(cloud.client("logs")) as stub:
        yield stub
        stub.assert_no_pending_responses()


@pytest.fixture
def log_is_there(logs: Stubber) -> None:
    logs.add_client_error("create_log_group", "ResourceAlreadyExistsException")
    kept = {"logGroupName": GROUP, "retentionInDays": 7}
    logs.add_response("describe_log_groups", {"logGroups": [kept]}, {"logGroupNamePrefix": GROUP})


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(projects.time, "sleep", found.append)
    return found


def wanted(manifest: manifests.Manifest, cloud: Cloud, platform: str = "linux/amd64") -> projects.Plan:
    return projects.plan(manifest, cloud, platform)


def there(plan: projects.Plan, **changes: Any) -> dict[str, Any]:
    """Return the project as AWS tells it: with much that was never asked for."""
    found = {
        "name": plan.name,
        "arn": f"arn:aws:codebuild:eu-west-1:{ACCOUNT}:project/{plan.name}",
        **plan.definition,
        "source": {**plan.definition["source"], "insecureSsl": False},
        "environment": {**plan.definition["environment"], "environmentVariables": []},
        "badge": {"badgeEnabled": False},
        "encryptionKey": f"arn:aws:kms:eu-west-1:{ACCOUNT}:alias/aws/s3",
        "tags": [{"key": "splitbake:project", "value": "faces"}, {"key": "cost", "value": "42"}],
        **changes,
    }
    if not found["vpcConfig"]:
        del found["vpcConfig"]
    return found


def answered(codebuild: Stubber, *found: dict[str, Any]) -> None:
    codebuild.add_response("batch_get_projects", {"projects": list(found)}, {"names": [NAME]})


def test_it_is_made_from_the_manifest(make, cloud):
    plan = wanted(make(timeout="421 s", compute="BUILD_GENERAL1_LARGE"), cloud)
    assert (plan.name, plan.group) == (NAME, GROUP)
    assert plan.definition["source"] == {"type": "S3", "location": "my-builds/splitbake/contexts/none.zip"}
    assert plan.definition["cache"] == {"type": "LOCAL", "modes": ["LOCAL_DOCKER_LAYER_CACHE"]}
    assert plan.definition["environment"] == {
        "type": "LINUX_CONTAINER",
        "image": "aws/codebuild/amazonlinux-x86_64-standard:5.0",
        "computeType": "BUILD_GENERAL1_LARGE",
        "privilegedMode": True,
        "imagePullCredentialsType": "CODEBUILD",
    }
    assert plan.definition["serviceRole"] == ROLE
    assert plan.definition["timeoutInMinutes"] == 8  # the whole minutes that hold 421 s
    assert plan.limit == (8 + plan.definition["queuedTimeoutInMinutes"]) * 60
    assert plan.definition["logsConfig"]["cloudWatchLogs"]["groupName"] == GROUP


def test_other_machines_other_environments(make, cloud):
    arm = wanted(make(), cloud, "linux/arm64").definition["environment"]
    assert (arm["type"], arm["image"]) == ("ARM_CONTAINER", "aws/codebuild/amazonlinux-aarch64-standard:3.0")
    own = wanted(make(image=f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com/env:1"), cloud).definition["environment"]
    assert own["imagePullCredentialsType"] == "SERVICE_ROLE"
    with pytest.raises(BuildError, match="no machines for linux/riscv64"):
        wanted(make(), cloud, "linux/riscv64")


@pytest.mark.parametrize(
    ("role", "region", "arn"),
    [
        ("builds", "eu-west-1", ROLE),
        ("service-role/builds", "eu-west-1", f"arn:aws:iam::{ACCOUNT}:role/service-role/builds"),
        (ROLE, "eu-west-1", ROLE),
        ("builds", "cn-north-1", f"arn:aws-cn:iam::{ACCOUNT}:role/builds"),
        ("builds", "us-gov-west-1", f"arn:aws-us-gov:iam::{ACCOUNT}:role/builds"),
    ],
)
def test_a_role_is_named_by_its_name_or_its_arn(make, role, region, arn):
    assert wanted(make(role=role), at(region)).definition["serviceRole"] == arn


def test_a_name_with_dots_is_one_that_codebuild_takes(make, cloud):
    plan = wanted(make(project="team.faces_2"), cloud)
    assert plan.name == "splitbake-team-faces_2-image"
    assert plan.tags == {"splitbake:project": "team.faces_2"}


def test_the_bucket_is_that_of_the_state_unless_one_is_named(make):
    assert projects.bucket_of(make(state="s3://states/team/faces")) == "my-builds"
    assert projects.bucket_of(make(state="s3://states/team/faces", bucket=None)) == "states"
    with pytest.raises(BuildError, match="the state is a folder") as told:
        projects.bucket_of(make(bucket=None))
    assert "image.codebuild.bucket" in told.value.hint


def test_without_settings_it_says_what_is_missing(make):
    manifest = make()
    bare = manifest.model_copy(update={"image": manifest.image.model_copy(update={"codebuild": None})})
    with pytest.raises(BuildError, match=r"image\.codebuild says nothing") as told:
        projects.settings_of(bare)
    assert "image.codebuild.role" in told.value.hint


def test_the_first_build_creates_log_and_project(make, cloud, codebuild, logs):
    plan = wanted(make(), cloud)
    tags = {"splitbake:project": "faces"}
    logs.add_response("create_log_group", {}, {"logGroupName": GROUP, "tags": tags})
    logs.add_response("put_retention_policy", {}, {"logGroupName": GROUP, "retentionInDays": 30})
    answered(codebuild)
    definition = {key: value for key, value in plan.definition.items() if key != "vpcConfig"}
    marks = [{"key": "splitbake:project", "value": "faces"}]
    codebuild.add_response("create_project", {}, {"name": NAME, **definition, "tags": marks})
    said: list[str] = []
    projects.ensure(cloud, plan, said.append)
    assert said == [f"creating the project {NAME} in CodeBuild"]


@pytest.mark.parametrize("others", [[], [{"logGroupName": f"{GROUP}-2", "retentionInDays": 7}]])
def test_a_log_without_an_end_gets_one(make, cloud, codebuild, logs, others):
    """Who made it before splitbake did, or was broken off between the two calls, left it so."""
    plan = wanted(make(), cloud)
    logs.add_client_error("create_log_group", "ResourceAlreadyExistsException")
    logs.add_response("describe_log_groups", {"logGroups": [*others, {"logGroupName": GROUP}]})
    logs.add_response("put_retention_policy", {}, {"logGroupName": GROUP, "retentionInDays": 30})
    answered(codebuild, there(plan))
    projects.ensure(cloud, plan, pytest.fail)


@pytest.mark.parametrize("settings", [{"vpc": VPC}, {"compute": "BUILD_GENERAL1_2XLARGE"}])
def test_where_nothing_is_kept_no_cache_is_asked_for(make, cloud, settings):
    assert wanted(make(**settings), cloud).definition["cache"] == {"type": "NO_CACHE"}


@pytest.mark.usefixtures("log_is_there")
def test_a_project_as_it_should_be_is_left_alone(make, cloud, codebuild):
    plan = wanted(make(vpc=VPC), cloud)
    config = {**plan.definition["vpcConfig"], "subnets": ["subnet-1a1b2c3d", "subnet-0a1b2c3d"]}
    answered(codebuild, there(plan, vpcConfig=config))
    projects.ensure(cloud, plan, pytest.fail)
    plain = wanted(make(), cloud)
    assert projects.differences(plain, there(plain)) == []
    assert projects.differences(plain, there(plain, vpcConfig={"subnets": [], "securityGroupIds": []})) == []


@pytest.mark.usefixtures("log_is_there")
def test_what_differs_is_changed_and_tags_of_others_stay(make, cloud, codebuild):
    before, after = wanted(make(vpc=VPC), cloud), wanted(make(compute="BUILD_GENERAL1_LARGE"), cloud)
    answered(codebuild, there(before))
    tags = [{"key": "splitbake:project", "value": "faces"}, {"key": "cost", "value": "42"}]
    codebuild.add_response("update_project", {}, {"name": NAME, **after.definition, "tags": tags})
    said: list[str] = []
    projects.ensure(cloud, after, said.append)
    assert after.definition["vpcConfig"] == {}
    assert said == [f"changing cache, environment, vpcConfig of the project {NAME} in CodeBuild"]


@pytest.mark.usefixtures("log_is_there")
@pytest.mark.parametrize(
    ("tags", "said"),
    [([], "was not made by splitbake"), ([{"key": "splitbake:project", "value": "team.faces"}], "is of 'team.faces'")],
)
def test_a_project_of_somebody_else_is_left_alone(make, cloud, codebuild, tags, said):
    plan = wanted(make(), cloud)
    answered(codebuild, there(plan, tags=tags))
    with pytest.raises(ToolError, match=said):
        projects.ensure(cloud, plan, print)


@pytest.mark.usefixtures("log_is_there")
def test_of_two_first_builds_one_creates_it(make, cloud, codebuild):
    plan = wanted(make(), cloud)
    answered(codebuild)
    codebuild.add_client_error("create_project", "ResourceAlreadyExistsException")
    answered(codebuild, there(plan))
    projects.ensure(cloud, plan, lambda line: None)


def refuse(codebuild: Stubber) -> None:
    message = f"CodeBuild is not authorized to perform: sts:AssumeRole on {ROLE}"
    codebuild.add_client_error("create_project", "InvalidInputException", message)


@pytest.mark.usefixtures("log_is_there")
def test_a_new_role_is_waited_for(make, cloud, codebuild, paused):
    plan = wanted(make(), cloud)
    answered(codebuild)
    refuse(codebuild)
    refuse(codebuild)
    codebuild.add_response("create_project", {}, None)
    said: list[str] = []
    projects.ensure(cloud, plan, said.append)
    assert paused == [2, 4]
    assert said[1:] == [f"CodeBuild cannot assume the role {ROLE} yet; trying again in {n} s" for n in (2, 4)]


@pytest.mark.usefixtures("log_is_there")
def test_a_role_that_cannot_be_assumed_is_told_in_the_end(make, cloud, codebuild, paused):
    plan = wanted(make(), cloud)
    answered(codebuild)
    for _ in range(7):
        refuse(codebuild)
    with pytest.raises(BuildError, match=f"cannot assume the role {ROLE}") as told:
        projects.ensure(cloud, plan, print)
    assert "codebuild.amazonaws.com" in told.value.hint
    assert paused == sorted(paused)
    assert len(paused) == 6


@pytest.mark.usefixtures("log_is_there")
def test_any_other_refusal_is_told_at_once(make, cloud, codebuild, paused):
    answered(codebuild)
    codebuild.add_client_error("create_project", "AccountLimitExceededException", "no more projects")
    with pytest.raises(CloudError, match="no more projects"):
        projects.ensure(cloud, wanted(make(), cloud), print)
    assert paused == []


def test_a_log_that_cannot_be_made_is_told(make, cloud, logs):
    logs.add_client_error(
        "create_log_group", "AccessDeniedException", expected_params={"logGroupName": ANY, "tags": ANY}
    )
    with pytest.raises(CloudError, match="make the log group"):
        projects.ensure(cloud, wanted(make(), cloud), print)


def test_health_asks_for_credentials_and_nothing_else(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    CodeBuildBuilder().health()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ToolError, match="no AWS credentials"):
        CodeBuildBuilder().health()
    monkeypatch.setenv("AWS_PROFILE", "gone")
    with pytest.raises(CloudError, match="gone"):
        CodeBuildBuilder().health()


@pytest.fixture
def asked(cloud: Cloud) -> Iterator[dict[str, Stubber]]:
    """What the check asks besides CodeBuild."""
    with Stubber(cloud.client("iam")) as iam, Stubber(cloud.client("s3")) as s3:
        yield {"iam": iam, "s3": s3}
        iam.assert_no_pending_responses()
        s3.assert_no_pending_responses()


def role_is_there(iam: Stubber) -> None:
    role = {"Path": "/team/", "RoleName": "builds", "RoleId": "A" * 16, "Arn": ROLE, "CreateDate": "2026-01-01"}
    iam.add_response("get_role", {"Role": role}, {"RoleName": "builds"})


@pytest.mark.parametrize("known", [True, False])
def test_a_build_that_could_start_passes_the_check(make, cloud, asked, codebuild, known):
    manifest = make(role="team/builds")
    role_is_there(asked["iam"])
    asked["s3"].add_response("list_objects_v2", {"ResponseMetadata": {}})
    answered(codebuild, *([there(wanted(manifest, cloud))] if known else []))
    CodeBuildBuilder().check(SimpleNamespace(manifest=manifest), cloud)


@pytest.mark.parametrize("wrong", ["role", "bucket", "project"])
def test_the_check_says_what_is_in_the_way(make, cloud, asked, codebuild, wrong):
    manifest = make()
    if wrong == "role":
        asked["iam"].add_client_error("get_role", "NoSuchEntity")
    else:
        role_is_there(asked["iam"])
    if wrong == "bucket":
        asked["s3"].add_client_error("list_objects_v2", "NoSuchBucket")
    elif wrong == "project":
        asked["s3"].add_response("list_objects_v2", {"ResponseMetadata": {}})
        answered(codebuild, there(wanted(manifest, cloud), tags=[]))
    said = {"role": "there is no role builds in account", "bucket": "there is no bucket", "project": "was not made by"}
    with pytest.raises(ToolError, match=said[wrong]) as told:
        CodeBuildBuilder().check(SimpleNamespace(manifest=manifest), cloud)
    assert told.value.hint


def test_a_role_that_may_not_be_looked_at_is_told(make, cloud, asked):
    asked["iam"].add_client_error("get_role", "AccessDenied", "is not authorized to perform: iam:GetRole on it")
    with pytest.raises(CloudError, match="look for the role builds") as told:
        projects.require_role(make(), cloud)
    assert "the role lacks iam:GetRole" in told.value.hint
