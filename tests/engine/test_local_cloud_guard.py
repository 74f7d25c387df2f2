"""The local cloud refuses whoever does not hold the key of this `up`."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from splitbake.local import throttle

pytestmark = pytest.mark.engine

BODY = "Action=GetCallerIdentity&Version=2011-06-15"
FORM = "application/x-www-form-urlencoded; charset=utf-8"


@pytest.fixture
def call(cloud):
    """Send a signed call, changed after it was signed; returns status and body."""

    def send(*, body=BODY, access_key=None, secret_key=None, path="/", signed=True, headers=None, host=None):
        credentials = Credentials(access_key or cloud.access_key, secret_key or cloud.secret_key)
        request = AWSRequest("POST", cloud.endpoint + path, data=BODY, headers={"Content-Type": FORM})
        if signed:
            SigV4Auth(credentials, "sts", cloud.region).add_auth(request)
        sent = dict(request.headers) | (headers or {}) | ({"Host": host} if host else {})
        raw = urllib.request.Request(cloud.endpoint + path, data=body.encode(), headers=sent, method="POST")  # noqa: S310
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(raw, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as problem:
            return problem.code, problem.read().decode()

    return send


def test_a_signed_call_comes_through(call, cloud):
    status, body = call()
    assert status == 200
    assert cloud.account in body


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"headers": {"Origin": "http://evil.example"}}, "Origin"),
        ({"host": "evil.example"}, "Host"),
        ({"host": "localhost"}, "Host"),
        ({"signed": False}, "not signed"),
        ({"access_key": "AKIAIOSFODNN7EXAMPLE"}, "access key"),
        ({"secret_key": "wrong"}, "signature does not match"),
        ({"body": BODY.replace("GetCallerIdentity", "GetSessionToken")}, "signature does not match"),
        ({"path": "/moto-api/reset"}, "closed"),
        ({"path": "/latest/meta-data/iam/security-credentials/role"}, "closed"),
        ({"headers": {"X-Amz-Date": "20200101T000000Z"}}, "too old"),
        ({"headers": {"X-Amz-Date": "yesterday"}}, "no valid date"),
        ({"headers": {"Authorization": "AWS4-HMAC-SHA256 Credential=a"}}, "malformed"),
    ],
)
def test_everything_else_is_refused_and_logged(call, cloud, change, reason):
    before = cloud.log.stat().st_size
    status, body = call(**change)
    assert status == 403
    assert "<Code>AccessDenied</Code>" in body
    assert reason in body
    with cloud.log.open() as log:
        log.seek(before)
        text = log.read()
    assert "refused POST" in text
    assert cloud.secret_key not in text


def test_a_json_service_is_refused_in_json(cloud):
    session = boto3.Session(cloud.access_key, "wrong", region_name=cloud.region)
    with pytest.raises(ClientError, match=r"AccessDeniedException.*secret key"):
        session.client("ssm", endpoint_url=cloud.endpoint).get_parameter(Name="x")


def test_no_answer_carries_cross_origin_permissions(cloud, aws):
    headers = aws("sts").get_caller_identity()["ResponseMetadata"]["HTTPHeaders"]
    assert not [name for name in headers if name.startswith("access-control")]


def test_it_listens_on_its_own_bridge_and_on_nothing_else(cloud):
    port = urlsplit(cloud.endpoint).port
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert urlsplit(cloud.endpoint).hostname == cloud.gateway


def test_a_presigned_url_stays_with_s3_whatever_is_sent_along(cloud, aws):
    s3 = aws("s3")
    s3.create_bucket(Bucket="led-astray")
    s3.put_object(Bucket="led-astray", Key="key", Body=b"content")
    session = boto3.Session(cloud.access_key, cloud.secret_key, region_name=cloud.region)
    signer = session.client("s3", endpoint_url=cloud.endpoint, config=Config(signature_version="s3v4"))
    url = signer.generate_presigned_url("get_object", Params={"Bucket": "led-astray", "Key": "key"})
    body = b"Action=DescribeInstances&Version=2016-11-15"
    request = urllib.request.Request(url, data=body, headers={"Content-Type": FORM}, method="GET")  # noqa: S310
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request) as answer:
        assert answer.read() == b"content"


def test_a_presigned_url_is_for_one_object_and_one_method(cloud, aws):
    s3 = aws("s3")
    s3.create_bucket(Bucket="guarded")
    for key in ("one", "two"):
        s3.put_object(Bucket="guarded", Key=key, Body=key.encode())
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "guarded", "Key": "one"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    assert direct.open(url).read() == b"one"
    for stolen in (url.replace("/one", "/two"), urllib.request.Request(url, data=b"x", method="PUT")):  # noqa: S310
        with pytest.raises(urllib.error.HTTPError) as refusal:
            direct.open(stolen)
        assert refusal.value.code == 403
        refusal.value.close()
    assert s3.get_object(Bucket="guarded", Key="one")["Body"].read() == b"one"


def test_calls_fail_on_demand_and_a_client_gets_through(cloud):
    patient, hasty = (Config(retries={"total_max_attempts": number, "mode": "standard"}) for number in (5, 1))
    session = boto3.Session(cloud.access_key, cloud.secret_key, region_name=cloud.region)

    def told(config):
        s3 = session.client("s3", endpoint_url=cloud.endpoint, config=config)
        ec2 = session.client("ec2", endpoint_url=cloud.endpoint, config=config)
        return [s3.list_buckets()["ResponseMetadata"], ec2.describe_volumes()["ResponseMetadata"]]

    throttle.set_every(cloud.directory, 2)
    try:
        assert [one["RetryAttempts"] for one in told(patient)] == [0, 1]
        with pytest.raises(ClientError, match="503"):
            told(hasty)
    finally:
        throttle.set_every(cloud.directory, 0)
    assert [one["RetryAttempts"] for one in told(patient)] == [0, 0]
