"""What all tests share: no tool missing, signals as they should be, scratch folders of their own, a package index.

With ``SPLITBAKE_REQUIRE_ENGINES=1`` a missing tool is a failure, not a skip. CI sets it, so that an engine or
end-to-end test cannot fall silent there. What a CI machine cannot have may still be skipped: the reason must name it
(see ``MAY_BE_MISSING``).
"""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import signal
import stat
import tempfile
import threading
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path

import hypothesis
import pytest

# A deadline for each example judges how busy the machine is, not the code; pytest-timeout ends what hangs.
hypothesis.settings.register_profile("splitbake", deadline=None)
hypothesis.settings.load_profile("splitbake")

MAY_BE_MISSING = re.compile(r"\b(GPU|real AWS|Terraform)\b", re.IGNORECASE)
FOLDERS = tuple(Path(__file__).parent / name for name in ("engine", "e2e"))


def forbid_skip(report: pytest.TestReport | pytest.CollectReport, path: Path) -> None:
    """Turn a skip into a failure where engines are required and the reason is not a good one."""
    if os.environ.get("SPLITBAKE_REQUIRE_ENGINES") != "1" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if any(path.is_relative_to(folder) for folder in FOLDERS) and not MAY_BE_MISSING.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{path}: may not be skipped here (SPLITBAKE_REQUIRE_ENGINES=1): {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    forbid_skip(report, item.path)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    forbid_skip(report, collector.path)
    return report


def pytest_configure() -> None:
    """Undo what ``nohup`` and a background job of a shell hand down: ignored signals, which tests send to programs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take down the local clouds of processes that were ended before they could do it, as at Ctrl-C."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        return
    from splitbake.local import down

    base = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    for kind in ("cloud", "local-cloud"):  # as the fixtures of engine and end-to-end tests name their folders
        for state in base.glob(f"popen-*/{kind}[0-9]*/cloud.json"):
            down(state.parent)


@pytest.fixture(autouse=True, scope="session")
def _own_scratch() -> Iterator[None]:
    """Several processes run tests side by side: none may see, or clear away, scratch folders of another.

    It is a short path, as sockets must have, and open to other users, as what they may not read is tested as well.
    """
    with tempfile.TemporaryDirectory(prefix="tests-") as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o755)
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(autouse=True)
def _own_signal_handlers() -> Iterator[None]:
    """A command that ran in the test's process leaves its handlers behind; what they ignore, later programs inherit."""
    endings = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept = {number: signal.getsignal(number) for number in endings}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def package_index(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Serve wheels at an address of this machine: ``heavy``, which brings a .pth file, and the uv of this Python.

    Of both there is a second wheel that fits as well, but less closely. ``package_index(address)`` returns the URL of
    an index (PEP 503).
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
    for name in ("heavy-1.0-py3-none-any.whl", f"uv-{version}-py3-none-any.whl"):
        _wheel(root, name, {"slow.py": b""})
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
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for path, content in {**files, f"{info}/RECORD": record.encode()}.items():
            entry = zipfile.ZipInfo(path)
            # pip makes only that executable what is a file that says so.
            entry.external_attr = (stat.S_IFREG | (0o755 if ".data/scripts/" in path else 0o644)) << 16
            wheel.writestr(entry, content)
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    with (folder / "index.html").open("a", encoding="utf-8") as index:
        index.write(f'<a href="{name}#sha256={digest}">{name}</a>\n')


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
