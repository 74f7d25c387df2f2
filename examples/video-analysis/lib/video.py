"""Getting a video, and its frames."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

import imageio_ffmpeg  # type: ignore[import-untyped]
import numpy as np

from lib.model import Frame

GRID = 32
"""Both models halve the picture five times: sides must be multiples of 2**5."""

TIMEOUT_S = 60


class VideoError(Exception):
    """The video cannot be fetched or decoded."""


def safe_name(url: str) -> str:
    """Give a URL without query and user: those of a presigned URL are credentials and must not reach a log."""
    parts = urlsplit(url)
    return url if not parts.scheme else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Give the path of a video for as long as the context lasts.

    Args:
        url: a local path, a ``file://`` URL, or an http(s) URL, presigned or not.

    Raises:
        VideoError: it cannot be fetched.
    """
    parts = urlsplit(url)
    if not url:
        raise VideoError("VIDEO_URL is empty: expected a path or an http, https or file URL")
    if parts.scheme in {"", "file"}:
        path = Path(unquote(parts.path) if parts.scheme else url)
        if not path.is_file():
            raise VideoError(f"no video at {path}")
        yield path
    elif parts.scheme in {"http", "https"}:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video"
            _download(url, path)
            yield path
    else:
        raise VideoError(f"{safe_name(url)}: expected a path or an http, https or file URL")


def _download(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, path.open("wb") as file:  # noqa: S310 (checked)
            promised = answer.length
            shutil.copyfileobj(answer, file)
    except HTTPError as error:
        error.close()  # it is the answer as well
        raise VideoError(f"{safe_name(url)} cannot be fetched: {error}") from error
    except (OSError, HTTPException) as error:
        raise VideoError(f"{safe_name(url)} cannot be fetched: {error}") from error
    if promised not in {None, path.stat().st_size}:
        raise VideoError(f"{safe_name(url)} ended after {path.stat().st_size} of {promised} bytes")


def frames(path: Path, *, longest_side: int) -> Iterator[Frame]:
    """Decode a video; both sides of its frames are scaled to a multiple of 32.

    Args:
        path: the video.
        longest_side: what the longer side of a frame comes near to, in pixels.

    Raises:
        VideoError: it is not a video, or it is damaged.
    """
    width, height = (f"max({GRID},round({side}*{longest_side}/max(iw,ih)/{GRID})*{GRID})" for side in ("iw", "ih"))
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-xerror", "-i", str(path.absolute())),
        # PPM is raw RGB with the size in front of each frame: nothing has to be asked beforehand.
        *("-vf", f"scale=w='{width}':h='{height}'", "-f", "image2pipe", "-c:v", "ppm", "pipe:1"),
    ]
    with tempfile.TemporaryFile() as log, _running(command, log) as (ffmpeg, pictures):
        while (frame := _next_frame(pictures)) is not None:
            yield frame
        if ffmpeg.wait():
            log.seek(0)
            reason = log.read().decode(errors="replace").strip().splitlines()
            raise VideoError(f"{path} cannot be decoded as a video: {reason[-1] if reason else 'ffmpeg failed'}")


@contextmanager
def _running(command: list[str], log: IO[bytes]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
        try:
            yield process, process.stdout  # type: ignore[misc]  # a pipe was asked for
        finally:
            process.kill()  # where the caller stops early; no effect on an ended process


def _next_frame(pictures: IO[bytes]) -> Frame | None:
    """Read one PPM: ``P6``, width and height, 255, each on a line, then the pixels; None at the end."""
    if not pictures.readline():
        return None
    width, height = map(int, pictures.readline().split())
    pictures.readline()
    pixels = pictures.read(width * height * 3)
    if len(pixels) < width * height * 3:
        return None  # ffmpeg was ended in the middle of a frame: its exit code says so
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
