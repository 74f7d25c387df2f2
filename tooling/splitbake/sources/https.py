"""Model files behind an https address."""

from __future__ import annotations

import re
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPMessage
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from splitbake.cloud import Cloud
from splitbake.errors import SourceError
from splitbake.lock import LockedFile
from splitbake.manifest import ModelFile
from splitbake.sources import Found, Readable, Stream, web

#: Answers of servers that do not like HEAD, though they serve the file (a presigned URL is signed for GET alone).
_NO_HEAD = {403, 405, 501}
#: Seconds after which a second change of a file would have got another Last-Modified (RFC 9110, 8.8.2.2).
_SETTLED = 60
#: Parameters, in lower case, of addresses that are signed: by S3, Google Cloud, CloudFront and Azure.
_SIGNATURES = {"x-amz-signature", "x-goog-signature", "signature", "sig"}


class HttpsSource:
    """One file at one address; redirects are followed, but never to plain http."""

    def __init__(self, cloud: Cloud, root: Path) -> None:
        self._web = web.Web()

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
            raise ValueError("a password cannot stand in the manifest; use s3:// or hf://")
        if not _SIGNATURES.isdisjoint(name.lower() for name, _ in parse_qsl(address.query, keep_blank_values=True)):
            raise ValueError("a signature is a secret, and cannot stand in the manifest; use s3:// or hf://")

    def find(self, entry: ModelFile) -> list[Found]:
        """See Source."""
        headers, address = self._look(entry.source)
        length, etag = headers.get("Content-Length", ""), web.strong_tag(headers)
        found = Found(
            path=entry.path,
            source=entry.source,
            size=int(length) if length.isdecimal() else None,
            etag=etag,
            modified=None if etag else _settled(headers),
            resolved=_plain(address) if address != entry.source else None,
        )
        return [found]

    @contextmanager
    def open(self, file: Readable) -> Iterator[Stream]:
        """See Source."""
        address = file.resolved or file.source
        with web.told(address):
            answer = self._web.ask("GET", address)
        with answer:
            if (file.etag and web.strong_tag(answer.headers) != file.etag) or (
                file.modified and answer.headers.get("Last-Modified") != file.modified
            ):
                raise SourceError(
                    f"{web.unsigned(address)} was replaced since it was looked at", hint="run splitbake lock"
                )
            yield web.Whole(answer, address)

    def url(self, file: LockedFile) -> str:
        """See Source."""
        return file.resolved or file.source

    def _look(self, uri: str) -> tuple[HTTPMessage, str]:
        """Return the headers of the file at ``uri``, and the address that it has after redirects."""
        with web.told(uri):
            try:
                with self._web.ask("HEAD", uri) as answer:
                    return answer.headers, answer.url
            except urllib.error.HTTPError as problem:
                problem.close()
                if problem.code not in _NO_HEAD:
                    raise
            with self._web.ask("GET", uri) as answer:
                return answer.headers, answer.url


def _settled(headers: HTTPMessage) -> str | None:
    """Return Last-Modified if the file cannot have changed once more within the same second."""
    modified, date = headers.get("Last-Modified", ""), headers.get("Date", "")
    try:
        age = parsedate_to_datetime(date) - parsedate_to_datetime(modified)
    except (TypeError, ValueError):
        return None
    return modified if age.total_seconds() >= _SETTLED else None


def _plain(address: str) -> str | None:
    """Return ``address`` unless it has a query or a user: such an address may be signed, and then it is a secret."""
    parts = urlsplit(address)
    return None if parts.query or parts.username is not None else web.unsigned(address)
