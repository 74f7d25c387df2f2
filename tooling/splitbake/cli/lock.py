"""``splitbake lock``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from splitbake import lock as locks
from splitbake import ui, units
from splitbake.cli import options
from splitbake.errors import UsageError
from splitbake.lock import Lock
from splitbake.project import Project

if TYPE_CHECKING:
    from splitbake.sources.contents import Way

#: How the digest of a model is known -> how that is said.
_WAYS: Mapping[Way, str] = {
    "downloaded": "downloaded",
    "told": "by the checksum of their source",
    "unchanged": "unchanged since the last lock",
    "project": "in the project",
}


@click.command()
@click.option(
    "--update",
    "parts",
    multiple=True,
    type=click.Choice(locks.PARTS),
    help="Look at this part only, and keep the others as they are: base (AMI and image), models, runtime, order "
    "(of the layers of the image).",
)
@click.option("--check", is_flag=True, help="Write nothing; tell what moved and leave with 2 if anything did.")
@click.option("--offline", is_flag=True, help="With --check: ask no network; only: does the lock answer the manifest?")
@options.project
@options.environment
@options.as_json
def command(
    *, parts: tuple[locks.Part, ...], check: bool, offline: bool, project: Project, env: str | None, as_json: bool
) -> int:
    """Pin base AMI, base image and every model into splitbake.lock.

    \b
    Examples:
      splitbake lock
      splitbake lock --update base        # a newer base AMI; the models stay
      splitbake lock --check              # has anything moved since?
      splitbake lock --check --offline    # in CI: does the lock answer the manifest and the files in the project?
    """
    if offline and (parts or not check):
        raise UsageError(
            "without the network the lock can only be checked, and only all of it", hint="--check --offline"
        )
    ways: Mapping[str, Way] = {}
    if offline:
        lock, moved = _answers(project)
    else:
        lock, moved, ways = _resolve(project, env, parts, check=check, quiet=as_json)
    _tell(project, lock, moved, ways, check=check, offline=offline, as_json=as_json)
    return 2 if check and moved else 0


def _answers(project: Project) -> tuple[Lock, list[str]]:
    """Return the lock, and what of manifest and project it does not answer."""
    from splitbake import resolve

    lock = locks.read(project.lock_path)
    moved = list(locks.mismatches(project.manifest, lock, project.root))
    return lock, moved or [f"model changed: {path}" for path in resolve.changed_models(project)]


def _resolve(
    project: Project, env: str | None, parts: tuple[locks.Part, ...], *, check: bool, quiet: bool
) -> tuple[Lock, list[str], Mapping[str, Way]]:
    """Return the lock of today, written unless ``check``, what moved, and how the digests of models are known."""
    from splitbake import moves, resolve

    path = project.lock_path
    previous = locks.read(path) if check or parts else locks.read_if_usable(path)
    cloud = options.guarded(project, env)  # what another account's parameters say must not get into the lock
    with ui.stage("Resolving bases and models", quiet=quiet) as say:
        if parts and previous:
            resolved = resolve.update(project, cloud, previous, parts, say)
        else:
            resolved = resolve.resolve(project, cloud, previous, say)
    if not check:
        locks.write(path, resolved.lock)
    return resolved.lock, moves.differences(previous, resolved.lock), resolved.ways


def _tell(
    project: Project,
    lock: Lock,
    moved: list[str],
    ways: Mapping[str, Way],
    *,
    check: bool,
    offline: bool,
    as_json: bool,
) -> None:
    from splitbake.sources.base_warnings import warnings

    warned = list(warnings(lock.base_ami, datetime.now(UTC)))
    for line in warned:
        click.secho("warning: ", fg="yellow", bold=True, err=True, nl=False)
        click.echo(line, err=True)
    if as_json:
        known = {str(way): {"files": files, "bytes": size} for way, files, size in _counts(lock, ways)}
        models = {"files": len(lock.files), "bytes": lock.models_size, **known}
        ui.emit_json({"check": check, "changed": bool(moved), "moved": moved, "warnings": warned, "models": models})
        return
    found = "answers the manifest; S3 and other sources were not asked" if offline else "is up to date"
    click.echo("\n".join(moved) or f"{project.lock_path} {found}.")
    total = f"{units.counted(len(lock.files), 'model file')}, {units.format_size(lock.models_size)}"
    told = [f"{files} {_WAYS[way]} ({units.format_size(size)})" for way, files, size in _counts(lock, ways)]
    click.echo(f"{total}: {', '.join(told)}" if told else total, err=True)


def _counts(lock: Lock, ways: Mapping[str, Way]) -> Iterator[tuple[Way, int, int]]:
    """Yield each way in which digests are known, with the number of such files and their bytes."""
    for way in _WAYS:
        sizes = [file.size for file in lock.files if ways.get(file.path) == way]
        if sizes:
            yield way, len(sizes), sum(sizes)
