"""One project on disk: its folder, manifest and lock."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from splitbake import lock as locks
from splitbake import manifest as manifests
from splitbake.artifact import Half
from splitbake.catalog import Catalog
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

    def catalog(self, cloud: Cloud) -> Catalog:
        """Return what the state says of the account and region of ``cloud``."""
        return Catalog(self.store(cloud), cloud.environment.account, cloud.environment.region)

    def standard(self, half: Half) -> str:
        """Digest of what verification demands of ``half`` beyond its inputs.

        A report made under another standard does not count. The image is tried with the models and the runtime, so
        others are another standard, though no reason to build it anew.
        """
        manifest = self.manifest
        if half == "ami":
            verify = manifest.verify
            demands: list[object] = [manifest.models.budget, verify.instance_type, verify.within]
            demands += [verify.instances, verify.gpu]
        else:
            demands = [manifest.image.budget, manifest.verify.imports, manifest.verify.run, self.lock.models_digest]
            demands += [manifest.image.compressed_budget] if manifest.image.compressed_budget else []
            demands += [self.lock.runtime.digest] if self.lock.runtime else []
        text = json.dumps([half, *demands])
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
