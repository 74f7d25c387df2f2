"""How fast the models of an AMI come to the builder, against the tools that people use for it.

nginx plays S3, on loopback: it answers HEAD, GET and the listing of ``aws s3 sync``, unsigned. What is served lies in
the page cache, as a network has no disk of its own. What is fetched goes to the disk of ``build/``, as it goes to an
EBS volume; before each turn, ours and theirs, the last one's files are removed and everything dirty is flushed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from benchmarks import process
from benchmarks.harness import Duel, Run, Stage, bench

FETCH = Path(__file__).parents[1] / "tooling/splitbake/generate/scripts/fetch.py"

#: A checkpoint and what comes with it: 1.7 GB.
LARGE = {"large/0.bin": 1_500_000_000, "large/1.bin": 150_000_000, "large/2.bin": 30_000_000}
LARGE |= {"large/3.bin": 15_000_000, "large/4.bin": 5_000_000}
#: What a dataset or a sharded index looks like: 20,000 files of 10 kB.
SMALL = {f"small/{number // 100}/{number % 100}.bin": 10_000 for number in range(20_000)}

_BUCKET = "models"
_BLOCK = 1_000_000
#: Keys in an answer of ListObjectsV2, as S3 gives them.
_PAGE = 1000
#: Turns of each tool before the fastest is chosen.
_TRIALS = 3

_CONFIG = """\
daemon off;
{user}
worker_processes 2;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
    map $args $page {{ default 0; "~continuation-token=(?<token>[0-9]+)" $token; }}
    server {{
        listen 127.0.0.1:{port};
        root "{root}";
        location ~ ^/{bucket}/?$ {{ default_type application/xml; try_files /pages/$page.xml =404; }}
    }}
}}
"""


@dataclass(frozen=True)
class Served:
    """Files on a server, and where they go.

    Attributes:
        folder: everything of this benchmark.
        address: of the server.
        env: for the tools; they look for no credentials, and for no instance metadata.
    """

    folder: Path
    address: str
    env: Mapping[str, str]

    @property
    def out(self) -> Path:
        """Where a turn puts the files."""
        return self.folder / "out"

    def url(self, path: str) -> str:
        """Return the address of a file."""
        return f"{self.address}/{_BUCKET}/{path}"

    def fresh(self) -> None:
        """Make every turn begin alike."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        os.sync()

    def seconds(self, *argv: str, stdin: Path = Path(os.devnull)) -> float:
        """Run a command where the files go."""
        return process.run(argv, cwd=self.out, env=self.env, stdin=stdin).seconds

    def ours(self, files: Iterable[str]) -> Run:
        """Return what fetches and verifies ``files`` as the builder does."""
        listed = self.folder / "models.tsv"
        _write(listed, (f"{self.sha256(path)}\t{self.size(path)}\t{path}\t{self.url(path)}\n" for path in files))

        def run() -> float:
            self.fresh()
            return self.seconds(process.PYTHON, "-I", "-X", "utf8", str(FETCH), str(listed), str(self.out))

        return run

    def check(self, files: Iterable[str]) -> Run:
        """Return what verifies ``files`` as people do, with sha256sum."""
        listed = self.folder / "SHA256SUMS"
        _write(listed, (f"{self.sha256(path)}  {path}\n" for path in files))
        return lambda: self.seconds("sha256sum", "--check", "--quiet", str(listed))

    def source(self, path: str) -> Path:
        """Return the file that is served."""
        return self.folder / "www" / _BUCKET / path

    def size(self, path: str) -> int:
        """Return its size."""
        return self.source(path).stat().st_size

    def sha256(self, path: str) -> str:
        """Return its checksum."""
        with self.source(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def aws(self, *arguments: str) -> float:
        """Run the AWS CLI on S3."""
        return self.seconds(_tool("aws"), "s3", *arguments, "--no-sign-request", "--endpoint-url", self.address)


@contextmanager
def served(stage: Stage) -> Iterator[Served]:
    """Write the files and let nginx serve them."""
    folder = stage.folder / "fetching"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        for number, (path, size) in enumerate({**LARGE, **SMALL}.items()):
            _write_file(folder / "www" / _BUCKET / path, size, number)
        _write_pages(folder / "www/pages", sorted(SMALL))
        aws = {"AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}
        with _nginx(folder) as address:
            yield Served(folder, address, process.environment(aws))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@bench("fetch-large", "s", at_most=1.4, of_theirs=True)
def fetch_large(stage: Stage) -> Duel:
    """Fetching and verifying 1.7 GB in 5 files, against the fastest tool that only downloads them.

    Ours flushes them to the disk as well; theirs does not.
    """
    site = stage.use(served)
    tools = _downloads(site)
    medians = {name: statistics.median(run() for _ in range(_TRIALS)) for name, run in tools.items()}
    fastest = min(medians, key=lambda name: medians[name])
    told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in medians.items())
    sys.stderr.write(f"  against {fastest}, the fastest of: {told}\n")
    return Duel(site.ours(LARGE), tools[fastest])


@bench("fetch-large-seed", "s", at_most=0.5, of_theirs=True)
def fetch_large_seed(stage: Stage) -> Duel:
    """The same files, against ``aws s3 cp`` for one after the other, then ``sha256sum --check``."""
    site = stage.use(served)
    check = site.check(LARGE)

    def theirs() -> float:
        site.fresh()
        return sum(site.aws("cp", f"s3://{_BUCKET}/{path}", path) for path in LARGE) + check()

    return Duel(site.ours(LARGE), theirs)


@bench("fetch-small", "s", at_most=0.5, of_theirs=True)
def fetch_small(stage: Stage) -> Duel:
    """Fetching and verifying 20,000 files of 10 kB, against ``aws s3 sync``, then ``sha256sum --check``."""
    site = stage.use(served)
    check = site.check(SMALL)

    def theirs() -> float:
        site.fresh()
        return site.aws("sync", f"s3://{_BUCKET}/small/", "small") + check()

    return Duel(site.ours(SMALL), theirs)


def _downloads(site: Served) -> dict[str, Run]:
    """Return the tools that download the large files, as fast as each can."""
    urls, orders = site.folder / "urls", site.folder / "orders"
    _write(urls, (f"{site.url(path)}\n" for path in LARGE))
    _write(orders, (f"cp s3://{_BUCKET}/{path} {path}\n" for path in LARGE))
    unsigned = ("--no-sign-request", "--endpoint-url", site.address)
    commands = {
        "s5cmd": ((_tool("s5cmd"), *unsigned, "--log", "error", "run"), orders),
        "curl": (("curl", "--silent", "--parallel", "--remote-name-all", *map(site.url, LARGE)), Path(os.devnull)),
        "aria2c": (("aria2c", "-q", "-x16", "-s16", "-k16M", "--file-allocation=none", "-i", str(urls)), urls),
    }

    def downloading(argv: tuple[str, ...], stdin: Path) -> Run:
        def run() -> float:
            site.fresh()
            return site.seconds(*argv, stdin=stdin)

        return run

    return {name: downloading(*command) for name, command in commands.items() if shutil.which(command[0][0])}


def _tool(name: str) -> str:
    """Return the program ``name`` of the environment that this runs in."""
    return str(Path(sys.executable).with_name(name))


@contextmanager
def _nginx(folder: Path) -> Iterator[str]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise RuntimeError("nginx is missing, which serves what is fetched: install the package nginx-light")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # As root it would otherwise read the files as somebody who may not enter this folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config = _CONFIG.format(user=user, port=port, root=folder / "www", bucket=_BUCKET)
    _write(folder / "nginx.conf", (config,))
    argv = (program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as server:
        try:
            _wait_for(server, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(100):
        if server.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("nginx does not start")


def _write_file(path: Path, size: int, number: int) -> None:
    """Write a file that shares no block with another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for block in range(0, size, _BLOCK):
            file.write(f"{number} {block}".encode().ljust(min(_BLOCK, size - block), b"."))


def _write_pages(folder: Path, keys: list[str]) -> None:
    """Write the answers of ListObjectsV2: page N is what the continuation token N asks for."""
    folder.mkdir()
    for page, start in enumerate(range(0, len(keys), _PAGE)):
        more = start + _PAGE < len(keys)
        listed = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;0&quot;</ETag><Size>{SMALL[key]}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key in keys[start : start + _PAGE]
        )
        token = f"<NextContinuationToken>{page + 1}</NextContinuationToken>" if more else ""
        head = f"<Name>{_BUCKET}</Name><Prefix>small/</Prefix><MaxKeys>{_PAGE}</MaxKeys><KeyCount>{_PAGE}</KeyCount>"
        body = f"{head}<IsTruncated>{str(more).lower()}</IsTruncated>{token}{listed}"
        text = f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{body}</ListBucketResult>'
        _write(folder / f"{page}.xml", (text,))


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(lines), encoding="utf-8")
