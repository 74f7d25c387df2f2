"""``splitbake gc``."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from splitbake import ui, units
from splitbake.cli import options
from splitbake.errors import HeldError, UsageError
from splitbake.project import Project

if TYPE_CHECKING:
    from splitbake.bake.things import Thing


def _seconds(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    try:
        return 0 if text == "0" else units.parse_duration(text)
    except ValueError as problem:
        raise click.BadParameter(str(problem)) from problem


@click.command()
@click.option("--runs", is_flag=True, help="What killed bakes and verifications have left.")
@click.option(
    "--older-than",
    metavar="AGE",
    default="3 h",
    show_default=True,
    callback=_seconds,
    help="Leave younger things of other machines alone: a bake may be running there. And AMIs: a build takes them up.",
)
@click.option("--yes", is_flag=True, help="Remove it; without this it is only listed.")
@options.project
@options.environment
@options.as_json
def command(  # noqa: PLR0917 - click passes every option by its name
    runs: bool, older_than: int, yes: bool, project: Project, env: str | None, as_json: bool
) -> int:
    """Find what killed runs have left, and remove it with --yes.

    Instances, launch templates, volumes, key pairs, security groups, roles, unfinished AMIs and snapshots without one,
    of this project in the account and region of the environment; and folders of runs on this machine. What a run needs
    that is alive here, or that holds a lease, is left alone. Leaves with 1 where something could not be removed.

    \b
    Examples:
      splitbake gc --runs
      splitbake gc --runs --older-than 30min --yes
    """
    from splitbake.bake import leftovers

    if not runs:
        raise UsageError(
            "say what to collect: --runs", hint="AMIs that were finished are not collected by this command"
        )
    cloud = options.guarded(project, env)
    found = leftovers.find(project, cloud, older_than=older_than)
    failures = []
    if yes and found:
        with ui.stage("Removing what runs have left", quiet=as_json) as say:
            failures = leftovers.remove(project, cloud, found, say)
    problems = {failure.thing: failure.problem.message for failure in failures}
    if as_json:
        ui.emit_json({"removed": yes, "things": [_as_data(one, problems.get(one)) for one in found]})
    else:
        _show(found, removed=yes, problems=list(problems.values()))
    return 1 if any(not isinstance(failure.problem, HeldError) for failure in failures) else 0


def _as_data(thing: Thing, problem: str | None) -> dict[str, Any]:
    return {
        "kind": thing.kind,
        "id": thing.id,
        "region": thing.region or None,
        "run": thing.run or None,
        "since": thing.since.isoformat() if thing.since else None,
        "why": thing.why,
        "problem": problem,
    }


def _show(found: Sequence[Thing], *, removed: bool, problems: Sequence[str]) -> None:
    if not found:
        click.echo("nothing is left")
        return
    rows = [(one.kind, one.id, one.run, _age(one), one.why) for one in found]
    verb = "found, and removed" if removed and not problems else "found"
    ui.table(f"{units.counted(len(found), 'thing')} {verb}", ("kind", "id", "run", "age", "why"), rows)
    for problem in problems:
        click.secho("left: ", fg="red", nl=False, err=True)
        click.echo(problem, err=True)
    if not removed:
        click.echo("nothing was removed: --yes does")


def _age(thing: Thing) -> str:
    if thing.since is None:
        return "unknown"
    seconds = (datetime.datetime.now(datetime.UTC) - thing.since).total_seconds()
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else units.format_seconds(max(seconds, 0))
