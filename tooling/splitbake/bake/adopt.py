"""Taking up the AMI of an earlier run: one that nobody could write down any more, or that wants another copy now.

Its name says which inputs it was made from, and by which run. Packer asks for an AMI only when every provisioner has
succeeded, and what is taken up is verified anew like any other.
"""

from __future__ import annotations

import time

from splitbake import health
from splitbake.artifact import Artifact
from splitbake.bake import ami, amis, keeper, rundir
from splitbake.bake.things import FINGERPRINT_TAG, tags_of
from splitbake.catalog import Catalog
from splitbake.cloud import Cloud
from splitbake.errors import BuildError
from splitbake.generate import packer as generated
from splitbake.generate import source
from splitbake.project import Project
from splitbake.ui import Say

_PROMOTED_TAG = "splitbake:promoted-from"
#: Seconds that a Packer whose splitbake was killed gets to clean up; it may remove its AMI meanwhile.
_OVER_WITHIN = keeper.GRACE + 10


def earlier(project: Project, cloud: Cloud, catalog: Catalog, fingerprint: str, say: Say) -> Artifact | None:
    """Finish an AMI of these inputs that the state does not know, or that lacks a copy, and return it.

    None where there is none. The AMI that the state knows is no candidate but for a missing copy: the caller has found
    something else wrong with it.

    The caller holds the lease of these inputs, so no other run is at work on them.

    Raises:
        BuildError, CloudError: it is there, but cannot be finished.
    """
    started, known = time.monotonic(), catalog.artifact("ami", fingerprint)
    rejected = None if known and health.uncopied(known, project.manifest.ami.copies) else known
    for named in amis.own(cloud, generated.ami_name(project.manifest, fingerprint, "*")):
        run = named["Name"].rpartition("-")[2]
        _await_end(run, say)
        image = next(iter(amis.own(cloud, named["Name"])), None)
        if image is None or _is(rejected, image) or not _may_be(cloud, catalog, image, fingerprint):
            continue
        name = image["ImageId"]
        if not _is(known, image):
            say(f"{name} was made of these inputs by an earlier run, which did not write it down")
        try:
            amis.wait(cloud, name, within=source.wait_seconds(project.manifest, project.lock))
        except BuildError as problem:
            say(f"it cannot be used: {problem.message}")
            continue
        tags = generated.tags(project.manifest, fingerprint, run)
        return ami.complete(project, cloud, name, tags, fingerprint=fingerprint, started=started, say=say)
    return None


def _may_be(cloud: Cloud, catalog: Catalog, image: amis.Image, fingerprint: str) -> bool:
    """Whether an AMI of this name is, or becomes, one that can be used: no other one's, and none that was rejected."""
    tags = tags_of(image)
    if image["State"] not in {"pending", "available"} or health.is_past(image) or _PROMOTED_TAG in tags:
        return False
    if tags.get(FINGERPRINT_TAG, fingerprint) != fingerprint:
        return False
    report = catalog.report(
        Artifact(
            half="ami",
            id=image["ImageId"],
            location=cloud.environment.region,
            fingerprint=fingerprint,
            created=str(image["CreationDate"]),
            seconds=0,
            size=0,
        )
    )
    return report is None or report.passed


def _is(artifact: Artifact | None, image: amis.Image) -> bool:
    return artifact is not None and artifact.id == image["ImageId"]


def _await_end(run: str, say: Say) -> None:
    deadline = time.monotonic() + _OVER_WITHIN
    while rundir.is_alive(run) is not False and time.monotonic() < deadline:
        say(f"waiting for what is left of run {run} on this machine")
        time.sleep(1)
