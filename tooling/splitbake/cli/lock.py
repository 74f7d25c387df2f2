"""``splitbake lock``."""

from __future__ import annotations

import click

from splitbake import lock as locks
from splitbake import ui, units
from splitbake.cli import options
from splitbake.errors import UsageError
from splitbake.project import Project


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; tell what moved and leave with 2 if anything did.")
@click.option("--offline", is_flag=True, help="With --check: ask no network; only: does the lock answer the manifest?")
@options.project
@options.environment
@options.as_json
def command(check: bool, offline: bool, project: Project, env: str | None, as_json: bool) -> int:
    """Pin base AMI, base image and every model into splitbake.lock.

    \b
    Examples:
      splitbake lock
      splitbake lock --check              # has anything moved since?
      splitbake lock --check --offline    # in CI: does the lock answer the manifest and the files in the project?
    """
    from splitbake import resolve

    manifest = project.manifest
    if offline and not check:
        raise UsageError("without the network the lock can only be checked", hint="add --check")
    if offline:
        lock = locks.read(project.lock_path)
        moved = list(locks.mismatches(manifest, lock))
        if not moved:
            moved = [f"model changed: {path}" for path in resolve.changed_models(project)]
    else:
        previous = locks.read(project.lock_path) if check else locks.read_if_usable(project.lock_path)
        cloud = options.guarded(project, env)  # what another account's parameters say must not get into the lock
        with ui.stage("Resolving bases and models", quiet=as_json) as say:
            lock = resolve.resolve(project, cloud, previous, say)
        moved = locks.differences(previous, lock)
        if not check:
            locks.write(project.lock_path, lock)
    if as_json:
        size = {"files": len(lock.files), "bytes": lock.models_size}
        ui.emit_json({"check": check, "changed": bool(moved), "moved": moved, "models": size})
    else:
        found = "answers the manifest; S3 and other sources were not asked" if offline else "is up to date"
        click.echo("\n".join(moved) or f"{project.lock_path} {found}.")
        click.echo(f"{units.counted(len(lock.files), 'model file')}, {units.format_size(lock.models_size)}", err=True)
    return 2 if check and moved else 0
