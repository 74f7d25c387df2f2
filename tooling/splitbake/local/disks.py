"""The bytes of EBS volumes and snapshots: sparse files in the cloud's folder, and loop devices over them.

Setting up a loop device takes rights that a user of Docker need not have. One container a cloud lends them, and no
more: the loop devices, ``SYS_ADMIN`` for their ioctls, ``DAC_OVERRIDE`` to open the user's own files. So it works alike
for root and for everybody else. A loop device is found again by the name of its file, which begins with the id of the
cloud.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

from splitbake.errors import LocalCloudError
from splitbake.local.engine import failures, labels
from splitbake.local.state import Cloud

#: Where the lending container sees the folder of the files.
_INSIDE = "/volumes"
_GIB = 2**30
#: Seconds that the kernel gets to unmount what a removed container had mounted.
_UNMOUNT_SECONDS = 10.0


class DiskError(Exception):
    """A file or a loop device could not be made; the text says why."""


class Disks:
    """The files of one cloud, each with the name of its volume or snapshot, and their loop devices."""

    def __init__(self, cloud: Cloud, client: Any) -> None:
        self._cloud = cloud
        self._client = client
        self._lock = RLock()

    def create(self, name: str, gib: int) -> None:
        """Make an empty disk: it takes no space until it is written to."""
        with self._made(name) as path, path.open("xb") as file:
            file.truncate(gib * _GIB)

    def copy(self, source: str, name: str, gib: int) -> None:
        """Make a disk of ``gib`` GiB that begins with the bytes of another one; holes stay holes."""
        command = ["cp", "--sparse=always", "--reflink=auto", "--", str(self._path(source))]
        with self._made(name) as path:
            done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise DiskError(done.stderr.strip())
            with path.open("r+b") as file:
                file.truncate(gib * _GIB)

    def link(self, source: str, name: str) -> None:
        """Give a disk that nobody writes to a second name; its bytes stay until both are removed."""
        with self._made(name) as path:
            path.hardlink_to(self._path(source))

    def has(self, name: str) -> bool:
        """Whether there is such a disk."""
        return self._path(name).exists()

    def used(self, name: str) -> int:
        """Return the bytes of a disk that were ever written to: its holes are not counted."""
        used = end = 0
        with self._path(name).open("rb") as file, suppress(OSError):  # ENXIO: from here on there is only a hole
            while True:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
                end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                used += end - start
        return used

    def remove(self, name: str) -> None:
        """Remove a disk and its loop device; one that is not there is fine."""
        if self.has(name):
            self.release(name)
            self._path(name).unlink()

    def device(self, name: str, *, read_only: bool = False) -> str:
        """Return the loop device of a disk; it is set up where there is none yet."""
        file = f"{_INSIDE}/{self._path(name).name}"
        with self._lock:
            known = self._loops(name)
            options = ["--read-only"] if read_only else []
            return known[0] if known else self._run("losetup", "--find", "--show", *options, file).strip()

    def release(self, name: str) -> None:
        """Take the loop device of a disk away; while somebody uses it, it stays until they are done."""
        with self._lock:
            for device in self._loops(name):
                self._run("losetup", "--detach", device)

    def flush(self, name: str) -> None:
        """Write out what the file system on a disk still holds in memory, wherever it is mounted.

        A disk without a loop device is mounted nowhere.
        """
        with self._lock:
            for device in self._loops(name):
                self._run("blockdev", "--flushbufs", device)

    def file_system(self, name: str) -> tuple[str, str]:
        """Return type and label of the file system on a disk, empty where there is none."""
        told = self._run("blkid", "--probe", "--output", "export", f"{_INSIDE}/{self._path(name).name}", nothing=2)
        values = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
        return values.get("TYPE", ""), values.get("LABEL", "")

    def _loops(self, name: str) -> list[str]:
        return [device for device, of in loops(self._cloud.id) if of == self._path(name).name]

    def _path(self, name: str) -> Path:
        return folder(self._cloud) / f"{self._cloud.id}-{name}"

    @contextmanager
    def _made(self, name: str) -> Iterator[Path]:
        """Yield the path of a new file; it is there whole or not at all."""
        path = self._path(name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        partial = path.with_name(f"{path.name}.part")
        try:
            yield partial
            partial.rename(path)
        except OSError as problem:
            raise DiskError(str(problem)) from problem
        finally:
            partial.unlink(missing_ok=True)

    def _run(self, *command: str, nothing: int = 0) -> str:
        """Run a command with the rights on loop devices; the exit code ``nothing`` is an empty answer."""
        try:
            with self._lock:
                lender = _lender(self._client, self._cloud)
            done = lender.exec_run(list(command), demux=True)
        except failures() as problem:
            raise DiskError(f"{command[0]}: {getattr(problem, 'explanation', None) or problem}") from problem
        out, err = ((part or b"").decode(errors="replace") for part in done.output)
        if done.exit_code not in (0, nothing):
            raise DiskError(f"{command[0]}: {(err or out).strip()}")
        return out


def folder(cloud: Cloud) -> Path:
    """Return where the disks of a cloud are."""
    return cloud.directory / "volumes"


def loops(cloud_id: str) -> Iterator[tuple[str, str]]:
    """Yield the loop devices of a cloud, each with the name of its file, as any user of the machine can see them.

    The kernel tells the path as its opener saw it, so only the last part of it is the same for everybody.
    """
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            name = Path(backing.read_text(encoding="utf-8").strip().removesuffix(" (deleted)")).name
        except OSError:  # it was taken away between the two looks
            continue
        if name.startswith(f"{cloud_id}-"):
            yield f"/dev/{backing.parent.parent.name}", name


def sweep(client: Any, cloud: Cloud) -> list[str]:
    """Take away every loop device of a cloud, then its files; return what went.

    The containers and Docker volumes that used them are gone before.

    Raises:
        LocalCloudError: a loop device stays, because its file system is still mounted somewhere.
    """
    import docker

    found = list(loops(cloud.id))
    if found:
        try:
            lender = _lender(client, cloud)
            for device, _ in found:
                lender.exec_run(["losetup", "--detach", device])
            lender.remove(force=True)
        except (DiskError, docker.errors.DockerException) as problem:
            raise _stuck(found, str(getattr(problem, "explanation", None) or problem)) from problem
    deadline = time.monotonic() + _UNMOUNT_SECONDS
    while left := list(loops(cloud.id)):
        if time.monotonic() > deadline:
            raise _stuck(left, "something still uses them")
        time.sleep(0.05)
    files = [path.name.removeprefix(f"{cloud.id}-") for path in folder(cloud).glob("*")]
    if folder(cloud).exists():
        shutil.rmtree(folder(cloud))
    return [*(f"loop device {device}" for device, _ in found), *(f"disk {name}" for name in sorted(files))]


def _stuck(devices: list[tuple[str, str]], reason: str) -> LocalCloudError:
    names = " ".join(device for device, _ in devices)
    return LocalCloudError(
        f"The loop devices {names} of the local cloud cannot be taken away: {reason}.",
        hint=f"See what uses them with `lsblk {names}`, unmount it, then as root: losetup --detach {names}",
    )


def _lender(client: Any, cloud: Cloud) -> Any:
    """Return the running container that has the rights on loop devices.

    Raises:
        DiskError: this machine has no loop devices.
    """
    import docker

    name = f"splitbake-{cloud.id}-disks"
    try:
        container = client.containers.get(name)
    except docker.errors.NotFound:
        if not Path("/dev/loop-control").exists():
            raise DiskError("this machine has no loop devices; as root: modprobe loop") from None
        folder(cloud).mkdir(mode=0o700, exist_ok=True)
        container = client.containers.create(
            cloud.instance_image,
            command=["sleep", "infinity"],
            name=name,
            labels=labels(cloud.id, role="disks"),
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            cap_add=["SYS_ADMIN", "DAC_OVERRIDE"],
            devices=["/dev/loop-control"],
            device_cgroup_rules=["b 7:* rw"],
            mounts=[
                docker.types.Mount("/dev", "/dev", type="bind", read_only=True),
                docker.types.Mount(_INSIDE, str(folder(cloud)), type="bind"),
            ],
        )
    container.start()  # does nothing where it runs
    return container
