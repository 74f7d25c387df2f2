"""Which files of the context go into which layer of the image, from what changes least to what changes most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from splitbake import contract, patterns
from splitbake.context import Entry
from splitbake.generate import entrypoint
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.oci import layer
from splitbake.project import Project

#: An annotation of a layer: what it was packed from. Who finds it in an earlier image need not pack it again.
KEY: Final = "splitbake.layer"

#: Stands for how files become layers.
SCHEME = layer.SCHEME


@dataclass(frozen=True)
class Planned:
    """A layer to be.

    Attributes:
        name: for people: the pattern of ``image.include`` whose files are in it.
        folder: of the image, that ``entries`` are below; absolute. It is there already.
        entries: the files in it, sorted by path.
        texts: the content of those that are generated, and not read from the context: path -> text.
    """

    name: str
    folder: str
    entries: tuple[Entry, ...]
    texts: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(entry.size for entry in self.entries)

    @property
    def key(self) -> str:
        """Digest of everything that decides about its bytes."""
        content = [SCHEME, self.folder, [[entry.path, entry.mode, entry.sha256] for entry in self.entries]]
        return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


def order(manifest: Manifest, lock: Lock) -> tuple[str, ...]:
    """Return the patterns of ``image.include`` in the order of their layers."""
    return lock.order or manifest.image.include


def plan(project: Project, entries: Sequence[Entry]) -> list[Planned]:
    """Return the layers that bring ``entries`` and the entry check into the image, from the lowest.

    A file that several patterns take is in the layer of the last one in ``image.include``, whatever the order of the
    layers. A layer without files is left out.
    """
    manifest = project.manifest
    files = {entry.path: entry for entry in entries if entry.in_image}
    paths = sorted(files)
    home = patterns.last_taking(manifest.image.include, paths)
    of: dict[str, list[Entry]] = {pattern: [] for pattern in order(manifest, project.lock)}
    for path in paths:
        of[home[path]].append(files[path])
    named = (Planned(pattern, manifest.image.workdir, tuple(found), {}) for pattern, found in of.items() if found)
    return [_entry_check(project), *named]


def _entry_check(project: Project) -> Planned:
    generated = entrypoint.render(project.manifest, project.lock)
    texts = {name: generated[path] for name, (path, _) in entrypoint.IN_IMAGE.items()}
    entries = [
        Entry(name, mode, len(texts[name].encode()), hashlib.sha256(texts[name].encode()).hexdigest())
        for name, (_, mode) in sorted(entrypoint.IN_IMAGE.items())
    ]
    return Planned("the entry check", contract.IN_IMAGE, tuple(entries), texts)
