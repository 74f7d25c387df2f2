"""Choosing the wheels of the runtime: uv resolves the requirements file for the image's Python and platform."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
import tomllib
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from splitbake.errors import SourceError, ToolError
from splitbake.manifest.runtime import Runtime
from splitbake.runtime import PLATFORMS, LockedRuntime, LockedWheel
from splitbake.ui import Say

#: Index answers that are asked for at once.
_THREADS = 8
_TIMEOUT = 30


def resolve(runtime: Runtime, root: Path, architecture: str, say: Say) -> LockedRuntime:
    """Return the wheels that ``runtime`` stands for now. Indexes are those of uv's own settings (UV_INDEX_URL …).

    Args:
        runtime: the manifest's.
        root: folder of the project.
        architecture: of the hosts, as EC2 names it.
        say: hears what is going on.

    Raises:
        SourceError: the file cannot be read, cannot be resolved, or something in it has no wheel for the image.
        ToolError: uv is missing.
    """
    say(f"resolving {runtime.requirements} for Python {runtime.python}")
    try:
        content = (root / runtime.requirements).read_bytes()
    except OSError as problem:
        raise SourceError(
            f"cannot read {runtime.requirements}: {problem.strerror}", hint="correct runtime.requirements"
        ) from problem
    platform = PLATFORMS[architecture]
    wheels = _chosen([root / runtime.requirements], runtime.python, platform, named=runtime.requirements)
    with tempfile.TemporaryDirectory(prefix="splitbake-lock-") as name:
        wish = Path(name) / "installer.txt"
        wish.write_text(f"uv=={version('uv')}\n", encoding="ascii")
        (installer,) = _chosen([wish], runtime.python, platform, named="the installer")
    return LockedRuntime(
        requirements=hashlib.sha256(content).hexdigest(),
        python=runtime.python,
        platform=platform,
        wheels=tuple(wheels),
        installer=installer,
    )


def uv() -> str:
    """Return the path of the uv that came with splitbake.

    Raises:
        ToolError: it is not there.
    """
    import uv as package

    try:
        return package.find_uv_bin()
    except FileNotFoundError as problem:
        raise ToolError(f"uv is not installed: {problem}", hint="install splitbake anew") from problem


def _chosen(requirements: list[Path], python: str, platform: str, *, named: str) -> list[LockedWheel]:
    with tempfile.TemporaryDirectory(prefix="splitbake-lock-") as name:
        lock = Path(name) / "pylock.toml"
        argv = [uv(), "pip", "compile", *map(str, requirements), "--format", "pylock.toml", "--output-file", str(lock)]
        argv += ["--python-version", python, "--python-platform", platform, "--only-binary", ":all:"]
        argv += ["--no-config", "--no-header", "--quiet"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise SourceError(
                f"{named} cannot be resolved to wheels for Python {python} on {platform}:\n{done.stderr.strip()}",
                hint="every package of the runtime needs a wheel; what has none belongs into image.requirements",
            )
        packages: list[dict[str, Any]] = tomllib.loads(lock.read_text(encoding="utf-8")).get("packages", [])
    with ThreadPoolExecutor(_THREADS) as pool:
        return sorted(pool.map(_wheel, packages), key=lambda wheel: wheel.name)


def _wheel(package: dict[str, Any]) -> LockedWheel:
    wheels = package.get("wheels", [])
    if len(wheels) != 1 or "url" not in wheels[0]:
        raise SourceError(
            f"{package['name']} {package.get('version', '')} does not come as one wheel from an index",
            hint="the builder fetches wheels by address: no paths, no git, no source distributions",
        )
    (wheel,) = wheels
    if urlsplit(wheel["url"]).username is not None:
        raise SourceError(
            f"{package['name']} comes from an index with a password in its address, which the lock would keep",
            hint="use an index that the builder can read without one",
        )
    size = wheel.get("size") or _size(wheel["url"])
    return LockedWheel(
        name=package["name"],
        version=package["version"],
        url=wheel["url"],
        size=size,
        sha256=wheel["hashes"]["sha256"],
    )


def _size(url: str) -> int:
    """Ask for the size, which not every index tells."""
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - an address that uv has just read
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            return int(answer.headers["Content-Length"])
    except (OSError, TypeError, ValueError) as problem:
        raise SourceError(f"the size of {url} cannot be learned: {problem}", hint="try again") from problem
