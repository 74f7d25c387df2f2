"""The whole loop under the policies that ``splitbake iam`` prints, in a local cloud that enforces them.

Each test stands on those before it. Before each step one action is taken away from its role: the step fails and says
which.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from splitbake.bake import roles as temporary
from splitbake.cloud import Cloud
from splitbake.errors import CloudError
from splitbake.iam import calls, proof
from splitbake.iam.policies import Policy, Scope, policies
from splitbake.local import sessions
from splitbake.local.calls import paths

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PROFILE = "splitbake-builder"
TRUST = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}


@dataclass(frozen=True)
class Roles:
    """The roles of the reference project, with the policies that are printed for them."""

    world: Any
    policies: dict[str, list[Policy]]

    def give(self, role: str, without: Sequence[str] = ()) -> None:
        """Put the policies of a role in force, all but some actions."""
        iam = self.world.client("iam")
        for policy in self.policies[role]:
            document = policy.document()
            for one in document["Statement"]:
                one["Action"] = [action for action in one["Action"] if action not in without]
            document["Statement"] = [one for one in document["Statement"] if one["Action"]]
            iam.put_role_policy(RoleName=role, PolicyName=policy.name, PolicyDocument=json.dumps(document))

    def keys(self, role: str) -> dict[str, str]:
        cloud = self.world.cloud
        return sessions.assume(cloud.environment(), cloud.keys.home, role)

    def run(self, role: str, *arguments: str) -> Any:
        """Run ``splitbake ARGUMENTS`` with the credentials of a role."""
        return self.world.splitbake(*arguments, **self.keys(role))

    def client(self, role: str, service: str) -> Any:
        keys = self.keys(role)
        session = boto3.Session(
            keys["AWS_ACCESS_KEY_ID"],
            keys["AWS_SECRET_ACCESS_KEY"],
            keys["AWS_SESSION_TOKEN"],
            region_name=self.world.cloud.region,
        )
        return session.client(service, endpoint_url=self.world.cloud.endpoint)

    def calls(self) -> list[calls.Call]:
        """Return all calls so far; the recorder writes them a moment later."""
        found: list[calls.Call] = []
        while (seen := list(calls.read(*paths(self.world.cloud.directory)))) != found:
            found = seen
            time.sleep(0.3)
        return found

    def step(self, role: str, *arguments: str) -> Any:
        """Run ``splitbake ARGUMENTS`` to its good end, with all permissions of a role: none is refused.

        S3 says where a bucket is also to those who may not list it: that one is not in the policies.
        """
        before = len(self.calls())
        outcome = self.run(role, *arguments)
        assert outcome.code == 0, outcome.err + outcome.out
        new = [one for one in self.calls()[before:] if one.role == role]
        assert [(one.name, one.error) for one in new if one.error and one.name != "s3:HeadBucket"] == []
        return outcome


@pytest.fixture(scope="module")
def roles(own_world: Any) -> Roles:
    """Roles with their policies; the builder has a profile, so that it must pass its role."""
    path = own_world.project.manifest_path
    text = path.read_text(encoding="utf-8")
    assert "builder: {instance_type: m6i.xlarge}" in text
    path.write_text(text.replace("m6i.xlarge}", f"m6i.xlarge, profile: {PROFILE}}}"), encoding="utf-8")
    iam = own_world.client("iam")
    trust = json.dumps({"Version": "2012-10-17", "Statement": [TRUST]})
    for name in (PROFILE, "builder", "verifier", "releaser"):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
    iam.create_instance_profile(InstanceProfileName=PROFILE)
    iam.add_role_to_instance_profile(InstanceProfileName=PROFILE, RoleName=PROFILE)
    (template,) = own_world.client("ec2").describe_launch_templates()["LaunchTemplates"]
    scope = Scope(type(own_world.project)(path).manifest, "local", launch_templates=(template["LaunchTemplateId"],))
    made = Roles(own_world, {role: policies(scope, role) for role in ("builder", "verifier", "releaser")})
    for role in made.policies:
        made.give(role)
    return made


@pytest.fixture
def less(roles: Roles) -> Iterator[Callable[..., None]]:
    """Take actions away from a role for one test: ``less("builder", "ec2:RunInstances")``."""
    taken = []

    def take(role: str, *actions: str) -> None:
        taken.append(role)
        roles.give(role, without=actions)

    yield take
    for role in taken:
        roles.give(role)


def instances(world: Any) -> list[str]:
    pages = world.client("ec2").describe_instances()["Reservations"]
    found = [one for page in pages for one in page["Instances"]]
    return [one["InstanceId"] for one in found if one["State"]["Name"] not in {"terminated", "shutting-down"}]


def named(outcome: Any, action: str) -> None:
    """The command failed, and said for the want of which action."""
    assert outcome.code == 1, outcome.out + outcome.err
    assert action in outcome.err, outcome.err
    assert "not authorized" in outcome.err or "may not be read" in outcome.err, outcome.err


@pytest.mark.parametrize("action", ["ssm:GetParameter", "ec2:DescribeImages", "s3:GetObject", "s3:ListBucket"])
def test_lock_with_one_action_less_says_which(roles, less, action):
    less("builder", action)
    outcome = roles.run("builder", "lock")
    named(outcome, action)
    assert "splitbake iam" in outcome.err or action in outcome.err


def test_lock_and_generate(roles):
    roles.step("builder", "lock")
    roles.step("builder", "generate")


@pytest.mark.parametrize("action", ["ecr:DescribeRepositories", "ecr:CreateRepository", "ecr:GetAuthorizationToken"])
def test_build_image_with_one_action_less_says_which(roles, less, action):
    less("builder", action)
    named(roles.run("builder", "build", "image"), action)


@pytest.mark.parametrize(
    "action",
    ["ec2:ImportKeyPair", "ec2:CreateSecurityGroup", "ec2:CreateTags", "ec2:RunInstances", "iam:PassRole"],
)
def test_build_ami_with_one_action_less_says_which_and_leaves_nothing(roles, less, action):
    less("builder", action)
    named(roles.run("builder", "build", "ami"), action)
    ec2 = roles.world.client("ec2")
    assert instances(roles.world) == []
    assert not [one for one in ec2.describe_key_pairs()["KeyPairs"] if one["KeyName"].startswith("splitbake-")]
    assert not [
        one for one in ec2.describe_security_groups()["SecurityGroups"] if one["GroupName"].startswith("splitbake-")
    ]


def test_build(roles):
    roles.step("builder", "build")
    passed = [
        one for one in roles.calls() if ("iam:PassRole", f"arn:aws:iam::123456789012:role/{PROFILE}") in one.actions
    ]
    assert {(one.name, one.role, one.error) for one in passed} >= {("ec2:RunInstances", "builder", "")}


@pytest.mark.parametrize(
    ("half", "action"),
    [("ami", "ec2:RunInstances"), ("ami", "ec2:ImportKeyPair"), ("image", "ecr:GetAuthorizationToken")],
)
def test_verify_with_one_action_less_says_which_and_leaves_nothing(roles, less, half, action):
    less("verifier", action)
    named(roles.run("verifier", "verify", half), action)
    assert instances(roles.world) == []


def test_verify(roles):
    roles.step("verifier", "verify")


@pytest.mark.parametrize(
    "action",
    [
        "ecr:DescribeImages",
        "ecr:BatchGetImage",
        "ecr:PutImage",
        "ec2:DescribeLaunchTemplateVersions",
        "ec2:CreateLaunchTemplateVersion",
        "batch:UpdateComputeEnvironment",
        "batch:RegisterJobDefinition",
        "ec2:ModifyLaunchTemplate",
        "s3:PutObject",
    ],
)
def test_release_with_one_action_less_says_which(roles, less, action):
    less("releaser", action)
    named(roles.run("releaser", "release", "--yes"), action)


def test_release(roles):
    roles.step("releaser", "release", "--yes")


@pytest.mark.parametrize("action", ["batch:SubmitJob", "batch:DescribeJobs", "logs:GetLogEvents"])
def test_smoke_with_one_action_less_says_which(roles, less, action):
    less("releaser", action)
    named(roles.run("releaser", "smoke"), action)


def test_smoke(roles):
    outcome = roles.step("releaser", "smoke", "--json")
    assert outcome.json["status"] == "SUCCEEDED"


def test_gc_finds_and_removes_what_a_run_has_left(roles):
    ec2, run = roles.world.client("ec2"), "0123456789ab"
    tags = {"splitbake:project": "video-analysis", "splitbake:run": run}
    marks = [{"Key": key, "Value": value} for key, value in tags.items()]
    ec2.create_volume(
        AvailabilityZone="us-east-1a", Size=1, TagSpecifications=[{"ResourceType": "volume", "Tags": marks}]
    )
    ec2.create_security_group(
        GroupName=f"splitbake-{run}",
        Description="left",
        TagSpecifications=[{"ResourceType": "security-group", "Tags": marks}],
    )
    outcome = roles.step("builder", "gc", "--runs", "--older-than", "0 s", "--yes")
    assert "volume" in outcome.out + outcome.err
    mine = [{"Name": "tag:splitbake:run", "Values": [run]}]
    assert ec2.describe_volumes(Filters=mine)["Volumes"] == []
    assert ec2.describe_security_groups(Filters=mine)["SecurityGroups"] == []


def refused(call: Callable[..., Any], **parameters: Any) -> str:
    with pytest.raises(ClientError) as told:
        call(**parameters)
    assert told.value.response["Error"]["Code"] in {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}
    return told.value.response["Error"]["Message"]


def test_the_builder_ends_nothing_but_its_own(roles):
    ec2 = roles.world.client("ec2")
    base = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    tags = [{"Key": "splitbake:project", "Value": "video-analysis"}]
    for marks in ([], [{"Key": "splitbake:project", "Value": "another"}]):
        volume = ec2.create_volume(
            AvailabilityZone="us-east-1a",
            Size=1,
            TagSpecifications=[{"ResourceType": "volume", "Tags": marks}] if marks else [],
        )["VolumeId"]
        text = refused(roles.client("builder", "ec2").delete_volume, VolumeId=volume)
        assert f"ec2:DeleteVolume on resource: arn:aws:ec2:us-east-1:123456789012:volume/{volume}" in text
        ec2.create_tags(Resources=[volume], Tags=tags)
        roles.client("builder", "ec2").delete_volume(VolumeId=volume)
    text = refused(roles.client("builder", "ec2").deregister_image, ImageId=base)
    action = f"ec2:DeregisterImage on resource: arn:aws:ec2:us-east-1::image/{base}"
    assert f"{action} because no identity-based policy allows the ec2:DeregisterImage action" in text


def test_nobody_but_the_account_opens_an_ami_to_others(roles):
    own = roles.world.client("ec2").describe_images(Owners=["self"])["Images"][0]["ImageId"]
    everybody = {"Add": [{"Group": "all"}]}
    for role in ("builder", "verifier", "releaser"):
        ec2 = roles.client(role, "ec2")
        text = refused(ec2.modify_image_attribute, ImageId=own, LaunchPermission=everybody)
        assert "no identity-based policy allows the ec2:ModifyImageAttribute action" in text
    description = {"Value": "video-analysis is better"}
    refused(roles.client("builder", "ec2").modify_image_attribute, ImageId=own, Description=description)


def test_the_releaser_changes_its_own_launch_template_only(roles):
    ec2 = roles.world.client("ec2")
    other = ec2.create_launch_template(LaunchTemplateName="payments", LaunchTemplateData={"InstanceType": "m6i.large"})
    name = other["LaunchTemplate"]["LaunchTemplateId"]
    data = {"LaunchTemplateData": {"InstanceType": "p5.48xlarge"}}
    text = refused(
        roles.client("releaser", "ec2").create_launch_template_version, LaunchTemplateName="payments", **data
    )
    assert f"launch-template/{name} because no identity-based policy allows" in text
    ec2.delete_launch_template(LaunchTemplateId=name)


def test_nobody_tags_what_another_project_has_or_gives_another_tag(roles):
    ec2, builder = roles.world.client("ec2"), roles.client("builder", "ec2")
    own = ec2.describe_images(Owners=["self"])["Images"][0]["ImageId"]
    ours, theirs = ([{"Key": "splitbake:project", "Value": name}] for name in ("video-analysis", "another"))
    builder.create_tags(Resources=[own], Tags=ours)
    refused(builder.create_tags, Resources=[own], Tags=theirs)
    refused(builder.create_tags, Resources=[own], Tags=[{"Key": "any", "Value": "thing"}])
    ec2.create_tags(Resources=[own], Tags=theirs)
    refused(builder.create_tags, Resources=[own], Tags=ours)
    ec2.create_tags(Resources=[own], Tags=ours)


def test_roles_start_what_they_are_for(roles):
    ec2 = roles.world.client("ec2")
    base = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    own = ec2.describe_images(Owners=["self"])["Images"][0]["ImageId"]
    tags = [{"Key": "splitbake:project", "Value": "video-analysis"}]
    marked = [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")]
    count = {"MinCount": 1, "MaxCount": 1}
    text = refused(
        roles.client("verifier", "ec2").run_instances,
        ImageId=base, InstanceType="m6i.large", TagSpecifications=marked,
        MetadataOptions={"HttpTokens": "required"}, **count,
    )  # fmt: skip
    assert f"image/{base}" in text
    text = refused(
        roles.client("verifier", "ec2").run_instances,
        ImageId=own, InstanceType="p5.48xlarge", TagSpecifications=marked,
        MetadataOptions={"HttpTokens": "required"}, **count,
    )  # fmt: skip
    assert "instance/*" in text
    refused(roles.client("builder", "ec2").run_instances, ImageId=base, InstanceType="m6i.xlarge", **count)
    refused(
        roles.client("builder", "ec2").run_instances,
        ImageId=base, InstanceType="m6i.xlarge", TagSpecifications=marked,
        IamInstanceProfile={"Name": "video-analysis-host"}, **count,
    )  # fmt: skip
    assert instances(roles.world) == []


def test_the_releaser_reads_the_state_and_nothing_else_of_s3(roles):
    s3 = roles.client("releaser", "s3")
    refused(s3.list_objects_v2, Bucket="video-analysis-splitbake")
    refused(s3.list_objects_v2, Bucket="video-analysis-splitbake", Prefix="stat")
    refused(s3.delete_object, Bucket="video-analysis-splitbake", Key="state/x")
    refused(s3.get_object, Bucket="video-analysis-models", Key="models/centerface.onnx")
    assert s3.list_objects_v2(Bucket="video-analysis-splitbake", Prefix="state/records/")["KeyCount"] > 0


#: What only building writes.
MADE = ("artifacts", "dependencies", "inputs", "provenance")


@pytest.mark.parametrize(
    ("role", "others"),
    [
        ("builder", ("reports", "inventories", "sboms", "records", "leases/release", "leases/verify")),
        ("verifier", (*MADE, "records", "leases/build", "leases/release")),
        ("releaser", (*MADE, "sboms", "reports", "inventories", "runs", "leases/build", "leases/verify")),
    ],
)
def test_each_role_writes_its_own_part_of_the_state_only(roles, role, others):
    bucket = "video-analysis-splitbake"
    found = roles.world.client("s3").list_objects_v2(Bucket=bucket, Prefix="state/")["Contents"]
    keys = [one["Key"] for one in found if one["Key"].startswith(tuple(f"state/{name}/" for name in others))]
    assert len({key.split("/")[1] for key in keys}) == len({name.partition("/")[0] for name in others})
    s3 = roles.client(role, "s3")
    for key in keys:
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        assert "s3:PutObject" in refused(s3.put_object, Bucket=bucket, Key=key, Body=b"{}")


def test_a_temporary_role_is_made_within_its_boundary_and_with_one_policy_only(roles, monkeypatch):
    admin, name = roles.world.client("iam"), "splitbake-0123456789ab"
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
    within, other = (
        admin.create_policy(PolicyName=each, PolicyDocument=document)["Policy"]["Arn"] for each in ("within", "other")
    )
    manifest = roles.world.project.manifest
    builder = manifest.ami.builder.model_copy(update={"permissions_boundary": within, "profile": None})
    bounded = manifest.model_copy(update={"ami": manifest.ami.model_copy(update={"builder": builder})})
    admin.create_role(
        RoleName="bounded", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [TRUST]})
    )
    for policy in policies(Scope(bounded, "local"), "builder"):
        admin.put_role_policy(RoleName="bounded", PolicyName=policy.name, PolicyDocument=json.dumps(policy.document()))
    for variable, value in roles.keys("bounded").items():
        monkeypatch.setenv(variable, value)
    cloud = Cloud("local", manifest.environments["local"])
    tags = {"splitbake:project": manifest.project, "splitbake:run": "0123456789ab"}
    with pytest.raises(CloudError, match="not authorized to perform: iam:CreateRole"):
        temporary.make(cloud, name, boundary=other, tags=tags)
    temporary.make(cloud, name, boundary=within, tags=tags)
    iam = roles.client("bounded", "iam")
    admin_policy = "arn:aws:iam::aws:policy/AdministratorAccess"
    assert "iam:AttachRolePolicy" in refused(iam.attach_role_policy, RoleName=name, PolicyArn=admin_policy)
    assert "judge" in refused(iam.delete_role_permissions_boundary, RoleName=name)
    found = temporary.find(cloud, {"splitbake:run": "0123456789ab"})
    assert [one.kind for one in found] == ["instance profile", "role"]
    assert temporary.remove(cloud, found) == []
    assert temporary.find(cloud, {"splitbake:run": "0123456789ab"}) == []


def test_every_permission_was_used_or_is_listed_as_not(roles):
    made = roles.calls()
    unused, listed = {}, {}
    for role, found in roles.policies.items():
        given = {action for policy in found for one in policy.statements for action in one.actions}
        used = {action for one in made if one.role == role and not one.error for action, _ in one.actions}
        assert used <= given
        unused[role] = sorted(given - used)
        listed[role] = sorted(given & proof.not_by_loop(role))
    assert unused == listed
