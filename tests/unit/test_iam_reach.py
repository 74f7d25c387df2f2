"""How far the printed policies reach: calls that roles must be able to make, and calls that they must not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from splitbake import lease, manifest
from splitbake.artifact import Artifact, Report, Run
from splitbake.catalog import Catalog
from splitbake.errors import UsageError
from splitbake.iam import policies
from splitbake.iam.calls import Call
from splitbake.iam.evaluate import Request, UnjudgedError, evaluate
from splitbake.iam.needs import needs
from splitbake.iam.policies import ROLES, Scope, Statement
from splitbake.inputs import Inputs
from splitbake.inventory import Inventory
from splitbake.release import record
from splitbake.state import FolderStore

EVERYTHING = (Path(__file__).parents[1] / "data/iam.yaml").read_text(encoding="utf-8")
DEV, PROD = ("111111111111", "us-east-1"), ("222222222222", "eu-west-1")
OURS = {"splitbake:project": "faces"}
TAGS = [{"Key": "splitbake:project", "Value": "faces"}]
KEY = "arn:aws:kms:us-east-1:111111111111:key/12345678-1234-1234-1234-123456789012"


def scope(tmp_path: Path, env: str = "dev", *, options: Mapping[str, Any] | None = None, **changes: Any) -> Scope:
    """Return a scope of the manifest that uses everything; ``ami__builder={...}`` changes it, None removes a key."""
    data = yaml.safe_load(EVERYTHING)
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = data
        for parent in parents:
            node = node[parent]
        node[last] = value
        if value is None:
            del node[last]
    path = tmp_path / "splitbake.yaml"
    path.write_text(json.dumps(data), encoding="utf-8")
    return Scope(manifest.load(path), env, **options or {})


@dataclass(frozen=True)
class Facts:
    """What is there: the tags of each resource by its id, and whose AMIs and snapshots these are."""

    marks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    account: str = DEV[0]

    def tags(self, resource: str) -> Mapping[str, str]:
        return self.marks.get(resource, {})

    def owner(self, resource: str) -> str:
        return self.account

    def role_of_profile(self, profile: str) -> str:
        return f"arn:aws:iam::{self.account}:role/{profile.rpartition('/')[2]}"

    def boundary(self, role: str) -> str:
        return ""

    def template(self, name: str) -> str:
        return f"lt-{name}"

    def has_object(self, bucket: str, key: str) -> bool:
        return True


def judged(scope: Scope, role: str, request: Request) -> bool:
    return evaluate([one.document() for one in policies.policies(scope, role)], request) == "allowed"


def refused(scope: Scope, role: str, name: str, facts: Facts | None = None, **parameters: Any) -> list[str]:
    """Return what a call needs and the role may not, ``action kind/name`` each; empty where it may make the call."""
    place = scope.environment
    service, _, operation = name.partition(":")
    call = Call(
        service=service,
        operation=operation,
        principal=f"arn:aws:sts::{place.account}:assumed-role/{role}/me",
        account=place.account,
        region=place.region,
        parameters=parameters,
    )
    wanted = needs(call, facts or Facts(account=place.account))
    return [f"{one.action} {one.resource.split(':', 5)[-1]}" for one in wanted if not judged(scope, role, one)]


def by_sid(scope: Scope, role: str) -> dict[str, Statement]:
    return {one.sid: one for one in policies.statements(scope, role)}


FOREIGN = [{"Name": "nightly"}, {"splitbake:project": "other"}, {"splitbake:project": "other", "Name": "n"}]


@pytest.mark.parametrize("packer", ["1.6", "latest"])
@pytest.mark.parametrize("marks", FOREIGN)
def test_the_builder_leaves_ami_and_snapshots_of_others_alone(tmp_path, packer, marks):
    """Nor can it get hold of them by tagging them first."""
    of, facts = scope(tmp_path, options={"packer": packer}), Facts({"ami-db": marks, "snap-db": marks})
    assert refused(of, "builder", "ec2:CreateTags", facts, Resources=["snap-db"], Tags=TAGS)
    assert refused(of, "builder", "ec2:CreateTags", facts, Resources=["ami-db"], Tags=TAGS)
    assert refused(of, "builder", "ec2:DeleteSnapshot", facts, SnapshotId="snap-db")
    assert refused(of, "builder", "ec2:DeregisterImage", facts, ImageId="ami-db")
    for change in (
        {"LaunchPermission": {"Add": [{"Group": "all"}]}},
        {"Attribute": "launchPermission", "OperationType": "add", "UserGroups": ["all"]},
        {"ImdsSupport": {"Value": "v2.0"}},
        {"Description": {"Value": "faces is better"}},
    ):
        assert refused(of, "builder", "ec2:ModifyImageAttribute", facts, ImageId="ami-db", **change), change


def test_only_packer_1_6_tags_and_describes_what_nobody_has_tagged(tmp_path):
    old, new = scope(tmp_path), scope(tmp_path, options={"packer": "latest"})
    tag: dict[str, Any] = {"Resources": ["ami-new", "snap-new"], "Tags": TAGS}
    describe: dict[str, Any] = {"ImageId": "ami-new", "Description": {"Value": "faces: models on ami-0a"}}
    assert refused(old, "builder", "ec2:CreateTags", **tag) == []
    assert refused(old, "builder", "ec2:ModifyImageAttribute", **describe) == []
    assert refused(new, "builder", "ec2:CreateTags", **tag) == [
        "ec2:CreateTags image/ami-new",
        "ec2:CreateTags snapshot/snap-new",
    ]
    assert refused(new, "builder", "ec2:ModifyImageAttribute", **describe)
    others = Facts(account="999999999999")
    assert refused(old, "builder", "ec2:CreateTags", others, **tag)
    assert refused(old, "builder", "ec2:ModifyImageAttribute", others, **describe)
    for sid in ("TagUntagged", "DescribeUntagged", "SwitchImdsV2On"):
        assert "Packer 1.6" in by_sid(old, "builder")[sid].why


@pytest.mark.parametrize("packer", ["1.6", "latest"])
def test_the_builder_finishes_and_removes_what_is_the_projects(tmp_path, packer):
    of, facts = scope(tmp_path, options={"packer": packer}), Facts({"ami-a": OURS, "snap-a": OURS})
    assert refused(of, "builder", "ec2:CreateTags", facts, Resources=["ami-a", "snap-a"], Tags=TAGS) == []
    for change in ({"ImdsSupport": {"Value": "v2.0"}}, {"Description": {"Value": "faces: models on ami-0a"}}):
        assert refused(of, "builder", "ec2:ModifyImageAttribute", facts, ImageId="ami-a", **change) == []
    assert refused(of, "builder", "ec2:EnableImageDeprecation", facts, ImageId="ami-a") == []
    assert refused(of, "builder", "ec2:DeregisterImage", facts, ImageId="ami-a") == []
    assert refused(of, "builder", "ec2:DeleteSnapshot", facts, SnapshotId="snap-a") == []
    for way in ({"Group": "all"}, {"UserId": "333333333333"}):
        given = {"ImageId": "ami-a", "LaunchPermission": {"Add": [way]}}
        assert refused(of, "builder", "ec2:ModifyImageAttribute", facts, **given)


SPECIFIED = [{"ResourceType": kind, "Tags": TAGS} for kind in ("image", "snapshot")]


def test_an_ami_is_tagged_by_the_call_that_makes_it(tmp_path):
    facts = Facts({"i-1": OURS, "i-2": {}})
    old, new = scope(tmp_path), scope(tmp_path, options={"packer": "latest"})
    for of in (old, new):
        assert refused(of, "builder", "ec2:CreateImage", facts, InstanceId="i-1", TagSpecifications=SPECIFIED) == []
        assert refused(of, "builder", "ec2:CreateImage", facts, InstanceId="i-2", TagSpecifications=SPECIFIED)
        assert refused(of, "builder", "ec2:CopyImage", TagSpecifications=SPECIFIED) == []
        assert refused(of, "builder", "ec2:CopyImage")
    assert refused(old, "builder", "ec2:CreateImage", facts, InstanceId="i-1") == []
    assert refused(new, "builder", "ec2:CreateImage", facts, InstanceId="i-1")
    assert by_sid(new, "builder")["TagWhileImaging"].conditions == {
        "StringEquals": {"aws:RequestTag/splitbake:project": "faces", "ec2:CreateAction": ["CreateImage", "CopyImage"]}
    }


def test_imdsv2_can_be_switched_on_and_not_off(tmp_path):
    facts = Facts({"i-1": OURS})
    for packer, wanted in (("1.6", []), ("latest", ["ec2:ModifyInstanceMetadataOptions instance/i-1"])):
        of = scope(tmp_path, options={"packer": packer})
        call: dict[str, Any] = {"InstanceId": "i-1", "HttpTokens": "required", "HttpPutResponseHopLimit": 1}
        assert refused(of, "builder", "ec2:ModifyInstanceMetadataOptions", facts, **call) == wanted
        call["HttpTokens"] = "optional"
        assert refused(of, "builder", "ec2:ModifyInstanceMetadataOptions", facts, **call)
        assert refused(of, "builder", "ec2:ModifyInstanceMetadataOptions", **call)


def test_within_an_account_a_copied_ami_has_the_tags_of_its_source(tmp_path):
    of = scope(tmp_path, "prod", environments__prod__account=DEV[0])
    assert refused(of, "releaser", "ec2:CopyImage", TagSpecifications=SPECIFIED[1:]) == []
    assert refused(of, "releaser", "ec2:CopyImage") == ["ec2:CopyImage snapshot/*"]


def test_a_promoting_releaser_copies_with_tags_and_adopts_nothing(tmp_path):
    of, bare = scope(tmp_path, "prod"), Facts({"snap-db": {}}, account=PROD[0])
    ours = Facts({"ami-c": OURS, "snap-c": OURS}, account=PROD[0])
    assert refused(of, "releaser", "ec2:CopyImage", TagSpecifications=SPECIFIED) == []
    assert refused(of, "releaser", "ec2:CopyImage")
    assert refused(of, "releaser", "ec2:CreateTags", ours, Resources=["ami-c", "snap-c"], Tags=TAGS) == []
    assert refused(of, "releaser", "ec2:CreateTags", bare, Resources=["snap-db"], Tags=TAGS)
    assert refused(of, "releaser", "ec2:DeregisterImage", ours, ImageId="ami-c") == []
    assert refused(of, "releaser", "ec2:DeleteSnapshot", ours, SnapshotId="snap-c") == []
    assert refused(of, "releaser", "ec2:DeregisterImage", bare, ImageId="ami-x")


@pytest.mark.parametrize(
    "changes",
    [
        {"environments__prod__promote": {"from": "dev", "ami": "share"}, "environments__prod__region": DEV[1]},
        {"environments__prod__account": DEV[0], "environments__prod__region": DEV[1], "ami__share": []},
    ],
)
def test_an_environment_that_uses_the_ami_as_it_is_copies_nothing(tmp_path, changes):
    of = scope(tmp_path, "prod", **changes)
    given = {action for one in policies.statements(of, "releaser") for action in one.actions}
    assert not given & {
        *("ec2:CopyImage", "ec2:CreateTags", "ec2:DeleteSnapshot", "ec2:DeregisterImage", "kms:Decrypt"),
        *("ec2:ModifyImageAttribute", "ec2:ModifySnapshotAttribute", "ec2:DescribeSnapshots"),
    }


def test_the_releaser_changes_the_launch_templates_of_the_project_or_those_that_are_named(tmp_path):
    change: dict[str, Any] = {"LaunchTemplateData": {"ImageId": "ami-1"}}
    tagged = Facts({"lt-0a1b2c3d": OURS})
    by_tag, by_id = scope(tmp_path), scope(tmp_path, options={"launch_templates": ("lt-0a1b2c3d",)})
    for operation in ("ec2:CreateLaunchTemplateVersion", "ec2:ModifyLaunchTemplate"):
        for facts, of, name, wanted in (
            (tagged, by_tag, "lt-0a1b2c3d", True),
            (tagged, by_tag, "lt-of-payments", False),
            (Facts(), by_id, "lt-0a1b2c3d", True),
            (Facts({"lt-of-payments": OURS}), by_id, "lt-of-payments", False),
        ):
            assert (refused(of, "releaser", operation, facts, LaunchTemplateId=name, **change) == []) == wanted
    assert not by_sid(by_id, "releaser")["LaunchTemplates"].why


def test_no_condition_says_with_whom_an_ami_is_shared(tmp_path):
    """EC2 has one for snapshots only; so the barrier before everybody is the account's own."""
    of, facts = scope(tmp_path), Facts({"ami-a": OURS, "snap-a": OURS})
    for way in ({"Group": "all"}, {"UserId": "999999999999"}):
        given = {"ImageId": "ami-a", "LaunchPermission": {"Add": [way]}}
        assert refused(of, "verifier", "ec2:ModifyImageAttribute", facts, **given) == []
    change: dict[str, Any] = {"SnapshotId": "snap-a", "OperationType": "add"}
    assert refused(of, "verifier", "ec2:ModifySnapshotAttribute", facts, **change, UserIds=["333333333333"]) == []
    assert refused(of, "verifier", "ec2:ModifySnapshotAttribute", facts, **change, UserIds=["999999999999"])
    assert refused(of, "verifier", "ec2:ModifySnapshotAttribute", facts, **change, GroupNames=["all"])
    one = by_sid(of, "verifier")["ShareAmi"]
    assert one.actions == ["ec2:ModifyImageAttribute"]
    assert one.conditions == of.owned
    assert "block public access" in one.why


@pytest.mark.parametrize(("role", "document"), [("builder", "AWS-StartPortForwardingSession"), ("verifier", "AWS-StartSSHSession")])  # fmt: skip  # noqa: E501
def test_who_opens_a_session_may_talk_in_it_and_end_it_and_no_other(tmp_path, role, document):
    of, facts = scope(tmp_path), Facts({"i-1": OURS})
    assert refused(of, role, "ssm:StartSession", facts, Target="i-1", DocumentName=document) == []
    assert refused(of, role, "ssm:StartSession", Target="i-2", DocumentName=document)
    assert judged(of, role, Request("ssmmessages:OpenDataChannel"))
    for action in ("ssm:ResumeSession", "ssm:TerminateSession"):
        for opened_by, wanted in (("AROAEXAMPLE:me", True), ("AROAOTHER:me", False)):
            session = f"arn:aws:ssm:us-east-1:{DEV[0]}:session/me-037a2e2586edc1ad4"
            tags = {"ssm:resourcetag/": {"aws:ssmmessages:session-id": opened_by}}
            request = Request(action, session, {"aws:userid": ("AROAEXAMPLE:me",)}, tags)
            assert judged(of, role, request) == wanted


TEMPLATE = f"arn:aws:ec2:us-east-1:{DEV[0]}:launch-template/lt-1"


def spot(kind: str, *, template: str = TEMPLATE, type_: str = "m6i.xlarge", gets: Mapping[str, str] | None = None) -> Request:  # fmt: skip  # noqa: E501
    """Return RunInstances on a resource that a fleet makes of a launch template."""
    context = {
        "ec2:launchtemplate": (template,) if template else (),
        "ec2:instancetype": (type_,),
        "ec2:metadatahttptokens": (),
    }
    return Request("ec2:RunInstances", f"arn:aws:ec2:us-east-1:{DEV[0]}:{kind}/*", context, {"aws:requesttag/": gets or {}})  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("packer", ["1.6", "latest"])
def test_a_spot_builder_comes_of_a_fleet_by_a_tagged_launch_template(tmp_path, packer):
    of = scope(tmp_path, options={"packer": packer})
    template = [{"ResourceType": "launch-template", "Tags": TAGS}]
    assert refused(of, "builder", "ec2:CreateLaunchTemplate", TagSpecifications=template) == []
    assert refused(of, "builder", "ec2:CreateLaunchTemplate")
    owned = {"aws:resourcetag/": OURS}
    for action in ("ec2:CreateFleet", "ec2:RunInstances"):
        assert judged(of, "builder", Request(action, TEMPLATE, tags=owned))
        assert not judged(of, "builder", Request(action, TEMPLATE, tags={"aws:resourcetag/": {}}))
    gets = OURS if packer == "latest" else {}
    fleet = Request("ec2:CreateFleet", f"arn:aws:ec2:us-east-1:{DEV[0]}:fleet/*", tags={"aws:requesttag/": gets})
    assert judged(of, "builder", fleet)
    for kind in ("instance", "volume"):
        assert judged(of, "builder", spot(kind, gets=gets))
        assert not judged(of, "builder", spot(kind, template=""))
        assert judged(of, "builder", spot(kind)) == (packer == "1.6")
    assert not judged(of, "builder", spot("instance", type_="p5.48xlarge", gets=gets))
    assert judged(of, "builder", spot("spot-instances-request"))
    assert judged(of, "builder", spot("network-interface"))


def spot_instance(**more: str) -> dict[str, tuple[str, ...]]:
    return {"ec2:instancetype": ("m6i.xlarge",), "ec2:instancemarkettype": (more.get("market", "spot"),)}


def test_packer_1_6_tags_a_spot_instance_when_it_runs_and_no_other_instance(tmp_path):
    old, new = scope(tmp_path), scope(tmp_path, options={"packer": "latest"})

    def tagged(of: Scope, kind: str, has: Mapping[str, str], **more: str) -> bool:
        resource = f"arn:aws:ec2:us-east-1:{DEV[0]}:{kind}/x-1"
        keys = {**spot_instance(**more), "ec2:createaction": (), "aws:tagkeys": tuple(OURS)}
        return judged(of, "builder", Request("ec2:CreateTags", resource, keys, {"aws:requesttag/": OURS, "aws:resourcetag/": has}))  # fmt: skip  # noqa: E501

    for kind in ("instance", "volume"):
        assert tagged(old, kind, {})
        assert not tagged(new, kind, {})
        assert tagged(new, kind, OURS)
        assert not tagged(old, kind, {"splitbake:project": "other"})
    assert not tagged(old, "instance", {}, market="on-demand")
    assert tagged(old, "spot-instances-request", {})
    assert tagged(new, "spot-instances-request", {})

    def ended(of: Scope, **more: str) -> bool:
        resource = f"arn:aws:ec2:us-east-1:{DEV[0]}:instance/i-1"
        return judged(of, "builder", Request("ec2:TerminateInstances", resource, spot_instance(**more), {"aws:resourcetag/": {}}))  # fmt: skip  # noqa: E501

    assert ended(old)
    assert not ended(old, market="on-demand")
    assert not ended(new)


def test_only_launch_templates_of_runs_are_removed(tmp_path):
    of = scope(tmp_path)
    for marks, wanted in (({**OURS, "splitbake:run": "r"}, True), (OURS, False), ({"splitbake:run": "r"}, False)):
        facts = Facts({"lt-1": marks, "lt-name": marks})
        assert (refused(of, "builder", "ec2:DeleteLaunchTemplate", facts, LaunchTemplateId="lt-1") == []) == wanted
        assert (refused(of, "builder", "ec2:DeleteLaunchTemplate", facts, LaunchTemplateName="name") == []) == wanted
    assert refused(of, "builder", "ec2:DescribeLaunchTemplates") == []


def kms(of: Scope, role: str, action: str, via: str, *, key: str = KEY, alias: str = "alias/models") -> bool:
    context = {"kms:viaservice": (via,), "kms:resourcealiases": (alias,), "kms:grantisforawsresource": ("true",)}
    return judged(of, role, Request(action, key, context))


def test_every_role_that_makes_volumes_or_snapshots_may_use_their_key(tmp_path):
    of, ec2 = scope(tmp_path), "ec2.us-east-1.amazonaws.com"
    for role in ("builder", "verifier"):
        for action in ("kms:CreateGrant", "kms:Decrypt", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom"):
            assert kms(of, role, action, ec2), (role, action)
            assert not kms(of, role, action, ec2, alias="alias/payroll")
            assert not kms(of, role, action, "s3.us-east-1.amazonaws.com")
    promoting = scope(tmp_path, "prod")
    for region in ("us-east-1", "eu-west-1"):  # who asks for which region's EC2 is not documented
        assert kms(promoting, "releaser", "kms:Decrypt", f"ec2.{region}.amazonaws.com")
    assert not kms(promoting, "releaser", "kms:Decrypt", ec2, key=KEY.replace(DEV[0], PROD[0]))


def test_the_key_of_an_ami_that_was_promoted_itself_is_that_of_its_copy(tmp_path):
    chain = yaml.safe_load(EVERYTHING)["environments"]
    chain["last"] = {**chain["prod"], "account": "444444444444", "promote": {"from": "prod"}}
    of = scope(tmp_path, "last", environments=chain)
    assert not any(action.startswith("kms:") for one in policies.statements(of, "releaser") for action in one.actions)


def test_keys_of_buckets_are_named(tmp_path):
    of = scope(tmp_path, options={"kms_keys": (KEY,)})
    for role in ("builder", "verifier", "releaser"):
        for action in ("kms:Decrypt", "kms:GenerateDataKey"):
            assert kms(of, role, action, "s3.us-east-1.amazonaws.com"), role
            assert not kms(scope(tmp_path), role, action, "s3.us-east-1.amazonaws.com"), role
        assert not kms(of, role, "kms:GenerateDataKey", "ec2.us-east-1.amazonaws.com")
    uploads = scope(tmp_path, options={"kms_keys": (KEY,)}, state="state")
    assert kms(uploads, "builder", "kms:GenerateDataKey", "s3.us-east-1.amazonaws.com")
    assert kms(uploads, "codebuild", "kms:Decrypt", "s3.us-east-1.amazonaws.com")
    image = {**yaml.safe_load(EVERYTHING)["image"], "builder": "docker"}
    read = scope(tmp_path, options={"kms_keys": (KEY,)}, state="state", image=image)
    assert not kms(read, "builder", "kms:GenerateDataKey", "s3.us-east-1.amazonaws.com")


NASTY = "we?ird*/${aws:PrincipalTag/x}/모델.pt"


def test_text_of_the_manifest_is_never_syntax_of_a_policy(tmp_path):
    of = scope(
        tmp_path,
        state=f"s3://st*tes/{NASTY}",
        image__mounts={"c": "/models"},
        ami__base={"ssm": "/team/*"},
        models__files=[{"path": "b", "from": f"s3://models/{NASTY}"}, {"path": "c/", "from": "s3://models/a?/"}],
        environments__dev__smoke__presign={"VIDEO": f"s3://models/{NASTY}"},
    )
    get = {"Bucket": "models", "Key": NASTY}
    assert refused(of, "builder", "s3:GetObject", **get) == []
    assert refused(of, "builder", "s3:GetObject", Bucket="models", Key=NASTY.replace("?", "x"))
    assert refused(of, "builder", "s3:GetObject", Bucket="models", Key=NASTY.replace("*", "xy"))
    assert refused(of, "builder", "s3:GetObject", Bucket="models", Key="a?/x") == []
    assert refused(of, "builder", "s3:GetObject", Bucket="models", Key="ab/x")
    assert refused(of, "builder", "s3:ListObjectsV2", Bucket="models", Prefix=NASTY) == []
    assert refused(of, "builder", "s3:ListObjectsV2", Bucket="models", Prefix=NASTY.replace("*", "xy"))
    assert refused(of, "builder", "s3:GetObject", Bucket="st*tes", Key=f"{NASTY}/records/x") == []
    assert refused(of, "builder", "s3:GetObject", Bucket="states", Key=f"{NASTY}/records/x")
    assert refused(of, "builder", "ssm:GetParameter", Name="/team/*") == []
    assert refused(of, "builder", "ssm:GetParameter", Name="/team/secret")
    assert refused(of, "releaser", "s3:GetObject", **get) == []
    for role in ROLES:
        for one in policies.statements(of, role):
            assert one.is_wide == bool(one.why), one.sid


@pytest.mark.parametrize("text", ["*", "a?", "${$}", "${aws:username}"])
@pytest.mark.parametrize(
    "key",
    [
        "ami__builder__profile",
        "environments__dev__smoke__queue",
        "environments__dev__smoke__job_definition",
        "ami__builder__permissions_boundary",
    ],
)
def test_names_with_syntax_of_policies_are_refused(tmp_path, key, text):
    value = f"arn:aws:iam::{DEV[0]}:policy/{text}" if key.endswith("boundary") else text
    changes: dict[str, Any] = {"ami__builder__permissions_boundary": None} if key.endswith("profile") else {}
    of = scope(tmp_path, **changes, **{key: value})
    with pytest.raises(UsageError, match="cannot stand in a policy"):
        [policies.statements(of, role) for role in ROLES]


@pytest.mark.parametrize("text", ["*", "a?", "${$}"])
@pytest.mark.parametrize("kind", ["batch_compute_environment", "batch_job_definition"])
def test_names_of_targets_with_syntax_of_policies_are_refused(tmp_path, kind, text):
    of = scope(tmp_path, environments__dev__release=[{kind: text}])
    with pytest.raises(UsageError, match=f"{kind}.*cannot stand in a policy"):
        policies.statements(of, "releaser")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"profile_role": "*"}, "--profile-role"),
        ({"profile_role": "a/b"}, "--profile-role"),
        ({"job_roles": ("arn:aws:iam::111111111111:role/*",)}, "--job-role"),
        ({"job_roles": ("job",)}, "--job-role"),
        ({"launch_templates": ("*",)}, "--launch-template"),
        ({"launch_templates": ("gpu",)}, "--launch-template"),
        ({"kms_keys": ("arn:aws:kms:us-east-1:111111111111:key/*",)}, "--kms-key"),
        ({"kms_keys": ("alias/models",)}, "--kms-key"),
    ],
)
def test_options_name_one_thing_each(tmp_path, options, named):
    with pytest.raises(UsageError, match=named):
        scope(tmp_path, options=options)


def test_a_question_mark_is_a_wildcard_and_what_is_escaped_is_none():
    def wide(resource: str) -> bool:
        return Statement(sid="A", actions=["s3:GetObject"], resources=[resource]).is_wide

    assert wide("arn:aws:s3:::b/?")
    assert wide("arn:aws:s3:::b/${*}*")
    assert not wide("arn:aws:s3:::b/${*}${?}${$}")


RUN_NAME = "splitbake-0123456789ab"


def test_only_roles_and_profiles_that_are_named_as_runs_name_them(tmp_path):
    of = scope(tmp_path)
    boundary = "arn:aws:iam::111111111111:policy/boundary"

    class Bounded(Facts):
        def boundary(self, role: str) -> str:
            return boundary

    tags = [{"Key": key, "Value": text} for key, text in OURS.items()]
    calls: dict[str, dict[str, Any]] = {
        "iam:CreateRole": {"PermissionsBoundary": boundary, "Tags": tags},
        "iam:AttachRolePolicy": {"PolicyArn": "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"},
        "iam:DeleteRole": {},
        "iam:ListRoleTags": {},
        "iam:ListAttachedRolePolicies": {},
    }
    for name, more in calls.items():
        for role, wanted in ((RUN_NAME, True), ("splitbake-faces-prod-releaser", False), ("splitbake-builder", False)):
            assert (refused(of, "builder", name, Bounded(), RoleName=role, **more) == []) == wanted, (name, role)
    assert refused(of, "builder", "iam:DeleteRole", RoleName=RUN_NAME), "a role without the boundary is none of a run"
    for name, more in (
        ("iam:CreateInstanceProfile", {"Tags": tags}),
        ("iam:AddRoleToInstanceProfile", {"RoleName": RUN_NAME}),
        ("iam:RemoveRoleFromInstanceProfile", {"RoleName": RUN_NAME}),
        ("iam:DeleteInstanceProfile", {}),
        ("iam:GetInstanceProfile", {}),
    ):
        assert refused(of, "builder", name, InstanceProfileName=RUN_NAME, **more) == [], name
        assert refused(of, "builder", name, InstanceProfileName="splitbake-builder", **more), name
    assert refused(of, "builder", "iam:AddRoleToInstanceProfile", InstanceProfileName=RUN_NAME, RoleName="splitbake-b")
    assert refused(of, "builder", "iam:CreateInstanceProfile", InstanceProfileName=RUN_NAME)


class Written(FolderStore):
    """A state that tells what was written."""

    keys_written: list[str]

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.keys_written = []

    def _write(self, key: str, value: bytes, may: Any) -> bool:
        self.keys_written.append(key)
        return super()._write(key, value, may)


def written(tmp_path: Path, env: str) -> dict[str, list[str]]:
    """Return the keys that each role writes in an environment, as the functions that write them make them."""
    account, region = DEV if env == "dev" else PROD
    store = Written(tmp_path / "state")
    catalog = Catalog(store, account, region)
    moment = "2026-01-01T00:00:00+00:00"
    found: dict[str, list[str]] = {}

    def take(role: str) -> None:
        found.setdefault(role, []).extend(store.keys_written)
        store.keys_written.clear()

    for half in ("ami", "image"):
        made = Artifact(half=half, id="x-1", location="l", fingerprint="sha256:0a", created=moment, seconds=1, size=1)
        report = Report(half=half, artifact="x-1", fingerprint="sha256:0a", standard="s", created=moment, seconds=1, checks=())  # fmt: skip  # noqa: E501
        catalog.keep(made, instead_of=None)
        catalog.keep_inputs(Inputs(half, {}, {}))
        catalog.log(Run(half=half, work="build", fingerprint="sha256:0a", created=moment, seconds=1))
        with lease.held(store, catalog.lease("build", half, "sha256:0a"), who="w", doing="d"):
            pass
        take("builder")
        catalog.keep_report(report)
        catalog.log(Run(half=half, work="verify", fingerprint="sha256:0a", created=moment, seconds=1))
        if half == "ami":
            with lease.held(store, catalog.lease("verify", half, "sha256:0a"), who="w", doing="d"):
                pass
            catalog.keep_inventory(Inventory.model_construct(ami="x-1"))
        take("verifier")
    with lease.held(store, record.lease_name(env), who="w", doing="d"):
        store.put(record.Record.model_construct(environment=env, id="20260101T000000Z-1").key, b"")
    take("releaser")
    return found


def test_each_role_writes_its_own_part_of_the_state_and_reads_all(tmp_path):
    keys = written(tmp_path, "dev")
    of = scope(tmp_path)
    for role in keys:
        for writer, names in keys.items():
            for name in names:
                place = {"Bucket": "states", "Key": f"team/faces/{name}"}
                assert (refused(of, role, "s3:PutObject", **place) == []) == (role == writer), (role, name)
                assert refused(of, role, "s3:GetObject", **place) == []
    other = [name for names in written(tmp_path / "other", "prod").values() for name in names if "inputs/" not in name]
    for role in keys:
        assert all(refused(of, role, "s3:PutObject", Bucket="states", Key=f"team/faces/{name}") for name in other)


def test_a_promoting_releaser_writes_down_what_it_has_copied(tmp_path):
    keys, copying = written(tmp_path, "prod"), scope(tmp_path, "prod")
    same = scope(tmp_path, "prod", environments__prod__account=DEV[0], environments__prod__region=DEV[1], ami__share=[])
    for writer, names in keys.items():
        for name in names:
            place = {"Bucket": "states", "Key": f"team/faces/{name}"}
            copied = name.startswith(("artifacts/", "reports/"))
            assert (refused(copying, "releaser", "s3:PutObject", **place) == []) == (copied or writer == "releaser"), (
                name
            )
            assert (refused(same, "releaser", "s3:PutObject", **place) == []) == (writer == "releaser"), name


def test_an_unknown_call_is_never_judged(tmp_path):
    with pytest.raises(UnjudgedError):
        refused(scope(tmp_path), "builder", "ec2:CreateFleet")
