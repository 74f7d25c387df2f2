"""What killed runs have left, in the account, in its region and on this machine: found, judged and removed."""

from __future__ import annotations

import datetime
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from splitbake import lease
from splitbake.bake import amis, roles, rundir, things
from splitbake.bake.things import PROJECT_TAG, Failure, Thing
from splitbake.catalog import Catalog
from splitbake.cloud import Cloud
from splitbake.errors import CloudError
from splitbake.project import Project
from splitbake.ui import Say

#: Hex digits of a fingerprint in the name of an AMI.
_SHORT = 12
#: Folders beside those of runs: staged contexts, registry logins. Nothing says whether their process lives.
_SCRATCH = re.compile("splitbake-(apt|docker|image|verify)-[a-z0-9_]{8}")


def find(project: Project, cloud: Cloud, *, older_than: float) -> list[Thing]:
    """Return what no run needs any more, in the order in which it can go.

    Nothing is returned of a run that lives on this machine, that a lease names, or that is younger than ``older_than``
    seconds: it may live on another machine. AMIs that the state knows are no leftovers.

    Raises:
        CloudError, StateError: AWS or the state cannot be asked.
    """
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=older_than)
    wanted, everything = set(_wanted(project, cloud)), list(_all(project, cloud))
    # EC2 does not say of everything when it was made; of the rest of its run it does.
    started = {thing.run: thing.since for thing in everything if thing.since and thing.run}

    def is_left(thing: Thing) -> bool:
        if thing.id in wanted or thing.fingerprint[: len("sha256:") + _SHORT] in wanted or rundir.is_alive(thing.run):
            return False
        since = thing.since or started.get(thing.run)
        return not older_than if since is None else since <= before

    return [thing for thing in everything if is_left(thing)]


def remove(cloud: Cloud, found: Sequence[Thing], say: Say) -> list[Failure]:
    """Remove what ``find`` has returned; what cannot be removed stops nothing else, and is returned."""
    for thing in found:
        if thing.kind == "instance":
            say(f"terminating instance {thing.id}")
    failures = things.remove(cloud, [one for one in found if one.kind != "security group"])
    for kind, call in (("AMI", _remove_ami), ("snapshot", _remove_snapshot), ("folder", _remove_folder)):
        for thing in found:
            if thing.kind == kind:
                say(f"removing {thing.kind} {thing.id}")
                failures += _tried(thing, partial(call, cloud, thing))
    failures += roles.remove(cloud, [one for one in found if one.kind in {"instance profile", "role"}])
    return failures + things.remove(cloud, [one for one in found if one.kind == "security group"])


def _all(project: Project, cloud: Cloud) -> Iterator[Thing]:
    name = project.manifest.project
    tags = {PROJECT_TAG: name}
    yield from things.find(cloud, tags)
    if project.manifest.ami.builder.permissions_boundary:  # else no run makes any, and IAM may not be asked
        yield from roles.find(cloud, tags)
    for region in _regions(project, cloud):
        yield from amis.unfinished(cloud, name, region)
        yield from amis.strays(cloud, name, region)
    yield from _folders()


def _wanted(project: Project, cloud: Cloud) -> Iterator[str]:
    """Yield the AMIs that the state knows, and the fingerprints, shortened, that somebody bakes at this moment."""
    store, account = project.store(cloud), cloud.environment.account
    for region in _regions(project, cloud):
        for artifact in Catalog(store, account, region).artifacts("ami"):
            yield artifact.id
            yield from (copy.id for copy in artifact.copies)
    prefix = f"build/{account}/{cloud.environment.region}/ami/"
    for name in lease.names(store, prefix):
        holding = lease.last(store, name)
        if holding and holding.is_held(lease.now()):
            yield name.removeprefix(prefix)[: len("sha256:") + _SHORT]


def _regions(project: Project, cloud: Cloud) -> list[str]:
    return [cloud.environment.region, *(copy.region for copy in project.manifest.ami.copies)]


def _folders() -> Iterator[Thing]:
    for run, path in rundir.found().items():
        yield Thing("folder", str(path), "", run, _changed(path), why="it holds a private key, and its process is gone")
    for path in Path(tempfile.gettempdir()).iterdir():
        if _SCRATCH.fullmatch(path.name) and rundir.is_ours(path):
            yield Thing("folder", str(path), "", "", _changed(path), why="nobody works in it any more")


def _changed(path: Path) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)


def _tried(thing: Thing, call: Callable[[], None]) -> list[Failure]:
    try:
        call()
    except CloudError as problem:
        return [Failure(thing, problem)]
    return []


def _remove_ami(cloud: Cloud, thing: Thing) -> None:
    amis.discard(cloud, thing.id, region=thing.region)


def _remove_snapshot(cloud: Cloud, thing: Thing) -> None:
    ec2 = cloud.client("ec2", region=thing.region)
    things.insist(f"remove snapshot {thing.id}", partial(ec2.delete_snapshot, SnapshotId=thing.id))


def _remove_folder(_cloud: Cloud, thing: Thing) -> None:
    try:
        shutil.rmtree(thing.id)
    except FileNotFoundError:
        return
    except OSError as problem:
        raise CloudError(f"could not remove {thing.id}: {problem}", hint="whose is it?") from problem
