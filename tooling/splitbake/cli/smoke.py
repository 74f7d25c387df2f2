"""``splitbake smoke``."""

from __future__ import annotations

import json

import click

from splitbake import ui, units
from splitbake.cli import options
from splitbake.project import Project


@click.command()
@options.project
@options.environment
@options.as_json
def command(project: Project, env: str | None, as_json: bool) -> None:
    """Submit one job on what is released, follow it, and show its log and result.

    \b
    Examples:
      splitbake smoke
      splitbake smoke --env prod --json
    """
    from splitbake.smoke import smoke

    cloud = options.guarded(project, env)
    with ui.stage("Running one job on what is released", quiet=as_json) as say:
        result = smoke(project, cloud, say)
    if as_json:
        ui.emit_json(result.as_data())
        return
    click.echo("\n".join(result.log))
    click.echo(f"{result.status} on {result.definition} in {units.format_seconds(result.seconds)}")
    if result.result is not None:
        click.echo(json.dumps(result.result, indent=2, ensure_ascii=False))
