"""The two base images, built once a machine and shared by all its clouds.

Both are Debian root file systems from mmdebstrap (no image hub needed), packed as a Docker archive with a fixed
configuration: the archive in the cache decides the image id, so the manifest digest is the same at each ``up``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from splitbake.errors import LocalCloudError, ToolError
from splitbake.local.engine import LABEL
from splitbake.local.state import locked

#: Label of a base image, with the digest of its recipe.
BASE_LABEL = "splitbake.base"
SUITE = "bookworm"
Progress = Callable[[str], None]

#: Seconds that pulling the real Python image may take before the local stand-in is built instead.
PULL_TIMEOUT = 60

_CREATED = "1970-01-01T00:00:00Z"
#: Makes the merged /usr from outside; from inside the usrmerge package would do it, with 47 MB of Perl.
_MERGED_USR = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"
_LEAN = ("man", "doc", "locale", "info", "lintian", "bug")


@dataclass(frozen=True)
class Recipe:
    """How a base image is made.

    Attributes:
        name: repository name of the image, below ``splitbake/``.
        packages: Debian packages on top of the minimal system.
        files: file of the recipe folder -> where it goes; ``setup`` is run and then removes itself.
        config: the image's configuration, in Docker's names.
        pull: the real image to try first, if any.
        without: files of the packages that are left out, as shell patterns.
    """

    name: str
    packages: tuple[str, ...]
    files: dict[str, str]
    config: dict[str, Any]
    pull: str = ""
    without: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Identify the recipe: any change of it gives another image."""
        parts = [
            self.name,
            SUITE,
            platform.machine(),
            *self.packages,
            *_LEAN,
            *self.without,
            _MERGED_USR,
            json.dumps(self.config, sort_keys=True),
        ]
        parts += [f"{target}\0{self._source(name).read_text()}" for name, target in sorted(self.files.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def tag(self) -> str:
        """Name the image in the engine."""
        return f"splitbake/{self.name}:{self.digest[:12]}"

    def command(self, tar: Path) -> list[str]:
        """Return the mmdebstrap call that writes the root file system to ``tar``."""
        left_out = (*(f"/usr/share/{folder}/*" for folder in _LEAN), *self.without)
        uploads = [
            f"--customize-hook=upload {shlex.quote(str(self._source(name)))} {target}"
            for name, target in self.files.items()
        ]
        return [
            "mmdebstrap",
            "--variant=minbase",
            "--quiet",
            _MERGED_USR,
            f"--include={','.join(self.packages)}",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in left_out),
            '--customize-hook=mkdir -p "$1/usr/lib/splitbake"',
            *uploads,
            f'--customize-hook=chroot "$1" /bin/sh {self.files["setup"]}',
            SUITE,
            str(tar),
        ]

    def _source(self, name: str) -> Path:
        return Path(str(files("splitbake.local"))) / "recipes" / self.name / name


INSTANCE = Recipe(
    name="instance",
    packages=(
        "ca-certificates",
        "cloud-init",
        "curl",
        "dbus",
        "docker.io",
        "e2fsprogs",
        "findutils",
        "iproute2",
        "iptables",
        "libnss-myhostname",  # as on AL2023: sudo looks its own host up, and no name server knows it
        "openssh-server",
        "procps",
        "python3",
        "sudo",
        "systemd",
        "systemd-sysv",
        "util-linux",
    ),
    files={
        "setup": "/usr/lib/splitbake/setup",
        "boot": "/usr/lib/splitbake/boot",
        "udevadm": "/usr/bin/udevadm",
        "ec2-source": "/usr/lib/python3/dist-packages/cloudinit/sources/DataSourceContainerEc2.py",
        "cloud.cfg": "/etc/cloud/cloud.cfg.d/90-instance.cfg",
        "ecs-agent": "/usr/lib/splitbake/ecs-agent",
        "ecs.service": "/lib/systemd/system/ecs.service",
    },
    # Tools that Docker does not call, and sources of locales: 75 MB.
    without=(
        "/usr/bin/containerd-shim",
        "/usr/bin/containerd-shim-runc-v1",
        "/usr/bin/ctr",
        "/usr/bin/dnet",
        "/usr/share/i18n/*",
    ),
    # SIGRTMIN+3 is how systemd is asked to shut down; SIGTERM would only make it re-execute.
    config={"Cmd": ["/usr/lib/splitbake/boot"], "Env": ["container=docker"], "StopSignal": "SIGRTMIN+3"},
)
PYTHON = Recipe(
    name="python",
    packages=("ca-certificates", "python3", "python3-pip", "python3-venv"),
    files={"setup": "/usr/lib/splitbake/setup"},
    config={
        "Cmd": ["python3"],
        "Env": ["PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
    },
    pull="python:3.11-slim",
)


def ensure(client: Any, progress: Progress) -> tuple[str, str]:
    """Make sure that both base images are in the engine and return their ids: instance, Python."""
    with ThreadPoolExecutor(max_workers=2) as both:
        instance, python = both.map(lambda recipe: _ensure(client, recipe, progress), (INSTANCE, PYTHON))
    return instance, python


def purge(client: Any) -> list[str]:
    """Drop the base images and their cache, which all clouds of this machine share; return what went.

    Raises:
        LocalCloudError: there is a cloud, even an idle one, that would miss them.
    """
    import docker

    if clouds := _clouds(client):
        raise LocalCloudError(
            f"The base images are those of other local clouds that are still there: {', '.join(clouds)}.",
            hint="End them with `splitbake local down` in their projects. Where the state folder of one is gone: "
            f"`docker ps --all --filter label={LABEL}`, `docker network ls --filter label={LABEL}`, and remove those.",
        )
    tags = {tag for image in client.images.list(filters={"label": BASE_LABEL}) for tag in image.tags}
    tags |= {recipe.tag for recipe in (INSTANCE, PYTHON)}  # a pulled image carries no label of ours
    removed = []
    for tag in sorted(tags):
        try:
            client.images.remove(tag)
        except docker.errors.ImageNotFound:
            continue
        except docker.errors.APIError as problem:
            raise LocalCloudError(
                f"The base image {tag} is in use: {problem.explanation}",
                hint="Remove the container that uses it first (`docker ps --all`).",
            ) from problem
        removed.append(f"image {tag}")
    if cache().exists():
        shutil.rmtree(cache())
        removed.append(f"cache {cache()}")
    return removed


def _clouds(client: Any) -> list[str]:
    """Return the ids of all clouds that have a container or a network: an idle one has just the network."""
    marked = {"filters": {"label": LABEL}}
    containers = [one["Labels"] for one in client.api.containers(all=True, **marked)]
    networks = [one["Labels"] for one in client.api.networks(**marked)]
    return sorted({labels[LABEL] for labels in (*containers, *networks)})


def _ensure(client: Any, recipe: Recipe, progress: Progress) -> str:
    import docker

    archive = cache() / f"{recipe.name}-{recipe.digest[:12]}.tar"
    with locked(cache() / f"{recipe.name}.lock"):
        try:
            return str(client.images.get(recipe.tag).id)
        except docker.errors.ImageNotFound:
            progress(f"base image {recipe.name}: not in the engine yet")
        if not archive.exists():
            if recipe.pull and _pull(client, recipe, progress):
                return str(client.images.get(recipe.tag).id)
            progress(f"base image {recipe.name}: building it with mmdebstrap (once, about half a minute)")
            _build(recipe, archive)
            for older in set(cache().glob(f"{recipe.name}-*.tar")) - {archive}:
                older.unlink()  # its image is in the engine; where it is not, its version of splitbake builds it anew
        progress(f"base image {recipe.name}: loading {archive.stat().st_size / 1e6:.0f} MB into the engine")
        with archive.open("rb") as file:
            client.images.load(file)
        return str(client.images.get(recipe.tag).id)


def _pull(client: Any, recipe: Recipe, progress: Progress) -> bool:
    """Try to get the real image; without a hub the local stand-in serves."""
    try:
        done = subprocess.run(
            ["docker", "pull", "--quiet", recipe.pull],
            capture_output=True,
            text=True,
            timeout=PULL_TIMEOUT,
            check=False,
        )
    except (subprocess.TimeoutExpired, FileNotFoundError) as problem:
        progress(f"base image {recipe.name}: {recipe.pull} cannot be pulled ({problem})")
        return False
    if done.returncode != 0:
        progress(f"base image {recipe.name}: {recipe.pull} cannot be pulled ({done.stderr.strip()[-200:]})")
        return False
    return bool(client.images.get(recipe.pull).tag(recipe.tag))


def _build(recipe: Recipe, archive: Path) -> None:
    """Run mmdebstrap and pack its result as a Docker archive; all of it or nothing.

    Raises:
        ToolError: mmdebstrap is missing or failed.
    """
    with TemporaryDirectory(dir=archive.parent, prefix=f"{recipe.name}-") as scratch:
        layer = Path(scratch) / "layer.tar"
        try:
            done = subprocess.run(recipe.command(layer), capture_output=True, text=True, check=False)
        except FileNotFoundError as problem:
            raise ToolError(
                "The local cloud builds its base images with mmdebstrap, which is not installed.",
                hint="On Debian or Ubuntu: apt install mmdebstrap (or `splitbake doctor --fix`).",
            ) from problem
        if done.returncode != 0:
            raise ToolError(
                f"mmdebstrap could not build the base image {recipe.name}:\n{_tail(done.stderr)}",
                hint="It needs the Debian mirror and its keyring (debian-archive-keyring), or root or user namespaces.",
            )
        partial = Path(scratch) / "image.tar"
        _pack(recipe, layer, partial)
        partial.replace(archive)


def _pack(recipe: Recipe, layer: Path, archive: Path) -> None:
    """Write ``layer`` as the only layer of a Docker archive (the format of ``docker save``)."""
    with layer.open("rb") as file:
        diff_id = hashlib.file_digest(file, "sha256").hexdigest()
    config = json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
            "os": "linux",
            "created": _CREATED,
            "config": recipe.config | {"Labels": {BASE_LABEL: recipe.digest}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
            "history": [{"created": _CREATED, "created_by": f"splitbake base image {recipe.name}"}],
        },
        sort_keys=True,
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [recipe.tag], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(archive, "w") as tar:
        tar.add(layer, "layer.tar")
        for entry, content in ((name, config), ("manifest.json", manifest)):
            header = tarfile.TarInfo(entry)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))


def cache() -> Path:
    """Return the folder of what all clouds of this machine share."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "splitbake" / "local"


def _tail(text: str, lines: int = 8) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
