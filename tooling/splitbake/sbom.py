"""Bills of materials of images: which packages are in them, read by syft, once for the same layers.

All packages of an image are in the layers of its dependencies, which a change of the code never touches. So the bill
is kept by layers and not by image: the next image on the same ones has it already. The layers of the code are read as
well, which takes a second: where they hold packages too, the image is read as a whole. By the digest of the image the
state leads to the bill, also when the image itself is gone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Final

from splitbake import artifact as artifacts
from splitbake import ecr, layering, syft, units
from splitbake.artifact import Format, Sbom
from splitbake.catalog import Catalog
from splitbake.cloud import Cloud
from splitbake.errors import CloudError, ToolError, UsageError
from splitbake.oci import layout, purl
from splitbake.oci.client import Repository
from splitbake.oci.image import Descriptor, Image, Layer
from splitbake.project import Project
from splitbake.ui import Say

#: Stands in every key: change it with what is kept.
_SCHEME: Final = "splitbake-sbom-1"
#: Format -> what syft calls it.
_KINDS: Final[Mapping[Format, str]] = {"cyclonedx": "cyclonedx-json", "spdx": "spdx-json"}
#: Types of components that are no packages.
_NO_PACKAGES: Final = frozenset({"file", "operating-system"})


@dataclass(frozen=True)
class Bill:
    """The bill of one image.

    Attributes:
        repository: URI of its repository.
        digest: ``sha256:…`` of its manifest.
        sbom: what is in its layers.
        place: key of ``sbom`` in the state.
        made: whether it was made just now.
    """

    repository: str
    digest: str
    sbom: Sbom
    place: str
    made: bool

    @property
    def uri(self) -> str:
        """The image, as ``repository@digest``."""
        return f"{self.repository}@{self.digest}"

    def document(self, wanted: Format) -> dict[str, Any]:
        """Return the bill in one of the formats, about exactly this image."""
        found = self.sbom.documents[wanted]
        return _cyclonedx(found, self) if wanted == "cyclonedx" else _spdx(found, self)

    @property
    def serial(self) -> uuid.UUID:
        """What tells this document from those of other images on the same layers, and is the same every time."""
        return uuid.uuid5(uuid.NAMESPACE_URL, f"{purl.of(self.repository, self.digest)}#{self.sbom.key}")


def of(
    project: Project,
    cloud: Cloud,
    image: str,
    say: Say,
    *,
    force: bool = False,
    fresh: bool = False,
    wanted: Callable[[], None] = lambda: None,
) -> Bill:
    """Return the bill of ``image``, from the state or made now; then the state has it.

    Args:
        project: whose state that is.
        cloud: where the image is.
        image: ``repository@digest``.
        say: hears what is going on.
        force: make it anew, though the state has it.
        fresh: the image was just built, so that no other account can have its bill.
        wanted: is called again and again; what it raises ends the work.

    Raises:
        UsageError: ``image`` is none of this account's registry.
        CloudError: it is gone, or the registry cannot be asked.
        ToolError: syft is not there, or failed.
        StateError: the state cannot be asked.
    """
    uri, _, digest = image.partition("@")
    credentials = ecr.credentials(cloud)
    if uri.partition("/")[0] != credentials.host or not digest.startswith("sha256:"):
        raise UsageError(
            f"{image!r} is no image of {credentials.host}", hint=f"name it as {credentials.host}/REPOSITORY@sha256:…"
        )
    catalog = project.catalog(cloud)
    if not force and (known := catalog.sbom_of(digest, elsewhere=not fresh)):
        place, sbom = known
        return Bill(uri, digest, sbom, place, made=False)
    repository = Repository(uri, credentials)
    found = repository.image(digest)
    if found is None:
        raise CloudError(f"{image} is not in the registry", hint="is the digest right, and the image still there?")
    reader = _Reader(catalog, repository, found, say, wanted, force)
    below, above = split(found)
    if above and (not below or reader.make(above).packages):
        below = found.layers
    place, sbom, made = reader.read(below)
    catalog.keep_sbom_of(digest, place)
    return Bill(uri, digest, sbom, place, made)


def split(image: Image) -> tuple[tuple[Layer, ...], tuple[Layer, ...]]:
    """Return the layers of the dependencies, and those that splitbake has put on top of them.

    Of an image that was not made so, all are the first.
    """
    ours = [layering.KEY in layer.blob.annotations for layer in image.layers]
    first = ours.index(True) if True in ours else len(ours)
    return (image.layers[:first], image.layers[first:]) if all(ours[first:]) else (image.layers, ())


def key(layers: Sequence[Layer]) -> str:
    """Return the key of a bill of these layers."""
    text = json.dumps([_SCHEME, *(layer.diff_id for layer in layers)])
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class _Reader:
    catalog: Catalog
    repository: Repository
    image: Image
    say: Say
    wanted: Callable[[], None]
    force: bool

    def read(self, layers: Sequence[Layer]) -> tuple[str, Sbom, bool]:
        """Return the place of the bill of ``layers``, the bill, and whether it was made now."""
        if not self.force and (known := self.catalog.sbom(key(layers))):
            return *known, False
        made = self.make(layers)
        self.catalog.keep_sbom(made)
        return self.catalog.sbom_place(made.key), made, True

    def make(self, layers: Sequence[Layer]) -> Sbom:
        """Return a new bill of ``layers``, which nobody keeps."""
        syft.binary()  # before anything is fetched
        size = units.format_size(sum(layer.blob.size for layer in layers))
        self.say(f"bill of materials: reading {units.counted(len(layers), 'layer')}, {size}")
        with tempfile.TemporaryDirectory(prefix="splitbake-sbom-") as name:
            folder = Path(name)
            documents = {form: folder / f"{form}.json" for form in _KINDS}
            try:
                layout.write(folder / "image", _bare(self.image, layers), self._fetch)
                kinds = {_KINDS[form]: path for form, path in documents.items()}
                syft.scan(folder / "image", self.repository.uri, kinds, self.wanted)
                return _read(layers, {form: json.loads(path.read_bytes()) for form, path in documents.items()})
            except OSError as problem:
                raise ToolError(
                    f"cannot read the layers of {self.repository.uri}: {problem}", hint="is the disk full (TMPDIR)?"
                ) from problem
            except (LookupError, TypeError, ValueError) as problem:
                raise ToolError(
                    f"syft wrote documents that are unknown here: {problem!r}", hint="install splitbake[sbom]"
                ) from problem

    def _fetch(self, blob: Descriptor, into: IO[bytes]) -> None:
        self.wanted()
        with self.repository.blob(blob.digest) as content:
            shutil.copyfileobj(content, into)


def _read(layers: Sequence[Layer], documents: dict[Format, dict[str, Any]]) -> Sbom:
    """Return what syft wrote as the state keeps it; LookupError, TypeError or ValueError where it is something else."""
    (tool,) = documents["cyclonedx"]["metadata"]["tools"]["components"]
    _root(documents["spdx"])
    return Sbom(
        key=key(layers),
        layers=tuple(layer.diff_id for layer in layers),
        tool=f"{tool['name']} {tool['version']}",
        created=artifacts.now(),
        packages=sum(part["type"] not in _NO_PACKAGES for part in documents["cyclonedx"].get("components", ())),
        documents=documents,
    )


def _bare(image: Image, layers: Sequence[Layer]) -> Image:
    """Return an image of ``layers`` alone: without variables, labels and all else that could be told."""
    platform = {name: image.config[name] for name in ("os", "architecture")}
    ids = [layer.diff_id for layer in layers]
    return Image(tuple(layers), {**platform, "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}})


def _cyclonedx(found: Mapping[str, Any], bill: Bill) -> dict[str, Any]:
    """Return the document of the layers as one of the image (CycloneDX 1.6)."""
    metadata = found["metadata"]
    ours = {"type": "application", "name": "splitbake", "version": version("splitbake")}
    named = {"name": bill.repository, "version": bill.digest, "purl": purl.of(bill.repository, bill.digest)}
    layers = [{"name": "splitbake:layer", "value": layer} for layer in bill.sbom.layers]
    return {
        **found,
        "serialNumber": f"urn:uuid:{bill.serial}",
        "metadata": {
            **metadata,
            "tools": {"components": [*metadata["tools"]["components"], ours]},
            "component": {**metadata["component"], **named},
            "properties": layers,
        },
    }


def _spdx(found: Mapping[str, Any], bill: Bill) -> dict[str, Any]:
    """Return the document of the layers as one of the image (SPDX 2.3)."""
    root = _root(found)
    reference = {
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": purl.of(bill.repository, bill.digest),
    }
    named = {
        "name": bill.repository,
        "versionInfo": bill.digest,
        "checksums": [{"algorithm": "SHA256", "checksumValue": bill.digest.removeprefix("sha256:")}],
        "externalRefs": [reference],
    }
    creation = found["creationInfo"]
    creators = [*creation["creators"], f"Tool: splitbake-{version('splitbake')}"]
    return {
        **found,
        "name": bill.repository,
        "documentNamespace": f"urn:uuid:{bill.serial}",
        "comment": f"read in the layers {', '.join(bill.sbom.layers)}",
        "creationInfo": {**creation, "creators": creators},
        "packages": [{**each, **named} if each["SPDXID"] == root else each for each in found["packages"]],
    }


def _root(document: Mapping[str, Any]) -> str:
    """Return by what an SPDX document names the image."""
    links = document["relationships"]
    (root,) = (link["relatedSpdxElement"] for link in links if link["relationshipType"] == "DESCRIBES")
    return str(root)
