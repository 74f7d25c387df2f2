"""The guard of the local cloud accepts what AWS clients sign, and nothing that was changed after."""

from __future__ import annotations

import io
from urllib.parse import quote, unquote, urlsplit

import pytest
from botocore.auth import HmacV1QueryAuth, S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from splitbake.local.guard import PROBE, PROBE_HEADER, Guard, Refused

HOST = "172.18.0.1:4566"
KEY, SECRET = "AKIAEXAMPLEEXAMPLE00", "secret"
GUARD = Guard(app=lambda environ, start: [b"in"], host=HOST, cloud_id="c1", access_key=KEY, secret_key=SECRET)

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


def signed(path: str = "/", query: str = "", body: bytes = b"", service: str = "s3", method: str = "PUT"):
    """Sign a request as botocore's clients do."""
    url = f"http://{HOST}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, data=body, headers={"Content-Type": "application/octet-stream"})
    signer = S3SigV4Auth if service == "s3" else SigV4Auth
    signer(Credentials(KEY, SECRET), service, "us-east-1").add_auth(request)
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
