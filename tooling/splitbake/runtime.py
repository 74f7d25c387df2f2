"""The runtime as the lock has it: which wheels, for which Python and platform, and how they are told apart.

Wheels are chosen for the image, not for the host that carries them: they run in the container.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from pydantic import Field

from splitbake.spec import Sha256, Spec, Text

if TYPE_CHECKING:
    from splitbake.manifest import Manifest

#: EC2's architectures -> the platform that wheels are chosen for, as uv names it. 2_28 is the glibc of Debian 10 and
#: RHEL 8; every later one runs such wheels, and wheels for an older one fit as well.
PLATFORMS: Final = {"x86_64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}


def file_name(url: str) -> str:
    """Return the name of the file at ``url``, which of a wheel says for whom it is."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


class LockedWheel(Spec):
    """One wheel: where it is, and the content that it must have."""

    name: Text = Field(description="of the distribution")
    version: Text
    url: Text
    size: int = Field(ge=0, description="bytes")
    sha256: Sha256

    @property
    def file(self) -> str:
        """The name of the file, which says for whom the wheel is."""
        return file_name(self.url)


class LockedRuntime(Spec):
    """All wheels of the runtime, and the one that brings the installer."""

    requirements: Sha256 = Field(description="of the requirements file that they were chosen for")
    python: Text
    platform: Text
    wheels: tuple[LockedWheel, ...] = Field(strict=False, description="sorted by name")
    installer: LockedWheel = Field(description="uv, for the builder")

    @property
    def abi(self) -> str:
        """What an image insists on: code compiled against one Python and machine runs with no other."""
        return f"cp{self.python.replace('.', '')}-{self.platform}"

    @property
    def digest(self) -> str:
        """One digest over what is installed; from where it comes does not matter."""
        lines = "".join(f"\n{wheel.sha256} {wheel.file}" for wheel in self.wheels)
        return f"sha256:{hashlib.sha256((self.abi + lines).encode()).hexdigest()}"


def requirements(locked: LockedRuntime) -> str:
    """Return the wheels as a requirements file for pip or uv: each by its address, with its hash."""
    return "".join(f"{wheel.name} @ {wheel.url} --hash=sha256:{wheel.sha256}\n" for wheel in locked.wheels)


def mismatches(
    manifest: Manifest, requirements: bytes | None, locked: LockedRuntime | None, architecture: str
) -> Iterator[str]:
    """Yield why ``locked`` does not answer ``manifest``.

    Args:
        manifest: what is wanted.
        requirements: content of the file that it names; None: it cannot be read.
        locked: what the lock has.
        architecture: of the hosts, as EC2 names it.
    """
    wanted = manifest.runtime
    if wanted is None or locked is None:
        if wanted is not None or locked is not None:
            yield "runtime is not locked" if wanted else "runtime is still locked"
        return
    if wanted.python != locked.python:
        yield f"runtime.python is {wanted.python}, locked is {locked.python}"
    if locked.platform != PLATFORMS.get(architecture):
        yield f"the hosts are {architecture}, the runtime is locked for {locked.platform}"
    if requirements is None:
        yield f"runtime.requirements names {wanted.requirements}, which cannot be read"
    elif hashlib.sha256(requirements).hexdigest() != locked.requirements:
        yield f"{wanted.requirements} has changed since the runtime was locked"


def differences(old: LockedRuntime | None, new: LockedRuntime | None) -> list[str]:
    """Say in words what moved from ``old`` to ``new``; empty where nothing did."""
    if old == new:
        return []
    if old is None or new is None:
        count = len(new.wheels) if new else 0
        return [f"runtime: {count} wheels for {new.abi}" if new else "runtime: gone"]
    words = [f"runtime: {old.abi} -> {new.abi}"] if old.abi != new.abi else []
    before = {wheel.name: wheel for wheel in old.wheels}
    after = {wheel.name: wheel for wheel in new.wheels}
    words += [f"wheel gone: {name}" for name in sorted(before.keys() - after.keys())]
    words += [f"wheel new: {name} {after[name].version}" for name in sorted(after.keys() - before.keys())]
    words += [
        f"wheel changed: {name} {before[name].version} -> {after[name].version}"
        for name in sorted(before.keys() & after.keys())
        if before[name].sha256 != after[name].sha256
    ]
    if old.installer != new.installer:
        words.append(f"installer of the runtime: uv {old.installer.version} -> {new.installer.version}")
    return words or ["runtime: the same wheels, from elsewhere or of another requirements file"]
