"""Read every file below a folder once, front to end, and say how long the reading took.

The page cache is passed over (O_DIRECT) where the file system allows it, so that what counts is the volume: blocks of
a fresh EBS volume come from S3 at their first reading. One file after the other, 4 MiB at a time, as a program loads
its models; the time of hashing is left out.

Argument: the folder. Prints path below it -> what was seen there.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import sys
import time
from pathlib import Path

_BLOCK = 4 << 20


def read(path: Path, buffer: mmap.mmap) -> tuple[str, float, bool]:
    """Return the SHA-256 of a file, the seconds that reading took, and whether the page cache was passed over."""
    try:
        file, direct = os.open(path, os.O_RDONLY | os.O_DIRECT), True
    except OSError:  # tmpfs has no O_DIRECT
        file, direct = os.open(path, os.O_RDONLY), False
    digest, seconds, view = hashlib.sha256(), 0.0, memoryview(buffer)
    try:
        while True:
            began = time.perf_counter()
            count = os.readv(file, [buffer])
            seconds += time.perf_counter() - began
            digest.update(view[:count])
            if count < _BLOCK:
                return digest.hexdigest(), seconds, direct
    finally:
        os.close(file)
        view.release()


def look(path: Path, buffer: mmap.mmap) -> dict[str, object]:
    """Return size, mode, owner and content of a regular file, of anything else only what it is."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        return {"kind": stat.filemode(found.st_mode)[0]}
    sha256, seconds, direct = read(path, buffer)
    return {
        "kind": "-",
        "size": found.st_size,
        "mode": f"{stat.S_IMODE(found.st_mode):04o}",
        "owner": [found.st_uid, found.st_gid],
        "sha256": sha256,
        "seconds": seconds,
        "direct": direct,
    }


def main(root: str) -> None:
    """Print what lies below ``root``."""
    top = Path(root)
    there = sorted(Path(folder, name) for folder, _, names in os.walk(top) for name in names)
    with mmap.mmap(-1, _BLOCK) as buffer:  # anonymous memory begins at a page, as O_DIRECT needs it
        json.dump({str(path.relative_to(top)): look(path, buffer) for path in there}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
