"""What every test starts from, and a package index that is made here."""

from __future__ import annotations

import hashlib
import http.server
import signal
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Undo what ``nohup`` and a background job of a shell hand down: ignored signals, which tests send to programs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def package_index(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Serve two wheels at an address of this machine: ``heavy``, which brings a .pth file, and the uv of this Python.

    ``package_index(address)`` returns the URL of an index (PEP 503).
    """
    import uv

    binary, version = Path(uv.find_uv_bin()).read_bytes(), metadata.version("uv")
    root = tmp_path / "index"
    _wheel(
        root,
        "heavy-1.0-cp311-cp311-manylinux_2_17_x86_64.whl",
        {"heavy/__init__.py": b"weight = 'a ton'\n", "heavy-late.pth": b"import sys; sys.heavy_pth = True\n"},
    )
    _wheel(
        root,
        f"uv-{version}-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        {f"uv-{version}.data/scripts/uv": binary},
    )
    with ExitStack() as servers:
        yield lambda address: servers.enter_context(_served(root, address))


def _wheel(root: Path, name: str, files: dict[str, bytes]) -> None:
    distribution, version, *tags = name.removesuffix(".whl").split("-")
    info = f"{distribution}-{version}.dist-info"
    files |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {'-'.join(tags)}\n".encode(),
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    folder = root / "simple" / distribution
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for path, content in {**files, f"{info}/RECORD": record.encode()}.items():
            wheel.writestr(path, content)
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "index.html").write_text(f'<a href="{name}#sha256={digest}">{name}</a>', encoding="utf-8")


@contextmanager
def _served(root: Path, address: str) -> Iterator[str]:
    handler = partial(_Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer((address, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://{address}:{server.server_port}/simple"
        finally:
            server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        return
