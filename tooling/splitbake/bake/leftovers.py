"""What killed runs have left, in the account, in its region and on this machine: found, judged and removed."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from splitbake import lease
from splitbake.bake import access, amis, roles, rundir, things
from splitbake.bake.things import PROJECT_TAG, RUN_TAG, Failure, Kind, Thing
from splitbake.catalog import Catalog
from splitbake.cloud import Cloud
from splitbake.errors import CloudError, HeldError, SplitbakeError
from splitbake.project import Project
from splitbake.ui import Say

#: Hex digits of a fingerprint in the name of an AMI.
_SHORT = 12
#: What is, or becomes, an AMI that the next build takes up: while it is young it is left for that.
_WORK: frozenset[Kind] = frozenset({"AMI", "snapshot"})


def find(project: Project, cloud: Cloud, *, older_than: float) -> list[Thing]:
    """Return what no run needs any more, in the order in which it can go.

    Nothing is returned of a run that lives on this machine, that a lease names, or that is younger than ``older_than``
    seconds: it may live on another machine, or be another user's. Of a run of ours that began here it is known that it
    does not; only what may become an AMI yet has to be older. AMIs that the state knows are no leftovers.

    Raises:
        CloudError, StateError: AWS or the state cannot be asked.
    """
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=older_than)
    everything = list(_all(project, cloud))  # first: of what is there now, who needs it says so by now
    wanted = {*_known(project, cloud), *_wanted(project, cloud)}
    here = access.machine_tag().values()
    ours = {thing.run for thing in everything if thing.by in here}
    # EC2 does not say of everything when it was made; of the rest of its run it does.
    started = {thing.run: thing.since for thing in everything if thing.since and thing.run}

    def is_left(thing: Thing) -> bool:
        alive = rundir.is_alive(thing.run)
        if alive or thing.id in wanted or thing.fingerprint[: len("sha256:") + _SHORT] in wanted:
            return False
        if alive is False and thing.run in ours and thing.kind not in _WORK:
            return True
        since = thing.since or started.get(thing.run)
        return not older_than if since is None else since <= before

    return [thing for thing in everything if is_left(thing)]


def remove(project: Project, cloud: Cloud, found: Sequence[Thing], say: Say) -> list[Failure]:
    """Remove what ``find`` has returned; what cannot be removed stops nothing else, and is returned.

    An AMI that a build takes up meanwhile stays: of such a failure the problem is a HeldError.
    """
    for thing in found:
        if thing.kind == "instance":
            say(f"terminating instance {thing.id}")
    failures = things.remove(cloud, [one for one in found if one.kind != "security group"])
    for kind, call in (("AMI", _remove_ami), ("snapshot", _remove_snapshot), ("folder", _remove_folder)):
        for thing in found:
            if thing.kind == kind:
                say(f"removing {thing.kind} {thing.id}")
                failures += _tried(thing, partial(call, project, cloud, thing))
    failures += roles.remove(cloud, [one for one in found if one.kind in {"instance profile", "role"}])
    return failures + things.remove(cloud, [one for one in found if one.kind == "security group"])


def _all(project: Project, cloud: Cloud) -> Iterator[Thing]:
    name, builder = project.manifest.project, project.manifest.ami.builder
    tags = {PROJECT_TAG: name}
    yield from things.find(cloud, tags, spot=builder.spot)
    if builder.permissions_boundary:  # else no run makes any, and IAM may not be asked
        yield from roles.find(cloud, tags)
    for region in _regions(project, cloud):
        yield from amis.unfinished(cloud, name, region)
        yield from amis.strays(cloud, name, region)
    yield from _folders()


def _known(project: Project, cloud: Cloud) -> Iterator[str]:
    """Yield the AMIs that the state knows."""
    store, account = project.store(cloud), cloud.environment.account
    for region in _regions(project, cloud):
        for artifact in Catalog(store, account, region).artifacts("ami"):
            yield artifact.id
            yield from (copy.id for copy in artifact.copies)


def _wanted(project: Project, cloud: Cloud) -> Iterator[str]:
    """Yield the fingerprints, shortened, that somebody bakes or verifies at this moment."""
    catalog = project.catalog(cloud)
    for prefix in (catalog.lease("build", "ami"), catalog.lease("verify", "ami")):
        for name in lease.names(catalog.store, prefix):
            holding = lease.last(catalog.store, name)
            if holding and holding.is_held(lease.now()):
                yield name.removeprefix(prefix)[: len("sha256:") + _SHORT]


def _regions(project: Project, cloud: Cloud) -> list[str]:
    """Return where AMIs may be; ``ami.copies`` may name the environment's own region."""
    return [*dict.fromkeys((cloud.environment.region, *(copy.region for copy in project.manifest.ami.copies)))]


def _folders() -> Iterator[Thing]:
    for run, path in rundir.found().items():
        why = "it holds a private key, and its process is gone"
        yield Thing("folder", str(path), "", run, _changed(path), why=why)
    for path in rundir.scratch():
        yield Thing("folder", str(path), "", "", _changed(path), why="nobody works in it any more")


def _changed(path: Path) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)


def _tried(thing: Thing, call: Callable[[], None]) -> list[Failure]:
    try:
        call()
    except SplitbakeError as problem:
        return [Failure(thing, problem)]
    return []


def _remove_ami(project: Project, cloud: Cloud, thing: Thing) -> None:
    """Remove an AMI if it is left still, under the leases of its inputs: no build takes it up meanwhile.

    Its name has but the beginning of their fingerprint; whoever bakes them has made the lease before.
    """
    catalog, who = project.catalog(cloud), cloud.guard().arn
    with ExitStack() as leases:
        for name in lease.names(catalog.store, catalog.lease("build", "ami", thing.fingerprint)):
            leases.enter_context(lease.held(catalog.store, name, who=who, doing="removing what runs have left"))
        if thing.id in _known(project, cloud):
            raise HeldError(f"{thing.id} stays: a build has taken it up")
        if thing.id in [one.id for one in amis.unfinished(cloud, project.manifest.project, thing.region)]:
            amis.discard(cloud, thing.id, region=thing.region, tags=_tags(project, thing))


def _tags(project: Project, thing: Thing) -> dict[str, str]:
    """Return the tags that say whose a thing is: a role may remove only what carries them."""
    return {PROJECT_TAG: project.manifest.project, RUN_TAG: thing.run}


def _remove_snapshot(project: Project, cloud: Cloud, thing: Thing) -> None:
    ec2 = cloud.client("ec2", region=thing.region)
    amis.mark(ec2, thing.id, _tags(project, thing))
    things.insist(f"remove snapshot {thing.id}", partial(ec2.delete_snapshot, SnapshotId=thing.id))


def _remove_folder(_project: Project, _cloud: Cloud, thing: Thing) -> None:
    try:
        rundir.remove(Path(thing.id))
    except OSError as problem:
        raise CloudError(f"could not remove {thing.id}: {problem}", hint="whose is it?") from problem
