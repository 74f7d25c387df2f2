"""The protocol of the metadata service, call by call."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Network
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake.local import metadata
from splitbake.local.imds import LONGEST_TTL, Metadata, Service

TREE = {
    "meta-data": {
        "instance-id": "i-1",
        "placement": {"region": "us-east-1"},
        "public-keys": {"0=login": {"openssh-key": "ssh-ed25519 AAAA"}},
        "iam": {"security-credentials": {"baker": lambda: "made when asked"}},
        "tags": {"instance": {"a=b": "equals", "a": "plain"}},
    },
    "user-data": b"\x00\xff",
}
REQUIRED = Metadata(TREE)
TTL = "x_aws_ec2_metadata_token_ttl_seconds"
TOKEN = "x_aws_ec2_metadata_token"


def service(metadata=REQUIRED, key=b"k"):
    return Service(lambda: metadata, key, IPv4Network("192.0.2.0/24"))


def token(of=None, seconds="60"):
    return (of or service()).answer("PUT", "/latest/api/token", {TTL: seconds}, local=True).body.decode()


def get(path, of=None, *, local=True, **headers):
    of = of or service()
    return of.answer("GET", path, headers or {TOKEN: token(of)}, local=local)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/latest/meta-data/instance-id", "i-1"),
        ("/2021-03-23/meta-data/instance-id", "i-1"),
        ("/latest/meta-data/", "instance-id\nplacement/\npublic-keys/\niam/\ntags/"),
        ("/latest/meta-data/placement", "region"),
        ("/latest/meta-data/public-keys/", "0=login"),
        ("/latest/meta-data/public-keys/0", "openssh-key"),
        ("/latest/meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAA"),
        ("/latest/meta-data/iam/security-credentials/", "baker"),
        ("/latest/meta-data/iam/security-credentials/baker", "made when asked"),
        ("/latest/meta-data/tags/instance/a", "plain"),
        ("/latest/meta-data/tags/instance/a=b", "equals"),
    ],
)
def test_what_is_told(path, text):
    answer = get(path)
    assert (answer.status, answer.body.decode()) == (200, text)


def test_user_data_are_bytes():
    assert get("/latest/user-data").body == b"\x00\xff"


@pytest.mark.parametrize("path", ["/latest/none", "/1999-01-01/meta-data/", "/latest/meta-data/instance-id/more"])
def test_what_is_not_there(path):
    assert get(path).status == 404


def test_versions_are_listed():
    assert get("/").body.decode().splitlines()[-1] == "latest"


def test_without_a_token_only_where_they_are_optional():
    assert get("/latest/meta-data/instance-id", accept="*/*").status == 401
    optional = service(replace(REQUIRED, tokens_required=False))
    assert get("/latest/meta-data/instance-id", optional, accept="*/*").status == 200
    assert get("/latest/meta-data/instance-id", optional, **{TOKEN: "wrong"}).status == 401


@pytest.mark.parametrize("seconds", ["", "0", "-1", str(LONGEST_TTL + 1), "1e3", "60 ", "999999999"])
def test_a_token_needs_a_life_of_one_second_to_six_hours(seconds):
    assert service().answer("PUT", "/latest/api/token", {TTL: seconds}, local=True).status == 400
    assert service().answer("PUT", "/latest/api/token", {}, local=True).status == 400


def test_the_answer_repeats_the_life_of_the_token():
    answer = service().answer("PUT", "/latest/api/token", {TTL: "21600"}, local=True)
    assert answer.headers == (("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600"),)


def test_a_token_ends(monkeypatch):
    mine = token(seconds="60")
    assert get("/latest/meta-data/instance-id", **{TOKEN: mine}).status == 200
    later = time.time() + 62
    monkeypatch.setattr(time, "time", lambda: later)
    assert get("/latest/meta-data/instance-id", **{TOKEN: mine}).status == 401


def test_a_token_is_for_one_instance():
    other = token(service(key=b"another"))
    assert get("/latest/meta-data/instance-id", **{TOKEN: other}).status == 401


@given(st.text(alphabet=st.characters(codec="latin-1")))
def test_a_made_up_token_is_refused(text):
    assert get("/latest/meta-data/instance-id", **{TOKEN: text}).status == 401
    assert get("/latest/meta-data/instance-id", **{TOKEN: f"{time.time() + 60:.0f}-{text}"}).status == 401


def test_a_proxy_gets_no_token():
    headers = {TTL: "60", "x_forwarded_for": "203.0.113.1"}
    assert service().answer("PUT", "/latest/api/token", headers, local=True).status == 403


def test_a_token_goes_as_far_as_the_hop_limit():
    near = service(replace(REQUIRED, hop_limit=1))
    assert near.answer("PUT", "/latest/api/token", {TTL: "60"}, local=True).status == 200
    with pytest.raises(ConnectionAbortedError):
        near.answer("PUT", "/latest/api/token", {TTL: "60"}, local=False)
    assert service().answer("PUT", "/latest/api/token", {TTL: "60"}, local=False).status == 200
    assert get("/latest/meta-data/instance-id", near, local=False, **{TOKEN: token(near)}).status == 200


def test_a_disabled_endpoint_says_nothing_else():
    silent = service(replace(REQUIRED, enabled=False))
    assert silent.answer("PUT", "/latest/api/token", {TTL: "60"}, local=True).status == 403
    assert get("/latest/meta-data/instance-id", silent, accept="*/*").status == 403


@pytest.mark.parametrize(("method", "path"), [("POST", "/latest/"), ("PUT", "/latest/"), ("GET", "/latest/api/token")])
def test_other_methods_are_not_allowed(method, path):
    assert service().answer(method, path, {TTL: "60", TOKEN: token()}, local=True).status == 405


def test_as_an_application():
    seen = []
    mine = service()
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/latest/meta-data/instance-id", "REMOTE_ADDR": "169.254.169.254"}
    environ["HTTP_X_AWS_EC2_METADATA_TOKEN"] = token(mine)
    assert mine(environ, lambda status, headers: seen.append((status, headers))) == [b"i-1"]
    assert mine(environ | {"REQUEST_METHOD": "HEAD"}, lambda status, headers: seen.append((status, headers))) == []
    assert seen[0] == seen[1] == ("200 OK", [("Content-Type", "text/plain")])


@pytest.mark.parametrize(
    ("caller", "answered"),
    [
        ("169.254.169.254", True),  # the instance itself, as the kernel chooses
        ("192.0.2.2", True),  # the instance itself, by its own address
        ("172.17.0.2", True),  # a container of it
        ("192.0.2.3", False),  # another instance
        ("192.0.2.1", False),  # this machine
    ],
)
def test_only_the_instance_and_what_is_in_it_hear_an_answer(caller, answered):
    of = service(replace(REQUIRED, tokens_required=False, address="192.0.2.2"))
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/latest/meta-data/instance-id", "REMOTE_ADDR": caller}
    if answered:
        assert of(environ, lambda *_: None) == [b"i-1"]
    else:
        with pytest.raises(ConnectionAbortedError, match=caller):
            of(environ, lambda *_: None)


def test_a_role_gets_new_credentials_before_the_old_ones_end(monkeypatch):
    backend = SimpleNamespace(account_id="123456789012", region_name="us-east-1", partition="aws")
    instance, role = SimpleNamespace(id="i-1"), "arn:aws:iam::123456789012:role/baker"
    mine, now = metadata.InstanceMetadata(), metadata.utcnow()

    def told(after):
        monkeypatch.setattr(metadata, "utcnow", lambda: now + after)
        return json.loads(mine._credentials(backend, instance, role))

    first = told(timedelta())
    assert first["Code"] == "Success"
    renewal = metadata.SESSION - metadata.RENEW_BEFORE
    assert told(renewal - timedelta(minutes=1)) == first
    assert told(renewal + timedelta(minutes=1))["AccessKeyId"] != first["AccessKeyId"]
