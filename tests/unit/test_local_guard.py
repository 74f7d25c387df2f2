"""The guard of the local cloud accepts what AWS clients sign, and nothing that was changed after."""

from __future__ import annotations

import io
from hashlib import sha256
from urllib.parse import quote, unquote, urlsplit

import pytest
from botocore.auth import HmacV1QueryAuth, S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from splitbake.errors import LocalCloudError
from splitbake.local.guard import ACCOUNT_HEADER, PROBE, PROBE_HEADER, Guard, Refused
from splitbake.local.keys import Key, Keyring

HOST = "172.18.0.1:4566"
KEY, SECRET = "AKIAEXAMPLEEXAMPLE00", "secret"
HOME = "123456789012"
KEYS = Keyring(Key(HOME, KEY, SECRET))
GUARD = Guard(app=lambda environ, start: [b"in"], host=HOST, cloud_id="c1", keys=KEYS)

keys = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(
    lambda key: key.strip("/.") == key and "//" not in key and "/." not in key
)


def environ_of(request: AWSRequest, body: bytes = b"") -> dict[str, object]:
    """Return what a WSGI server makes of a request on the wire."""
    url = urlsplit(request.url)
    environ: dict[str, object] = {
        "REQUEST_METHOD": request.method,
        "REQUEST_URI": url.path + (f"?{url.query}" if url.query else ""),
        "PATH_INFO": unquote(url.path),
        "QUERY_STRING": url.query,
        "HTTP_HOST": HOST,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
    return environ


def signed(  # noqa: PLR0917 - the parts of a call
    path: str = "/", query: str = "", body: bytes = b"", service: str = "s3", method: str = "PUT", key: Key = KEYS.home
):
    """Sign a request as botocore's clients do."""
    url = f"http://{HOST}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, data=body, headers={"Content-Type": "application/octet-stream"})
    signer = S3SigV4Auth if service == "s3" else SigV4Auth
    signer(Credentials(key.id, key.secret), service, "us-east-1").add_auth(request)
    return environ_of(request, body)


@given(key=keys, values=st.lists(st.tuples(keys, keys), max_size=3), body=st.binary(max_size=50))
def test_whatever_a_client_signs_comes_through(key, values, body):
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in values)
    GUARD.check(signed("/bucket/" + quote(key), query, body))


@given(body=st.binary(min_size=1, max_size=50), place=st.integers(min_value=0))
def test_a_changed_body_is_refused_and_a_kept_one_can_still_be_read(body, place):
    environ = signed(body=body, service="ec2", method="POST")
    GUARD.check(environ)
    assert environ["wsgi.input"].read() == body
    changed = bytearray(body)
    changed[place % len(body)] ^= 1
    environ = signed(body=body, service="ec2", method="POST") | {"wsgi.input": io.BytesIO(bytes(changed))}
    with pytest.raises(Refused, match="signature does not match"):
        GUARD.check(environ)


@pytest.mark.parametrize("signer", ["v2", "v4"])
@given(key=keys)
def test_presigned_urls_are_for_their_object_only(signer, key):
    request = AWSRequest("GET", f"http://{HOST}/bucket/" + quote(key))
    if signer == "v2":
        HmacV1QueryAuth(Credentials(KEY, SECRET), expires=60).add_auth(request)
    else:
        S3SigV4QueryAuth(Credentials(KEY, SECRET), "s3", "us-east-1", expires=60).add_auth(request)
    GUARD.check(environ_of(request))
    other = environ_of(request)
    other["REQUEST_URI"] = str(other["REQUEST_URI"]).replace("/bucket/", "/bucket/x", 1)
    with pytest.raises(Refused, match="signature does not match"):
        GUARD.check(other)
    with pytest.raises(Refused, match="signature does not match"):
        GUARD.check(environ_of(request) | {"REQUEST_METHOD": "DELETE"})


@pytest.mark.parametrize("signer", ["v2", "v4"])
def test_an_expired_url_is_refused(signer, monkeypatch):
    request = AWSRequest("GET", f"http://{HOST}/bucket/key")
    if signer == "v2":
        HmacV1QueryAuth(Credentials(KEY, SECRET), expires=60).add_auth(request)
    else:
        S3SigV4QueryAuth(Credentials(KEY, SECRET), "s3", "us-east-1", expires=60).add_auth(request)
    import time

    later = time.time() + 3600
    monkeypatch.setattr("splitbake.local.guard.time.time", lambda: later)
    with pytest.raises(Refused, match="expired"):
        GUARD.check(environ_of(request))


@given(st.dictionaries(st.sampled_from(["X-Amz-Credential", "AWSAccessKeyId", "X-Amz-Date", "Expires"]), st.text()))
def test_nonsense_is_refused_not_an_error(query):
    request = AWSRequest(
        "GET", f"http://{HOST}/?" + "&".join(f"{name}={quote(value)}" for name, value in query.items())
    )
    with pytest.raises(Refused):
        GUARD.check(environ_of(request))


@given(st.text(st.characters(codec="ascii")))
def test_a_nonsense_authorization_is_refused(text):
    environ = signed() | {"HTTP_AUTHORIZATION": f"AWS4-HMAC-SHA256 {text}"}
    with pytest.raises(Refused):
        GUARD.check(environ)


def refused(environ, reason):
    with pytest.raises(Refused, match=reason):
        GUARD.check(environ)


def presigned(service: str = "s3", expires: int = 60):
    request = AWSRequest("GET", f"http://{HOST}/bucket/key")
    signer = S3SigV4QueryAuth if service == "s3" else SigV4QueryAuth
    signer(Credentials(KEY, SECRET), service, "us-east-1", expires=expires).add_auth(request)
    return environ_of(request)


def test_a_presigned_url_cannot_be_led_to_another_service():
    # moto guesses the service from these where it sees no signature in a header.
    refused(presigned() | {"HTTP_X_AMZ_TARGET": "AWSBatch.SubmitJob"}, "does not cover the header x-amz-target")
    other = "Signed Credential=x/20260101/us-east-1/ec2/aws4_request"
    refused(presigned() | {"HTTP_AUTHORIZATION": other}, "Only Signature Version 4")
    body = b"Action=RunInstances&Version=2016-11-15"
    environ = presigned() | {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    GUARD.check(environ)
    assert "/us-east-1/s3/aws4_request," in str(environ["HTTP_AUTHORIZATION"])


def test_the_scope_that_was_verified_is_the_one_that_goes_on():
    environ = signed()
    _, _, rest = str(environ["HTTP_AUTHORIZATION"]).partition(" ")
    environ["HTTP_AUTHORIZATION"] = f"AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/ec2/aws4_request, {rest}"
    GUARD.check(environ)
    assert "ec2" not in str(environ["HTTP_AUTHORIZATION"])
    assert f"Credential={KEY}/" in str(environ["HTTP_AUTHORIZATION"])


def test_a_presigned_call_of_another_service_takes_no_body():
    body = b"Action=RunInstances"
    environ = presigned("sts")
    GUARD.check(dict(environ))
    refused(environ | {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}, "does not match")


def test_a_body_must_have_the_digest_that_was_signed_for_it():
    environ = signed(body=b"good")
    assert environ["HTTP_X_AMZ_CONTENT_SHA256"] == sha256(b"good").hexdigest()
    GUARD.check(environ)
    assert environ["wsgi.input"].read() == b"good"
    refused(signed(body=b"good") | {"wsgi.input": io.BytesIO(b"evil")}, "not the one whose digest was signed")


def test_a_large_body_is_read_only_for_who_holds_the_key(monkeypatch):
    monkeypatch.setattr("splitbake.local.guard.MAX_SIGNED_BODY", 3)
    GUARD.check(signed(body=b"four"))
    refused(signed(body=b"four", service="ec2"), "too large")
    environ = signed(body=b"four") | {"HTTP_AUTHORIZATION": "AWS4-HMAC-SHA256 Credential=a/b/c/s3/e"}
    refused(environ, "access key")
    assert environ["wsgi.input"].tell() == 0


def test_metadata_with_an_underscore_is_signed_like_any_other():
    request = AWSRequest("PUT", f"http://{HOST}/b/k", data=b"", headers={"x-amz-meta-made_by": "me"})
    S3SigV4Auth(Credentials(KEY, SECRET), "s3", "us-east-1").add_auth(request)
    GUARD.check(environ_of(request))


def test_a_presigned_url_lives_a_week_at_most(monkeypatch):
    import time

    environ = presigned(expires=10**9)
    later = time.time() + 8 * 24 * 3600
    monkeypatch.setattr("splitbake.local.guard.time.time", lambda: later)
    refused(environ, "expired")


@pytest.mark.parametrize("stamp", ["00010101T000000Z", "99991231T235959Z"])
def test_a_date_at_the_end_of_time_is_refused(stamp):
    query = f"X-Amz-Credential={KEY}/20260101/us-east-1/s3/aws4_request&X-Amz-Date={stamp}&X-Amz-Expires={'9' * 18}"
    refused(environ_of(AWSRequest("GET", f"http://{HOST}/?{query}")), "expired")
    refused(environ_of(AWSRequest("GET", f"http://{HOST}/?{query}9999")), "number")


@given(account=st.from_regex(r"[0-9]{12}", fullmatch=True))
def test_each_account_has_a_key_and_its_calls_are_booked_on_it(account):
    key = KEYS.of(account)
    environ = signed(key=key) | {ACCOUNT_HEADER: "999999999999"}
    GUARD.check(environ)
    assert environ[ACCOUNT_HEADER] == account
    assert f"Credential={key.id}/" in str(environ["HTTP_AUTHORIZATION"])
    assert key.secret not in repr(key)


def test_an_older_presigned_url_is_booked_on_its_account_as_well():
    key = KEYS.of("222222222222")
    request = AWSRequest("GET", f"http://{HOST}/bucket/key")
    HmacV1QueryAuth(Credentials(key.id, key.secret), expires=60).add_auth(request)
    environ = environ_of(request) | {ACCOUNT_HEADER: HOME}
    GUARD.check(environ)
    assert environ[ACCOUNT_HEADER] == "222222222222"


@given(account=st.from_regex(r"[0-9]{12}", fullmatch=True), place=st.integers(0, 15), letter=st.sampled_from("A7"))
def test_no_other_key_id_is_known_and_no_secret_opens_two_accounts(account, place, letter):
    key = KEYS.of(account)
    at = 4 + place
    other = key.id[:at] + letter + key.id[at + 1 :]
    assert KEYS.holder(other) in (None, key)
    assert (KEYS.holder(other) is None) == (other != key.id)
    if account != HOME:
        refused(signed(key=Key(account, key.id, SECRET)), "signature does not match")
        refused(signed(key=Key(HOME, KEY, key.secret)), "signature does not match")


@given(st.text())
def test_a_nonsense_key_id_is_nobodys(text):
    assert KEYS.holder(text) is None
    assert KEYS.holder("AKIA" + text) is None


def test_the_keys_of_two_clouds_differ():
    assert Keyring(Key(HOME, KEY, "other")).holder(KEYS.of("222222222222").id) is None


@pytest.mark.parametrize("account", ["", "12", "1234567890123", "12345678901x", "\uff11" * 12])
def test_what_is_no_account_number_has_no_key(account):
    with pytest.raises(LocalCloudError, match="not the number of an AWS account"):
        KEYS.of(account)


def test_the_probe_says_which_cloud_it_is_and_no_more():
    seen = []
    assert GUARD({"PATH_INFO": PROBE}, lambda status, headers: seen.append((status, headers))) == []
    assert seen == [("204 No Content", [(PROBE_HEADER, "c1")])]


def test_a_refusal_escapes_what_it_says():
    seen = []
    environ = signed() | {"HTTP_HOST": "evil"}
    body = b"".join(GUARD(environ, lambda status, headers: seen.append(status)))
    assert seen == ["403 Forbidden"]
    assert b"<Code>AccessDenied</Code>" in body
    assert SECRET not in repr(GUARD)
