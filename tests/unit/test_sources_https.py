"""Model files behind https addresses, against a real TLS server."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from splitbake.cloud import Cloud
from splitbake.errors import SourceError
from splitbake.manifest import Environment, ModelFile
from splitbake.sources import Found
from splitbake.sources.https import HttpsSource

CLOUD = Cloud("dev", Environment(account="123456789012", region="eu-west-1"))
CONTENT = b"weights" * 1000


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
        if self.path in {"/moved", "/downgraded"}:
            target = "/file" if self.path == "/moved" else "http://127.0.0.1:9/file"
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path in {"/gone", "/forbidden", "/broken"}:
            self.send_error({"/gone": 404, "/forbidden": 403, "/broken": 500}[self.path])
            return
        self.send_response(200)
        if self.path != "/unknown-length":
            self.send_header("Content-Length", str(len(CONTENT) + (5 if self.path == "/short" else 0)))
        self.send_header("ETag", 'W/"weak"' if self.path == "/weak" else '"tag-1"')
        self.end_headers()
        if body:
            self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder


@pytest.fixture(scope="module")
def server(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.socket = context.wrap_socket(running.socket, server_side=True)
    thread = threading.Thread(target=running.serve_forever, args=(0.05,))
    thread.start()
    yield f"https://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def source(certificate, monkeypatch, tmp_path) -> HttpsSource:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
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
        ("/moved", 7000, "tag-1"),
        ("/no-head", 7000, "tag-1"),
        ("/unknown-length", None, "tag-1"),
        ("/weak", 7000, None),
    ],
)
def test_a_file_is_found_and_read(source, server, path, size, etag):
    found = find(source, server + path)
    assert (found.size, found.etag) == (size, etag)
    assert read(source, found) == hashlib.sha256(CONTENT).hexdigest()


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


def test_an_answer_that_breaks_off_is_told(source, server):
    with pytest.raises(SourceError, match="broke off"):
        read(source, find(source, server + "/short"))


def test_a_file_that_was_replaced_meanwhile_is_told(source, server):
    with pytest.raises(SourceError, match="was replaced"):
        read(source, Found("m", server + "/file", 7000, "tag-0"))


def test_a_server_that_nobody_vouches_for_is_refused(source, server, monkeypatch, tmp_path):
    monkeypatch.delenv("SSL_CERT_FILE")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
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
        ("https://[x/y", "Invalid IPv6 URL"),
        ("https://host/a b", "%-encoded"),
        ("https://host/ü", "%-encoded"),
    ],
)
def test_addresses_that_cannot_be_a_file_are_refused_as_text(uri, expected):
    with pytest.raises(ValueError, match=expected):
        HttpsSource.check(uri)
