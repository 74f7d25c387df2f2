"""The locked runtime on this machine: installed once into a cache, as the AMI has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from splitbake import contract, files
from splitbake import runtime as runtimes
from splitbake.errors import VerifyError
from splitbake.runtime import LockedRuntime
from splitbake.sources import wheels
from splitbake.ui import Say


def installed(locked: LockedRuntime, say: Say) -> Path:
    """Return a folder with the runtime, for mounting read-only into a container of the image.

    Raises:
        VerifyError: a wheel cannot be fetched, is not the locked one, or there is no room.
        ToolError: uv is missing.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(home) / "splitbake" / "runtimes"
    folder = cache / locked.digest.removeprefix("sha256:")
    if folder.is_dir():
        return folder
    say(f"installing {len(locked.wheels)} wheels of the runtime")
    with files.writing(folder, VerifyError):
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".installing-", dir=cache))
    try:
        _install(locked, partial)
        with files.writing(folder, VerifyError):
            _settle(partial)
            try:
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():  # another one was quicker: the content is the same
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _install(locked: LockedRuntime, target: Path) -> None:
    """As 40-runtime.sh does on the builder."""
    with tempfile.NamedTemporaryFile("w", prefix="splitbake-runtime-", suffix=".txt", encoding="utf-8") as wanted:
        wanted.write(runtimes.requirements(locked))
        wanted.flush()
        argv = [wheels.uv(), "pip", "install", "--quiet", "--no-progress", "--no-config", "--target", str(target)]
        argv += ["--python-version", locked.python, "--python-platform", locked.platform, "--only-binary", ":all:"]
        argv += ["--no-deps", "--require-hashes", "--requirement", wanted.name]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise VerifyError(
            f"the runtime cannot be installed here:\n{done.stderr.strip()}",
            hint="does the index still have these wheels? splitbake lock",
        )
    files.replace(target / contract.FOLDER / contract.RUNTIME_FILE, f"{locked.digest}\n", VerifyError)


def _settle(target: Path) -> None:
    """As 40-runtime.sh: forget where each wheel came from, and let the image's user read it whatever the umask is."""
    for leftover in (target / ".lock", *target.glob("*.dist-info/direct_url.json")):
        leftover.unlink(missing_ok=True)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o111 else 0o644)
