"""The fetcher of the builder, as a process of its own, against servers that behave and servers that do not."""

from __future__ import annotations

import ast
import datetime
import errno
import hashlib
import http.server
import importlib.util
import json
import os
import random
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

FETCH = Path(str(files("splitbake.generate"))) / "scripts/fetch.py"
SECRET = "X-Amz-Signature=do-not-tell"
#: Every character here broke a list, a shell or a request somewhere.
NASTY = "ä $(touch x) `id` 'q' \"p\" %20 & ;\u2028#?.bin"
#: So that a file of some hundred kilobytes is a large one.
SMALL_SCALE = {"RANGE": 32768, "LARGE": 32768, "PIECE": 1024}
DRIVER = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("fetch", sys.argv.pop(1))
sys.modules["fetch"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
vars(module).update(json.loads(sys.argv.pop(1)))
module.main()
"""


@dataclass(frozen=True)
class Manner:
    """How a request is answered.

    Attributes:
        cut: the connection is reset after so many bytes of the body: what was under way may be lost.
        hang_up: the cut is an orderly end: what was sent before it arrives.
        length: how the end of the body is told: known, chunked, close, or lost (chunked, but nothing tells the end).
        pause: seconds before the answer.
        slow: seconds before each KiB of the body.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    ranges: bool = True
    cut: int | None = None
    hang_up: bool = False
    length: str = "known"
    pause: float = 0
    slow: float = 0


@dataclass
class Site:
    """Files on a server; ``first`` are the manners of the first requests for a file, ``manner`` that of all others."""

    bodies: dict[str, bytes]
    address: str = ""
    manner: Manner = field(default_factory=Manner)
    manners: dict[str, Manner] = field(default_factory=dict)
    first: dict[str, list[Manner]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    sent: int = 0

    def manner_for(self, path: str) -> Manner:
        queue = self.first.get(path)
        return queue.pop(0) if queue else self.manners.get(path, self.manner)

    def url(self, path: str) -> str:
        return f"{self.address}/{urllib.parse.quote(path)}?{SECRET}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any
    site: Site

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip("/")
        manner, wanted = self.site.manner_for(path), self.headers.get("Range", "")
        self.site.asked.append((path, wanted))
        self.site.connections.add(self.client_address)
        time.sleep(manner.pause)
        if manner.status != 200:
            self.answer(manner.status, [*manner.headers, ("Content-Length", "0")])
            return
        body, status, headers = self.site.bodies[path], 200, [*manner.headers]
        if wanted and manner.ranges:
            start, _, last = wanted.removeprefix("bytes=").partition("-")
            if int(start) > int(last):
                self.answer(416, [("Content-Length", "0")])
                return
            headers.append(("Content-Range", f"bytes {start}-{last}/{len(body)}"))
            body, status = body[int(start) : int(last) + 1], 206
        known, chunked = ("Content-Length", str(len(body))), ("Transfer-Encoding", "chunked")
        end = {"known": known, "chunked": chunked, "lost": chunked, "close": ("Connection", "close")}
        self.answer(status, [*headers, end[manner.length]])
        self.send(body, manner)

    def answer(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def send(self, body: bytes, manner: Manner) -> None:
        for at in range(0, len(body), 1024):
            if manner.cut is not None and at >= manner.cut:
                self.close_connection = True
                if not manner.hang_up:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                return
            time.sleep(manner.slow)
            piece = body[at : at + 1024]
            in_chunks = manner.length in {"chunked", "lost"}
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if in_chunks else piece)
            self.site.sent += len(piece)
        if manner.length == "chunked":
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection |= manner.length == "lost"

    def log_message(self, *_: Any) -> None:
        return


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Clients that hang up are what the tests are about; anything else is told."""
        if not isinstance(sys.exception(), OSError | ValueError):
            super().handle_error(*_)


@contextmanager
def listening(handler: type[http.server.BaseHTTPRequestHandler], trust: ssl.SSLContext | None = None) -> Iterator[str]:
    with Server(("127.0.0.1", 0), handler) as server:
        if trust:
            server.socket = trust.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"{'https' if trust else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serving(bodies: dict[str, bytes], trust: ssl.SSLContext | None = None) -> Iterator[Site]:
    site = Site(bodies)
    with listening(type("Bound", (Handler,), {"site": site}), trust) as site.address:
        yield site


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 - the same each time


SMALL = {f"small/{number}.bin": noise(500 + number, number) for number in range(150)}
LARGE = {"big one.bin": noise(300_001), "big/two.bin": noise(40_000, 2)}
ALL = {**SMALL, **LARGE, NASTY: b"nasty", "deep/er/empty.bin": b""}


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(dict(ALL)) as site:
        yield site


@dataclass
class Builder:
    """A folder with a list, and the folder that is to be filled."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def line(self, path: str, body: bytes, source: str) -> str:
        return f"{hashlib.sha256(body).hexdigest()}\t{len(body)}\t{path}\t{source}\n"

    def ask_for(self, site: Site, *paths: str) -> None:
        self.write(*(self.line(path, site.bodies[path], site.url(path)) for path in paths or site.bodies))

    def write(self, *lines: str) -> None:
        (self.folder / "models.tsv").write_text("".join(lines), encoding="utf-8")

    def start(self, *options: str, **scale: float) -> subprocess.Popen[str]:
        settings = json.dumps({**SMALL_SCALE, "LONGEST_PAUSE": 0.1, **scale})
        argv = [sys.executable, "-I", "-X", "utf8", "-c", DRIVER, str(FETCH), settings]
        here = [str(self.folder / "models.tsv"), str(self.root), *options]
        env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | self.env
        pipe = subprocess.PIPE
        return subprocess.Popen([*argv, *here], env=env, stdout=pipe, stderr=pipe, text=True, encoding="utf-8")

    def fetch(self, *options: str, **scale: float) -> tuple[int, str]:
        """Run it to its end; whatever happens, no address is told."""
        with self.start(*options, **scale) as process:
            out, err = process.communicate(timeout=60)
        assert SECRET not in out + err
        assert "Traceback" not in err
        return process.returncode, out + err

    def gets(self, *options: str, **scale: float) -> str:
        status, said = self.fetch(*options, **scale)
        assert status == 0, said
        return said

    def fails(self, *options: str, **scale: float) -> str:
        status, said = self.fetch(*options, **scale)
        assert status == 1, said
        return said.splitlines()[-1]

    def found(self) -> dict[str, bytes]:
        paths = [path for path in self.root.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.root)): path.read_bytes() for path in paths}


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def stats(said: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said.rpartition("fetch-stats: ")[2])
    return found


def test_it_is_for_python_3_7_and_needs_nothing_else() -> None:
    tree = ast.parse(FETCH.read_text(encoding="utf-8"), feature_version=(3, 7))
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


def test_everything_comes_and_nothing_else_stays(builder: Builder, site: Site) -> None:
    builder.ask_for(site)
    said = builder.gets()
    assert builder.found() == ALL
    total = sum(map(len, ALL.values()))
    assert {name: stats(said)[name] for name in ("files", "bytes", "fetched")} == {
        "files": len(ALL),
        "bytes": total,
        "fetched": total,
    }
    assert f"checked: big one.bin ({len(ALL['big one.bin'])} bytes)" in said


def test_connections_stay_open(builder: Builder, site: Site) -> None:
    builder.ask_for(site)
    builder.gets("--connections", "3")
    assert len(site.connections) == 3
    assert len(site.asked) > len(ALL)


def test_a_large_file_comes_over_several_connections(builder: Builder, site: Site) -> None:
    site.manner = Manner(pause=0.02)
    builder.ask_for(site, "big one.bin")
    builder.gets("--connections", "4")
    assert len(site.connections) == 4
    assert Counter(site.asked).most_common(1)[0][1] == 1  # nothing twice
    assert sorted(int(re.findall(r"\d+", asked)[0]) for _, asked in site.asked) == [*range(0, 300_001, 32768)]


@pytest.mark.parametrize("length", ["chunked", "close"])
@pytest.mark.parametrize("ranges", [True, False])
def test_no_length_and_no_ranges_are_no_obstacle(builder: Builder, site: Site, length: str, ranges: bool) -> None:
    site.manner = Manner(length=length, ranges=ranges)
    builder.ask_for(site)
    builder.gets()
    assert builder.found() == ALL


@pytest.mark.parametrize("path", ["big one.bin", "small/149.bin"])
def test_a_broken_connection_is_continued(builder: Builder, site: Site, path: str) -> None:
    site.bodies["small/149.bin"] = noise(20_000)
    site.first[path] = [Manner(cut=5_000, hang_up=True), Manner(cut=3_000, hang_up=True)]
    builder.ask_for(site, path)
    builder.gets("--connections", "1")
    assert builder.found() == {path: site.bodies[path]}
    assert site.sent == len(site.bodies[path])
    assert len({asked for _, asked in site.asked}) == len(site.asked)


@pytest.mark.parametrize("path", ["big one.bin", "small/149.bin"])
def test_a_connection_that_is_reset_loses_at_most_what_was_under_way(builder: Builder, site: Site, path: str) -> None:
    site.bodies["small/149.bin"] = noise(20_000)
    site.first[path] = [Manner(cut=5_000), Manner(cut=3_000)]
    builder.ask_for(site, path)
    builder.gets("--connections", "1")
    assert builder.found() == {path: site.bodies[path]}
    assert site.sent <= len(site.bodies[path]) + 5_120 + 3_072


@pytest.mark.parametrize("path", ["big one.bin", "small/1.bin"])
def test_all_bytes_are_enough_where_the_end_is_lost(builder: Builder, site: Site, path: str) -> None:
    """What came is not asked for again: a range of no bytes cannot be had."""
    site.manner = Manner(length="lost")
    builder.ask_for(site, path)
    builder.gets("--connections", "1")
    assert builder.found() == {path: ALL[path]}
    assert site.sent == len(ALL[path])


def test_an_empty_file_is_asked_for_as_well(builder: Builder, site: Site) -> None:
    site.manner = Manner(status=404)
    builder.ask_for(site, "deep/er/empty.bin")
    assert builder.fails() == "splitbake: not-found: deep/er/empty.bin: its source answers 404"


def test_a_small_file_begins_again_where_it_cannot_be_continued(builder: Builder, site: Site) -> None:
    path = "small/149.bin"
    site.bodies[path] = noise(20_000)
    site.first[path] = [Manner(cut=9_000)]
    site.manner = Manner(ranges=False)
    builder.ask_for(site, path)
    builder.gets()
    assert builder.found() == {path: site.bodies[path]}


def test_a_server_that_is_tired_of_ranges_sends_all_of_a_large_file(builder: Builder, site: Site) -> None:
    path = "big one.bin"
    site.first[path] = [Manner()] * 4 + [Manner(ranges=False)]
    site.first[path] += [Manner(ranges=False, cut=200_000, hang_up=True)]
    site.manner = Manner(ranges=False)
    builder.ask_for(site, path)
    said = builder.gets("--connections", "1")
    assert builder.found() == {path: ALL[path]}
    assert stats(said)["fetched"] == 4 * SMALL_SCALE["RANGE"] + len(ALL[path])
    assert [asked for _, asked in site.asked][5:] == ["", "bytes=200704-300000"]


def test_a_server_that_always_breaks_off_is_not_asked_forever(builder: Builder, site: Site) -> None:
    site.bodies["x.bin"] = noise(20_000)
    site.manner = Manner(ranges=False, cut=9_000)
    builder.ask_for(site, "x.bin")
    said = builder.fails("--attempts", "3")
    assert re.fullmatch(r"splitbake: unreachable: x\.bin: .*, 3 times", said)
    assert len(site.asked) in {3, 4}  # one that came further than the one before is no failure in a row


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_passing_trouble_passes(builder: Builder, site: Site, status: int) -> None:
    for path in ("small/1.bin", "big one.bin"):
        site.first[path] = [Manner(status=status, headers=(("Retry-After", "0"),))] * 3
    builder.ask_for(site, "small/1.bin", "big one.bin")
    builder.gets()
    assert builder.found().keys() == {"small/1.bin", "big one.bin"}


@pytest.mark.parametrize(
    ("status", "header"),
    [(503, ("Retry-After", "1")), (429, ("Retry-After", "1")), (429, ("RateLimit", '"resolvers";r=0;t=1'))],
)
def test_a_server_that_asks_for_a_pause_gets_it(
    builder: Builder, site: Site, status: int, header: tuple[str, str]
) -> None:
    """Also a longer one than the fetcher would make by itself. The Hub tells when its rate limit ends, and no more."""
    site.first["small/1.bin"] = [Manner(status=status, headers=(header,))]
    builder.ask_for(site, "small/1.bin")
    assert stats(builder.gets(LONGEST_PAUSE=0.1))["seconds"] >= 1


@pytest.mark.parametrize(
    "manner",
    [
        Manner(status=503, headers=(("Retry-After", "86400"),)),
        Manner(status=503, headers=(("RateLimit", '"resolvers";r=2999;t=200'),)),
        Manner(status=429, headers=(("RateLimit", '"resolvers";r=0;t=soon'), ("Retry-After", "later"))),
    ],
    ids=["a day", "a limit that is not reached", "nothing that is a number"],
)
def test_no_server_makes_it_wait_for_long_or_for_nothing(builder: Builder, site: Site, manner: Manner) -> None:
    """The longest wait is cut to what is far from both: a day, and no wait at all."""
    site.first["small/1.bin"] = [manner]
    builder.ask_for(site, "small/1.bin")
    seconds = stats(builder.gets(LONGEST_WAIT=4, LONGEST_PAUSE=0.1))["seconds"]
    assert (seconds >= 4) == (manner.headers[0][0] == "Retry-After")


def test_trouble_that_stays_is_told(builder: Builder, site: Site) -> None:
    site.manner = Manner(status=503)
    builder.ask_for(site, "small/1.bin")
    assert builder.fails("--attempts", "3") == ("splitbake: unreachable: small/1.bin: its source answers 503, 3 times")
    assert len(site.asked) == 3


def test_a_source_that_nobody_listens_at_is_told(builder: Builder, site: Site) -> None:
    builder.write(builder.line("x", b"x", f"http://127.0.0.1:1/x?{SECRET}"))
    assert builder.fails("--attempts", "2") == "splitbake: unreachable: x: Connection refused, 2 times"


@pytest.mark.parametrize("path", ["small/1.bin", "big one.bin"])
@pytest.mark.parametrize(
    ("status", "kind"), [(404, "not-found"), (410, "not-found"), (400, "forbidden"), (403, "forbidden")]
)
def test_what_will_not_change_is_asked_once(builder: Builder, site: Site, path: str, status: int, kind: str) -> None:
    site.manner = Manner(status=status)
    builder.ask_for(site, path)
    assert builder.fails("--connections", "1") == f"splitbake: {kind}: {path}: its source answers {status}"
    assert len(site.asked) == 1


@pytest.mark.parametrize("path", ["small/1.bin", "big one.bin"])
def test_other_content_is_no_model(builder: Builder, site: Site, path: str) -> None:
    builder.ask_for(site, path)
    site.bodies[path] = wrong = noise(len(ALL[path]), 9)
    said = builder.fails()
    assert said == (
        f"splitbake: checksum: {path} has {len(wrong)} bytes with sha256 {hashlib.sha256(wrong).hexdigest()}, "
        f"locked are {len(wrong)} with sha256 {hashlib.sha256(ALL[path]).hexdigest()}"
    )
    assert wrong not in builder.found().values()
    assert not (builder.root / path).exists()


@pytest.mark.parametrize("path", ["small/1.bin", "big one.bin"])
@pytest.mark.parametrize(("change", "ranges"), [(-1, True), (1, True), (-1, False), (1, False)])
@pytest.mark.parametrize("length", ["known", "close"])
def test_another_size_is_no_model(  # noqa: PLR0917 - a table
    builder: Builder, site: Site, path: str, change: int, ranges: bool, length: str
) -> None:
    builder.ask_for(site, path)
    site.bodies[path] = noise(len(ALL[path]) + change)
    site.manner = Manner(ranges=ranges, length=length)
    said = builder.fails("--attempts", "2")
    # A file that ends too early may also be a connection that broke.
    assert said.startswith((f"splitbake: checksum: {path} has", f"splitbake: unreachable: {path}: its source breaks"))
    assert not (builder.root / path).exists()


@pytest.mark.parametrize("path", ["small/1.bin", "big one.bin"])
@pytest.mark.parametrize("manner", [Manner(pause=1.5), Manner(slow=0.3)])
def test_a_stalled_connection_is_given_up(builder: Builder, site: Site, path: str, manner: Manner) -> None:
    """Also one where something trickles in: the socket is never silent for long."""
    site.bodies["small/1.bin"] = noise(4_000)
    site.first[path] = [manner]
    builder.ask_for(site, path)
    builder.gets("--silence", "0.5", PIECE=4096)
    assert builder.found() == {path: site.bodies[path]}
    assert len(site.asked) > len(site.bodies[path]) / SMALL_SCALE["RANGE"]


def test_a_redirect_to_plain_http_is_not_followed(builder: Builder, site: Site) -> None:
    site.manner = Manner(status=302, headers=(("Location", site.url("small/2.bin")),))
    builder.ask_for(site, "small/1.bin")
    said = builder.fails()
    assert said == "splitbake: unreachable: small/1.bin: its source redirects to something that is not https"


# Certificates and proxies


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that nobody knows, and a server's context with it."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(here, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("authority")
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return folder / "ca.pem", context


@pytest.fixture
def safe_site(authority: tuple[Path, ssl.SSLContext]) -> Iterator[Site]:
    with serving(dict(ALL), authority[1]) as site:
        yield site


def test_https_with_a_bundle_of_ones_own(builder: Builder, safe_site: Site, authority: tuple[Path, Any]) -> None:
    builder.ask_for(safe_site)
    builder.env["SSL_CERT_FILE"] = str(authority[0])
    builder.gets()
    assert builder.found() == ALL


def test_a_certificate_that_nobody_knows_is_told_at_once(builder: Builder, safe_site: Site) -> None:
    builder.ask_for(safe_site, "small/1.bin")
    assert re.match(r"splitbake: unreachable: small/1\.bin: certificate: self.signed certificate", builder.fails())
    assert not safe_site.asked


def test_a_redirect_to_https_is_followed(
    builder: Builder, site: Site, safe_site: Site, authority: tuple[Path, Any]
) -> None:
    for path in ALL:
        site.manners[path] = Manner(status=307, headers=(("Location", safe_site.url(path)),))
    builder.env["SSL_CERT_FILE"] = str(authority[0])
    builder.ask_for(site)
    builder.gets("--connections", "2")
    assert builder.found() == ALL
    assert (len(site.connections), len(safe_site.connections)) == (2, 2)


@pytest.fixture
def elsewhere(builder: Builder, site: Site, safe_site: Site, authority: tuple[Path, Any]) -> Site:
    """Where the site redirects to for the large file, which is asked for."""
    site.manners["big one.bin"] = Manner(status=302, headers=(("Location", safe_site.url("big one.bin")),))
    builder.env["SSL_CERT_FILE"] = str(authority[0])
    builder.ask_for(site, "big one.bin")
    return safe_site


RANGES = 10  # of the large file


def test_a_redirect_is_asked_for_once_by_each_connection(builder: Builder, site: Site, elsewhere: Site) -> None:
    """The hub counts how often it is asked where a file is: 3,000 times in 5 minutes are granted to everybody."""
    elsewhere.manner = Manner(pause=0.02)
    builder.gets("--connections", "3")
    assert builder.found() == {"big one.bin": ALL["big one.bin"]}
    assert len(elsewhere.asked) == RANGES
    assert len(site.asked) == 3


@pytest.mark.parametrize(
    "trouble",
    [Manner(status=403), Manner(status=410), Manner(status=503), Manner(cut=2048), Manner(status=429)],
    ids=["expired", "gone", "overloaded", "broken", "too often"],
)
def test_a_redirect_that_leads_nowhere_any_more_is_asked_for_again(
    builder: Builder, site: Site, elsewhere: Site, trouble: Manner
) -> None:
    elsewhere.first["big one.bin"] = [Manner(), Manner(), trouble]
    builder.gets("--connections", "1")
    assert builder.found() == {"big one.bin": ALL["big one.bin"]}
    assert (len(site.asked), len(elsewhere.asked)) == (2, RANGES + 1)


def test_a_new_redirect_that_leads_nowhere_is_believed(builder: Builder, site: Site, elsewhere: Site) -> None:
    elsewhere.first["big one.bin"] = [Manner(), Manner()]
    elsewhere.manner = Manner(status=403)
    assert builder.fails("--connections", "1") == "splitbake: forbidden: big one.bin: its source answers 403"
    assert (len(site.asked), len(elsewhere.asked)) == (2, 4)


def test_a_circle_of_redirects_has_an_end(builder: Builder, safe_site: Site, authority: tuple[Path, Any]) -> None:
    safe_site.manner = Manner(status=302, headers=(("Location", safe_site.url("small/1.bin")),))
    builder.env["SSL_CERT_FILE"] = str(authority[0])
    builder.ask_for(safe_site, "small/1.bin")
    assert builder.fails() == "splitbake: unreachable: small/1.bin: its source redirects 10 times"


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes bytes on, and writes down for whom."""

    seen: list[tuple[str, str, str]]

    def do_GET(self) -> None:
        self.note()
        url = urllib.parse.urlsplit(self.path)
        with socket.create_connection((url.hostname or "", url.port or 80)) as there:
            there.sendall(f"GET {url.path}?{url.query} HTTP/1.0\r\nHost: {url.netloc}\r\n\r\n".encode())
            self.pass_on(there, self.connection)

    def do_CONNECT(self) -> None:
        self.note()
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port))) as there:
            self.connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=self.pass_on, args=(self.connection, there))
            back.start()
            self.pass_on(there, self.connection)
            self.connection.shutdown(socket.SHUT_RDWR)
            back.join()
        self.close_connection = True

    def note(self) -> None:
        self.seen.append((self.command, self.path, self.headers.get("Proxy-Authorization", "")))

    @staticmethod
    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    seen: list[tuple[str, str, str]] = []
    with listening(type("Bound", (Proxy,), {"seen": seen})) as address:
        yield address.replace("http://", "http://somebody:s%65cret@"), seen


def test_a_proxy_is_asked_for_the_whole_address(builder: Builder, site: Site, proxy: Any) -> None:
    builder.env["http_proxy"], seen = proxy
    builder.ask_for(site, "small/1.bin")
    builder.gets()
    assert seen == [("GET", site.url("small/1.bin"), "Basic c29tZWJvZHk6c2VjcmV0")]


def test_a_proxy_opens_a_tunnel_for_https(
    builder: Builder, safe_site: Site, authority: tuple[Path, Any], proxy: Any
) -> None:
    builder.env["https_proxy"], seen = proxy
    builder.env["SSL_CERT_FILE"] = str(authority[0])
    builder.ask_for(safe_site, "small/1.bin", "small/2.bin")
    builder.gets("--connections", "1")
    host = safe_site.address.removeprefix("https://")
    assert seen == [("CONNECT", host, "Basic c29tZWJvZHk6c2VjcmV0")]


def test_no_proxy_is_heard(builder: Builder, site: Site) -> None:
    builder.env |= {"http_proxy": "http://127.0.0.1:1", "no_proxy": "127.0.0.1"}
    builder.ask_for(site, "small/1.bin")
    builder.gets()


# Runs that were killed, and what was there before


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def killed(builder: Builder, site: Site, after: int) -> None:
    """Run until the site has sent ``after`` bytes, then kill it without warning."""
    with builder.start("--connections", "2") as process:
        until(lambda: site.sent >= after)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    site.sent = 0
    site.asked.clear()


def test_a_killed_run_is_continued(builder: Builder, site: Site) -> None:
    site.bodies.clear()
    site.bodies.update({"big.bin": noise(2_000_000), **{f"s{n}": noise(20_000, n) for n in range(50)}})
    site.manner = Manner(slow=0.002)
    builder.ask_for(site)
    total = sum(map(len, site.bodies.values()))
    killed(builder, site, total * 3 // 4)
    assert not (builder.root / "big.bin").exists()
    site.manner = Manner()
    said = builder.gets()
    assert builder.found() == site.bodies
    # What is under way is lost: of a large file the window, of a small one all that its connection has.
    assert stats(said)["fetched"] <= site.sent < total // 2


def test_no_process_outlives_a_killed_run_for_long(builder: Builder, site: Site) -> None:
    site.manner = Manner(slow=0.01)
    builder.ask_for(site, "big one.bin")
    killed(builder, site, 20_000)
    until(lambda: not [path for path in Path("/proc").glob("[0-9]*/cmdline") if belongs(path, builder)])


def belongs(path: Path, builder: Builder) -> bool:
    try:
        return str(builder.root).encode() in path.read_bytes()
    except OSError:
        return False


def part_of(builder: Builder) -> Path:
    """Return what a killed run has left of a file, when nobody writes it any more."""
    until(lambda: not [path for path in Path("/proc").glob("[0-9]*/cmdline") if belongs(path, builder)])
    (part,) = builder.root.glob(".splitbake-fetch/*.part")
    assert part.stat().st_size >= 100
    return part


def spoil(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(100))


def test_what_is_wrong_after_a_killed_run_comes_again_once(builder: Builder, site: Site) -> None:
    site.manner = Manner(slow=0.002)
    builder.ask_for(site, "big one.bin")
    killed(builder, site, 250_000)
    spoil(part_of(builder))
    site.manner = Manner()
    assert "again: big one.bin" in builder.gets()
    assert builder.found() == {"big one.bin": ALL["big one.bin"]}


def test_content_that_stays_wrong_is_fetched_twice_at_most(builder: Builder, site: Site) -> None:
    path = "big one.bin"
    builder.ask_for(site, path)
    site.bodies[path] = noise(len(ALL[path]), 9)
    site.manner = Manner(slow=0.002)
    killed(builder, site, 250_000)
    site.manner = Manner()
    assert builder.fails().startswith(f"splitbake: checksum: {path} has")
    assert site.sent < 2 * len(ALL[path])


def test_a_part_that_is_too_long_is_not_believed(builder: Builder, site: Site) -> None:
    site.manner = Manner(slow=0.002)
    builder.ask_for(site, "big one.bin")
    killed(builder, site, 250_000)
    with part_of(builder).open("ab") as part:
        part.write(bytes(len(ALL["big one.bin"])))
    site.manner = Manner()
    said = builder.gets()
    assert "again" not in said
    assert stats(said)["fetched"] == len(ALL["big one.bin"])


def test_what_is_in_place_is_not_fetched(builder: Builder, site: Site) -> None:
    builder.ask_for(site)
    builder.gets()
    site.asked.clear()
    assert stats(builder.gets())["fetched"] == 0
    assert site.asked == []
    assert builder.found() == ALL


def test_what_is_in_place_but_other_is_replaced(builder: Builder, site: Site) -> None:
    builder.ask_for(site)
    builder.gets()
    for path in ("small/1.bin", "big one.bin"):
        spoil(builder.root / path)
    assert stats(builder.gets())["fetched"] == len(ALL["small/1.bin"]) + len(ALL["big one.bin"])
    assert builder.found() == ALL


def test_leftovers_of_an_older_list_go_and_other_files_stay(builder: Builder, site: Site) -> None:
    site.manner = Manner(slow=0.002)
    builder.ask_for(site, "big one.bin")
    killed(builder, site, 100_000)
    (builder.root / "mine.txt").write_bytes(b"mine")
    builder.ask_for(site, "small/1.bin")
    builder.gets()
    assert builder.found() == {"mine.txt": b"mine", "small/1.bin": ALL["small/1.bin"]}


def test_a_second_run_waits_for_the_first(builder: Builder, site: Site) -> None:
    site.manner = Manner(slow=0.01)
    builder.ask_for(site, "big one.bin")
    with builder.start() as process:
        until(lambda: site.sent > 0)
        said = builder.gets()
        assert process.wait() == 0
        process.communicate()
    assert "waiting: another fetch has not ended" in said
    assert stats(said)["fetched"] == 0


def test_a_process_that_is_killed_ends_the_run(builder: Builder, site: Site) -> None:
    site.manner = Manner(slow=0.01)
    builder.ask_for(site, "big one.bin")
    with builder.start() as process:
        until(lambda: site.sent > 0)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "a process of the fetch was killed" in err
    assert SECRET not in err


def test_ctrl_c_ends_it_quietly(builder: Builder, site: Site) -> None:
    site.manner = Manner(slow=0.01)
    builder.ask_for(site, "big one.bin")
    with builder.start() as process:
        until(lambda: site.sent > 0)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 130


# The disk


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, "disk-full"), (errno.EDQUOT, "disk-full"), (errno.EIO, "disk"), (errno.EROFS, "disk")],
)
def test_only_a_full_disk_is_told_as_one(tmp_path: Path, number: int, kind: str) -> None:
    spec = importlib.util.spec_from_file_location("fetch", FETCH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    file = module.File("0" * 64, 1, "a.bin", "", tmp_path / "a.bin", tmp_path / "part")
    with pytest.raises(module.FetchError) as error, module.writing(file, os.O_WRONLY | os.O_CREAT):
        raise OSError(number, os.strerror(number))
    assert (error.value.kind, error.value.text) == (kind, f"a.bin cannot be written: {os.strerror(number)}")


def test_what_is_in_the_way_is_no_full_disk(builder: Builder, site: Site) -> None:
    builder.ask_for(site, "small/1.bin")
    key = hashlib.sha256(f"{hashlib.sha256(ALL['small/1.bin']).hexdigest()} 501 small/1.bin".encode()).hexdigest()
    (builder.root / f".splitbake-fetch/{key}.part").mkdir(parents=True)
    assert builder.fails() == "splitbake: disk: small/1.bin cannot be written: Is a directory"


# Uploaded files


def test_uploaded_files_are_moved(builder: Builder) -> None:
    (builder.folder / "files").mkdir()
    (builder.folder / "files/0").write_bytes(LARGE["big one.bin"])
    (builder.folder / "files/1").write_bytes(b"")
    builder.write(
        builder.line("a/big.bin", LARGE["big one.bin"], "upload:0"), builder.line("empty.bin", b"", "upload:1")
    )
    assert stats(builder.gets())["fetched"] == 0
    assert builder.found() == {"a/big.bin": LARGE["big one.bin"], "empty.bin": b""}
    assert not list((builder.folder / "files").iterdir())


def test_an_uploaded_file_is_checked_as_well(builder: Builder) -> None:
    (builder.folder / "files").mkdir()
    (builder.folder / "files/0").write_bytes(b"this")
    builder.write(builder.line("a.bin", b"that", "upload:0"))
    assert builder.fails().startswith("splitbake: checksum: a.bin has 4 bytes with sha256 ")
    assert not (builder.root / "a.bin").exists()


def test_people_hear_how_far_it_is(builder: Builder, site: Site) -> None:
    site.manner = Manner(slow=0.005)
    builder.ask_for(site, "big one.bin", "small/1.bin")
    said = builder.gets(TOLD_EVERY=0)
    lines = re.findall(r"^splitbake: fetched: \d+\.\d of 0\.3 MB, \d+ MB/s, [012] of 2 files$", said, re.MULTILINE)
    assert len(lines) > 3
