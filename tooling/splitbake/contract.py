"""The contract between the halves: what an AMI offers, what an image needs, and whether a pair of them fits.

It is stated three times over, from the same manifest and lock: in the artifacts that the state remembers, so that a
release can refuse a pair; in a file below ``models.root`` of the AMI; and in a file of the image, whose entry check
compares the two on the host (``generate/scripts/entry.sh``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from pydantic import Field

from splitbake.errors import BuildError
from splitbake.spec import AbsolutePath, RelativePath, Sha256, Spec, Text

if TYPE_CHECKING:
    from splitbake.lock import Lock
    from splitbake.manifest import Manifest
    from splitbake.manifest.image import Image

#: Below ``models.root`` of an AMI, and at the top of a build context: reserved for splitbake.
FOLDER: Final = ".splitbake"
#: The file in that folder of an AMI that says what it offers.
OFFER_FILE: Final = "contract"
#: Where the entry check and its data lie in an image.
IN_IMAGE: Final = "/opt/splitbake"
ENTRY: Final = f"{IN_IMAGE}/entry"
NEEDS: Final = f"{IN_IMAGE}/needs"
#: Where ``image.requirements`` are installed in an image.
SITE: Final = "/opt/python"
#: In ``FOLDER`` of a runtime: the digest of what is installed there.
RUNTIME_FILE: Final = "runtime"
#: Where a container sees ``FOLDER`` of its host.
HOST: Final = f"{IN_IMAGE}/host"
#: What the entry check leaves with when it refuses its host (``EX_CONFIG`` of sysexits.h): another host may do.
REFUSED: Final = 78

#: EC2's architectures -> platforms as OCI names them.
_PLATFORMS: Final = {"x86_64": "linux/amd64", "arm64": "linux/arm64"}


class OfferedRuntime(Spec):
    """The Python packages that an AMI carries for its images."""

    abi: Text = Field(description="for which Python and platform: cp311-x86_64-manylinux_2_28")
    root: AbsolutePath = Field(description="runtime.root")
    digest: Text = Field(description="of all its wheels")


class NeededRuntime(Spec):
    """The Python packages that an image expects on its host; which versions they have is no part of the contract."""

    abi: Text = Field(description="for which Python and platform")
    root: AbsolutePath = Field(description="where the image looks for it, and where the host has it")


class Offer(Spec):
    """What an AMI offers to the images that run on it."""

    version: int = Field(ge=1, description="contract of the manifest")
    root: AbsolutePath = Field(description="models.root")
    architecture: Text = Field(description="as EC2 names it: x86_64 or arm64")
    files: dict[RelativePath, Sha256] = Field(description="path below the root -> digest")
    runtime: OfferedRuntime | None = None


class Need(Spec):
    """What an image needs of its host."""

    version: int = Field(ge=1, description="contract of the manifest")
    architecture: Text = Field(description="as EC2 names it: x86_64 or arm64")
    paths: tuple[RelativePath, ...] = Field(
        strict=False, description="below models.root, sorted; with / at its end a folder that holds a file"
    )
    mounts: dict[RelativePath, AbsolutePath] = Field(
        description="folder below models.root: where the code of this image looks for it"
    )
    runtime: NeededRuntime | None = None


def offer(manifest: Manifest, lock: Lock) -> Offer:
    """Return what the AMI of this manifest and lock offers."""
    return Offer(
        version=manifest.contract,
        root=manifest.models.root,
        architecture=lock.base_ami.architecture,
        files={file.path: file.sha256 for file in lock.files},
        runtime=_offered_runtime(manifest, lock),
    )


def need(manifest: Manifest, lock: Lock) -> Need:
    """Return what the image of this manifest needs, built for the hosts of this lock."""
    return Need(
        version=manifest.contract,
        architecture=lock.base_ami.architecture,
        paths=tuple(needed_paths(manifest.image)),
        mounts=manifest.image.mounts,
        runtime=_needed_runtime(manifest, lock),
    )


def _offered_runtime(manifest: Manifest, lock: Lock) -> OfferedRuntime | None:
    if manifest.runtime is None or lock.runtime is None:
        return None
    return OfferedRuntime(abi=lock.runtime.abi, root=manifest.runtime.root, digest=lock.runtime.digest)


def _needed_runtime(manifest: Manifest, lock: Lock) -> NeededRuntime | None:
    if manifest.runtime is None or lock.runtime is None:
        return None
    return NeededRuntime(abi=lock.runtime.abi, root=manifest.runtime.root)


def needed_paths(image: Image) -> list[str]:
    """Return the paths of ``image.needs``, each once and sorted; by default every folder of ``image.mounts``."""
    return sorted({*image.needs} if image.needs else {_folder(path) for path in image.mounts})


def misfits(need: Need, offer: Offer) -> list[str]:
    """Say in words why an image with this need cannot run on an AMI with this offer; empty where it can."""
    return [*_misfits(need, offer)]


def _misfits(need: Need, offer: Offer) -> Iterator[str]:
    if need.version != offer.version:
        yield f"the image is for contract {need.version}, the AMI offers {offer.version}"
    if need.architecture != offer.architecture:
        yield f"the image is for {need.architecture}, the AMI is {offer.architecture}"
    yield from _runtime_misfits(need.runtime, offer.runtime)
    for path in need.paths:
        if not is_met(path, offer.files):
            yield f"the image needs {path}, the AMI does not have it"


def _runtime_misfits(need: NeededRuntime | None, offer: OfferedRuntime | None) -> Iterator[str]:
    if need is None:
        return
    if offer is None:
        yield f"the image needs the runtime {need.abi}, the AMI has none"
        return
    if need.abi != offer.abi:
        yield f"the image is for the runtime {need.abi}, the AMI has {offer.abi}"
    if need.root != offer.root:
        yield f"the image looks for the runtime in {need.root}, the AMI has it in {offer.root}"


def is_met(need: str, files: Mapping[str, object]) -> bool:
    """Return whether ``files`` hold the file, or any file of the folder, that is needed."""
    return need in files or (need.endswith("/") and any(path.startswith(need) for path in files))


def insist(manifest: Manifest, lock: Lock) -> None:
    """Refuse to build an image that could not run on the AMI of the same manifest and lock.

    Raises:
        BuildError: what a folder of ``models.files`` holds is known only from the lock, and it is not what is needed.
    """
    problems = misfits(need(manifest, lock), offer(manifest, lock))
    if problems:
        raise BuildError(
            f"no AMI of this manifest and lock would do: {'; '.join(problems)}",
            hint="correct image.needs or models.files in the manifest; then run splitbake lock",
        )


def offer_text(manifest: Manifest, lock: Lock) -> str:
    """Return the file that the AMI has at ``models.root/.splitbake/contract``: lines of fields between tabs."""
    runtime = [("runtime", each.abi)] if (each := _offered_runtime(manifest, lock)) else []
    files = (("file", file.size, file.path) for file in lock.files)
    return _lines(("contract", manifest.contract), ("architecture", lock.base_ami.architecture), *runtime, *files)


def need_text(manifest: Manifest, lock: Lock) -> str:
    """Return the data of the entry check: lines of fields between tabs; every place where a need is seen has one."""
    image = manifest.image
    runtime = [("runtime", each.abi, each.root)] if (each := _needed_runtime(manifest, lock)) else []
    seen = (("need", path, place) for path in needed_paths(image) for place in places(path, image.mounts))
    return _lines(("contract", manifest.contract), ("architecture", lock.base_ami.architecture), *runtime, *seen)


def places(need: str, mounts: Mapping[str, str]) -> list[str]:
    """Return where a container sees a path below ``models.root``: once for each mount that shows it, sorted."""
    return sorted(
        f"{where}/{need.removeprefix(_folder(folder))}"
        for folder, where in mounts.items()
        if need.startswith(_folder(folder))
    )


def platform(lock: Lock) -> str:
    """Return what the image must be built for, to run on hosts of the base AMI.

    Raises:
        BuildError: no container runs on such hosts.
    """
    architecture = lock.base_ami.architecture
    if architecture not in _PLATFORMS:
        raise BuildError(
            f"the base AMI {lock.base_ami.id} is {architecture}: images are built for {' and '.join(_PLATFORMS)}",
            hint="choose another ami.base",
        )
    return _PLATFORMS[architecture]


def beside_ours(path: str) -> str:
    """Return ``path`` of a container, unless it would hide splitbake's own files or lie among them (ValueError)."""
    ours, theirs = PurePosixPath(IN_IMAGE), PurePosixPath(path)
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise ValueError(f"expected a path beside {IN_IMAGE}, which is splitbake's own")
    return path


def beside_folder(path: str) -> str:
    """Return ``path`` below ``models.root`` or in a build context, unless it lies in our own folder (ValueError)."""
    if PurePosixPath(path).parts[0] == FOLDER:
        raise ValueError(f"expected a path outside of {FOLDER}, which is splitbake's own")
    return path


def _folder(path: str) -> str:
    return f"{path.removesuffix('/')}/"


def _lines(*lines: tuple[object, ...]) -> str:
    """A path holds neither tab nor newline: the manifest and the lock refuse control characters."""
    return "".join("\t".join(map(str, line)) + "\n" for line in lines)
