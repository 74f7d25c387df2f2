"""Model files behind https addresses, against a real TLS server."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler

import pytest

from splitbake.cloud import Cloud
from splitbake.errors import SourceError
from splitbake.lock import LockedFile
from splitbake.manifest import Environment, ModelFile
from splitbake.sources import Found, download
from splitbake.sources.contents import contents
from splitbake.sources.https import HttpsSource
from splitbake.ui import silent

CLOUD = Cloud("dev", Environment(account="123456789012", region="eu-west-1"))
CONTENT = b"weights" * 1000
NOW = 1_800_000_000
#: Path -> where it leads.
LEADS = {
    "/latest": "/file",
    "/signed": "/file?X-Amz-Signature=secret",
    "/downgraded": "http://127.0.0.1:9/file?signature=secret",
}
#: Path -> its Last-Modified, in seconds before the time of the answer.
AGES = {"/old": 3600, "/fresh": 1, "/future": -3600}


class Handler(BaseHTTPRequestHandler):
    """Serves one file in several moods, by path."""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        if self.path == "/no-head":
            self.send_error(405)
        else:
            self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path in LEADS:
            self.send_response(302)
            self.send_header("Location", LEADS[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path in {"/gone", "/forbidden", "/broken"}:
            self.send_error({"/gone": 404, "/forbidden": 403, "/broken": 500}[path])
            return
        self.send_response(200)
        if path != "/unknown-length":
            self.send_header("Content-Length", str(len(CONTENT) + (5 if path == "/short" else 0)))
        if path in AGES:
            self.send_header("Last-Modified", formatdate(NOW - AGES[path], usegmt=True))
        else:
            self.send_header("ETag", 'W/"weak"' if path == "/weak" else '"tag-1"')
        self.end_headers()
        if body:
            self.wfile.write(CONTENT)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(NOW, usegmt=True)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def server(serve) -> str:
    return serve(Handler)


@pytest.fixture
def source(server, tmp_path) -> HttpsSource:
    return HttpsSource(CLOUD, tmp_path)


def find(source: HttpsSource, uri: str) -> Found:
    (found,) = source.find(ModelFile.model_validate({"path": "m", "from": uri}))
    return found


def read(source: HttpsSource, found: Found) -> str:
    digest = hashlib.sha256()
    with source.open(found) as stream:
        while chunk := stream.read(1000):
            digest.update(chunk)
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("path", "size", "etag"),
    [
        ("/file", 7000, "tag-1"),
        ("/latest", 7000, "tag-1"),
        ("/no-head", 7000, "tag-1"),
        ("/unknown-length", None, "tag-1"),
        ("/weak", 7000, None),
    ],
)
def test_a_file_is_found_and_read(source, server, path, size, etag):
    found = find(source, server + path)
    assert (found.source, found.size, found.etag, found.modified) == (server + path, size, etag, None)
    assert read(source, found) == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize(("path", "proof"), [("/old", True), ("/fresh", False), ("/future", False)])
def test_without_entity_tag_a_time_of_change_counts_if_it_is_old_enough(source, server, path, proof):
    found = find(source, server + path)
    assert found.modified == (formatdate(NOW - 3600, usegmt=True) if proof else None)
    assert read(source, found) == hashlib.sha256(CONTENT).hexdigest()


def locked(found: Found) -> LockedFile:
    return LockedFile(path="m", source=found.source, size=7000, sha256="0" * 64, resolved=found.resolved)


def test_where_redirects_lead_is_kept_and_read(source, server, monkeypatch):
    found = find(source, server + "/latest")
    assert found.resolved == server + "/file"
    assert find(source, server + "/file").resolved is None
    assert source.url(locked(found)) == server + "/file"
    monkeypatch.setitem(LEADS, "/latest", "/gone")
    assert read(source, found) == hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(SourceError, match="/latest does not exist"):
        find(source, server + "/latest")


def test_a_signed_address_is_never_kept(source, server):
    found = find(source, server + "/signed")
    assert found.resolved is None
    assert "secret" not in repr(found)
    assert source.url(locked(found)) == server + "/signed"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/gone", r"/gone does not exist \(404\)"),
        ("/forbidden", "/forbidden answered 403 Forbidden"),
        ("/broken", "/broken answered 500"),
        ("/downgraded", "redirects to http://127.0.0.1:9/file, which is not https"),
    ],
)
def test_answers_that_are_no_file_are_told(source, server, path, expected):
    with pytest.raises(SourceError, match=expected) as caught:
        find(source, server + path)
    assert caught.value.hint
    assert "secret" not in caught.value.message


def test_an_answer_that_breaks_off_is_told(source, server):
    with pytest.raises(SourceError, match="broke off"):
        read(source, find(source, server + "/short"))


@pytest.mark.parametrize(
    ("path", "sign"),
    [("/file", {"etag": "tag-0"}), ("/old", {"modified": "Thu, 01 Jan 1970 00:00:00 GMT"}), ("/weak", {"etag": "x"})],
)
def test_a_file_that_was_replaced_meanwhile_is_told(source, server, path, sign):
    with pytest.raises(SourceError, match="was replaced"):
        read(source, Found("m", server + path, 7000, **sign))


def test_a_server_that_nobody_vouches_for_is_refused(source, server, monkeypatch, tmp_path):
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SourceError, match="is not trusted"):
        find(HttpsSource(CLOUD, tmp_path), server + "/file")


def test_an_unreachable_server_and_a_bad_bundle_are_told(source, monkeypatch, tmp_path):
    with pytest.raises(SourceError, match="cannot be reached"):
        find(source, "https://127.0.0.1:9/file")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(SourceError, match="CA bundle"):
        HttpsSource(CLOUD, tmp_path)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://", "https://host/path"),
        ("https://host", "https://host/path"),
        ("https://host/x/", "no listing"),
        ("https://a:b@host/x", "password"),
        ("https://host/x?X-Amz-Date=1&X-Amz-Signature=secret", "signature"),
        ("https://host/x?X-Goog-Signature=secret", "signature"),
        ("https://host/x?Expires=1&Signature=secret", "signature"),
        ("https://host/x?sv=1&sig=secret", "signature"),
        ("https://host/x?SIG=", "signature"),
        ("https://[x/y", "Invalid IPv6 URL"),
        ("https://host/a b", "%-encoded"),
        ("https://host/ü", "%-encoded"),
    ],
)
def test_addresses_that_cannot_be_a_file_are_refused_as_text(uri, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        HttpsSource.check(uri)
    assert "presigned" not in str(caught.value)


def test_a_query_that_signs_nothing_is_part_of_an_address():
    HttpsSource.check("https://host/x?design=signature&download=true")


@pytest.mark.parametrize("path", ["/gone", "/forbidden", "/broken", "/short", "/file"])
def test_a_query_is_shown_to_nobody(source, server, tmp_path, path):
    """Not every secret is a signature by name."""
    found, shown = Found("m", f"{server}{path}?token=secret", 7000), []
    with pytest.raises(SourceError) as caught:
        download(source, locked(found), tmp_path / "m")
    shown.append(caught.value.message)
    with pytest.raises(SourceError) as caught:
        contents([(source, replace(found, size=6999))], {}, shown.append)
    shown.append(caught.value.message)
    assert all(server + path in line for line in shown)
    assert len(shown) >= 3
    assert "secret" not in "".join(shown)


def test_a_full_disk_is_not_the_servers_fault(source, server):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left") as caught, source.open(find(source, server + "/file")):
        raise full
    assert caught.value is full


def test_signs_of_the_same_name_at_another_address_prove_nothing(source, server, monkeypatch):
    """Where a server makes them of time and size, two versions of a model that came at once have the same ones."""
    first = find(source, server + "/latest")
    old = LockedFile(path="m", source=first.source, size=7000, sha256="0" * 64, etag="tag-1", resolved=first.resolved)
    assert [content.way for content in contents([(source, first)], {old.source: old}, silent)] == ["unchanged"]
    monkeypatch.setitem(LEADS, "/latest", "/file2")
    (content,) = contents([(source, find(source, old.source))], {old.source: old}, silent)
    assert (content.way, content.sha256) == ("downloaded", hashlib.sha256(CONTENT).hexdigest())
