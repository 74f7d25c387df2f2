"""What splitbake says where AWS, or the local cloud, does not permit a call."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from botocore.exceptions import ClientError

from splitbake.cloud import aws_errors
from splitbake.errors import CloudError
from splitbake.iam.calls import Call
from splitbake.iam.evaluate import Request
from splitbake.local import denials

ARN = "arn:aws:sts::123456789012:assumed-role/builder/me"


def told(code: str, message: str) -> CloudError:
    with pytest.raises(CloudError) as problem, aws_errors("start an instance"):
        raise ClientError({"Error": {"Code": code, "Message": message}}, "RunInstances")
    return problem.value


@pytest.mark.parametrize(
    "message",
    [
        # As EC2 and S3 of AWS write it ("Access denied error messages", IAM user guide).
        f"You are not authorized to perform this operation. User: {ARN} is not authorized to perform: iam:PassRole on",
        f"User: {ARN} is not authorized to perform: iam:PassRole with an explicit deny in a service control policy",
    ],
)
def test_the_hint_names_the_action_that_is_missing(message):
    problem = told("UnauthorizedOperation", message)
    assert "the role lacks iam:PassRole" in problem.hint
    assert "splitbake iam" in problem.hint


def test_without_its_name_the_hint_leads_to_the_policies_all_the_same():
    assert "splitbake iam" in told("UnauthorizedOperation", "You are not authorized to perform this operation.").hint


def test_other_refusals_keep_their_hint():
    assert "splitbake iam" not in told("ExpiredToken", "The security token is expired").hint


def call(service: str) -> Call:
    return Call(
        service=service,
        operation="X",
        principal=ARN,
        account="123456789012",
        region="us-east-1",
        error='<b> & "quoted"',
    )


@pytest.mark.parametrize(("service", "code"), [("s3", "AccessDenied"), ("ec2", "UnauthorizedOperation"), ("sts", "AccessDenied")])  # fmt: skip  # noqa: E501
def test_refusals_in_xml_are_well_formed_whatever_they_say(service, code):
    status, headers, body = denials.answer(call(service))
    root = ElementTree.fromstring(body)  # noqa: S314 - of our own
    assert status == "403 Forbidden"
    assert ("Content-Type", "text/xml") in headers
    assert {one.text for one in root.iter("Code")} == {code}
    assert all((one.text or "").endswith('<b> & "quoted"') for one in root.iter("Message"))


@pytest.mark.parametrize(("service", "status"), [("ssm", "400"), ("ecr", "400"), ("batch", "403")])
def test_refusals_in_json(service, status):
    line, headers, body = denials.answer(call(service))
    assert line.startswith(status)
    assert json.loads(body)["message"] == '<b> & "quoted"'
    assert "AccessDeniedException" in body.decode() + str(headers)


def test_the_sentence_is_aws_own():
    request = Request("s3:GetObject", "arn:aws:s3:::b/k")
    assert denials.message(call("s3"), request, "not allowed") == (
        f'User: {ARN} is not authorized to perform: s3:GetObject on resource: "arn:aws:s3:::b/k" because no '
        "identity-based policy allows the s3:GetObject action"
    )
    request = Request("ec2:RunInstances", "arn:aws:ec2:us-east-1:1:instance/*")
    assert denials.message(call("ec2"), request, "explicitly denied") == (
        f"User: {ARN} is not authorized to perform: ec2:RunInstances on resource: arn:aws:ec2:us-east-1:1:instance/* "
        "with an explicit deny in an identity-based policy"
    )
