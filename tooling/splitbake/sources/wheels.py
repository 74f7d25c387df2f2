"""Choosing the wheels of the runtime: uv resolves the requirements file for the image's Python and platform."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import tempfile
import tomllib
import urllib.error
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import BuildTag, parse_wheel_filename

from splitbake import requirements
from splitbake.errors import SourceError, ToolError
from splitbake.manifest.runtime import Runtime
from splitbake.runtime import PLATFORMS, LockedRuntime, LockedWheel, file_name
from splitbake.sources.web import Web, told
from splitbake.ui import Say

#: Index answers that are asked for at once.
_THREADS = 8
#: Minor version of glibc 2 -> what wheels for it were called before PEP 600.
_OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_FORBIDDEN = {401, 403}
_OPEN = "use an index that the builder can read without a password"


def resolve(runtime: Runtime, root: Path, architecture: str, say: Say) -> LockedRuntime:
    """Return the wheels that ``runtime`` stands for now. Indexes are those of uv's own settings (UV_INDEX_URL …).

    Args:
        runtime: the manifest's.
        root: folder of the project.
        architecture: of the hosts, as EC2 names it.
        say: hears what is going on.

    Raises:
        SourceError: the file cannot be read, refers to another one, cannot be resolved, or something in it has no
            wheel for the image that anybody may read.
        ToolError: uv is missing.
    """
    say(f"resolving {runtime.requirements} for Python {runtime.python}")
    try:
        content = (root / runtime.requirements).read_bytes()
    except OSError as problem:
        raise SourceError(
            f"cannot read {runtime.requirements}: {problem.strerror}", hint="correct runtime.requirements"
        ) from problem
    if line := requirements.elsewhere(content.decode(errors="replace")):
        raise SourceError(
            f"{runtime.requirements}:{line}: refers to another file, which the lock does not watch",
            hint="compile everything into one file: pip-compile or uv pip compile",
        )
    platform = PLATFORMS[architecture]
    wheels = _chosen(root / runtime.requirements, runtime.python, platform, named=runtime.requirements)
    with tempfile.TemporaryDirectory(prefix="splitbake-lock-") as name:
        wish = Path(name) / "installer.txt"
        wish.write_text(f"uv=={version('uv')}\n", encoding="ascii")
        (installer,) = _chosen(wish, runtime.python, platform, named="the installer")
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


def fitness(file: str, python: str, platform: str) -> tuple[int, BuildTag]:
    """Return how closely a wheel fits, more for a better one: by its tags, and of the same by its build, as in pip.

    Args:
        file: its name.
        python: of the image, as ``3.11``.
        platform: one of ``PLATFORMS``.
    """
    _, _, build, tags = parse_wheel_filename(file)
    ranks = _ranks(python, platform)
    return max(ranks.get(tag, 0) for tag in tags), build


@functools.cache
def _ranks(python: str, platform: str) -> Mapping[Tag, int]:
    """Return a number for each tag that fits, the highest for the one that fits most closely."""
    numbers = tuple(map(int, python.split(".")))
    abi, platforms = f"cp{python.replace('.', '')}", [*_platforms(platform)]
    tags = [*cpython_tags(numbers, [abi], platforms), *compatible_tags(numbers, abi, platforms)]
    return {tag: rank for rank, tag in enumerate(reversed(tags), start=1)}


def _platforms(platform: str) -> Iterator[str]:
    machine, _, newest = platform.partition("-manylinux_2_")
    for glibc in range(int(newest), min(_OLD_NAMES) - 1, -1):
        yield f"manylinux_2_{glibc}_{machine}"
        if glibc in _OLD_NAMES:
            yield f"{_OLD_NAMES[glibc]}_{machine}"
    yield f"linux_{machine}"


def compiled(file: Path, python: str, platform: str, *, named: str) -> list[dict[str, Any]]:
    """Return the packages that uv chooses, as pylock.toml has them (PEP 751): of each every wheel that fits."""
    with tempfile.TemporaryDirectory(prefix="splitbake-lock-") as name:
        lock = Path(name) / "pylock.toml"
        argv = [uv(), "pip", "compile", str(file), "--format", "pylock.toml", "--output-file", str(lock)]
        argv += ["--python-version", python, "--python-platform", platform, "--only-binary", ":all:"]
        argv += ["--no-config", "--no-header", "--quiet"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise SourceError(
                f"{named} cannot be resolved to wheels for Python {python} on {platform}:\n{done.stderr.strip()}",
                hint="every package of the runtime needs a wheel; what has none belongs into image.requirements",
            )
        packages: list[dict[str, Any]] = tomllib.loads(lock.read_text(encoding="utf-8")).get("packages", [])
        return packages


def _chosen(file: Path, python: str, platform: str, *, named: str) -> list[LockedWheel]:
    web = Web(plain=True)

    def locked(package: dict[str, Any]) -> LockedWheel:
        return _wheel(package, python, platform, web)

    packages = compiled(file, python, platform, named=named)
    with ThreadPoolExecutor(_THREADS) as pool:
        return sorted(pool.map(locked, packages), key=lambda wheel: wheel.name)


def _wheel(package: dict[str, Any], python: str, platform: str, web: Web) -> LockedWheel:
    wheels = [wheel for wheel in package.get("wheels", []) if "url" in wheel]
    if not wheels:
        raise SourceError(
            f"{package['name']} {package.get('version', '')} does not come as a wheel from an index",
            hint="the builder fetches wheels by address: no paths, no git, no source distributions",
        )
    best = max(wheels, key=lambda wheel: fitness(file_name(wheel["url"]), python, platform))
    address = urlsplit(best["url"])
    if address.username is not None or address.query:
        raise SourceError(
            f"{package['name']} comes from an index with a password or a signature in its addresses, which the lock "
            "would keep",
            hint=_OPEN,
        )
    return LockedWheel(
        name=package["name"],
        version=package["version"],
        url=best["url"],
        size=best.get("size") or _size(best["url"], web),
        sha256=best["hashes"]["sha256"],
    )


def _size(url: str, web: Web) -> int:
    """Ask for the size, which not every index tells; without any password, as the builder will."""
    with told(url):
        try:
            with web.ask("HEAD", url) as answer:
                length = answer.headers.get("Content-Length", "")
        except urllib.error.HTTPError as problem:
            problem.close()
            raise SourceError(
                f"{url} answered {problem.code} {problem.reason}",
                hint=_OPEN if problem.code in _FORBIDDEN else "run it again; if it stays so, look at the index",
            ) from problem
    if not length.isdecimal():
        raise SourceError(f"{url} does not say how large it is", hint="its index must tell sizes, or Content-Length")
    return int(length)
