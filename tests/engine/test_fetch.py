"""The fetcher of the builder on disks of its own, and with as many files as some models have."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]

FETCH = Path(str(files("splitbake.generate"))) / "scripts/fetch.py"
MIB = 1024**2


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        return


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Who wants a range hangs up; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and its address; the server knows no ranges."""
    folder = tmp_path / "web"
    folder.mkdir()
    with Server(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def mounted(where: Path, options: str) -> Iterator[Path]:
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "test", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


@pytest.fixture
def fetch(tmp_path: Path, web: tuple[Path, str]) -> Callable[..., tuple[int, str]]:
    """Fetch files (path -> content) to a folder; those in ``uploads`` are uploaded."""

    def run(root: Path, wanted: dict[str, bytes], uploads: tuple[str, ...] = ()) -> tuple[int, str]:
        folder, address = web
        lines = []
        (tmp_path / "files").mkdir(exist_ok=True)
        for number, (path, body) in enumerate(wanted.items()):
            source = f"upload:{number}" if path in uploads else f"{address}/{number}"
            (tmp_path / "files" / str(number) if path in uploads else folder / str(number)).write_bytes(body)
            lines.append(f"{hashlib.sha256(body).hexdigest()}\t{len(body)}\t{path}\t{source}\n")
        (tmp_path / "models.tsv").write_text("".join(lines), encoding="utf-8")
        argv = [sys.executable, "-I", "-X", "utf8", str(FETCH), str(tmp_path / "models.tsv"), str(root)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
        return done.returncode, done.stdout + done.stderr

    return run


def there(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_disk_without_room_is_told_before_the_first_byte(tmp_path: Path, fetch: Any) -> None:
    with mounted(tmp_path / "root", "size=8m") as root:
        status, said = fetch(root, {"a.bin": bytes(5 * MIB), "b.bin": bytes(3 * MIB)})
        assert (status, there(root)) == (1, {})
    assert said == (
        f"splitbake: disk-full: the models need 9 MiB below {root}, free are 8 MiB, of which 0 have to stay free\n"
    )


def test_a_disk_without_inodes_is_told_before_the_first_byte(tmp_path: Path, fetch: Any) -> None:
    with mounted(tmp_path / "root", "size=8m,nr_inodes=20") as root:
        status, said = fetch(root, {f"{number}.bin": b"x" for number in range(30)})
        assert (status, there(root)) == (1, {})
    assert said.startswith(f"splitbake: disk-full: the models need 31 inodes below {root}, free are ")


def test_a_disk_that_is_full_after_all_is_told(tmp_path: Path, fetch: Any) -> None:
    """What is in place looks right by its size, so nobody counts on fetching it."""
    with mounted(tmp_path / "root", "size=8m") as root:
        (root / "a.bin").write_bytes(b"x" * 6 * MIB)
        status, said = fetch(root, {"a.bin": bytes(6 * MIB)})
        assert (root / "a.bin").read_bytes() == b"x" * 6 * MIB
    assert status == 1
    assert said == "splitbake: disk-full: a.bin cannot be written: No space left on device\n"


def test_uploaded_files_come_to_another_disk(tmp_path: Path, fetch: Any) -> None:
    wanted = {"up/loaded.bin": os.urandom(3 * MIB), "fetched.bin": os.urandom(MIB)}
    with mounted(tmp_path / "root", "size=8m") as root:
        status, said = fetch(root, wanted, uploads=("up/loaded.bin",))
        assert (status, there(root)) == (0, wanted), said
    assert not list((tmp_path / "files").iterdir())


def test_uploaded_files_count_on_another_disk(tmp_path: Path, fetch: Any) -> None:
    with mounted(tmp_path / "root", "size=2m") as root:
        status, said = fetch(root, {"up.bin": bytes(3 * MIB)}, uploads=("up.bin",))
    assert status == 1
    assert "disk-full: the models need 4 MiB" in said


def test_files_of_today_size_come_in_ranges_or_whole(tmp_path: Path, fetch: Any) -> None:
    """With the real sizes of ranges and blocks, and a server that sends the whole of a large file again and again."""
    wanted = {"large.bin": os.urandom(70 * MIB + 1), "small.bin": os.urandom(32 * MIB)}
    status, said = fetch(tmp_path / "root", wanted)
    assert (status, there(tmp_path / "root")) == (0, wanted), said
    assert f"checked: large.bin ({70 * MIB + 1} bytes)" in said


def test_thousands_of_files(tmp_path: Path, fetch: Any) -> None:
    wanted = {f"{number % 50}/{number}.bin": b"%d" % number for number in range(3_000)}
    status, said = fetch(tmp_path / "root", wanted)
    assert (status, there(tmp_path / "root")) == (0, wanted), said
