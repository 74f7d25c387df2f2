"""The volumes beside the root: which there are, how big, and how they are found again on an instance."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from splitbake import contract
from splitbake.lock import Lock
from splitbake.manifest import Manifest

MODELS_DEVICE: Final = "/dev/sdf"
MODELS_LABEL: Final = "dl-models"
RUNTIME_DEVICE: Final = "/dev/sdg"
RUNTIME_LABEL: Final = "dl-runtime"
#: Label -> the key of the manifest that says where it is mounted.
KEYS: Final = {MODELS_LABEL: "models.root", RUNTIME_LABEL: "runtime.root"}

_GIB = 1024**3
_BLOCK = 4096
#: Bytes of the volume for each inode of it, as 20-volumes.sh asks mkfs for; what has a name has an inode.
BYTES_PER_INODE: Final = 16384
#: What ext4 keeps for itself: inode tables 1.6 %, the entries of folders, block groups; then the journal.
_OVERHEAD = 1.1
_JOURNAL = 64 * 1024**2


@dataclass(frozen=True)
class Volume:
    """One EBS volume with a file system of its own.

    Attributes:
        device: the name that EC2 is given; the kernel may call it otherwise.
        label: of its file system, by which it is mounted.
        where: the folder that it is mounted at.
        size_gib: whole GiB, as EBS counts; no two volumes of a builder have the same.
    """

    device: str
    label: str
    where: str
    size_gib: int


def planned(manifest: Manifest, lock: Lock) -> tuple[Volume, ...]:
    """Return the volumes that the manifest wants beside the root."""
    if manifest.models.placement == "root":
        return ()
    offer = contract.offer_text(manifest, lock)
    files = {file.path: file.size for file in lock.files} | {f"{contract.FOLDER}/{contract.OFFER_FILE}": len(offer)}
    wanted = [Volume(MODELS_DEVICE, MODELS_LABEL, manifest.models.root, fitting(files))]
    if manifest.runtime:
        wanted.append(Volume(RUNTIME_DEVICE, RUNTIME_LABEL, manifest.runtime.root, taking(manifest.runtime.budget)))
    return told_apart(wanted)


def taking(size: int) -> int:
    """Return the GiB of an ext4 file system that takes ``size`` bytes of files of which nothing else is known."""
    return max(1, math.ceil((size * _OVERHEAD + _JOURNAL) / _GIB))


def fitting(files: Mapping[str, int]) -> int:
    """Return the GiB of an ext4 file system that takes ``files`` (path -> bytes), in blocks and in inodes."""
    folders = {folder for path in files for folder in PurePosixPath(path).parents}
    used = sum(max(math.ceil(size / _BLOCK) * _BLOCK, BYTES_PER_INODE) for size in files.values())
    used += len(folders) * BYTES_PER_INODE
    return max(1, math.ceil((used * _OVERHEAD + _JOURNAL) / _GIB))


def told_apart(volumes: Iterable[Volume]) -> tuple[Volume, ...]:
    """Return ``volumes``, each as much bigger as it needs to have a size of its own.

    Where the kernel's names say nothing about EC2's, a blank disk is recognised by its size.
    """
    apart: dict[int, Volume] = {}
    for volume in volumes:
        size = next(size for size in itertools.count(volume.size_gib) if size not in apart)
        apart[size] = dataclasses.replace(volume, size_gib=size)
    return tuple(apart.values())


def calls(volumes: Iterable[Volume], verb: str) -> str:
    """Return the shell lines ``verb DEVICE LABEL GIB FOLDER``, one a volume; ``verb`` is a function of the script."""
    lines = [shlex.join([verb, one.device, one.label, str(one.size_gib), one.where]) for one in volumes]
    return "\n".join(lines or [": # none: everything lies on the root volume"])
