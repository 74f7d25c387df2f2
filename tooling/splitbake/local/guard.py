"""The gate in front of the local cloud: only calls signed with a key of this ``up`` come through.

The cloud runs code for whoever can call it, so it refuses what a web page could send (an Origin header, a foreign
Host: DNS rebinding), moto's own routes, and every call whose AWS signature does not verify. The signature of a
streamed or ``UNSIGNED-PAYLOAD`` body covers its headers only, as on AWS over plain HTTP. What comes through is booked
on the credential scope and the account that were verified: moto would else guess the service from parts of a call that
nobody signed, and take the account from a header.
"""

from __future__ import annotations

import hmac
import io
import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from splitbake.local.calls import CALLER, Caller
from splitbake.local.keys import Key, Keyring
from splitbake.local.sessions import Session

log = logging.getLogger("splitbake.local.guard")

#: How far the clock of a caller may be off, as AWS has it.
CLOCK_SKEW = timedelta(minutes=15)

#: Longest life of a presigned URL, as AWS has it.
LONGEST_LIFETIME = timedelta(days=7)

#: Largest body that is read before the signature is known to hold; only S3 takes larger ones, and S3 states the
#: digest in a header, so that the body can be checked after it.
MAX_SIGNED_BODY = 64 * 2**20

_SHA256 = re.compile(r"[0-9a-f]{64}")

#: Routes of moto itself (reset, dashboard, a metadata service that gives out keys to anyone).
_CLOSED = ("/moto-api", "/favicon.ico", "/latest/meta-data", "/latest/api")

#: Answered for anyone on this machine: which cloud is this? It tells `up` whether its own server listens here.
PROBE = "/.splitbake"
PROBE_HEADER = "x-splitbake-cloud"

#: The header by which moto books a call on an account; whatever a caller wrote there is replaced.
ACCOUNT_HEADER = "HTTP_X_MOTO_ACCOUNT_ID"

Environ = dict[str, Any]


class Refused(Exception):  # noqa: N818
    """The call does not come through; the text says why."""


@dataclass(frozen=True)
class Guard:
    """A WSGI application in front of another one.

    Attributes:
        app: what answers the calls that come through.
        host: the only Host header that is let in, ``address:port``.
        cloud_id: what the probe answers.
        keys: the access keys that are known, and the secrets that signatures are checked with.
        sessions: finds the session of a role by its access key.
    """

    app: Callable[..., Iterable[bytes]]
    host: str
    cloud_id: str
    keys: Keyring
    sessions: Callable[[str], Session | None] = field(default=lambda _: None)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Check one call and pass it on, or answer 403."""
        if environ.get("PATH_INFO") == PROBE:
            start_response("204 No Content", [(PROBE_HEADER, self.cloud_id)])
            return []
        try:
            self.check(environ)
        except Refused as problem:
            log.warning(
                "refused %s %s from %s: %s",
                environ["REQUEST_METHOD"],
                ascii(environ.get("PATH_INFO", "")),
                environ.get("REMOTE_ADDR"),
                problem,
            )
            return self._refuse(environ, start_response, str(problem))
        return self.app(environ, start_response)

    def check(self, environ: Environ) -> None:
        """Raise :class:`Refused` unless the call may come through."""
        if "HTTP_ORIGIN" in environ:
            raise Refused("Calls from web pages (with an Origin header) are not allowed.")
        if environ.get("HTTP_HOST") != self.host:
            raise Refused(f"The Host of this local cloud is {self.host}.")
        path = unquote(environ.get("PATH_INFO", ""))
        if any(path == closed or path.startswith(closed) for closed in _CLOSED):
            raise Refused("This route is closed in the local cloud.")
        query = {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        if environ.get("HTTP_AUTHORIZATION", "").startswith("AWS4-HMAC-SHA256 "):
            self._check_header(environ)
        elif "HTTP_AUTHORIZATION" in environ:
            raise Refused("Only Signature Version 4 and presigned URLs are known here.")
        elif "X-Amz-Credential" in query:
            self._check_presigned(environ, query)
        elif "AWSAccessKeyId" in query:
            self._check_presigned_v2(environ, query)
        else:
            raise Refused("The call is not signed. `splitbake local env` prints the credentials of this cloud.")

    def _check_header(self, environ: Environ) -> None:
        _, _, rest = environ["HTTP_AUTHORIZATION"].partition(" ")
        fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        stamp = environ.get("HTTP_X_AMZ_DATE", "")
        if abs(_now() - _moment(stamp)) > CLOCK_SKEW:
            raise Refused("The signature is too old, or the caller's clock is wrong.")
        self._check_v4(environ, fields, stamp, environ.get("QUERY_STRING", ""))

    def _check_presigned(self, environ: Environ, query: dict[str, str]) -> None:
        stamp = query.get("X-Amz-Date", "")
        seconds = min(_number(query.get("X-Amz-Expires", "")), LONGEST_LIFETIME.total_seconds())
        if not -CLOCK_SKEW <= _now() - _moment(stamp) <= timedelta(seconds=seconds):
            raise Refused("The presigned URL has expired.")
        names = ("Credential", "SignedHeaders", "Signature", "Security-Token")
        fields = {name: query.get(f"X-Amz-{name}", "") for name in names}
        pairs = environ.get("QUERY_STRING", "").split("&")
        unsigned = "&".join(pair for pair in pairs if not pair.startswith("X-Amz-Signature="))
        self._check_v4(environ, fields, stamp, unsigned, presigned=True)

    def _check_v4(
        self, environ: Environ, fields: dict[str, str], stamp: str, query: str, *, presigned: bool = False
    ) -> None:
        """Compute Signature Version 4 as the caller should have, with botocore's own signer."""
        from botocore.auth import S3SigV4Auth, SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        scope = fields.get("Credential", "").split("/")
        if len(scope) != 5:  # noqa: PLR2004 - key, date, region, service, aws4_request
            raise Refused("The credential scope of the signature is malformed.")
        token = fields.get("Security-Token") or environ.get("HTTP_X_AMZ_SECURITY_TOKEN", "")
        key = self._key(scope[0], token)
        names = fields.get("SignedHeaders", "").split(";")
        needed = {"HTTP_HOST", *(key for key in environ if key.startswith("HTTP_X_AMZ_"))}
        if uncovered := sorted(needed - {_header_key(name) for name in names}):
            raise Refused(f"The signature does not cover the header {_header_name(uncovered[0])}.")
        signer_type: Any = S3SigV4Auth if scope[3] == "s3" else SigV4Auth
        signer = signer_type(Credentials(key.id, key.secret), scope[3], scope[2])
        signed = {name: environ.get(_header_key(name), "") for name in names}
        request = AWSRequest(environ["REQUEST_METHOD"], _url(environ, self.host, query), headers=signed)
        request.context["timestamp"] = stamp
        signer.headers_to_sign = lambda request: request.headers
        stated = "UNSIGNED-PAYLOAD" if presigned and scope[3] == "s3" else environ.get("HTTP_X_AMZ_CONTENT_SHA256")
        payload = stated or _body_digest(environ, trusted=False)
        signer.payload = lambda _: payload
        canonical = signer.canonical_request(request)
        expected = signer.signature(signer.string_to_sign(request, canonical), request)
        self._compare(expected, fields.get("Signature", ""))
        if stated and _SHA256.fullmatch(stated) and _body_digest(environ, trusted=True) != stated:
            raise Refused("The body is not the one whose digest was signed.")
        _book(environ, key, "/".join(scope), fields["SignedHeaders"])

    def _check_presigned_v2(self, environ: Environ, query: dict[str, str]) -> None:
        """Check the older query signature, which boto3 still makes for S3 in some regions by default."""
        from botocore.auth import HmacV1QueryAuth
        from botocore.compat import HTTPHeaders
        from botocore.credentials import Credentials

        key = self._key(query["AWSAccessKeyId"], "")
        if _now().timestamp() > _number(query.get("Expires", "")):
            raise Refused("The presigned URL has expired.")
        signer: Any = HmacV1QueryAuth(Credentials(key.id, key.secret))
        signer._get_date = lambda: query["Expires"]
        headers = HTTPHeaders()
        for name in ("CONTENT_TYPE", "HTTP_CONTENT_MD5", *(one for one in environ if one.startswith("HTTP_X_AMZ_"))):
            if environ.get(name):
                headers[_header_name(name)] = environ[name]
        url = urlsplit(_url(environ, self.host, environ.get("QUERY_STRING", "")))
        self._compare(signer.get_signature(environ["REQUEST_METHOD"], url, headers), query.get("Signature", ""))
        _book(environ, key, f"{key.id}/-/us-east-1/s3/aws4_request", "host")

    def _key(self, key_id: str, token: str) -> Key:
        """Return the key of that id: of an account, or with its token of a role's session."""
        key = self.keys.holder(key_id) or self.sessions(key_id)
        if key is None:
            raise Refused("The access key is not one of this local cloud; each `up` makes new ones.")
        if isinstance(key, Session):
            if not hmac.compare_digest(token.encode(), key.token.encode()):
                raise Refused("The session token is not the one of this access key.")
            if _now() > key.expires:
                raise Refused("The session of the role has expired.")
        return key

    def _compare(self, expected: str, given: str) -> None:
        if not hmac.compare_digest(expected.encode(), given.encode()):
            raise Refused("The signature does not match; the secret key is not the one of this local cloud.")

    def _refuse(self, environ: Environ, start_response: Callable[..., Any], text: str) -> list[bytes]:
        wants_json = "json" in environ.get("CONTENT_TYPE", "") or "HTTP_X_AMZ_TARGET" in environ
        if wants_json:
            kind, body = "application/json", json.dumps({"__type": "AccessDeniedException", "message": text})
        else:
            kind = "text/xml"
            body = (
                "<?xml version='1.0' encoding='UTF-8'?><ErrorResponse><Errors><Error><Code>AccessDenied</Code>"
                f"<Message>{escape(text)}</Message></Error></Errors><Error><Code>AccessDenied</Code>"
                f"<Message>{escape(text)}</Message></Error></ErrorResponse>"
            )
        headers = [("Content-Type", kind), ("Connection", "close")]
        start_response("403 Forbidden", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body.encode()]


def _url(environ: Environ, host: str, query: str) -> str:
    """Return the URL as the caller wrote it: a signature covers the path before it is decoded."""
    path = (environ.get("REQUEST_URI") or "/").partition("?")[0]
    return f"http://{host}{path}" + (f"?{query}" if query else "")


def _header_key(name: str) -> str:
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def _header_name(key: str) -> str:
    return key.removeprefix("HTTP_").replace("_", "-").lower()


def _book(environ: Environ, key: Key, scope: str, signed_headers: str) -> None:
    """Write down who calls, and the headers by which moto finds service, region and account: only what was verified."""
    _, _, region, service, _ = scope.split("/")
    arn, role = (key.arn, key.role) if isinstance(key, Session) else (f"arn:aws:iam::{key.account}:root", "")
    environ[CALLER] = Caller(arn, key.account, service, region, role)
    environ["HTTP_AUTHORIZATION"] = (
        f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={signed_headers}, Signature=verified"
    )
    environ[ACCOUNT_HEADER] = key.account


def _body_digest(environ: Environ, *, trusted: bool) -> str:
    """Return the SHA-256 of the body, which can be read once more afterwards (moto holds it in memory anyway)."""
    length = _number(environ.get("CONTENT_LENGTH") or "0")
    if length > MAX_SIGNED_BODY and not trusted:
        raise Refused("The body is too large for a call that signs it without stating its digest.")
    chunked = environ.get("wsgi.input_terminated")  # then it has no length, and an end of its own
    body = environ["wsgi.input"].read(-1 if chunked and trusted else length)
    environ["wsgi.input"] = io.BytesIO(body)
    return sha256(body).hexdigest()


def _moment(stamp: str) -> datetime:
    try:
        return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Refused("The signature carries no valid date.") from None


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise Refused("A number is missing in the signed call.")
    return int(text)
