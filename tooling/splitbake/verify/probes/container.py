"""Start a container that has the models as a job has them, and try to read and to write them.

The container's image holds this host's own shell and C library and nothing else, so nothing is pulled. Arguments: the
folder, a file below it, and ``gpu`` or nothing: with it nvidia-smi runs in another container. Prints ``problem``, null
where everything is as it should be; ``without``: there is nothing here to try it with.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

_IMAGE = "splitbake-verification"
_TRY = 'head -c 1 "$1" >/dev/null && exec 2>&1 && touch "$2"'
_PATIENCE = 120


def run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it said."""
    return subprocess.run(argv, capture_output=True, text=True, check=check, timeout=_PATIENCE)


def libraries(program: str) -> list[str]:
    """Return the files that the dynamic linker loads for a program; a static one has none."""
    return re.findall(r"(/\S+) \(0x", run("ldd", program, check=False).stdout)


def make_image() -> None:
    """Pack the host's own shell, two programs and what they load, and every folder of that."""
    programs = ["/bin/sh", "/usr/bin/head", "/usr/bin/touch"]
    optional = [
        path for path in [shutil.which("nvidia-smi")] if path
    ]  # the NVIDIA runtime brings it, not its libraries
    loaded = {library for program in programs + optional for library in libraries(program)}
    files = sorted({*programs, *(path for path in loaded if "nvidia" not in path)})
    engine = subprocess.Popen(
        ["docker", "import", "--change", "ENV PATH=/usr/bin:/bin", "-", _IMAGE],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    with tarfile.open(fileobj=engine.stdin, mode="w|", dereference=True) as image:
        # A folder that no entry names belongs to root alone.
        for folder in sorted({str(parent) for path in files for parent in Path(path).parents} - {"/"}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            image.addfile(entry)
        for path in files:
            image.add(path, recursive=False)
    engine.communicate()
    if engine.returncode:
        raise SystemExit(f"docker import ended with {engine.returncode}")


def container(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a container without network, as strict as a job."""
    return run("docker", "run", "--rm", "--network", "none", "--read-only", *arguments, check=False)


def mount(root: str) -> str:
    """Return the option that mounts ``root`` read-only; the engine reads it as a line of CSV."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(["type=bind", f"source={root}", "target=/models", "readonly"])
    return line.getvalue()


def try_models(root: str, name: str) -> str | None:
    """Return what is wrong with the models in a container, None where nothing is."""
    where = f"/models/{name}", "/models/.splitbake-verification"
    for user in ("65534", "0"):
        done = container("--user", user, "--mount", mount(root), _IMAGE, "sh", "-c", _TRY, "sh", *where)
        said = (done.stdout + done.stderr).strip()
        if done.returncode == 0:
            Path(root, ".splitbake-verification").unlink()
            return f"user {user} can write in {root}"
        if "Read-only file system" not in said:
            return f"user {user} cannot read {name}: {said}"
    return None


def try_gpu() -> str | None:
    """Return what is wrong with the GPU in a container, None where nothing is."""
    # ECS chooses the nvidia runtime itself; on AL2023 it is not Docker's default one.
    done = container("--gpus", "all", "-e", "NVIDIA_DRIVER_CAPABILITIES=utility", _IMAGE, "nvidia-smi", "-L")
    if done.returncode == 0 and "GPU 0" in done.stdout:
        return None
    return f"nvidia-smi ended with {done.returncode}: {(done.stderr or done.stdout).strip() or 'it said nothing'}"


def main(root: str, name: str, *wishes: str) -> None:
    """Print what was found."""
    if shutil.which("docker") is None:
        json.dump({"without": "this host has no Docker"}, sys.stdout)
        return
    engine = run("docker", "version", "--format", "{{.Server.Version}}", check=False)
    if engine.returncode:
        json.dump({"problem": f"Docker does not answer: {engine.stderr.strip()}"}, sys.stdout)
        return
    make_image()
    try:
        problem = try_gpu() if "gpu" in wishes else try_models(root, name)
    finally:
        run("docker", "image", "rm", "--force", _IMAGE)
    json.dump({"problem": problem, "engine": engine.stdout.strip()}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
