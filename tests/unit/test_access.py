"""The way into temporary instances: what is made carries its run, is as narrow as can be known, and goes again."""

from __future__ import annotations

import io
import json
import signal
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from splitbake.bake import access, ingress, roles
from splitbake.bake.access import Access
from splitbake.errors import BuildError, CloudError

REGION = "eu-west-1"
TAGS = {"splitbake:project": "faces", "splitbake:fingerprint": "sha256:" + "a" * 64}
BOUNDARY = "arn:aws:iam::123456789012:policy/boundary"


@pytest.fixture(autouse=True)
def nobody_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the internet who we are."""
    monkeypatch.setattr(ingress, "public_address", lambda: "203.0.113.7")


@pytest.fixture
def policies() -> Iterator[None]:
    """AWS's managed policies, which moto loads on demand."""
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield


@contextmanager
def granted(cloud: Any, folder: Path, **options: Any) -> Iterator[Access]:
    run = access.new_run()
    with access.granted(cloud, run, folder=folder, subnet=None, tags=TAGS, **options) as way_in:
        assert way_in.name == f"splitbake-{run}"
        yield way_in


def ec2() -> Any:
    return boto3.client("ec2", region_name=REGION)


def iam() -> Any:
    return boto3.client("iam")


def left() -> dict[str, list[str]]:
    groups = ec2().describe_security_groups()["SecurityGroups"]
    return {
        "pairs": [one["KeyName"] for one in ec2().describe_key_pairs()["KeyPairs"]],
        "groups": [one["GroupName"] for one in groups if one["GroupName"] != "default"],
        "roles": [one["RoleName"] for one in iam().list_roles()["Roles"]],
        "profiles": [one["InstanceProfileName"] for one in iam().list_instance_profiles()["InstanceProfiles"]],
    }


NOTHING: dict[str, list[str]] = {"pairs": [], "groups": [], "roles": [], "profiles": []}


def open_to(group: str) -> list[str]:
    (found,) = ec2().describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert all(rule["FromPort"] == rule["ToPort"] == 22 for rule in found["IpPermissions"])
    return [one["CidrIp"] for rule in found["IpPermissions"] for one in rule["IpRanges"]]


def test_key_pair_and_group_carry_the_run_and_go_at_the_end(cloud, tmp_path):
    with granted(cloud, tmp_path) as way_in:
        assert left() == {**NOTHING, "pairs": [way_in.name], "groups": [way_in.name]}
        (pair,) = ec2().describe_key_pairs()["KeyPairs"]
        (group,) = ec2().describe_security_groups(GroupIds=[way_in.group])["SecurityGroups"]
        for thing in (pair, group):
            tags = {tag["Key"]: tag["Value"] for tag in thing["Tags"]}
            assert tags == way_in.tags
            assert tags.items() >= TAGS.items()
            assert way_in.name == f"splitbake-{tags['splitbake:run']}"
            assert tags["splitbake:started"].endswith("+00:00")
        assert way_in.private_key.stat().st_mode & 0o777 == 0o600
    assert left() == NOTHING


def test_no_tag_tells_who_or_which_machine_it_was(cloud, tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_RUN_ID", raising=False)
    with granted(cloud, tmp_path) as way_in:
        by = way_in.tags["splitbake:by"]
    assert by.startswith("machine-")
    assert len(by) == len("machine-") + 12
    known = [Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id")]
    assert all(path.read_text().strip()[:8] not in by for path in known if path.exists())


def test_a_run_of_github_is_named(cloud, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_RUN_ID", "42")
    with granted(cloud, tmp_path) as way_in:
        assert way_in.tags["splitbake:by"].startswith("github-run-42-")


@pytest.mark.parametrize("variables", [{}, {"GITHUB_RUN_ID": "42"}])
def test_only_runs_that_see_each_others_locks_are_by_the_same(tmp_path, monkeypatch, variables):
    """Jobs of one run of GitHub are on several machines, and containers of one machine may share its id."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    here = access.machine_tag()
    assert here == access.machine_tag()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert access.machine_tag() != here


def test_an_instance_and_its_volume_go_too(cloud, tmp_path):
    with granted(cloud, tmp_path) as way_in:
        marks = [{"Key": key, "Value": value} for key, value in way_in.tags.items()]
        disk = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": False}}
        specification = [{"ResourceType": kind, "Tags": marks} for kind in ("instance", "volume")]
        ec2().run_instances(
            ImageId="ami-12c6146b", MinCount=2, MaxCount=2, BlockDeviceMappings=[disk], TagSpecifications=specification
        )
        assert len(ec2().describe_volumes()["Volumes"]) >= 2
    states = [
        one["State"]["Name"] for group in ec2().describe_instances()["Reservations"] for one in group["Instances"]
    ]
    assert states == ["terminated", "terminated"]
    assert ec2().describe_volumes()["Volumes"] == []


def test_another_run_is_not_touched(cloud, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with granted(cloud, tmp_path / "one") as one:
        with granted(cloud, tmp_path / "other"):
            pass
        assert left() == {**NOTHING, "pairs": [one.name], "groups": [one.name]}


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), BuildError("no luck"), ZeroDivisionError()])
def test_it_goes_whatever_happens(cloud, tmp_path, problem):
    with pytest.raises(type(problem)), granted(cloud, tmp_path):
        raise problem
    assert left() == NOTHING


def started(way_in: Access, **order: Any) -> None:
    """Start two instances of the run, as a verification does."""
    marks = [{"Key": key, "Value": value} for key, value in way_in.tags.items()]
    tagged = [{"ResourceType": "instance", "Tags": marks}]
    ec2().run_instances(ImageId="ami-12c6146b", MinCount=2, MaxCount=2, **{"TagSpecifications": tagged, **order})


def states() -> set[str]:
    found = [one for group in ec2().describe_instances()["Reservations"] for one in group["Instances"]]
    return {one["State"]["Name"] for one in found}


class Signalled:
    """Lets signals come with the first call of ``name``."""

    def __init__(self, client: Any, name: str, *numbers: signal.Signals) -> None:
        self.call, self.numbers = getattr(client, name), [*numbers]

    def __call__(self, **given: Any) -> Any:
        while self.numbers:
            signal.raise_signal(self.numbers.pop(0))
        return self.call(**given)


def interrupted(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("problem", [None, BuildError("no luck")])
def test_a_signal_while_everything_goes_waits_until_it_is_gone(cloud, tmp_path, monkeypatch, number, problem):
    signal.signal(number, interrupted)
    call = "delete_key_pair" if problem else "terminate_instances"

    def run() -> None:
        with granted(cloud, tmp_path) as way_in:
            started(way_in)
            monkeypatch.setattr(cloud.client("ec2"), call, Signalled(cloud.client("ec2"), call, number))
            if problem:
                raise problem

    with pytest.raises(KeyboardInterrupt):
        run()
    assert (left(), states()) == (NOTHING, {"terminated"})


@pytest.mark.parametrize(
    ("problem", "numbers"), [(None, [signal.SIGINT, signal.SIGINT]), (KeyboardInterrupt(), [signal.SIGINT])]
)
def test_a_second_ctrl_c_breaks_that_off(cloud, tmp_path, monkeypatch, problem, numbers):
    def run() -> None:
        with granted(cloud, tmp_path):
            monkeypatch.setattr(
                cloud.client("ec2"), "delete_key_pair", Signalled(cloud.client("ec2"), "delete_key_pair", *numbers)
            )
            if problem:
                raise problem

    with pytest.raises(KeyboardInterrupt):
        run()
    assert left()["groups"] != []


# Spot: Packer asks for a fleet, from a launch template.


def template(way_in: Access | None = None) -> str:
    marks = [{"Key": key, "Value": value} for key, value in way_in.tags.items()] if way_in else []
    asked = {"LaunchTemplateName": f"packer-fleet-{len(marks)}", "LaunchTemplateData": {"ImageId": "ami-12c6146b"}}
    tagged = {"TagSpecifications": [{"ResourceType": "launch-template", "Tags": marks}]} if marks else {}
    return str(ec2().create_launch_template(**asked, **tagged)["LaunchTemplate"]["LaunchTemplateId"])


def test_a_spot_instance_without_tags_and_its_launch_template_go_too(cloud, tmp_path):
    """The instances of a fleet get their tags after they were made: a Packer that was killed gives them none."""
    others = template()
    with granted(cloud, tmp_path, spot=True) as way_in:
        started(way_in, KeyName=way_in.name, TagSpecifications=[])
        template(way_in)
    assert states() == {"terminated"}
    assert [one["LaunchTemplateId"] for one in ec2().describe_launch_templates()["LaunchTemplates"]] == [others]


def test_launch_templates_are_asked_for_only_with_spot(cloud, tmp_path, monkeypatch):
    """The least policy allows it only there."""
    paginator = cloud.client("ec2").get_paginator
    asked: list[str] = []
    monkeypatch.setattr(cloud.client("ec2"), "get_paginator", lambda name: (asked.append(name), paginator(name))[1])
    with granted(cloud, tmp_path):
        pass
    assert "describe_instances" in asked
    assert "describe_launch_templates" not in asked


def test_what_cannot_be_removed_is_told_beside_what_went_wrong_first(cloud, tmp_path, monkeypatch):
    def denied(*_: Any, **__: Any) -> None:
        raise ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}, "DeleteSecurityGroup")

    monkeypatch.setattr(cloud.client("ec2"), "delete_security_group", denied)
    with pytest.raises(BuildError) as caught, granted(cloud, tmp_path):
        raise BuildError("no luck", hint="try again")
    assert caught.value.message == "no luck"
    assert "try again; cleaning up failed as well: could not remove security group sg-" in caught.value.hint
    assert "splitbake gc --runs" in caught.value.hint
    assert left()["pairs"] == [], "the others go all the same"


# Who can reach port 22.


def test_with_session_manager_no_port_is_open(cloud, tmp_path):
    with granted(cloud, tmp_path, connect="session-manager") as way_in:
        assert open_to(way_in.group) == []


def test_a_public_address_is_open_to_ours_alone(cloud, tmp_path):
    with granted(cloud, tmp_path, connect="public-ip") as way_in:
        assert open_to(way_in.group) == ["203.0.113.7/32"]


def test_a_private_address_is_open_to_private_networks_and_the_vpc(cloud, tmp_path):
    vpc = ec2().create_vpc(CidrBlock="198.18.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2().create_subnet(VpcId=vpc, CidrBlock="198.18.1.0/24")["Subnet"]["SubnetId"]
    with access.granted(cloud, "1" * 12, folder=tmp_path, subnet=subnet, tags=TAGS, connect="private-ip") as way_in:
        assert set(open_to(way_in.group)) == {
            "10.0.0.0/8",
            "100.64.0.0/10",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "198.18.0.0/16",
        }


def test_an_unknown_address_opens_the_port_and_says_so(cloud, tmp_path, monkeypatch):
    monkeypatch.setattr(ingress, "public_address", lambda: None)
    said: list[str] = []
    with granted(cloud, tmp_path, say=said.append) as way_in:
        assert open_to(way_in.group) == ["0.0.0.0/0"]
    assert ["open to every address" in line for line in said] == [True]


def test_nobody_outside_is_asked_for_the_sake_of_another_endpoint(cloud, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://172.17.0.1:5000")
    monkeypatch.setattr(ingress, "public_address", lambda: pytest.fail("asked"))
    said: list[str] = []
    assert ingress.sources(cloud, "public-ip", {}, said.append) == ["0.0.0.0/0"]
    assert said == []


def test_a_region_without_a_default_vpc_is_said(cloud):
    (vpc,) = ec2().describe_vpcs()["Vpcs"]
    for subnet in ec2().describe_subnets()["Subnets"]:
        ec2().delete_subnet(SubnetId=subnet["SubnetId"])
    ec2().delete_vpc(VpcId=vpc["VpcId"])
    with pytest.raises(CloudError, match="no default VPC"):
        ingress.vpc_of(ec2(), None)


ASK = ingress._ask


@pytest.mark.parametrize(
    ("answers", "address"),
    [
        (["8.8.8.8\n", "8.8.8.8\n"], "8.8.8.8"),
        (["8.8.8.8\n", "8.8.4.4\n"], None),  # a network with several ways out
        (["10.1.2.3\n", "10.1.2.3\n"], None),
        (["<html>log in</html>", "<html>log in</html>"], None),
        (["8.8.8.8\n", None], None),
        ([None, None], None),
    ],
)
def test_our_public_address_is_believed_only_where_it_is_one(monkeypatch, answers, address):
    given = iter(answers)

    class Opener:
        def open(self, url: str, timeout: float) -> io.BytesIO:
            assert url == "https://checkip.amazonaws.com/"
            answer = next(given)
            if answer is None:
                raise urllib.error.URLError("no route")
            return io.BytesIO(answer.encode())

    monkeypatch.undo()
    monkeypatch.setattr("urllib.request.build_opener", lambda *_: Opener())
    assert ingress.public_address() == address


# The temporary role.


def test_a_temporary_role_has_its_boundary_and_goes_at_the_end(cloud, policies, tmp_path):
    with granted(cloud, tmp_path, connect="session-manager", boundary=BOUNDARY) as way_in:
        assert way_in.profile == way_in.name
        role = iam().get_role(RoleName=way_in.name)["Role"]
        assert role["PermissionsBoundary"]["PermissionsBoundaryArn"] == BOUNDARY
        assert role["AssumeRolePolicyDocument"]["Statement"] == [
            {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ]
        attached = iam().list_attached_role_policies(RoleName=way_in.name)["AttachedPolicies"]
        assert [one["PolicyArn"] for one in attached] == ["arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"]
        profile = iam().get_instance_profile(InstanceProfileName=way_in.name)["InstanceProfile"]
        assert [one["RoleName"] for one in profile["Roles"]] == [way_in.name]
        for tags in (role["Tags"], profile["Tags"]):
            assert {tag["Key"]: tag["Value"] for tag in tags}.items() >= {*way_in.tags.items()}
        assert json.dumps(role["Tags"]).count("eu-west-1") == 1
    assert left() == NOTHING


def test_a_role_that_was_half_made_goes_too(cloud, policies, tmp_path, monkeypatch):
    def denied(*_: Any, **__: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "CreateInstanceProfile")

    monkeypatch.setattr(cloud.client("iam"), "create_instance_profile", denied)
    with (
        pytest.raises(CloudError, match="make the temporary role splitbake-"),
        granted(cloud, tmp_path, boundary=BOUNDARY),
    ):
        pytest.fail("it must not be entered")
    assert left() == NOTHING


def test_without_a_boundary_iam_is_not_asked(cloud, tmp_path, monkeypatch):
    client = type(cloud).client
    monkeypatch.setattr(type(cloud), "client", lambda self, service, **more: asked(client, self, service, more))

    def asked(client: Any, *arguments: Any) -> Any:
        assert arguments[1] != "iam"
        return client(arguments[0], arguments[1], **arguments[2])

    with granted(cloud, tmp_path) as way_in:
        assert way_in.profile is None


def refused(message: str, code: str = "InvalidParameterValue") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "RunInstances")


UNKNOWN = "Value (x) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"


@pytest.mark.parametrize(
    "unknown",
    [refused(UNKNOWN), refused("no such group", "InvalidGroup.NotFound"), refused("no key", "InvalidKeyPair.NotFound")],
)
def test_an_instance_is_started_again_until_profile_group_and_key_are_known(monkeypatch, unknown):
    monkeypatch.setattr("time.sleep", lambda _: None)
    answers: Iterator[Any] = iter([unknown, unknown, "i-1"])

    def launch() -> str:
        answer = next(answers)
        if isinstance(answer, ClientError):
            raise answer
        return answer

    assert roles.as_soon_as_known(launch) == "i-1"


@pytest.mark.parametrize(("message", "within"), [(UNKNOWN, 0), ("Invalid value 'm9' for InstanceType", 90)])
def test_what_does_not_pass_is_raised(message, within):
    def launch() -> None:
        raise refused(message)

    with pytest.raises(ClientError):
        roles.as_soon_as_known(launch, within)
