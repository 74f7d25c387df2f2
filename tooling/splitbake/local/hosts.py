"""The hosts that Batch jobs run on: the AMI of their compute environment, with its data volumes mounted.

A snapshot is mounted where systemd would mount the volume made from it: a ``.mount`` unit names the label of the file
system and the folder, and is pulled in by its target, or by Docker or the ECS agent (``RequiresMountsFor=``). While
jobs run on a host, one idle container holds its mounts: a loop device over the snapshot, which nobody can write to, and
a Docker volume on it. Paths are resolved in that container, so a link on a volume never leads to a path of this
machine.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from threading import Lock
from typing import Any

from splitbake.local.disks import Disks
from splitbake.local.engine import labels
from splitbake.local.state import Cloud

_UNITS = "/etc/systemd/system"
_BY_LABEL = "/dev/disk/by-label/"
#: What takes jobs, and does not start before what it requires is mounted.
_TAKES_JOBS = ("docker.service", "ecs.service")
#: Read-only, and without the replay of a journal, which a read-only device refuses.
_OPTIONS = {"ext4": "ro,noload", "xfs": "ro,norecovery"}


class HostError(Exception):
    """An instance of this kind would not join the cluster; the text says why."""


@dataclass(frozen=True)
class Unit:
    """A mount unit of an AMI.

    Attributes:
        label: of the file system that it mounts.
        where: the folder that it mounts it at.
        demanded: whether no job is taken without it.
    """

    label: str
    where: PurePosixPath
    demanded: bool


@dataclass(frozen=True)
class Host:
    """What a job runs on.

    Attributes:
        ami: its AMI.
        image: the Docker image that stands for it.
        environment: the name of its compute environment.
        mounts: folder -> snapshot of the volume that is mounted there.
    """

    ami: str
    image: str
    environment: str
    mounts: tuple[tuple[PurePosixPath, str], ...] = ()


@dataclass
class _Open:
    """The mounts of a host that jobs run on: its idle container, and where Docker has each mounted on this machine."""

    container: Any
    volumes: list[Any]
    users: int = 0


class Hosts:
    """Finds out what hosts have mounted, and keeps it mounted while jobs run on them."""

    def __init__(self, cloud: Cloud, client: Any, disks: Disks) -> None:
        self._cloud = cloud
        self._client = client
        self._disks = disks
        self._units: dict[str, tuple[Unit, ...]] = {}
        self._labels: dict[str, str] = {}
        self._open: dict[tuple[Any, ...], _Open] = {}
        self._lock = Lock()

    def mounts(self, image: str, snapshots: Iterable[str]) -> tuple[tuple[PurePosixPath, str], ...]:
        """Return what an instance of ``image`` with volumes from ``snapshots`` mounts where.

        Raises:
            HostError: it lacks a volume without which it takes no jobs.
            DiskError: a snapshot cannot be looked at.
        """
        by_label = {self._label(name): name for name in snapshots}
        units = self._units_of(image)
        for unit in units:
            if unit.demanded and unit.label not in by_label:
                raise HostError(f"the AMI takes no jobs without {unit.where}, and no volume is labelled {unit.label}")
        return tuple((unit.where, by_label[unit.label]) for unit in units if unit.label in by_label)

    def enter(self, host: Host) -> None:
        """Mount what a host has mounted, if no job runs on it yet.

        Raises:
            DiskError: there is no free loop device.
            docker.errors.APIError: Docker cannot mount one of them.
        """
        if host.mounts:
            with self._lock:
                if _key(host) not in self._open:
                    self._open[_key(host)] = self._opened(host)
                self._open[_key(host)].users += 1

    def leave(self, host: Host) -> None:
        """Unmount everything with the last job on a host."""
        if host.mounts:
            with self._lock:
                self._open[_key(host)].users -= 1
                if not self._open[_key(host)].users:
                    self._close(host, self._open.pop(_key(host)))

    def locate(self, host: Host, path: str) -> tuple[PurePosixPath, dict[PurePosixPath, str]]:
        """Return where a path of an entered host really is, and what is mounted from it on.

        The mounts are folders and files of this machine by their place below ``path``, which is ``.`` for itself.
        Without that one, the path is on the root volume.
        """
        if not host.mounts:
            return PurePosixPath(path), {}
        opened = self._open[_key(host)]
        done = opened.container.exec_run(["realpath", "--canonicalize-missing", "--", path])
        real, found = PurePosixPath(done.output.decode().rstrip("\n")), {}
        for (where, _), volume in zip(host.mounts, opened.volumes, strict=True):
            source = PurePosixPath(volume.attrs["Mountpoint"])
            if real.is_relative_to(where):
                found[PurePosixPath()] = str(source / real.relative_to(where))
            elif where.is_relative_to(real):
                found[where.relative_to(real)] = str(source)
        return real, found

    def _opened(self, host: Host) -> _Open:
        import docker

        opened = _Open(None, [])
        name = f"splitbake-{self._cloud.id}-host-{sha256(repr(_key(host)).encode()).hexdigest()[:12]}"
        marks = labels(self._cloud.id, host=host.environment)
        try:
            for number, (_, snapshot) in enumerate(host.mounts):
                kind, _ = self._disks.file_system(snapshot)
                device = self._disks.device(snapshot, read_only=True)
                options = {"type": kind, "device": device, "o": _OPTIONS.get(kind, "ro")}
                volume = self._client.volumes.create(f"{name}-{number}", driver_opts=options, labels=marks)
                opened.volumes.append(volume)
            opened.container = self._client.containers.create(
                host.image,
                command=["sleep", "infinity"],
                name=name,
                labels=marks,
                network_mode="none",
                read_only=True,
                cap_drop=["ALL"],
                mounts=[
                    docker.types.Mount(str(where), volume.name, type="volume", read_only=True, no_copy=True)
                    for (where, _), volume in zip(host.mounts, opened.volumes, strict=True)
                ],
            )
            opened.container.start()
        except BaseException:
            self._close(host, opened)
            raise
        return opened

    def _close(self, host: Host, opened: _Open) -> None:
        if opened.container is not None:
            opened.container.remove(force=True)
        for volume in opened.volumes:
            volume.remove(force=True)
        for _, snapshot in host.mounts:
            if not any(snapshot in dict(key[1]).values() for key in self._open):  # other AMIs may have it mounted, too
                self._disks.release(snapshot)

    def _label(self, snapshot: str) -> str:
        if snapshot not in self._labels:
            _, self._labels[snapshot] = self._disks.file_system(snapshot)
        return self._labels[snapshot]

    def _units_of(self, image: str) -> tuple[Unit, ...]:
        """Return the mount units in an AMI's image."""
        import docker

        with self._lock:
            if image not in self._units:
                container = self._client.containers.create(image, labels=labels(self._cloud.id, role="look"))
                try:
                    stream, _ = container.get_archive(_UNITS)
                    files = _files(b"".join(stream))
                except docker.errors.NotFound:
                    files = {}
                finally:
                    container.remove(force=True)
                self._units[image] = mount_units(files)
            return self._units[image]


def mount_units(files: Mapping[str, str]) -> tuple[Unit, ...]:
    """Read which labelled file systems an AMI mounts at boot.

    Args:
        files: text of the files below ``/etc/systemd/system``, by their path there; links are empty.
    """
    dropped = [text for path, text in files.items() if path.startswith(tuple(f"{one}.d/" for one in _TAKES_JOBS))]
    required = [
        PurePosixPath(path) for text in dropped for line in _said(text, "RequiresMountsFor") for path in line.split()
    ]
    units = []
    for path, text in sorted(files.items()):
        what, where = _said(text, "What"), _said(text, "Where")
        if path.endswith(".mount") and what and where and what[-1].startswith(_BY_LABEL):
            folder = PurePosixPath(where[-1])
            demanded = any(one.is_relative_to(folder) for one in required)
            wanted = any(other.endswith((f".wants/{path}", f".requires/{path}")) for other in files)
            if demanded or wanted:
                units.append(Unit(what[-1].removeprefix(_BY_LABEL), folder, demanded))
    return tuple(units)


def _said(text: str, name: str) -> list[str]:
    """Return the values of a setting in a unit file."""
    return re.findall(rf"^\s*{name}\s*=\s*(\S.*?)\s*$", text, re.MULTILINE)


def _files(archive: bytes) -> dict[str, str]:
    """Return the files of a tar by their path below its one folder; links are empty."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            member.name.partition("/")[2]: file.read().decode(errors="replace")
            if (file := _content(tar, member))
            else ""
            for member in tar
            if not member.isdir()
        }


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    return tar.extractfile(member) if member.isfile() else None


def _key(host: Host) -> tuple[Any, ...]:
    return host.image, host.mounts
