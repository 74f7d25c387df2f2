"""SHA-256 of files, remembered between runs, and never wrong for it.

A digest is remembered under everything that the file system says of its file: path, size, both times to the
nanosecond, inode, device and mode. That alone would not do: a clock has granules (4 ms on ext4, 1 s elsewhere), and a
file that changes twice within one looks the same after the second change. So a digest is kept only if the file had
been at rest since before the file system's own clock, asked before the first byte was read: whatever happens to the
file later gets a later time (git calls the others racily clean, Documentation/technical/racy-git). A file whose times
cannot prove that (changed just now, dated into the future, on another file system than the cache) is read each time.
As in git, what stays unseen is what the file system itself does not date: a process that goes on writing through a
memory mapping before the system has written the page back, or a clock set back to the very nanosecond.

A cache that is missing, damaged, or of another scheme is as good as none, and so is one that cannot be written.
"""

from __future__ import annotations

import errno
import hashlib
import operator
import os
import stat
import struct
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, cast

from splitbake import files
from splitbake.errors import SplitbakeError, StateError

#: Below the project's folder; one file in it for each use. Deleting it costs time, nothing else.
FOLDER: Final = "build/cache"
#: First word of a cache. Change it with the meaning of anything after it.
SCHEME: Final = "splitbake-digests-1"

#: Bytes read at a time: large enough to hash at full speed, small beside anything else in memory.
_CHUNK = 1024**2
#: How often a file that changes meanwhile is read.
_TRIES = 3
#: What became a link or a pipe since it was looked at must neither be followed nor hang.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

#: Size, mtime, ctime, inode, device, mode: with the path all that must stay the same for a digest to stay true.
_STATE: Final = struct.Struct("=QqqQQQ")
_SIZE_AND_MODE: Final = struct.Struct("=Q32xQ")
_fields = operator.attrgetter("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev", "st_mode")

_Identity = tuple[str, bytes]


def state(status: os.stat_result) -> bytes:
    """Return what a status says of a file, to the nanosecond and in few bytes."""
    return _STATE.pack(*_fields(status))


def sizes_and_modes(states: Iterable[bytes]) -> Iterator[tuple[int, int]]:
    """Yield the size in bytes and the mode of each file."""
    return cast("Iterator[tuple[int, int]]", _SIZE_AND_MODE.iter_unpack(b"".join(states)))


def read(
    root: Path,
    paths: Sequence[str],
    states: Sequence[bytes],
    *,
    cache: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Sequence[bytes], Sequence[str]]:
    """Return the states that files had when they were read, and their SHA-256; only what may have changed is read.

    Args:
        root: the folder that the paths start from.
        paths: regular files below it, no links.
        states: of these files just now.
        cache: the file that remembers; it forgets all but ``paths``. None: nothing is remembered.
        say: takes the path of each file that is read.

    Raises:
        OSError: whose ``filename`` cannot be read, is no regular file any more, or does not come to rest (EBUSY).
    """
    known, known_digests = _load(cache) if cache else (b"", [])
    if len(known_digests) == len(paths) and known == _joined(paths, states):  # mostly nothing has changed at all
        return states, known_digests
    memory = _separated(known, known_digests)
    wanted = [*zip(paths, states, strict=True)]
    now, digests = [*states], [memory.get(identity) for identity in wanted]
    kept = {identity: digest for identity, digest in zip(wanted, digests, strict=True) if digest}
    unknown = [index for index, digest in enumerate(digests) if digest is None]
    clock = _clock(cache.parent) if cache and unknown else None  # before anything is read
    for index, (status, digest) in zip(unknown, _hash_all(root, [wanted[i] for i in unknown], say), strict=True):
        now[index], digests[index] = state(status), digest
        if clock and _at_rest(status, clock):
            kept[paths[index], now[index]] = digest
    if cache and [*kept] != [*memory]:
        _save(cache, kept)
    return now, [digest for digest in digests if digest]


def _at_rest(status: os.stat_result, clock: os.stat_result) -> bool:
    """Return whether any change after ``clock`` must show in the status of a file that had ``status`` then."""
    now = min(clock.st_mtime_ns, clock.st_ctime_ns)  # they differ where one is kept coarser: FAT has 2 s and 10 ms
    return status.st_dev == clock.st_dev and status.st_mtime_ns < now and status.st_ctime_ns < now


def _clock(folder: Path) -> os.stat_result | None:
    """Return the status of a file made in ``folder`` just now; None where none can be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno())
    except OSError:
        return None


def _joined(paths: Iterable[str], states: Iterable[bytes]) -> bytes:
    return b"".join(states) + "\0".join(paths).encode(errors="surrogateescape")


def _separated(known: bytes, digests: Sequence[str]) -> dict[_Identity, str]:
    """Return the digest of each identity; the opposite of ``_joined``."""
    end = len(digests) * _STATE.size
    states = [known[at : at + _STATE.size] for at in range(0, end, _STATE.size)]
    paths = known[end:].decode(errors="surrogateescape").split("\0")
    return dict(zip(zip(paths, states, strict=False), digests, strict=False))  # no digest, and yet one empty path


def _load(cache: Path) -> tuple[bytes, list[str]]:
    """Return the identities, joined, and their digests.

    The first line vouches for the rest, so nobody but ``_save`` can have written it.
    """
    try:
        content = cache.read_bytes()
    except OSError:
        return b"", []
    start, end = content.find(b"\n") + 1, content.rfind(b"\0")
    if content[:start] != _head(memoryview(content)[start:]):
        return b"", []
    return content[start:end], content[end + 1 :].decode().split()


def _save(cache: Path, known: Mapping[_Identity, str]) -> None:
    """Write the cache for the next run, all of it or nothing; one that cannot be written is no error."""
    paths, states = [path for path, _ in known], [state for _, state in known]
    body = b"\0".join([_joined(paths, states), " ".join(known.values()).encode()])
    try:
        files.replace(cache.parent / ".gitignore", b"*\n", StateError)
        files.replace(cache, _head(body) + body, StateError)
    except SplitbakeError:
        return


def _head(body: bytes | memoryview) -> bytes:
    return f"{SCHEME} {hashlib.sha256(body).hexdigest()}\n".encode()


def _hash_all(
    root: Path, wanted: Sequence[_Identity], say: Callable[[str], None] | None
) -> list[tuple[os.stat_result, str]]:
    """Hash large files side by side (hashlib frees the interpreter for them), small ones meanwhile one by one."""
    stopped = threading.Event()

    def hashed(path: str, buffer: bytearray | None = None) -> tuple[os.stat_result, str]:
        if say:
            say(path)
        return _hash(f"{root}/{path}", memoryview(buffer or bytearray(_CHUNK)), stopped)

    sizes = [size for size, _ in sizes_and_modes(state for _, state in wanted)]
    buffer = bytearray(_CHUNK)
    with ThreadPoolExecutor() as pool:
        try:
            large = {i: pool.submit(hashed, wanted[i][0]) for i, size in enumerate(sizes) if size > _CHUNK}
            small = {i: hashed(wanted[i][0], buffer) for i, size in enumerate(sizes) if size <= _CHUNK}
            return [small[i] if i in small else large[i].result() for i in range(len(sizes))]
        except BaseException:
            stopped.set()  # or the end of the block would wait for gigabytes
            raise


def _hash(file: str, buffer: memoryview, stopped: threading.Event) -> tuple[os.stat_result, str]:
    """Read ``file`` through one descriptor until its status is the same before and after."""
    for _ in range(_TRIES):
        descriptor = os.open(file, _READ)
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file any more", file)
            digest = hashlib.sha256()
            while not stopped.is_set() and (count := os.readv(descriptor, [buffer])):
                digest.update(buffer[:count])
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if state(before) == state(after):
            return before, digest.hexdigest()
    raise OSError(errno.EBUSY, "it changes while it is read", file)
