"""Verifying the AMI half: boot it, look at it, terminate it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splitbake import contract
from splitbake.artifact import Artifact, Report
from splitbake.cloud import Cloud
from splitbake.generate import packer
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.project import Project
from splitbake.ui import Say
from splitbake.verify import suite
from splitbake.verify.boot import HOST, booted


def verify(project: Project, cloud: Cloud, artifact: Artifact, *, junit: Path | None, say: Say) -> Report:
    """Boot ``artifact`` and compare it with the manifest and the lock.

    Raises:
        CloudError, VerifyError, ToolError: it could not be looked at; the instance is gone all the same.
    """
    manifest = project.manifest
    tags = {
        "Name": f"{manifest.project} verification",
        "splitbake:project": manifest.project,
        "splitbake:fingerprint": artifact.fingerprint,
    }
    with booted(
        cloud,
        artifact.id,
        builder=manifest.ami.builder,
        instance_type=manifest.verify.instance_type,
        within=manifest.verify.within,
        tags=tags,
        say=say,
    ) as instance:
        return suite.run(
            "ami",
            artifact=artifact,
            standard=project.standard("ami"),
            hosts=f"ssh://{HOST}?sudo=true",
            expected=expectation(manifest, project.lock, artifact.fingerprint, instance.public_key),
            ssh_config=instance.ssh_config,
            junit=junit,
            say=say,
        )


def expectation(manifest: Manifest, lock: Lock, fingerprint: str, public_key: str) -> dict[str, Any]:
    """Return what ``checks/ami.py`` compares an instance with."""
    return {
        "root": manifest.models.root,
        "mode": manifest.models.mode,
        "budget": manifest.models.budget,
        "files": {file.path: {"size": file.size, "sha256": file.sha256} for file in lock.files},
        "contract": {f"{contract.FOLDER}/{contract.OFFER_FILE}": contract.offer_text(manifest, lock)},
        "inventory": packer.inventory(manifest, lock, fingerprint),
        "public_key": public_key,
    }
