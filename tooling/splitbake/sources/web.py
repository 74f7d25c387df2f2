"""What all sources behind https share: trust, redirects, whole answers, and errors in words."""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO
from urllib.parse import urljoin, urlsplit

from splitbake.errors import SourceError

_TIMEOUT = 60.0

#: Where programs look for a certificate authority of the company's own; OpenSSL itself reads the first.
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_GONE = {404, 410}
_AGAIN = "run it again; if it stays so, look at the server and the network"


class Web:
    """Asks servers, over https alone unless ``plain``; many threads may ask at once."""

    def __init__(self, *, plain: bool = False) -> None:
        handlers = [urllib.request.HTTPSHandler(context=_trust()), *([] if plain else [_NoPlainHttp()])]
        self._follow = urllib.request.build_opener(*handlers, _Redirects())
        self._stay = urllib.request.build_opener(*handlers, _Redirects(leave=False))

    def ask(self, method: str, uri: str, *, token: str | None = None, form: bytes | None = None) -> HTTPResponse:
        """Return the answer, after redirects, not yet read.

        Args:
            method: of HTTP.
            uri: an address.
            token: goes along as bearer token, and to no other server than that of ``uri``.
            form: an URL-encoded body.

        Raises:
            urllib.error.HTTPError, OSError, HTTPException: which ``told`` puts in words.
            SourceError: it is not https, or redirects from https to what is not.
        """
        answer: HTTPResponse = self._follow.open(_request(method, uri, token, form), timeout=_TIMEOUT)
        return answer

    def leads_to(self, uri: str, *, token: str | None = None) -> str:
        """Return the address on another server that ``uri`` redirects to, or the last one on its own; as ``ask``."""
        try:
            with self._stay.open(_request("HEAD", uri, token, None), timeout=_TIMEOUT) as answer:
                return str(answer.url)
        except urllib.error.HTTPError as problem:
            where = problem.headers.get("Location")
            if problem.code // 100 != 3 or not where:  # noqa: PLR2004 - the class of redirects
                raise
            problem.close()
            return urljoin(problem.url, where)


class Whole:
    """An answer that is an error when it ends before the length that it announced."""

    def __init__(self, answer: HTTPResponse, uri: str) -> None:
        self._answer = answer
        self._uri = unsigned(uri)

    def read(self, size: int, /) -> bytes:
        """See Stream."""
        with told(self._uri):
            chunk = self._answer.read(size)
        if not chunk and self._answer.length:
            raise SourceError(f"{self._uri} broke off {self._answer.length} bytes before its end", hint=_AGAIN)
        return chunk


def origin(uri: str) -> tuple[str, str]:
    """Return scheme and host (with its port) of ``uri``: what may see the same credentials."""
    parts = urlsplit(uri)
    return parts.scheme, parts.netloc.lower()


def unsigned(uri: str) -> str:
    """Return ``uri`` without what may be a secret: query and fragment. In other URIs a ? or # is part of a name."""
    if not uri.lower().startswith(("https:", "http:")):
        return uri
    return urlsplit(uri)._replace(query="", fragment="").geturl()


def strong_tag(headers: HTTPMessage) -> str | None:
    """Return the entity tag if it is a strong one: a weak one (W/…) may stay when bytes change (RFC 9110, 8.8.1)."""
    tag = headers.get("ETag", "")
    return tag.strip('"') if len(tag) > 2 and tag.startswith('"') else None  # noqa: PLR2004 - two quotes


@contextmanager
def told(uri: str) -> Iterator[None]:
    """Turn what urllib raises about ``uri`` into what it means; nothing else may happen inside, such as writing."""
    uri = unsigned(uri)
    try:
        yield
    except urllib.error.HTTPError as problem:
        problem.close()
        if problem.code in _GONE:
            raise SourceError(
                f"{uri} does not exist ({problem.code})", hint="correct from in models.files"
            ) from problem
        raise SourceError(
            f"{uri} answered {problem.code} {problem.reason}", hint="may it be read from here?"
        ) from problem
    except urllib.error.URLError as problem:
        if isinstance(problem.reason, ssl.SSLCertVerificationError):
            raise SourceError(
                f"the certificate of {uri} is not trusted: {problem.reason.verify_message}",
                hint="for a certificate authority of your own, set SSL_CERT_FILE to its bundle",
            ) from problem
        raise SourceError(
            f"{uri} cannot be reached: {problem.reason}", hint="check address, proxy and network"
        ) from problem
    except (OSError, HTTPException) as problem:
        raise SourceError(f"{uri} broke off: {problem}", hint=_AGAIN) from problem


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, to other servers only if ``leave``, and never from https to anything else.

    Credentials stay with the server that they are for.
    """

    def __init__(self, *, leave: bool = True) -> None:
        self._leave = leave

    def redirect_request(  # noqa: PLR0917 - the signature of the base class
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in {"https", req.type}:
            fp.close()
            raise SourceError(
                f"{unsigned(req.full_url)} redirects to {unsigned(newurl)}, which is not https",
                hint="name an https address",
            )
        stays = origin(newurl) == origin(req.full_url)
        if not (stays or self._leave):
            return None
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and req.get_method() == "HEAD":
            following.method = "HEAD"  # Python 3.11 would go on with GET
        if following is not None and stays and (credentials := req.get_header("Authorization")):
            following.add_unredirected_header("Authorization", credentials)
        return following


class _NoPlainHttp(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        raise SourceError(f"{unsigned(req.full_url)} is not https", hint="name an https address")


def _request(method: str, uri: str, token: str | None, form: bytes | None) -> urllib.request.Request:
    # A compressed answer would have another length and digest than the file.
    request = urllib.request.Request(  # noqa: S310 - the handlers above speak https alone
        uri, data=form, method=method, headers={"Accept-Encoding": "identity", "User-Agent": "splitbake"}
    )
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


def _trust() -> ssl.SSLContext:
    bundle = next((path for name in _CA_VARIABLES if (path := os.environ.get(name))), None)
    try:
        return ssl.create_default_context(cafile=bundle)
    except OSError as problem:
        raise SourceError(
            f"the CA bundle {bundle} cannot be used: {problem}", hint=f"correct or unset {', '.join(_CA_VARIABLES)}"
        ) from problem
