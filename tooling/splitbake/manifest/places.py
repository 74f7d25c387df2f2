"""The folders of a container: which of them would hide each other, or what it cannot do without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from splitbake import contract
from splitbake.manifest.image import LINKS, Image
from splitbake.manifest.promotions import Finding
from splitbake.manifest.runtime import Runtime

#: Folders that a base fills; those below are free.
_FILLED: Final = (
    *("/etc", "/usr", "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/sbin", "/usr/share", "/var"),
    *("/usr/local", "/usr/local/bin", "/usr/local/lib"),
)
#: Nothing can be mounted there without hiding what a machine or a container needs.
OF_THE_BASE: Final = (*LINKS, *_FILLED)
_SCRATCH: Final = "/tmp"  # noqa: S108 - the container's own
#: Where no code can lie, and why.
_NO_CODE: Final = {
    _SCRATCH: "a container's /tmp is memory, empty at first",
    "/root": "nobody but root may look into /root",
}


def places(image: Mapping[str, Any], runtime: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with ``image.workdir``, ``image.mounts`` and ``runtime.root`` (plain data) side by side.

    Whether a file that travels lies where something is mounted, only the files can tell.
    """
    workdir = _place(image.get("workdir", Image.model_fields["workdir"].default))
    if workdir:
        yield from ((("image", "workdir"), problem) for problem in _of_code(workdir))
    mounts = image.get("mounts")
    named = mounts.items() if isinstance(mounts, dict) else ()
    mounted = {name: place for name, where in named if (place := _place(where))}
    for name, place in mounted.items():
        example = f"/{name}".rstrip("/")
        yield from ((("image", "mounts", name), problem) for problem in _of_mount(place, workdir, example))
    root = _place(runtime.get("root", Runtime.model_fields["root"].default)) if runtime else None
    if root:
        others = {f"{place} of image.mounts": place for place in mounted.values()}
        others |= {f"image.workdir, {workdir}": workdir} if workdir else {}
        yield from ((("runtime", "root"), problem) for problem in _of_runtime(root, others))


def _of_code(workdir: PurePosixPath) -> Iterator[str]:
    another = f"choose another, for example {Image.model_fields['workdir'].default}"
    if str(workdir) in _FILLED:
        yield f"{workdir} is a folder that the base has for itself; {another}"
    for folder, why in _NO_CODE.items():
        if workdir.is_relative_to(folder):
            yield f"{why}; {another}"
    yield from _beside_requirements(workdir)


def _of_mount(place: PurePosixPath, workdir: PurePosixPath | None, example: str) -> Iterator[str]:
    another = "choose a folder below or beside it"
    if str(place) in OF_THE_BASE:
        yield f"{place} is a folder that the base has for itself; choose another, for example {example}"
    elif str(place) == _SCRATCH:
        yield f"a mount at {place} would leave nothing to write to; {another}"
    elif workdir and workdir.is_relative_to(place):
        yield f"a mount at {place} hides the code in {workdir}; {another}"
    yield from _beside_requirements(place)


def _of_runtime(root: PurePosixPath, others: Mapping[str, PurePosixPath]) -> Iterator[str]:
    yield from _beside_requirements(root)
    for name, other in others.items():
        if _nested(root, other):
            yield f"{root} and {name}, lie in each other; give each a folder of its own"


def _beside_requirements(place: PurePosixPath) -> Iterator[str]:
    if _nested(place, PurePosixPath(contract.SITE)):
        yield f"image.requirements are installed in {contract.SITE}; choose a folder beside it"


def _nested(one: PurePosixPath, other: PurePosixPath) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _place(where: Any) -> PurePosixPath | None:
    """Return an absolute path; of anything else the model complains."""
    return PurePosixPath(where) if isinstance(where, str) and where.startswith("/") else None
