"""Building the image half: layers of code on the dependencies image, put together here and pushed by splitbake itself.

No engine is needed for that: a layer is an archive, and an image a list of layers with settings. So an image has the
same contents wherever it is put together, and with the same zlib the same bytes; only layers that the repository lacks
are brought there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from splitbake import artifact as artifacts
from splitbake import context, contract, ecr, explain, layering, provenance, tokens, units
from splitbake.artifact import Artifact, Dependencies, Weight
from splitbake.bake import dependencies, origin, weights
from splitbake.bake.dependencies import Room, Wanted
from splitbake.bake.weights import OverBudgetError
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


@dataclass(frozen=True)
class Code:
    """What lies on the dependencies.

    Attributes:
        planned: its layers, from the lowest.
        layers: they as they were packed.
        files: that hold those which the repository has not yet.
    """

    planned: tuple[Planned, ...]
    layers: tuple[Layer, ...]
    files: tuple[Path | None, ...]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(layer.size for layer in self.planned)

    @property
    def compressed_size(self) -> int:
        """Bytes of its layers in the registry."""
        return sum(layer.blob.size for layer in self.layers)

    def heaviest(self, *, compressed: bool) -> list[Weight]:
        """Return what takes most of it: layers, and files as they are."""
        sizes = [layer.blob.size for layer in self.layers] if compressed else [layer.size for layer in self.planned]
        names = [f"code: {layer.name}" for layer in self.planned]
        files = ((entry.size, entry.path) for layer in self.planned for entry in layer.entries)
        return [*weights.heaviest("layer", zip(sizes, names, strict=True)), *weights.heaviest("file", files)]


def build(project: Project, cloud: Cloud, inputs: Inputs, *, say: Say) -> Artifact:
    """Put the image of exactly these inputs together and push it.

    Raises:
        OverBudgetError: the image breaks a budget; nothing was pushed but the dependencies that were known to fit.
        BuildError: the context is wrong or is not what ``inputs`` says, or the dependencies could not be built.
        ToolError: the dependencies have to be built, and the builder cannot work on this machine; or the time that the
            image shall say is none.
        CloudError, StateError: ECR, the registry or the state could not be asked.
    """
    started, began = time.monotonic(), artifacts.now()
    image = project.manifest.image
    wanted, entries = dependencies.read(project), context.collect(project)
    _require(inputs, entries, project, wanted)
    tokens.refuse_tokens(project.root / image.context, entries, project.root / tokens.CACHE)
    created, described = origin.created(project.root), _labels(project, inputs, entries)
    uri = ecr.ensure_repository(cloud, image.repository, image.ecr, say)
    repository = Repository(uri, ecr.credentials(cloud))
    planned = layering.plan(project, entries)
    with tempfile.TemporaryDirectory(prefix="splitbake-image-") as scratch:
        # The code comes first: then it is known what the budgets leave for the rest, before any of that is pushed.
        earlier = _earlier(project.catalog(cloud), repository)
        packed = [_packed(project, layer, earlier, repository, Path(scratch)) for layer in planned]
        code = Code(tuple(planned), *zip(*packed, strict=True))
        travels = f"{units.format_size(code.size)} in {units.counted(len(planned), 'layer')}"
        say(f"{units.counted(len(entries), 'file')}, {travels}")
        below = _below(project, cloud, uri, wanted, code, say=say)
        base = _base(repository, below)
        _require_budgets(project, code, below, base)
        made = _made(project, base, code, created, described)
        for plan, layer, file in zip(code.planned, code.layers, code.files, strict=True):
            if file is not None:
                say(f"pushing {plan.name}: {units.format_size(layer.blob.size)}")
                with file.open("rb") as content:
                    repository.upload(content, layer.blob.digest, layer.blob.size)
        digest = repository.put(made, ecr.unique_tag(inputs.fingerprint, made.digest))
    pushed = ecr.find_image(cloud, image.repository, digest=digest)
    if pushed is None:
        raise BuildError(f"{uri}@{digest} was pushed, but ECR does not have it", hint="build again")
    subject = Subject(manifest=project.manifest, lock=project.lock, repository=uri, digest=digest, started=began)
    statement = provenance.of_code(subject, inputs, below, described)
    project.catalog(cloud).keep_provenance(digest, statement)
    return Artifact(
        half="image",
        id=digest,
        location=uri,
        fingerprint=inputs.fingerprint,
        created=artifacts.now(),
        seconds=round(time.monotonic() - started, 3),
        size=below.size + code.size,
        compressed_size=pushed.size,
        needs=contract.need(project.manifest, project.lock),
    )


def _require(inputs: Inputs, entries: Sequence[Entry], project: Project, wanted: Wanted) -> None:
    """Compare what goes into the image: files may have changed since the fingerprint was made."""
    beside = {name: content for name, content in inputs.files.items() if not name.startswith("file/")}
    changes = list(explain.explain(inputs, dataclasses.replace(inputs, files=beside | context.as_inputs(entries))))
    path = project.manifest.image.requirements
    if wanted.requirements not in (None, *(entry.sha256 for entry in entries if entry.path == path)):
        changes.append(f"{path} was saved")
    if changes:
        raise BuildError(
            f"the project changed when the build of the image began: {'; '.join(changes)}",
            hint="build again when it is at rest",
        )


def _below(project: Project, cloud: Cloud, uri: str, wanted: Wanted, code: Code, *, say: Say) -> Dependencies:
    """Return what the code lies on; where that has to be built, no more is pushed than the budgets leave."""
    image = project.manifest.image
    compressed = None if image.compressed_budget is None else image.compressed_budget - code.compressed_size
    try:
        room = Room(image.budget - code.size, compressed)
        return dependencies.ensure(project, cloud, uri, wanted, room=room, say=say)
    except OverBudgetError as problem:
        size = code.compressed_size if problem.compressed else code.size
        raise problem.of_all(size, code.heaviest(compressed=problem.compressed)) from None


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


def _made(project: Project, base: Image, code: Code, created: str, described: Mapping[str, str]) -> Image:
    """Return the whole image, with what a container of it starts."""
    image = project.manifest.image
    on_top = base.with_layers(code.layers, [f"splitbake: {layer.name}" for layer in code.planned], created=created)
    return on_top.started(
        User=f"{image.uid}:{image.uid}",
        WorkingDir=image.workdir,
        Entrypoint=[contract.ENTRY],
        Cmd=list(image.command),
        Labels=described,
    )


def _labels(project: Project, inputs: Inputs, entries: Sequence[Entry]) -> dict[str, str]:
    paths = (entry.path for entry in entries)
    return labels.of(
        project.manifest,
        project.lock,
        fingerprint=inputs.fingerprint,
        revision=origin.revision(project.root, project.root / project.manifest.image.context, paths),
        source=origin.source(project.root),
    )


def _require_budgets(project: Project, code: Code, below: Dependencies, base: Image) -> None:
    """Judge the whole image: dependencies that were there already were built for other code, or other budgets."""
    image = project.manifest.image
    layers = [each for each in below.heaviest if each.kind == "layer"]
    layers = layers or [*weights.heaviest("layer", [(below.size, "base and dependencies")])]
    others = [each for each in below.heaviest if each.kind != "layer"]
    found = [*layers, *others, *code.heaviest(compressed=False)]
    weights.require_within(below.size + code.size, image.budget, found, weights.CODE)
    sizes = [layer.blob.size for layer in base.layers]
    packed = weights.heaviest("layer", zip(sizes, weights.makers(base.config, len(sizes)), strict=True))
    found = [*packed, *others, *code.heaviest(compressed=True)]
    size = base.compressed_size + code.compressed_size
    weights.require_compressed_within(size, image.compressed_budget, found, weights.CODE)
