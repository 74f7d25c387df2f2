"""Verifying the AMI half: boot it several times, look at the instances, terminate them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from splitbake import contract, inventory, lease
from splitbake.artifact import Artifact, Report
from splitbake.cloud import Cloud
from splitbake.generate import host, packer
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.project import Project
from splitbake.ui import Say
from splitbake.verify import ssh, suite
from splitbake.verify.boot import Booted, booted

#: Bytes a second: the slowest that EBS was seen to give blocks of a snapshot at their first reading.
_SLOWEST = 5 * 1024**2


def verify(project: Project, cloud: Cloud, artifact: Artifact, *, junit: Path | None, say: Say) -> Report:
    """Boot ``artifact``, compare it with the manifest and the lock, and keep its inventory in the state.

    Where another verification looks at it, that one is waited for.

    Raises:
        CloudError, VerifyError, ToolError: it could not be looked at; the instances are gone all the same.
        StateError: the inventory cannot be written.
    """
    catalog = project.catalog(cloud)
    # While it is held, gc knows whose the instances are.
    name = catalog.lease("verify", "ami", artifact.fingerprint)
    with lease.held(catalog.store, name, who=cloud.guard().arn, doing=f"verifying {artifact.id}", wait=say):
        return _verify(project, cloud, artifact, junit=junit, say=say)


def _verify(project: Project, cloud: Cloud, artifact: Artifact, *, junit: Path | None, say: Say) -> Report:
    manifest, wanted = project.manifest, project.manifest.verify
    connect = ssh.seconds_to_connect(manifest.ami.builder.connect)
    tags = {
        "Name": f"{manifest.project} verification",
        "splitbake:project": manifest.project,
        "splitbake:fingerprint": artifact.fingerprint,
    }
    with booted(
        cloud,
        artifact.id,
        builder=manifest.ami.builder,
        instance_type=wanted.instance_type,
        within=wanted.within,
        tags=tags,
        say=say,
        count=wanted.instances,
        lifetime=wanted.within + suite.LIMIT + limit(manifest, project.lock),
    ) as instances:
        first, *_ = instances
        report = suite.run(
            "boot",
            "ami",
            artifact=artifact,
            standard=project.standard("ami"),
            hosts=ssh.hostspec(first.host, connect),
            expected={
                **expectation(manifest, project.lock, artifact.fingerprint, first.public_key),
                "moment": "instance",
                "instances": _told(instances, connect),
                "gpu": wanted.gpu,
            },
            ssh_config=first.ssh_config,
            junit=junit,
            say=say,
            limit=limit(manifest, project.lock),
        )
        if not report.passed:
            return report  # nobody uses it, and what was found must not be lost because notes on it are damaged
        say("taking the inventory")
        found = inventory.take(first.ssh_config, first.host, artifact, manifest=manifest, within=suite.LIMIT)
    project.catalog(cloud).keep_inventory(found)
    return report


def limit(manifest: Manifest, lock: Lock) -> float:
    """Return the seconds that one check may take; one of them reads all models, another one the runtime."""
    return suite.LIMIT + (lock.models_size + (manifest.runtime.budget if manifest.runtime else 0)) / _SLOWEST


def expectation(manifest: Manifest, lock: Lock, fingerprint: str, public_key: str) -> dict[str, Any]:
    """Return what ``checks/ami.py`` compares a machine with; its ``moment`` comes to that."""
    return {
        "root": manifest.models.root,
        "mode": manifest.models.mode,
        "budget": manifest.models.budget,
        "files": {file.path: {"size": file.size, "sha256": file.sha256} for file in lock.files},
        "contract": {f"{contract.FOLDER}/{contract.OFFER_FILE}": contract.offer_text(manifest, lock)},
        "inventory": packer.inventory(manifest, lock, fingerprint),
        "public_key": public_key,
        **host.expectation(manifest, lock),
    }


def _told(instances: Sequence[Booted], connect: int) -> list[dict[str, Any]]:
    """Return what ``checks/boot.py`` needs to know of each instance."""
    return [
        {"host": ssh.hostspec(one.host, connect), "id": one.instance, "asked": one.asked, "seconds": one.seconds}
        for one in instances
    ]
