"""Which workflows of GitHub Actions a trust policy lets in, as our evaluator judges it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from splitbake import manifest
from splitbake.cli.iam import command
from splitbake.errors import UsageError
from splitbake.iam import github
from splitbake.iam.evaluate import Request, evaluate
from splitbake.iam.policies import Scope

REPOSITORY = Path(__file__).parents[2]
SCOPE = Scope(manifest.load(REPOSITORY / "splitbake.yaml"), "local")
PROVIDER = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"


def lets_in(policy: dict[str, Any], sub: str, *, aud: str = github.AUDIENCE, provider: str = PROVIDER) -> bool:
    claims = {f"{github.PROVIDER}:aud": (aud,), f"{github.PROVIDER}:sub": (sub,)}
    request = Request("sts:AssumeRoleWithWebIdentity", context=claims, principal={"Federated": provider})
    return evaluate([policy], request) == "allowed"


BRANCH = github.trust(SCOPE, "my-org/my.repo", ref="refs/heads/main")
ENVIRONMENT = github.trust(SCOPE, "my-org/my.repo", environment="prod")


def test_one_branch_or_one_environment_is_let_in():
    assert lets_in(BRANCH, "repo:my-org/my.repo:ref:refs/heads/main")
    assert lets_in(ENVIRONMENT, "repo:my-org/my.repo:environment:prod")


@pytest.mark.parametrize(
    "sub",
    [
        "repo:my-org/my.repo:ref:refs/heads/main2",
        "repo:my-org/my.repo:ref:refs/heads/MAIN",
        "repo:my-org/my.repo:ref:refs/tags/main",
        "repo:my-org/my.repo:pull_request",
        "repo:my-org/my.repo:environment:dev",
        "repo:my-org/my.repo",
        "repo:my-org/my_repo:ref:refs/heads/main",
        "repo:other/my.repo:ref:refs/heads/main",
        "repo:my-org/my.repo-fork:ref:refs/heads/main",
        "",
        "*",
    ],
)
def test_nobody_else_is(sub):
    assert not lets_in(BRANCH, sub)
    assert not lets_in(ENVIRONMENT, sub)


@given(sub=st.text())
def test_no_other_text_is_let_in(sub):
    assert lets_in(BRANCH, sub) == (sub == "repo:my-org/my.repo:ref:refs/heads/main")


def test_another_audience_or_another_provider_is_not():
    sub = "repo:my-org/my.repo:ref:refs/heads/main"
    assert not lets_in(BRANCH, sub, aud="https://github.com/my-org")
    assert not lets_in(BRANCH, sub, provider=PROVIDER.replace("123456789012", "999999999999"))


@pytest.mark.parametrize(
    ("repository", "more", "reason"),
    [
        ("my-org/*", {"ref": "refs/heads/main"}, "not one repository"),
        ("*", {"ref": "refs/heads/main"}, "not one repository"),
        ("my-org", {"ref": "refs/heads/main"}, "not one repository"),
        ("my-org/a:ref:refs/heads/main", {"ref": "refs/heads/main"}, "not one repository"),
        ("my-org@1/repo", {"ref": "refs/heads/main"}, "not one repository"),
        ("", {"ref": "refs/heads/main"}, "not one repository"),
        ("my-org/repo", {}, "every branch and pull request"),
        ("my-org/repo", {"ref": "refs/heads/main", "environment": "prod"}, "either --ref or --environment"),
        ("my-org/repo", {"ref": "refs/heads/*"}, "not one branch"),
        ("my-org/repo", {"ref": "main"}, "not one branch"),
        ("my-org/repo", {"ref": "refs/pull/1/merge"}, "not one branch"),
        ("my-org/repo", {"environment": "*"}, "not one environment"),
        ("my-org/repo", {"environment": "prod:x"}, "not one environment"),
        ("my-org/repo", {"environment": "${$}"}, "not one environment"),
        ("my-org/repo", {"ref": "refs/heads/${$}"}, "not one branch"),
    ],
)
def test_what_would_trust_more_than_that_is_refused(repository, more, reason):
    with pytest.raises(UsageError, match=reason):
        github.trust(SCOPE, repository, **more)


@given(text=st.text(st.sampled_from("ab*?/:@-. $"), max_size=12))
def test_no_wildcard_reaches_a_claim(text):
    for options in ({"repository": text, "ref": "refs/heads/main"}, {"repository": "a/b", "ref": f"refs/heads/{text}"}):
        try:
            claim = github.subject(**options)
        except UsageError:
            continue
        assert not set("*?$") & set(claim)
        assert claim.count(":") == 3


def test_repositories_whose_claims_have_numbers():
    policy = github.trust(SCOPE, "octocat@123456/my-repo@456789", ref="refs/heads/main")
    assert lets_in(policy, "repo:octocat@123456/my-repo@456789:ref:refs/heads/main")
    assert not lets_in(policy, "repo:octocat/my-repo:ref:refs/heads/main")


@pytest.fixture
def iam(tmp_path):
    text = (REPOSITORY / "splitbake.yaml").read_text(encoding="utf-8")
    (tmp_path / "splitbake.yaml").write_text(text, encoding="utf-8")
    return lambda *arguments: CliRunner().invoke(
        command, [*arguments, "--manifest", str(tmp_path / "splitbake.yaml")], catch_exceptions=False
    )


def test_the_command_prints_policies_with_their_reasons(iam):
    shown = iam("builder").stdout
    assert "policy splitbake-video-analysis-local-builder" in shown
    assert "allow  ec2:CreateKeyPair" not in shown
    assert "StringEquals aws:RequestTag/splitbake:project: video-analysis" in shown
    assert "wide:  " in shown
    assert "instance: no permission at all" in iam().stdout


def test_the_command_gives_scripts_policy_and_reasons(iam):
    found = json.loads(iam("--json").stdout)
    assert found.keys() == {"builder", "instance", "codebuild", "verifier", "releaser"}
    assert found["instance"] == []
    (policy,) = found["releaser"]
    assert policy["policy"]["Version"] == "2012-10-17"
    assert policy["reasons"].keys() <= {one["Sid"] for one in policy["policy"]["Statement"]}


def test_the_command_writes_files_that_iam_takes(iam, tmp_path):
    result = iam("verifier", "--out", str(tmp_path / "iam"))
    (path,) = (tmp_path / "iam").iterdir()
    assert str(path) in result.stderr
    assert json.loads(path.read_text(encoding="utf-8")).keys() == {"Version", "Statement"}
    iam("github", "--repository", "a/b", "--environment", "prod", "--out", str(tmp_path / "iam"))
    assert json.loads((tmp_path / "iam/splitbake-video-analysis-local-trust.json").read_text(encoding="utf-8"))


def test_the_command_takes_what_the_manifest_does_not_say(iam, tmp_path):
    def statements(*arguments: str) -> dict[str, Any]:
        (role,) = (json.loads(iam(*arguments, "--json").stdout)).values()
        return {one["Sid"]: one for policy in role for one in policy["policy"]["Statement"]}

    named = statements("releaser", "--launch-template", "lt-0a1b2c3d", "--launch-template", "lt-0a1b2c3e")
    assert [arn.rpartition("/")[2] for arn in named["LaunchTemplates"]["Resource"]] == ["lt-0a1b2c3d", "lt-0a1b2c3e"]
    key = "arn:aws:kms:us-east-1:123456789012:key/0a1b"
    assert statements("verifier", "--kms-key", key)["BucketKeys"]["Resource"] == [key]
    assert "TagUntagged" in statements("builder"), "nothing is generated yet"
    (tmp_path / "packer").mkdir()
    (tmp_path / "packer/main.pkr.hcl").write_text("# packer-compat: latest\n", encoding="utf-8")
    assert "TagUntagged" not in statements("builder")
    assert "TagUntagged" in statements("builder", "--packer-compat", "1.6")


def test_files_hold_no_character_that_iam_refuses(iam, tmp_path):
    path = tmp_path / "splitbake.yaml"
    text = path.read_text(encoding="utf-8").replace('models/centerface.onnx"', 'models/얼굴.onnx"')
    path.write_text(text, encoding="utf-8")
    iam("--out", str(tmp_path / "iam"))
    texts = [one.read_text(encoding="utf-8") for one in (tmp_path / "iam").iterdir()]
    assert any("\\uc5bc" in text for text in texts)
    assert all(text.isascii() for text in texts)
    shown = iam("github", "--repository", "a/b", "--ref", "refs/heads/얼굴").stdout
    assert shown.isascii()
    assert lets_in(json.loads(shown), "repo:a/b:ref:refs/heads/얼굴")


def test_the_command_refuses_what_means_nothing(iam):
    with pytest.raises(UsageError, match="are for: splitbake iam github"):
        iam("builder", "--ref", "refs/heads/main")
    with pytest.raises(UsageError, match="not one repository"):
        iam("github")
