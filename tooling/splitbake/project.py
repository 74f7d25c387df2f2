"""One project on disk: its folder, manifest and lock."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from splitbake import lock as locks
from splitbake import manifest as manifests
from splitbake.cloud import Cloud
from splitbake.errors import UsageError
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.state import Store, open_store


@dataclass(frozen=True)
class Project:
    """A folder with a manifest; everything else is derived from it when it is asked for."""

    manifest_path: Path

    @property
    def root(self) -> Path:
        """The folder that the manifest's relative paths start from."""
        return self.manifest_path.parent

    @property
    def lock_path(self) -> Path:
        """Where the lock lies: beside the manifest."""
        return self.root / locks.FILE_NAME

    @cached_property
    def manifest(self) -> Manifest:
        """The checked manifest."""
        return manifests.load(self.manifest_path)

    @cached_property
    def lock(self) -> Lock:
        """The lock, which must belong to the manifest."""
        return locks.read_for(self.manifest, self.lock_path)

    def cloud(self, name: str | None = None) -> Cloud:
        """Return the environment ``name``; without a name the first one that the manifest lists.

        Raises:
            UsageError: the manifest has no such environment.
        """
        environments = self.manifest.environments
        chosen = next(iter(environments)) if name is None else name
        if chosen not in environments:
            raise UsageError(
                f"{self.manifest_path} has no environment {chosen!r}",
                hint=f"it has: {', '.join(environments)}",
            )
        return Cloud(chosen, environments[chosen])

    def store(self, cloud: Cloud) -> Store:
        """Return the project's state as ``cloud`` reaches it."""
        return open_store(self.manifest, self.root, cloud)
