"""Building the image half: layers of code on the dependencies image, put together here and pushed by splitbake itself.

No engine is needed for that: a layer is an archive, and an image a list of layers with settings. So an image comes out
the same bit for bit wherever it is built, and only layers that the repository lacks are brought there.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import io
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from splitbake import artifact as artifacts
from splitbake import context, contract, ecr, explain, layering, provenance, tokens, units
from splitbake.artifact import Artifact, Dependencies, Weight
from splitbake.bake import dependencies, weights
from splitbake.catalog import Catalog
from splitbake.cloud import Cloud
from splitbake.context import Entry
from splitbake.errors import BuildError
from splitbake.generate import labels
from splitbake.inputs import Inputs
from splitbake.layering import Planned
from splitbake.oci import layer as layers
from splitbake.oci.client import Repository
from splitbake.oci.image import Image, Layer
from splitbake.project import Project
from splitbake.provenance import Subject
from splitbake.ui import Say

#: Of what an image is made when nothing says when its sources were.
_NO_TIME: Final = layers.TIME
_PASSWORD: Final = re.compile(r"(?<=://)[^/@]*@")


def build(project: Project, cloud: Cloud, inputs: Inputs, *, say: Say) -> Artifact:
    """Put the image of exactly these inputs together and push it.

    Raises:
        BuildError: the context is wrong or is not what ``inputs`` says, the dependencies could not be built, or the
            image breaks a budget; in the last case nothing was pushed.
        ToolError: the dependencies have to be built, and the builder cannot work on this machine.
        CloudError, StateError: ECR, the registry or the state could not be asked.
    """
    started, began = time.monotonic(), artifacts.now()
    image = project.manifest.image
    entries = context.collect(project)
    _require(inputs, entries)
    tokens.refuse_tokens(project.root / image.context, entries, project.root / tokens.CACHE)
    uri = ecr.ensure_repository(cloud, image.repository, image.ecr, say)
    below = dependencies.ensure(project, cloud, uri, say)
    planned = layering.plan(project, entries)
    travels = units.format_size(sum(layer.size for layer in planned))
    say(f"{units.counted(len(entries), 'file')}, {travels} in {units.counted(len(planned), 'layer')}")
    size = below.size + sum(layer.size for layer in planned)
    weights.require_within(size, image.budget, _heaviest(planned, below))
    repository = Repository(uri, ecr.credentials(cloud))
    base = _base(repository, below)
    with tempfile.TemporaryDirectory(prefix="splitbake-image-") as scratch:
        earlier = _earlier(project.catalog(cloud), repository)
        packed = [_packed(project, layer, earlier, repository, Path(scratch)) for layer in planned]
        made = _made(project, base, planned, [layer for layer, _ in packed], inputs)
        _require_compressed(project, made, planned, below)
        for (layer, file), plan in zip(packed, planned, strict=True):
            if file is not None:
                say(f"pushing {plan.name}: {units.format_size(layer.blob.size)}")
                with file.open("rb") as content:
                    repository.upload(content, layer.blob.digest, layer.blob.size)
        digest = repository.put(made, ecr.unique_tag(inputs.fingerprint, made.digest))
    pushed = ecr.find_image(cloud, image.repository, digest=digest)
    if pushed is None:
        raise BuildError(f"{uri}@{digest} was pushed, but ECR does not have it", hint="build again")
    subject = Subject(manifest=project.manifest, lock=project.lock, repository=uri, digest=digest, started=began)
    statement = provenance.of_code(subject, inputs, below, made.config["config"]["Labels"])
    project.catalog(cloud).keep_provenance(digest, statement)
    return Artifact(
        half="image",
        id=digest,
        location=uri,
        fingerprint=inputs.fingerprint,
        created=artifacts.now(),
        seconds=round(time.monotonic() - started, 3),
        size=size,
        compressed_size=pushed.size,
        needs=contract.need(project.manifest, project.lock),
    )


def _require(inputs: Inputs, entries: Sequence[Entry]) -> None:
    """Compare what goes into the image: files may have changed since the fingerprint was made."""
    beside = {name: content for name, content in inputs.files.items() if not name.startswith("file/")}
    changes = explain.explain(inputs, dataclasses.replace(inputs, files=beside | context.as_inputs(entries)))
    if changes:
        raise BuildError(
            f"the project changed when the build of the image began: {'; '.join(changes)}",
            hint="build again when it is at rest",
        )


def _base(repository: Repository, below: Dependencies) -> Image:
    base = repository.image(below.digest)
    if base is None:
        raise BuildError(f"the dependencies {below.location}@{below.digest} are gone", hint="build again")
    return base


def _earlier(catalog: Catalog, repository: Repository) -> Mapping[str, Layer]:
    """Return the layers of the latest image that was built, by their keys."""
    for run in catalog.runs("image", "build", last=1):
        known = catalog.artifact("image", run.fingerprint)
        found = repository.image(known.id) if known and known.location == repository.uri else None
        if found:
            keyed = ((layer.blob.annotations.get(layering.KEY), layer) for layer in found.layers)
            return {key: layer for key, layer in keyed if key}
    return {}


def _packed(
    project: Project, planned: Planned, earlier: Mapping[str, Layer], repository: Repository, scratch: Path
) -> tuple[Layer, Path | None]:
    """Return a layer, and the file that holds it where the repository has it not yet."""
    known = earlier.get(planned.key)
    if known and repository.has(known.blob.digest):
        return known, None
    target = scratch / planned.key.replace(":", "-")
    folder = str(PurePosixPath(planned.folder).relative_to("/"))
    files = [_file(project, planned, entry, folder) for entry in planned.entries]
    made = layers.parents((file.path for file in files), folder)
    own = {folder} if planned.folder == contract.IN_IMAGE else set()
    try:
        with target.open("wb") as into:
            layer = layers.pack(files, {*made, *own}, into, **{layering.KEY: planned.key})
    except OSError as problem:
        raise BuildError(
            f"cannot pack {planned.name}: {problem}", hint="is the disk full (TMPDIR), or did a file just go?"
        ) from problem
    return layer, None if repository.has(layer.blob.digest) else target


def _file(project: Project, planned: Planned, entry: Entry, folder: str) -> layers.File:
    def opened() -> layers.Content:
        if entry.path in planned.texts:
            return io.BytesIO(planned.texts[entry.path].encode())
        path = project.root / project.manifest.image.context / entry.path
        return _Unchanged(path, entry)

    return layers.File(f"{folder}/{entry.path}", entry.mode, entry.size, opened)


class _Unchanged:
    """A file that must be what it was when it was collected: what comes of it is hashed on the way."""

    def __init__(self, path: Path, entry: Entry) -> None:
        self._file, self._path, self._entry, self._hash = path.open("rb"), path, entry, hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._file.read(size)
        self._hash.update(chunk)
        at_end = self._file.tell() >= self._entry.size
        if (at_end and (self._hash.hexdigest() != self._entry.sha256 or self._file.read(1))) or not (at_end or chunk):
            raise BuildError(f"{self._path} changed during the build", hint="build again when it is at rest")
        return chunk

    def close(self) -> None:
        self._file.close()


def _made(project: Project, base: Image, planned: Sequence[Planned], packed: Sequence[Layer], inputs: Inputs) -> Image:
    """Return the whole image, with what a container of it starts."""
    image = project.manifest.image
    created = _created(project.root)
    on_top = base.with_layers(packed, [f"splitbake: {layer.name}" for layer in planned], created=created)
    source = _git(project.root, "config", "--get", "remote.origin.url")
    return on_top.started(
        User=f"{image.uid}:{image.uid}",
        WorkingDir=image.workdir,
        Entrypoint=[contract.ENTRY],
        Cmd=list(image.command),
        Labels=labels.of(
            project.manifest,
            project.lock,
            fingerprint=inputs.fingerprint,
            # Without tags: the commit itself, with -dirty where files differ.
            revision=_git(project.root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
            source=_PASSWORD.sub("", source),
        ),
    )


def _created(root: Path) -> str:
    """Return the time that the image says: of its commit, or SOURCE_DATE_EPOCH (reproducible-builds.org)."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH") or _git(root, "log", "-1", "--format=%ct")
    moment = int(seconds) if seconds.isdecimal() else _NO_TIME
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat().replace("+00:00", "Z")


def _git(root: Path, *arguments: str) -> str:
    """Return what git says of the project; empty where it is none of git's, or git is not there."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _require_compressed(project: Project, image: Image, planned: Sequence[Planned], below: Dependencies) -> None:
    made_by = [str(each.get("created_by", "")) for each in image.config["history"] if not each.get("empty_layer")]
    sizes = [layer.blob.size for layer in image.layers]
    found = [each for each in _heaviest(planned, below) if each.kind != "layer"]
    found += weights.heaviest("layer", zip(sizes, [*made_by, *[""] * len(sizes)], strict=False))
    weights.require_compressed_within(image.compressed_size, project.manifest.image.compressed_budget, found)


def _heaviest(planned: Sequence[Planned], below: Dependencies) -> list[Weight]:
    """Return what takes most: layers, installed distributions, and files of the code."""
    of_code = weights.heaviest("layer", ((each.size, f"code: {each.name}") for each in planned))
    whole = weights.heaviest("layer", [(below.size, "base and dependencies")])
    known = any(each.kind == "layer" for each in below.heaviest)
    files = ((entry.size, entry.path) for each in planned for entry in each.entries)
    return [*below.heaviest, *(() if known else whole), *of_code, *weights.heaviest("file", files)]
