"""Compare a folder of Python packages with what the RECORD of each of them says of its files.

Arguments: the folder, and ``content`` or nothing: with it every file is read and hashed, else only sizes are compared.
Prints ``packages``, name -> version; ``files``, how many there are; ``count``, how many are wrong, and some of them, in
words, as ``wrong``.

What RECORD has no checksum of, as its own format allows, must only be there.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os.path
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_BLOCK = 1 << 20
#: Blocks of a volume that was made from a snapshot come slowly to one reader, and fast to many.
_READERS = 16
_SHOWN = 5
#: What the bake adds, and what it removes again: it would say where a wheel came from.
_OURS, _REMOVED = ".splitbake/runtime", "direct_url.json"


def recorded(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Return path -> checksum and size, of each package that has such a file: the one that came last has written it."""
    known: dict[str, list[tuple[str, str]]] = {}
    for info in root.glob("*.dist-info"):
        known.setdefault(f"{info.name}/RECORD", [])
        if (info / "RECORD").is_file():
            with (info / "RECORD").open(encoding="utf-8", newline="") as lines:
                for path, *told in filter(None, csv.reader(lines)):
                    digest, size, *_ = [*told, "", ""]
                    known.setdefault(os.path.normpath(path), []).append((digest, size))
    return known


def checksum(path: Path, algorithm: str) -> str:
    """Return the digest of a file as RECORD writes it."""
    digest = hashlib.new(algorithm)
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return f"{algorithm}={base64.urlsafe_b64encode(digest.digest()).decode().rstrip('=')}"


def problem(path: Path, wanted: list[tuple[str, str]] | None, content: bool) -> str:
    """Return what is wrong with a file, empty where nothing is; ``wanted`` is None where no RECORD names it."""
    if wanted is None:
        return "is in no RECORD"
    try:
        found = path.lstat()
    except FileNotFoundError:
        return "is missing"
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    fitting = [digest for digest, size in wanted if size in {"", str(found.st_size)}]
    if wanted and not fitting:
        return f"has {found.st_size} bytes"
    if content and fitting and not any(not one or checksum(path, one.partition("=")[0]) == one for one in fitting):
        return "has other content"
    return ""


def main(root: str, *wishes: str) -> None:
    """Print what is wrong below ``root``."""
    top = Path(root)
    known = recorded(top)
    there = {str(path.relative_to(top)) for path in top.rglob("*") if path.is_symlink() or not path.is_dir()}
    gone = {path for path in known if path.endswith(f".dist-info/{_REMOVED}")} - there
    paths = sorted((there | known.keys()) - gone - {_OURS})

    def told(path: str) -> str:
        what = problem(top / path, known.get(path), "content" in wishes)
        return what and f"{path} {what}"

    with ThreadPoolExecutor(_READERS) as pool:
        wrong = list(filter(None, pool.map(told, paths)))
    found = {
        "packages": dict(info.name[: -len(".dist-info")].partition("-")[::2] for info in top.glob("*.dist-info")),
        "files": len(there),
        "count": len(wrong),
        "wrong": [text.encode(errors="replace").decode() for text in wrong[:_SHOWN]],
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
