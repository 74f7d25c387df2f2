"""Looking into every layer of an image, also at what a later layer hides: what was pushed once can be pulled."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, cast

from splitbake import dockercli
from splitbake.errors import VerifyError
from splitbake.lock import LockedFile
from splitbake.sources import CHUNK

#: What a build can leave behind: credentials, build secrets and download caches.
_LEFT_BEHIND = re.compile(
    r"(^|/)(\.aws/|\.docker/config\.json$|\.netrc$|\.pypirc$|\.git-credentials$|\.ssh/|id_(rsa|ecdsa|ed25519)$)"
    r"|^run/secrets/.|^root/\.cache/.|(^|/)\.cache/pip/."
)


@dataclass
class Layers:
    """What a walk over all layers saw.

    Attributes:
        layers: how many there are.
        files: regular files in all of them.
        models: files that are a locked model, each with the reason.
        left_behind: files that a build should not leave behind.
    """

    layers: int = 0
    files: int = 0
    models: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)


def walk(image: str, models: Sequence[LockedFile]) -> Layers:
    """Read the layers of ``image`` once, as a stream; neither a layer nor a file is ever held in memory or on disk.

    Raises:
        VerifyError: Docker could not write the image out.
    """
    command = ["docker", "image", "save", image]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said) as saving:
            pipe = cast("IO[bytes]", saving.stdout)
            try:
                seen = scan(pipe, models)
            except tarfile.TarError:
                seen = None
            while pipe.read(CHUNK):  # to its end, or Docker would call it a failure of its own
                continue
        said.seek(0)
        problem = said.read().decode(errors="replace").strip()
    if saving.returncode != 0 or seen is None:
        raise VerifyError(
            f"docker image save {image} gave no readable archive: {problem}", hint=dockercli.hint_for(problem)
        )
    return seen


def scan(archive: IO[bytes], models: Sequence[LockedFile]) -> Layers:
    """Walk an archive of ``docker image save``, of the old layout (``…/layer.tar``) or the OCI one (``blobs/…``)."""
    seen = Layers()
    by_size: dict[int, list[LockedFile]] = {}
    for model in models:
        if model.size:
            by_size.setdefault(model.size, []).append(model)
    paths = {model.path: model for model in models if "/" in model.path}
    with tarfile.open(fileobj=archive, mode="r|") as outer:
        for member in outer:
            content = outer.extractfile(member) if member.isfile() else None
            if content is None:
                continue
            try:
                layer = tarfile.open(fileobj=content, mode="r|*")  # noqa: SIM115 - closed by with, below
            except tarfile.ReadError:  # a manifest or a configuration: JSON, no archive
                continue
            with layer:
                seen.layers += 1
                for file in layer:
                    _look(file, layer, seen, by_size, paths)
    return seen


def _look(
    file: tarfile.TarInfo,
    layer: tarfile.TarFile,
    seen: Layers,
    by_size: Mapping[int, Sequence[LockedFile]],
    paths: Mapping[str, LockedFile],
) -> None:
    name = file.name.removeprefix("./").lstrip("/")
    if not file.isfile():
        return
    seen.files += 1
    if _LEFT_BEHIND.search(name):
        seen.left_behind.append(name)
    if model := next((paths[tail] for tail in _tails(name) if tail in paths), None):
        seen.models.append(f"/{name} has the name of model {model.path}")
    if candidates := by_size.get(file.size):
        digest = _sha256(cast("IO[bytes]", layer.extractfile(file)))
        seen.models += [f"/{name} is model {model.path}" for model in candidates if model.sha256 == digest]


def _tails(name: str) -> Iterator[str]:
    """Yield ``a/b/c``, ``b/c``, ``c``."""
    parts = name.split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _sha256(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
