"""Before anything is changed: account, region and endpoint must be those of the environment."""

from __future__ import annotations

import pytest
from moto import mock_aws

from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError, GuardError
from splitbake.manifest import Environment

ACCOUNT = "123456789012"  # the account that moto answers for


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


def cloud(account: str = ACCOUNT, endpoint: str = "aws") -> Cloud:
    return Cloud("dev", Environment(account=account, region="eu-west-1", endpoint=endpoint))


@mock_aws
def test_the_right_account_passes_and_is_shown():
    identity = cloud().guard()
    assert (identity.account, identity.region, identity.endpoint) == (ACCOUNT, "eu-west-1", None)
    assert str(identity) == f"account {ACCOUNT}, region eu-west-1, endpoint AWS"


@mock_aws
def test_the_wrong_account_is_refused_with_both_named():
    with pytest.raises(GuardError, match=f"belongs to account 999999999999, .* belong to {ACCOUNT}") as caught:
        cloud(account="999999999999").guard()
    assert "AWS_PROFILE" in caught.value.hint


def test_an_environment_of_aws_refuses_an_endpoint_before_any_call(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(GuardError, match="is on AWS, but AWS_ENDPOINT_URL points to"):
        cloud().guard()


@pytest.mark.parametrize("value", [None, ""])
def test_an_environment_of_an_endpoint_refuses_aws_before_any_call(monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", value)
    with pytest.raises(GuardError, match="AWS_ENDPOINT_URL is not set") as caught:
        cloud(endpoint="custom").guard()
    assert "local up" in caught.value.hint


def test_an_unreachable_endpoint_and_missing_credentials_are_told(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(CloudError, match="could not ask STS who is calling") as caught:
        cloud(endpoint="custom").guard()
    assert "endpoint" in caught.value.hint
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(CloudError, match="Unable to locate credentials") as caught:
        cloud(endpoint="custom").guard()
    assert "AWS_PROFILE" in caught.value.hint


@mock_aws
def test_an_answer_of_aws_keeps_its_code():
    expected = "could not read the parameter: GetParameter answered ParameterNotFound"
    with pytest.raises(CloudError, match=expected) as caught, aws_errors("read the parameter"):
        cloud().client("ssm").get_parameter(Name="/none")
    assert error_code(caught.value) == "ParameterNotFound"


@mock_aws
def test_a_client_is_made_once():
    one = cloud()
    assert one.client("sts") is one.client("sts")


def test_no_other_setting_leads_a_client_past_the_guarded_endpoint(monkeypatch, tmp_path):
    configuration = tmp_path / "config"
    configuration.write_text("[default]\nendpoint_url = http://elsewhere:1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", "http://elsewhere:2")
    assert cloud().client("ec2").meta.endpoint_url == "https://ec2.eu-west-1.amazonaws.com"
    assert cloud().client("sts").meta.endpoint_url == "https://sts.eu-west-1.amazonaws.com"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert cloud(endpoint="custom").client("ec2").meta.endpoint_url == "http://127.0.0.1:9"


def test_what_makes_no_client_is_told(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(CloudError, match="AWS_ENDPOINT_URL is 'nonsense'"):
        cloud(endpoint="custom").guard()
    monkeypatch.setenv("AWS_PROFILE", "not-there")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(CloudError, match="not-there") as caught:
        cloud(endpoint="custom").guard()
    assert "AWS_PROFILE" in caught.value.hint


def test_an_answer_that_is_not_of_aws_is_told():
    from botocore.parsers import ResponseParserError

    with pytest.raises(CloudError, match="could not look: the answer is not one of AWS") as caught, aws_errors("look"):
        raise ResponseParserError("Unable to parse response\n<html>")
    assert "proxy" in caught.value.hint
