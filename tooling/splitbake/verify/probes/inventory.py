"""Print what is on this host: packages, versions, container images, and how large its folders are (bytes).

Arguments: the folder of the models, and that of the runtime where there is one.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

_PACKAGES = (
    ("rpm", "-qa", "--queryformat", "%{NAME}\t%{VERSION}-%{RELEASE}\n"),
    ("dpkg-query", "--show", "--showformat", "${Package}\t${Version}\n"),
)


def said(*argv: str) -> str:
    """Return what a program says, empty where it is missing or fails."""
    if shutil.which(argv[0]) is None:
        return ""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def packages() -> dict[str, str]:
    """Return name -> version; several versions of one package, as of the kernel, in one text."""
    found: dict[str, set[str]] = {}
    for line in next(filter(None, (said(*ask) for ask in _PACKAGES)), "").splitlines():
        name, _, version = line.partition("\t")
        found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def sizes(folder: str, *options: str) -> dict[str, int]:
    """Return the folders directly below ``folder`` -> bytes that they take on its file system."""
    # du ends with 1 where a file vanished while it looked; what it counted is right all the same.
    argv = ["du", "--one-file-system", "--max-depth=1", "--block-size=1", "--null", *options, folder]
    listed = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    pairs = (line.split("\t", 1) for line in listed.split("\0") if line)
    return {path: int(size) for size, path in pairs}


def images() -> dict[str, int]:
    """Return the container images that this host has from the start: digest or id -> bytes."""
    names = said("docker", "image", "ls", "--quiet", "--no-trunc").split()
    text = said("docker", "image", "inspect", *sorted(set(names))) if names else ""
    return {(one.get("RepoDigests") or [one["Id"]])[0]: one["Size"] for one in json.loads(text or "[]")}


def runtime(folder: str) -> tuple[str, dict[str, str]]:
    """Return the digest of the runtime, as the bake wrote it down, and its packages: name -> version."""
    infos = (info.name[: -len(".dist-info")].partition("-") for info in Path(folder).glob("*.dist-info"))
    return Path(folder, ".splitbake/runtime").read_text(encoding="ascii").strip(), {one[0]: one[2] for one in infos}


def release() -> str:
    """Return the name that the distribution gives itself."""
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    return next((line[12:].strip("\"'") for line in lines if line.startswith("PRETTY_NAME=")), "")


def main(root: str, *runtimes: str) -> None:
    """Print the inventory of this host."""
    digest, wheels = runtime(*runtimes) if runtimes else ("", {})
    taken = sizes("/")
    for folder in (root, *runtimes):  # each may lie on a volume of its own
        taken |= sizes(folder, "--apparent-size")
    module = Path("/sys/module/nvidia/version")
    driver = module.read_text(encoding="ascii").strip() if module.is_file() else ""
    note = Path("/etc/splitbake/ami.json")
    installed = packages()
    found = {
        "system": release(),
        "kernel": os.uname().release,
        "driver": driver or said("modinfo", "--field", "version", "nvidia"),
        "docker": said("docker", "version", "--format", "{{.Server.Version}}"),
        "ecs_agent": installed.get("ecs-init", ""),
        "python": platform.python_version(),
        "packages": installed,
        "images": images(),
        "models": json.loads(note.read_text(encoding="utf-8"))["models"]["files"],
        "runtime": digest,
        "wheels": wheels,
        "sizes": taken,
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
