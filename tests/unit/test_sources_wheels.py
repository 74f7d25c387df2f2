"""Which wheel is locked of those that fit, and which addresses a lock may hold; uv itself is not asked here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from splitbake.errors import SourceError
from splitbake.manifest.runtime import Runtime
from splitbake.runtime import PLATFORMS, LockedRuntime
from splitbake.sources import wheels
from splitbake.ui import silent

X86, ARM = PLATFORMS["x86_64"], PLATFORMS["arm64"]


@pytest.mark.parametrize(
    ("python", "platform", "files"),
    [
        (
            "3.11",
            X86,
            [
                "charset_normalizer-3.5.2-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
                "charset_normalizer-3.5.2-cp37-abi3-manylinux1_x86_64.manylinux_2_28_x86_64.whl",
                "charset_normalizer-3.5.2-py3-none-any.whl",
            ],
        ),
        ("3.12", X86, ["protobuf-7.36.2-cp310-abi3-manylinux2014_x86_64.whl", "protobuf-7.36.2-py3-none-any.whl"]),
        ("3.11", X86, ["a-1-cp311-cp311-linux_x86_64.whl", "a-1-cp311-abi3-manylinux_2_28_x86_64.whl"]),
        ("3.13", X86, ["a-1-py313-none-any.whl", "a-1-py3-none-any.whl", "a-1-py2.py30-none-any.whl"]),
        (
            "3.11",
            X86,
            [
                "regex-2026.11.15-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl",
                "regex-2026.11.15-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
                "regex-2026.11.15-cp311-cp311-manylinux_2_12_x86_64.manylinux2010_x86_64.whl",
            ],
        ),
        ("3.11", X86, ["a-1-10-py3-none-any.whl", "a-1-9-py3-none-any.whl", "a-1-py3-none-any.whl"]),
        (
            "3.11",
            ARM,
            [
                "uv-0.13.8-py3-none-manylinux_2_28_aarch64.whl",
                "uv-0.13.8-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl",
            ],
        ),
    ],
)
def test_the_wheel_that_fits_most_closely_comes_first(python, platform, files):
    assert sorted(files, key=lambda file: wheels.fitness(file, python, platform), reverse=True) == files


class Index(BaseHTTPRequestHandler):
    """Tells the size of what it has, without a body; plain http."""

    def do_HEAD(self) -> None:
        name = self.path.rpartition("/")[2].partition("-")[0]
        self.send_response({"private": 401, "forbidden": 403, "broken": 500, "moved": 302}.get(name, 200))
        if name == "moved":
            self.send_header("Location", self.path.replace("moved", "heavy"))
        if name != "endless":
            self.send_header("Content-Length", "0" if name == "moved" else "4711")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def index() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


Resolve = Callable[..., LockedRuntime]


@pytest.fixture
def resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """``resolve(url, size=…)``: what is locked where uv answers with this one wheel."""

    def package(url: str, **more: Any) -> dict[str, Any]:
        return {"name": "heavy", "version": "1.0", "wheels": [{"url": url, "hashes": {"sha256": "0" * 64}, **more}]}

    def resolve(*args: str, text: str = "heavy\n", **more: Any) -> LockedRuntime:
        (tmp_path / "gpu.txt").write_text(text, encoding="utf-8")
        uv = package("https://example.com/uv-1-py3-none-any.whl", size=1)
        answers = {"gpu.txt": [package(*args, **more)] if args else [], "the installer": [uv]}
        monkeypatch.setattr(wheels, "compiled", lambda *_, named: answers[named])
        return wheels.resolve(Runtime(requirements="gpu.txt", python="3.11", budget="1 GiB"), tmp_path, "arm64", silent)

    return resolve


FILE = "heavy-1.0-py3-none-any.whl"


def test_a_size_that_the_index_does_not_tell_is_asked_for(resolve: Resolve, index: str) -> None:
    assert [wheel.size for wheel in resolve(f"{index}/{FILE}").wheels] == [4711]
    assert [wheel.size for wheel in resolve(f"{index}/moved-1.0-py3-none-any.whl").wheels] == [4711]
    assert [wheel.size for wheel in resolve(f"http://127.0.0.1:9/{FILE}", size=5).wheels] == [5]


@pytest.mark.parametrize(
    ("name", "words", "hint"),
    [
        ("private", "answered 401", "without a password"),
        ("forbidden", "answered 403", "without a password"),
        ("broken", "answered 500", "again"),
        ("endless", "does not say how large", "Content-Length"),
    ],
)
def test_an_index_that_does_not_tell_it_either_is_told(
    resolve: Resolve, index: str, name: str, words: str, hint: str
) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        resolve(f"{index}/{name}-1.0-py3-none-any.whl")
    assert hint in caught.value.hint
    with pytest.raises(SourceError, match="cannot be reached"):
        resolve(f"http://127.0.0.1:9/{FILE}")


@pytest.mark.parametrize("address", [f"https://me:secret@host/{FILE}", f"https://host/{FILE}?signature=secret"])
def test_a_secret_in_an_address_is_refused_and_not_shown(resolve: Resolve, address: str) -> None:
    with pytest.raises(SourceError, match="heavy comes from an index") as caught:
        resolve(address, size=5)
    assert "secret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "package",
    [
        {"wheels": [{"path": f"wheels/{FILE}", "hashes": {"sha256": "0" * 64}}]},
        {"archive": {"url": f"https://host/{FILE}", "hashes": {"sha256": "0" * 64}}},
    ],
)
def test_what_does_not_come_from_an_index_is_refused(
    resolve: Resolve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: dict[str, Any]
) -> None:
    (tmp_path / "gpu.txt").touch()
    monkeypatch.setattr(wheels, "compiled", lambda *_, named: [{"name": "heavy", "version": "1.0", **package}])
    with pytest.raises(SourceError, match=r"heavy 1\.0 does not come as a wheel from an index"):
        wheels.resolve(Runtime(requirements="gpu.txt", python="3.11", budget="1 GiB"), tmp_path, "x86_64", silent)


@pytest.mark.parametrize("line", ["-r other.txt", "-rother.txt", " --constraint=c.txt", "-e ."])
def test_a_file_that_refers_to_another_one_is_refused_for_nobody_would_watch_that(resolve: Resolve, line: str) -> None:
    with pytest.raises(SourceError, match=r"gpu\.txt:2: refers to another file") as caught:
        resolve(text=f"# first\n{line}\n")
    assert "uv pip compile" in caught.value.hint
    assert resolve(text="--extra-index-url https://host/simple\nheavy\n    # via -r gpu.in\n").wheels == ()
