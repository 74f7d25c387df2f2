"""The local cloud writes every call down, and holds roles to their policies."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from click.testing import CliRunner

from splitbake.cli.local import command
from splitbake.errors import CloudError
from splitbake.iam import calls
from splitbake.local import sessions
from splitbake.local.calls import paths

pytestmark = pytest.mark.engine

TRUST = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(*actions: str, on: str = "*", **conditions: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": on, **conditions}


class Recorded:
    """The calls of one test."""

    def __init__(self, cloud: Any) -> None:
        self._cloud = cloud
        self._since = datetime.now(UTC)

    def wait(self, name: str, count: int = 1) -> list[calls.Call]:
        """Return the calls of an operation, once they are written; nobody waits for that but us."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = [one for one in calls.read(*paths(self._cloud.directory), since=self._since) if one.name == name]
            if len(found) >= count:
                return found
            time.sleep(0.02)
        raise AssertionError(f"{name} was not recorded")


@pytest.fixture
def recorded(cloud) -> Recorded:
    return Recorded(cloud)


@pytest.fixture
def role(cloud, aws) -> Iterator[Callable[..., Callable[[str], Any]]]:
    """Make a role with policies: ``role(allow("ec2:Describe*"))("ec2")`` is a client of a session of it."""
    iam = aws("iam")
    made = []

    def make(*statements: dict[str, Any], boundary: str = "") -> Callable[..., Any]:
        name = f"judged-{len(made)}-{time.monotonic_ns()}"
        within = {"PermissionsBoundary": boundary} if boundary else {}
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(TRUST), **within)
        made.append(name)
        if statements:
            iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document(*statements))
        keys = sessions.assume(cloud.environment(), cloud.keys.home, name)

        def client(service: str, **options: Any) -> Any:
            session = boto3.Session(
                keys["AWS_ACCESS_KEY_ID"],
                keys["AWS_SECRET_ACCESS_KEY"],
                options.pop("token", keys["AWS_SESSION_TOKEN"]),
                region_name=cloud.region,
            )
            return session.client(service, endpoint_url=cloud.endpoint, **options)

        client.role = name  # type: ignore[attr-defined]
        return client

    yield make
    for name in made:
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
            iam.delete_role_policy(RoleName=name, PolicyName=policy)
        iam.delete_role(RoleName=name)


def refused(call: Callable[..., Any], **parameters: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as told:
        call(**parameters)
    return told.value.response


def test_a_call_is_recorded_with_who_where_and_what(cloud, aws, recorded):
    aws("ec2", "222222222222", "eu-west-1").create_volume(
        AvailabilityZone="eu-west-1a",
        Size=1,
        TagSpecifications=[{"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "b"}]}],
    )
    (one,) = recorded.wait("ec2:CreateVolume")
    assert one.principal == "arn:aws:iam::222222222222:root"
    assert (one.account, one.region, one.status, one.role, one.error) == ("222222222222", "eu-west-1", 200, "", "")
    assert one.parameters["Size"] == 1
    assert one.parameters["TagSpecifications"][0]["Tags"] == [{"Key": "a", "Value": "b"}]
    volume = "arn:aws:ec2:eu-west-1:222222222222:volume/*"
    assert one.actions == (("ec2:CreateVolume", volume), ("ec2:CreateTags", volume))


def test_a_call_that_fails_is_recorded_with_its_status(aws, recorded):
    refused(aws("ssm").get_parameter, Name="/no/such")
    (one,) = recorded.wait("ssm:GetParameter")
    assert one.status == 400


def test_secrets_are_masked_whatever_carries_them(cloud, aws, recorded):
    aws("ssm").put_parameter(Name="/masked", Value="hunter2", Type="SecureString")
    refused(aws("ec2").run_instances, ImageId="ami-12345678", MinCount=1, MaxCount=1, UserData="hunter2")
    aws("ec2").create_launch_template(LaunchTemplateName="masked", LaunchTemplateData={"UserData": "aHVudGVyMg=="})
    aws("batch").register_job_definition(
        jobDefinitionName="masked",
        type="container",
        containerProperties={
            "image": "i",
            "vcpus": 1,
            "memory": 4,
            "environment": [{"name": "PASSWORD", "value": "hunter2"}],
        },
    )
    recorded.wait("batch:RegisterJobDefinition")
    (put,) = recorded.wait("ssm:PutParameter")
    assert put.parameters["Name"] == "/masked"
    text = "".join(path.read_text(encoding="utf-8") for path in paths(cloud.directory) if path.exists())
    assert "PASSWORD" in text
    assert "hunter2" not in text
    assert "aHVudGVyMg" not in text
    assert cloud.secret_key not in text


def test_what_is_stored_in_s3_and_signatures_are_not_recorded(cloud, aws, recorded):
    s3 = aws("s3")
    s3.create_bucket(Bucket="recorded")
    s3.put_object(Bucket="recorded", Key="a/b", Body=b"content of an object")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "recorded", "Key": "a/b"})
    assert urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url).read() == b"content of an object"
    (put,), (got,) = recorded.wait("s3:PutObject"), recorded.wait("s3:GetObject")
    assert put.parameters["Key"] == "a/b"
    assert got.actions == (("s3:GetObject", "arn:aws:s3:::recorded/a/b"),)
    text = "".join(path.read_text(encoding="utf-8") for path in paths(cloud.directory) if path.exists())
    assert "content of an object" not in text
    assert url.partition("ignature=")[2][:20] not in text


def test_the_files_are_for_their_owner_only(cloud, aws, recorded):
    aws("sts").get_caller_identity()
    recorded.wait("sts:GetCallerIdentity")
    assert paths(cloud.directory)[1].stat().st_mode & 0o777 == 0o600


def test_a_session_is_its_role_and_needs_no_permission_to_say_so(role, recorded):
    client = role()
    assert client("sts").get_caller_identity()["Arn"].endswith(f":assumed-role/{client.role}/splitbake-local")
    (one,) = recorded.wait("sts:GetCallerIdentity")
    assert one.role == client.role


def test_a_role_may_do_what_its_policies_allow_and_nothing_else(role, recorded):
    client = role(allow("ec2:DescribeImages"))
    assert client("ec2").describe_images()["Images"]
    answer = refused(client("ec2").describe_instances)
    assert answer["Error"]["Code"] == "UnauthorizedOperation"
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert f"assumed-role/{client.role}/splitbake-local is not authorized to perform: ec2:DescribeInstances on resource: *" in answer["Error"]["Message"]  # fmt: skip  # noqa: E501
    (one,) = recorded.wait("ec2:DescribeInstances")
    assert one.status == 403
    assert "no identity-based policy allows the ec2:DescribeInstances action" in one.error


@pytest.mark.parametrize(
    ("service", "operation", "parameters", "answer"),
    [
        ("ec2", "describe_volumes", {}, ("UnauthorizedOperation", 403)),
        ("s3", "get_object", {"Bucket": "b", "Key": "k"}, ("AccessDenied", 403)),
        ("s3", "head_object", {"Bucket": "b", "Key": "k"}, ("403", 403)),
        ("ssm", "get_parameter", {"Name": "/x"}, ("AccessDeniedException", 400)),
        ("ecr", "get_authorization_token", {}, ("AccessDeniedException", 400)),
        ("ecs", "list_container_instances", {"cluster": "c"}, ("AccessDeniedException", 400)),
        ("logs", "get_log_events", {"logGroupName": "g", "logStreamName": "s"}, ("AccessDeniedException", 400)),
        ("batch", "describe_job_queues", {}, ("AccessDeniedException", 403)),
        ("iam", "get_instance_profile", {"InstanceProfileName": "p"}, ("AccessDenied", 403)),
    ],
)
def test_each_service_refuses_in_its_own_form(role, service, operation, parameters, answer):
    told = refused(getattr(role()(service), operation), **parameters)
    assert (told["Error"]["Code"], told["ResponseMetadata"]["HTTPStatusCode"]) == answer
    if operation != "head_object":  # it has no body
        assert f"is not authorized to perform: {service}:" in told["Error"]["Message"]


def test_what_nobody_can_judge_is_refused_although_a_policy_would_allow_it(role):
    answer = refused(role(allow("*"))("ec2").create_vpc, CidrBlock="10.0.0.0/16")
    assert "the local cloud cannot judge it" in answer["Error"]["Message"]


def test_resources_and_tags_count(aws, role):
    ours = {"Condition": {"StringEquals": {"aws:ResourceTag/project": "ours"}}}
    ec2 = role(allow("ec2:DeleteVolume", on="arn:aws:ec2:us-east-1:*:volume/*", **ours))("ec2")
    volumes = [aws("ec2").create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"] for _ in range(2)]
    aws("ec2").create_tags(Resources=volumes[:1], Tags=[{"Key": "project", "Value": "ours"}])
    ec2.delete_volume(VolumeId=volumes[0])
    assert refused(ec2.delete_volume, VolumeId=volumes[1])["Error"]["Code"] == "UnauthorizedOperation"


def test_a_boundary_is_named_where_it_refuses(aws, role):
    boundary = aws("iam").create_policy(
        PolicyName=f"b{time.monotonic_ns()}", PolicyDocument=document(allow("ec2:DescribeImages"))
    )["Policy"]["Arn"]
    ec2 = role(allow("ec2:Describe*"), boundary=boundary)("ec2")
    assert ec2.describe_images()
    assert "because no permissions boundary allows" in refused(ec2.describe_volumes)["Error"]["Message"]


def test_an_explicit_deny_says_so(role):
    ec2 = role(allow("ec2:*"), {**allow("ec2:DescribeImages"), "Effect": "Deny"})("ec2")
    assert "with an explicit deny" in refused(ec2.describe_images)["Error"]["Message"]


def test_attached_policies_count_in_their_version_that_is_in_force(aws, role):
    iam, client = aws("iam"), role()
    policy = iam.create_policy(
        PolicyName=f"v{time.monotonic_ns()}", PolicyDocument=document(allow("ec2:StopInstances"))
    )["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=client.role, PolicyArn=policy)
    refused(client("ec2").describe_images)
    iam.create_policy_version(PolicyArn=policy, PolicyDocument=document(allow("ec2:DescribeImages")), SetAsDefault=True)
    assert client("ec2").describe_images()
    iam.detach_role_policy(RoleName=client.role, PolicyArn=policy)


def test_a_missing_object_is_told_only_to_who_may_list_it(aws, role):
    aws("s3").create_bucket(Bucket="secretive")
    read = allow("s3:GetObject", on="arn:aws:s3:::secretive/*")
    assert refused(role(read)("s3").get_object, Bucket="secretive", Key="a/b")["Error"]["Code"] == "AccessDenied"
    below = {"Condition": {"StringLike": {"s3:prefix": "a/*"}}}
    s3 = role(read, allow("s3:ListBucket", on="arn:aws:s3:::secretive", **below))("s3")
    assert refused(s3.get_object, Bucket="secretive", Key="a/b")["Error"]["Code"] == "NoSuchKey"
    assert refused(s3.get_object, Bucket="secretive", Key="b/b")["Error"]["Code"] == "AccessDenied"
    answer = refused(s3.head_bucket, Bucket="secretive")
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] == "us-east-1"


def test_a_presigned_url_is_worth_what_its_session_is(aws, role):
    aws("s3").create_bucket(Bucket="lent")
    aws("s3").put_object(Bucket="lent", Key="one", Body=b"1")
    aws("s3").put_object(Bucket="lent", Key="two", Body=b"2")
    s3 = role(allow("s3:GetObject", on="arn:aws:s3:::lent/one"))("s3", config=Config(signature_version="s3v4"))
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    one, two = (
        s3.generate_presigned_url("get_object", Params={"Bucket": "lent", "Key": key}) for key in ("one", "two")
    )
    assert direct.open(one).read() == b"1"
    with pytest.raises(urllib.error.HTTPError) as refusal:
        direct.open(two)
    assert refusal.value.code == 403
    refusal.value.close()


def test_a_key_without_its_token_is_nothing(role):
    client = role(allow("ec2:*"))
    for token in ("wrong", None):
        answer = refused(client("ec2", token=token).describe_images)
        assert "session token is not the one" in answer["Error"]["Message"]


def test_a_role_that_is_gone_may_do_nothing(aws, role):
    client = role(allow("ec2:*"))
    aws("iam").delete_role_policy(RoleName=client.role, PolicyName="p")
    aws("iam").delete_role(RoleName=client.role)
    assert "does not exist any more" in refused(client("ec2").describe_images)["Error"]["Message"]
    aws("iam").create_role(RoleName=client.role, AssumeRolePolicyDocument=document(TRUST))


def test_only_roles_that_exist_can_be_assumed(cloud):
    with pytest.raises(CloudError, match=r"AccessDenied.*role/nobody"):
        sessions.assume(cloud.environment(), cloud.keys.home, "nobody")


@pytest.mark.parametrize(
    "narrowed", [{"Policy": document(allow("s3:GetObject"))}, {"PolicyArns": [{"arn": "arn:aws:iam::aws:policy/p"}]}]
)
def test_a_session_with_a_policy_of_its_own_is_not_made_without_it(aws, role, narrowed):
    arn = aws("iam").get_role(RoleName=role().role)["Role"]["Arn"]
    answer = refused(aws("sts").assume_role, RoleArn=arn, RoleSessionName="session", **narrowed)
    assert "session policies" in answer["Error"]["Message"]


def test_keys_of_sessions_are_made_of_real_chance(aws, role):
    client = role()
    arn = aws("iam").get_role(RoleName=client.role)["Role"]["Arn"]
    made = [aws("sts").assume_role(RoleArn=arn, RoleSessionName="session")["Credentials"] for _ in range(2)]
    assert all(len(one["SecretAccessKey"]) == 40 and len(one["SessionToken"]) == 120 for one in made)
    assert made[0]["SecretAccessKey"] != made[1]["SecretAccessKey"]


@pytest.fixture
def local(cloud, monkeypatch) -> Callable[..., Any]:
    monkeypatch.setenv("SPLITBAKE_LOCAL_DIR", str(cloud.directory))
    return lambda *arguments: CliRunner().invoke(command, arguments)


def test_the_command_shows_calls_and_gives_the_keys_of_roles(local, role, recorded):
    client = role(allow("ec2:DescribeImages"))
    environment = json.loads(local("env", "--role", client.role, "--json").stdout)
    assert environment["AWS_SESSION_TOKEN"]
    refused(client("ec2").describe_instances)
    recorded.wait("ec2:DescribeInstances")
    shown = local("calls", "--role", client.role, "--refused", "--since", "1 min")
    assert "ec2:DescribeInstances  *" in shown.stdout
    assert "no identity-based policy allows" in shown.stdout
    (line,) = local("calls", "--role", client.role, "--refused", "--json").stdout.splitlines()
    assert calls.Call.of(line).name == "ec2:DescribeInstances"
    assert local("calls", "--since", "2999-01-01T00:00:00Z").stdout == ""
    assert "is no time" in str(local("calls", "--since", "yesterday").exception)
