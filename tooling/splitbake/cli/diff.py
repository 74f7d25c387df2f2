"""``splitbake diff``."""

from __future__ import annotations

import dataclasses

import click

from splitbake import ui
from splitbake.catalog import Catalog
from splitbake.cli import options
from splitbake.errors import StateError, UsageError
from splitbake.inventory import Change, Inventory
from splitbake.project import Project

_MARKS = {"added": "+", "removed": "-", "changed": "~"}
_SHOWN = 5


@click.command()
@click.argument("before")
@click.argument("after", required=False)
@click.option("--exit-code", is_flag=True, help="Leave with 2 where they differ.")
@options.project
@options.environment
@options.as_json
def command(
    before: str, after: str | None, *, exit_code: bool, project: Project, env: str | None, as_json: bool
) -> int:
    """Say what two AMIs differ in: packages, kernel, driver, models, runtime, container images, sizes.

    BEFORE and AFTER are ids of verified AMIs: verification takes the inventory of each. With BEFORE alone, its whole
    inventory is shown. Asks the state and nobody else.

    \b
    Examples:
      splitbake diff ami-0aaaaaaaaaaaaaaaa
      splitbake diff ami-0aaaaaaaaaaaaaaaa ami-0bbbbbbbbbbbbbbbb
      splitbake diff ami-0aaaaaaaaaaaaaaaa ami-0bbbbbbbbbbbbbbbb --json
    """
    from splitbake import inventory

    if exit_code and after is None:
        raise UsageError("--exit-code says whether two AMIs differ, and only one was named")
    catalog = project.catalog(project.cloud(env))
    old = _known(catalog, before)
    if after is None:
        _show(old, as_json=as_json)
        return 0
    new = _known(catalog, after)
    changes = inventory.compare(old, new)
    if as_json:
        told = [{**dataclasses.asdict(change), "kind": change.kind} for change in changes]
        ui.emit_json({"before": before, "after": after, "changes": told})
    elif changes:
        ui.table(f"{before} → {after}", ("", "what", "name", "before", "after"), [_row(change) for change in changes])
    else:
        click.echo(f"{before} and {after} hold the same")
    return 2 if exit_code and changes else 0


def _show(found: Inventory, *, as_json: bool) -> None:
    from splitbake import inventory

    if as_json:
        ui.emit_json(found.model_dump(mode="json"))
        return
    rows = [(what, name, value) for what, things in inventory.told(found).items() for name, value in things.items()]
    title = f"{found.ami}, {found.fingerprint}, as it was {found.taken}"
    ui.table(title, ("what", "name", ""), [row for row in rows if row[-1]])


def _known(catalog: Catalog, ami: str) -> Inventory:
    found = catalog.inventory(ami)
    if found is None:
        known = catalog.inventories()
        hint = f"there is one of {', '.join(known[-_SHOWN:])}" if known else "splitbake verify ami takes it"
        raise StateError(f"the state has no inventory of {ami} in {catalog.region}", hint=hint)
    return found


def _row(change: Change) -> tuple[str, str, str, str, str]:
    return _MARKS[change.kind], change.what, change.name, change.before, change.after
