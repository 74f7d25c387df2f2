"""Model files behind an https address."""

from __future__ import annotations

import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from splitbake.cloud import Cloud
from splitbake.errors import SourceError
from splitbake.lock import LockedFile
from splitbake.manifest import ModelFile
from splitbake.sources import Found, Readable, Stream

_TIMEOUT = 60.0

#: Where programs look for a certificate authority of the company's own; OpenSSL itself reads the first.
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

#: Answers of servers that do not like HEAD, though they serve the file (a presigned URL is signed for GET alone).
_NO_HEAD = {403, 405, 501}
_GONE = {404, 410}


class HttpsSource:
    """One file at one address; redirects are followed, but never to plain http."""

    def __init__(self, cloud: Cloud, root: Path) -> None:
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=_trust()), _OnlyToHttps(), _NoPlainHttp()
        )

    @staticmethod
    def check(uri: str) -> None:
        """See Source."""
        address = urlsplit(uri)
        if not re.fullmatch("[!-~]+", uri):
            raise ValueError("expected an address in which spaces and other special characters are %-encoded")
        if not address.hostname or address.path in {"", "/"}:
            raise ValueError("expected https://host/path")
        if uri.endswith("/"):
            raise ValueError("an https source is one file: a web server has no listing to take a folder from")
        if address.username is not None:
            raise ValueError("a password cannot stand in the manifest; use a presigned address or S3")

    def find(self, entry: ModelFile) -> list[Found]:
        """See Source."""
        headers = self._headers(entry.source)
        length = headers.get("Content-Length", "")
        return [Found(entry.path, entry.source, int(length) if length.isdecimal() else None, _strong(headers))]

    @contextmanager
    def open(self, file: Readable) -> Iterator[Stream]:
        """See Source."""
        with _told(file.source), self._ask("GET", file.source) as answer:
            if file.etag and _strong(answer.headers) != file.etag:
                raise SourceError(
                    f"{file.source} was replaced since its entity tag was read", hint="run splitbake lock"
                )
            yield _Whole(answer, file.source)

    def url(self, file: LockedFile) -> str:
        """See Source."""
        return file.source

    def _headers(self, uri: str) -> HTTPMessage:
        with _told(uri):
            try:
                with self._ask("HEAD", uri) as answer:
                    return answer.headers
            except urllib.error.HTTPError as problem:
                problem.close()
                if problem.code not in _NO_HEAD:
                    raise
            with self._ask("GET", uri) as answer:
                return answer.headers

    def _ask(self, method: str, uri: str) -> HTTPResponse:
        # A compressed answer would have another length and digest than the file.
        request = urllib.request.Request(  # noqa: S310 - the handlers below speak https alone
            uri, method=method, headers={"Accept-Encoding": "identity", "User-Agent": "splitbake"}
        )
        answer: HTTPResponse = self._opener.open(request, timeout=_TIMEOUT)
        return answer


class _Whole:
    """An answer that is an error when it ends before the length that it announced."""

    def __init__(self, answer: HTTPResponse, uri: str) -> None:
        self._answer = answer
        self._uri = uri

    def read(self, size: int, /) -> bytes:
        chunk = self._answer.read(size)
        if not chunk and self._answer.length:
            raise SourceError(f"{self._uri} broke off {self._answer.length} bytes before its end", hint=_AGAIN)
        return chunk


class _OnlyToHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(  # noqa: PLR0917 - the signature of the base class
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith("https://"):
            fp.close()
            raise SourceError(f"{req.full_url} redirects to {newurl}, which is not https", hint="name an https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _NoPlainHttp(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        raise SourceError(f"{req.full_url} is not https", hint="name an https address")


def _trust() -> ssl.SSLContext:
    bundle = next((path for name in _CA_VARIABLES if (path := os.environ.get(name))), None)
    try:
        return ssl.create_default_context(cafile=bundle)
    except OSError as problem:
        raise SourceError(
            f"the CA bundle {bundle} cannot be used: {problem}", hint=f"correct or unset {', '.join(_CA_VARIABLES)}"
        ) from problem


def _strong(headers: HTTPMessage) -> str | None:
    """Return the entity tag if it is a strong one: a weak one (W/…) may stay when bytes change (RFC 9110, 8.8.1)."""
    tag = headers.get("ETag", "")
    return tag.strip('"') if len(tag) > 2 and tag.startswith('"') else None  # noqa: PLR2004 - two quotes


_AGAIN = "run it again; if it stays so, look at the server and the network"


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Turn what urllib raises about ``uri`` into what it means."""
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
