"""The size and digest of each model file, with as little reading as proves them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from splitbake.errors import SourceError
from splitbake.lock import LockedFile
from splitbake.sources import CHUNK, Found, Source, pointers, side_by_side, web
from splitbake.sources.file import FileSource
from splitbake.sources.progress import Progress
from splitbake.ui import Say

#: Files that are read at once. More streams than this fill no line faster.
_THREADS = 8

#: Where one of these is what it was, the content is, too; as long as the size says nothing else, and it is read at the
#: same address: two versions of a file can have the same entity tag and time, where it is made of time and size.
_SIGNS = ("version", "etag", "checksum", "modified")

#: How a digest is known: the file lies in the project; an earlier lock has it, and its source says that nothing has
#: changed; its source computed it; its bytes were downloaded.
Way = Literal["project", "unchanged", "told", "downloaded"]


@dataclass(frozen=True)
class Content:
    """What is in a file: bytes, SHA-256, and how they are known."""

    size: int
    sha256: str
    way: Way


def contents(files: Sequence[tuple[Source, Found]], known: Mapping[str, LockedFile], say: Say) -> list[Content]:
    """Return what is in each of ``files``, in their order.

    What a source tells is believed here, as the build machine hashes all that it gets.

    Args:
        files: each with its source.
        known: source -> a file of an earlier lock.
        say: takes the progress.

    Raises:
        SourceError: a file is gone, was replaced meanwhile, or is a pointer instead of a model.
        CloudError: AWS could not be asked.
    """
    learnt = _in_project(files, say)
    for _, file in files:
        if file.source not in learnt and (content := _without_reading(file, known.get(file.source))):
            learnt[file.source] = content
    unread = {file.source: (source, file) for source, file in files if file.source not in learnt}
    learnt |= _downloaded(list(unread.values()), say)
    return [learnt[file.source] for _, file in files]


def _in_project(files: Sequence[tuple[Source, Found]], say: Say) -> dict[str, Content]:
    here = [(source, file) for source, file in files if isinstance(source, FileSource)]
    if not here:
        return {}
    source, _ = here[0]
    read = source.contents([file for _, file in here], say)
    return {name: Content(size, sha256, "project") for name, (size, sha256) in read.items()}


def _without_reading(file: Found, old: LockedFile | None) -> Content | None:
    if (
        old
        and (old.size, old.resolved) == (file.size, file.resolved)
        and any(_same(getattr(old, sign), getattr(file, sign)) for sign in _SIGNS)
    ):
        return Content(old.size, old.sha256, "unchanged")
    # What is as small as a pointer is looked at.
    if file.sha256 and file.size is not None and file.size > pointers.LARGEST:
        return Content(file.size, file.sha256, "told")
    return None


def _same(old: str | None, new: str | None) -> bool:
    return old is not None and old == new


def _downloaded(files: Sequence[tuple[Source, Found]], say: Say) -> dict[str, Content]:
    progress = Progress(say, files=len(files), size=sum(file.size or 0 for _, file in files))
    stopped = threading.Event()

    def read(one: tuple[Source, Found]) -> Content:
        return _read(*one, progress, stopped)

    read_files = side_by_side(read, files, threads=_THREADS, stopped=stopped)
    return {file.source: content for (_, file), content in zip(files, read_files, strict=True)}


def _read(source: Source, file: Found, progress: Progress, stopped: threading.Event) -> Content:
    name = web.unsigned(file.source)
    progress.add(0, name)
    digest, size, beginning = hashlib.sha256(), 0, b""
    with source.open(file) as stream:
        while not stopped.is_set() and (chunk := stream.read(CHUNK)):
            digest.update(chunk)
            size += len(chunk)
            beginning += chunk[: pointers.LARGEST - len(beginning)]
            progress.add(len(chunk), name)
    if file.size not in {None, size}:
        raise SourceError(
            f"{name} should have {file.size} bytes, but {size} came",
            hint="was it replaced just now, or did the connection break off? run splitbake lock again",
        )
    if size <= pointers.LARGEST:
        pointers.refuse(name, beginning)
    progress.end()
    return Content(size, digest.hexdigest(), "downloaded")
