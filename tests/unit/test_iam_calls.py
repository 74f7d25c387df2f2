"""Recorded calls as lines of a file, and the sessions that the guard lets in."""

from __future__ import annotations

import io
import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.auth import S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from splitbake.iam.calls import Call, read
from splitbake.local.calls import CALLER, Caller, Recorder, masked, paths
from splitbake.local.guard import Guard, Refused
from splitbake.local.keys import Key, Keyring
from splitbake.local.sessions import Session

HOST, ACCOUNT = "10.0.0.1:5000", "123456789012"
ARN = f"arn:aws:sts::{ACCOUNT}:assumed-role/builder/me"


def call(**more: Any) -> Call:
    return Call(
        **{
            "service": "ec2",
            "operation": "DescribeImages",
            "principal": ARN,
            "account": ACCOUNT,
            "region": "us-east-1",
            **more,
        }
    )


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner, max_size=3)
)


@given(parameters=st.dictionaries(st.text(), plain, max_size=3), error=st.text())
def test_a_call_is_read_as_it_was_written_on_one_line(parameters, error):
    one = call(parameters=parameters, error=error, actions=(("ec2:DescribeImages", "*"),))
    assert "\n" not in one.line()
    assert Call.of(one.line()) == one


@pytest.mark.parametrize(("principal", "role"), [(ARN, "builder"), (f"arn:aws:iam::{ACCOUNT}:root", ""), ("", "")])
def test_the_role_of_a_call(principal, role):
    assert call(principal=principal).role == role


def test_calls_are_read_in_order_from_a_time_on_and_half_a_line_is_not_one(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_text(call(time="2026-01-01T00:00:00.000+00:00").line() + "\n", encoding="utf-8")
    second.write_text(call(time="2026-01-02T00:00:00.000+00:00").line() + "\n" + '{"half', encoding="utf-8")
    assert [one.time[:10] for one in read(first, tmp_path / "none", second)] == ["2026-01-01", "2026-01-02"]
    since = datetime(2026, 1, 1, 23, 30, tzinfo=UTC)
    assert [one.time[:10] for one in read(first, second, since=since)] == ["2026-01-02"]
    east = since.astimezone(tz=datetime.now().astimezone().tzinfo)
    assert [one.time[:10] for one in read(first, second, since=east)] == ["2026-01-02"]


@pytest.fixture
def recorder(tmp_path):
    made = Recorder(tmp_path, limit=3000)
    made.start()
    yield made
    made.close()


def test_the_files_stay_below_twice_their_limit_and_keep_the_latest(recorder, tmp_path):
    size = len(call(time="0000").line()) + 1
    for number in range(200):
        recorder.put(lambda number=number: call(time=f"{number:04}"))
    recorder.close()
    before, now = paths(tmp_path)
    assert before.stat().st_size <= 3000 + size
    assert (now.stat().st_size if now.exists() else 0) <= 3000 + size
    kept = [int(one.time) for one in read(before, now)]
    assert kept == list(range(kept[0], 200))
    recorder.start()


def test_a_call_that_cannot_be_written_takes_no_other_along(recorder, tmp_path, caplog):
    def broken() -> Call:
        raise ValueError("broken")

    recorder.put(broken)
    recorder.put(lambda: call(time="after"))
    recorder.close()
    assert [one.time for one in read(*paths(tmp_path))] == ["after"]
    assert "could not be recorded" in caplog.text
    recorder.start()


def test_who_puts_a_call_waits_for_nothing(tmp_path, caplog):
    made, go_on = Recorder(tmp_path), threading.Event()
    made._calls.maxsize = 2

    def slow() -> Call:
        go_on.wait()
        return call()

    for _ in range(5):
        made.put(slow)
    assert made._lost == 3
    made.start()
    go_on.set()
    made.close()
    assert len(list(read(*paths(tmp_path)))) == 2
    assert "3 calls came faster" in caplog.text


@pytest.mark.parametrize(
    ("service", "operation", "parameters", "shown"),
    [
        ("ssm", "PutParameter", {"Name": "/a", "Value": "secret"}, {"Name": "/a", "Value": "********"}),
        ("ec2", "RunInstances", {"UserData": "secret"}, {"UserData": "********"}),
        (
            "ec2",
            "CreateLaunchTemplateVersion",
            {"LaunchTemplateData": {"UserData": "secret", "ImageId": "ami-1"}},
            {"LaunchTemplateData": {"UserData": "********", "ImageId": "ami-1"}},
        ),
        (
            "batch",
            "SubmitJob",
            {"containerOverrides": {"environment": [{"name": "A", "value": "secret"}]}},
            {"containerOverrides": {"environment": [{"name": "A", "value": "********"}]}},
        ),
        (
            "codebuild",
            "StartBuild",
            {"environmentVariablesOverride": [{"name": "A", "value": "secret", "type": "PLAINTEXT"}]},
            {"environmentVariablesOverride": [{"name": "A", "value": "********", "type": "PLAINTEXT"}]},
        ),
        ("ec2", "ImportKeyPair", {"PublicKeyMaterial": b"12345"}, {"PublicKeyMaterial": "(5 bytes)"}),
        ("ec2", "DescribeImages", {"Filters": [{"Name": "name", "Values": ["x"]}]}, None),
        ("ec2", "CreateTags", {"Tags": [{"Key": "name", "Value": "x"}]}, None),
        ("none", "", {"a": 1}, None),
    ],
)
def test_secrets_of_a_call_are_masked_and_the_rest_is_kept(service, operation, parameters, shown):
    one = masked(call(service=service, operation=operation, parameters=parameters))
    assert one.parameters == (parameters if shown is None else shown)
    json.loads(one.line())


def test_long_texts_are_cut():
    text = masked(call(operation="", parameters={"a": "x" * 5000})).parameters["a"]
    assert len(text) < 2100
    assert text.endswith("… (5000 characters)")


SESSION = Session(
    account=ACCOUNT,
    id="ASIAEXAMPLE",
    secret="secret",
    arn=ARN,
    role="builder",
    token="token",
    expires=datetime.now(UTC) + timedelta(hours=1),
)


def guard(session: Session = SESSION) -> Guard:
    keys = Keyring(Key(ACCOUNT, "AKIAEXAMPLE", "other"))
    return Guard(
        app=lambda *_: [b"app"],
        host=HOST,
        cloud_id="c1",
        keys=keys,
        sessions=lambda key_id: session if key_id == session.id else None,
    )


def signed(token: str | None = SESSION.token) -> dict[str, Any]:
    request = AWSRequest("POST", f"http://{HOST}/", data=b"Action=X", headers={})
    SigV4Auth(Credentials(SESSION.id, SESSION.secret, token), "ec2", "us-east-1").add_auth(request)
    return environ(request, b"Action=X")


def environ(request: AWSRequest, body: bytes = b"") -> dict[str, Any]:
    sent = request.prepare()
    path, _, query = sent.url.partition(HOST)[2].partition("?")
    headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()}
    return {
        **{name: value.decode() if isinstance(value, bytes) else value for name, value in headers.items()},
        "REQUEST_METHOD": request.method,
        "HTTP_HOST": HOST,
        "PATH_INFO": path,
        "REQUEST_URI": f"{path}?{query}" if query else path,
        "QUERY_STRING": query,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }


def test_a_session_comes_in_as_its_role_and_an_account_as_its_root():
    seen = signed()
    guard().check(seen)
    assert seen[CALLER] == Caller(ARN, ACCOUNT, "ec2", "us-east-1", "builder")


@pytest.mark.parametrize("token", [None, "", "other"])
def test_a_session_needs_its_token(token):
    with pytest.raises(Refused, match="session token is not the one"):
        guard().check(signed(token))


def test_a_session_ends(monkeypatch):
    import time

    later = time.time() + 3700
    expired = Session(**{**SESSION.__dict__, "expires": datetime.now(UTC) + timedelta(seconds=1)})
    monkeypatch.setattr("splitbake.local.guard.time.time", lambda: later - 3695)
    with pytest.raises(Refused, match="session of the role has expired"):
        guard(expired).check(signed())


def test_a_presigned_url_of_a_session_carries_its_token():
    request = AWSRequest("GET", f"http://{HOST}/bucket/key")
    S3SigV4QueryAuth(Credentials(SESSION.id, SESSION.secret, "token"), "s3", "us-east-1", expires=60).add_auth(request)
    seen = environ(request)
    guard().check(seen)
    assert seen[CALLER].role == "builder"
    without = environ(request)
    for name in ("QUERY_STRING", "REQUEST_URI"):
        without[name] = without[name].replace("Security-Token=token", "Security-Token=other")
    with pytest.raises(Refused, match="session token"):
        guard().check(without)


def test_nothing_secret_shows():
    assert "token='token'" not in repr(SESSION)
    assert "secret='secret'" not in repr(SESSION)
