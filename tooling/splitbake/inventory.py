"""What is on an instance of an AMI, and what two AMIs differ in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from splitbake.artifact import Artifact, now
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
    sizes: dict[str, int] = Field(description="folders of / and of models.root -> bytes")


@dataclass(frozen=True)
class Change:
    """One thing that is different.

    Attributes:
        what: ``system``, ``package``, ``image``, ``model`` or ``folder``.
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


def take(config: Path, host: str, ami: Artifact, *, root: str, within: float) -> Inventory:
    """Look at what is on ``host`` of an SSH configuration, an instance of ``ami``; it has ``within`` seconds.

    Raises:
        VerifyError: it cannot be looked at.
    """
    from splitbake.verify import probe

    found = probe.ask_over_ssh(config, host, "inventory", root, within=within)
    return Inventory.model_validate({"ami": ami.id, "fingerprint": ami.fingerprint, "taken": now(), **found})


def compare(before: Inventory, after: Inventory) -> list[Change]:
    """Return what is different, in the order in which people ask for it."""
    old, new = before.sizes, after.sizes
    moved = {name for name in old.keys() | new.keys() if abs(new.get(name, 0) - old.get(name, 0)) >= _NOTABLE}
    return [
        *_changes("system", _versions(before), _versions(after)),
        *_changes("model", _models(before), _models(after)),
        *_changes("image", _sizes(before.images), _sizes(after.images)),
        *_changes("package", before.packages, after.packages),
        *_changes("folder", _sizes(before.sizes, moved), _sizes(after.sizes, moved)),
    ]


def _versions(inventory: Inventory) -> dict[str, str]:
    names = ("system", "kernel", "driver", "docker", "ecs_agent", "python")
    return {name.replace("_", " "): getattr(inventory, name) for name in names}


def _models(inventory: Inventory) -> dict[str, str]:
    return {path: f"{format_size(one.size)}, sha256 {one.sha256[:12]}" for path, one in inventory.models.items()}


def _sizes(sizes: Mapping[str, int], of: Collection[str] | None = None) -> dict[str, str]:
    return {name: format_size(size) for name, size in sizes.items() if of is None or name in of}


def _changes(what: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, ""), after.get(name, "")
        if old != new:
            yield Change(what, name, old, new)
