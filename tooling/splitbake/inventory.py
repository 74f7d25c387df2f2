"""What is on an instance of an AMI, and what two AMIs differ in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from splitbake.artifact import Artifact, now
from splitbake.manifest import Manifest
from splitbake.spec import Spec, Text
from splitbake.units import format_size

#: Folders that grew or shrank by less are not told: logs and databases of the system move by themselves.
_NOTABLE = 1024**2

Kind = Literal["added", "removed", "changed"]


class Model(Spec):
    """One model file."""

    size: int = Field(description="bytes")
    sha256: Text


class Inventory(Spec):
    """What an instance of one AMI has; an empty version: it has no such thing."""

    ami: Text
    fingerprint: Text
    taken: Text = Field(description="ISO 8601, UTC")
    system: str = Field(description="the distribution, as it names itself")
    kernel: Text = Field(description="the one that runs")
    driver: str = Field(description="of NVIDIA")
    docker: str
    ecs_agent: str
    python: str = Field(description="the system's own")
    packages: dict[str, str] = Field(description="name -> version, or several")
    images: dict[str, int] = Field(description="container images that it starts with: digest -> bytes")
    models: dict[str, Model] = Field(description="path below models.root -> what it holds")
    runtime: str = Field(default="", description="digest of the runtime")
    wheels: dict[str, str] = Field(default={}, description="packages of the runtime: name -> version")
    sizes: dict[str, int] = Field(description="folders of /, of models.root and of the runtime's root -> bytes")


@dataclass(frozen=True)
class Change:
    """One thing that is different.

    Attributes:
        what: a key of ``told``.
        name: which one.
        before: empty where it was added.
        after: empty where it was removed.
    """

    what: str
    name: str
    before: str
    after: str

    @property
    def kind(self) -> Kind:
        """Whether it was added, removed or changed."""
        return "added" if not self.before else "removed" if not self.after else "changed"


def take(config: Path, host: str, ami: Artifact, *, manifest: Manifest, within: float) -> Inventory:
    """Look at what is on ``host`` of an SSH configuration, an instance of ``ami``; it has ``within`` seconds.

    Raises:
        VerifyError: it cannot be looked at.
    """
    from splitbake.verify import probe

    folders = [manifest.models.root, *([manifest.runtime.root] if manifest.runtime else [])]
    found = probe.ask_over_ssh(config, host, "inventory", *folders, within=within)
    return Inventory.model_validate({"ami": ami.id, "fingerprint": ami.fingerprint, "taken": now(), **found})


def told(inventory: Inventory, folders: Collection[str] | None = None) -> dict[str, dict[str, str]]:
    """Return what it holds in words, kind of thing -> name -> what it is, in the order in which people ask for it.

    ``folders``: which of them are told; None tells all.
    """
    names = ("system", "kernel", "driver", "docker", "ecs_agent", "python", "runtime")
    sizes = {name: size for name, size in inventory.sizes.items() if folders is None or name in folders}
    return {
        "system": {name.replace("_", " "): getattr(inventory, name) for name in names},
        "model": {path: f"{format_size(one.size)}, sha256 {one.sha256[:12]}" for path, one in inventory.models.items()},
        "wheel": inventory.wheels,
        "image": {digest: format_size(size) for digest, size in inventory.images.items()},
        "package": inventory.packages,
        "folder": {name: format_size(size) for name, size in sizes.items()},
    }


def compare(before: Inventory, after: Inventory) -> list[Change]:
    """Return what is different; the fingerprint, which says that something must be, only where nothing else is."""
    old, new = before.sizes, after.sizes
    moved = {name for name in old.keys() | new.keys() if abs(new.get(name, 0) - old.get(name, 0)) >= _NOTABLE}
    here, there = told(before, moved), told(after, moved)
    changes = [change for what in here for change in _changes(what, here[what], there[what])]
    marks = ({"fingerprint": one.fingerprint} for one in (before, after))
    return changes or _changes("system", *marks)


def _changes(what: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    names = sorted(before.keys() | after.keys())
    changes = [Change(what, name, before.get(name, ""), after.get(name, "")) for name in names]
    return [change for change in changes if change.before != change.after]
