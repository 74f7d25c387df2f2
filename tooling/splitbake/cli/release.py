"""``splitbake release``."""

from __future__ import annotations

import click

from splitbake import ui, units
from splitbake.cli import options
from splitbake.project import Project


@click.command()
@click.option("--dry-run", is_flag=True, help="Show the diff and the AWS calls; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before changing anything.")
@options.project
@options.environment
@options.as_json
def command(dry_run: bool, yes: bool, project: Project, env: str | None, as_json: bool) -> None:
    """Release the verified pair to an environment: Terraform text, then hosts, then jobs, then defaults.

    \b
    Examples:
      splitbake release --dry-run         # the diff and the calls; nothing changes
      splitbake release --env prod
      splitbake release --yes --json      # in CI
    """
    from splitbake import build
    from splitbake.release import describe
    from splitbake.release.plan import plan
    from splitbake.release.run import run
    from splitbake.release.targets import Pair

    cloud = options.guarded(project, env)
    pair = Pair(ami=build.current(project, cloud, "ami"), image=build.current(project, cloud, "image"))
    planned = plan(project, cloud, pair)
    if not as_json:
        click.echo("\n".join(describe.lines(planned)))
    record = None
    if planned.steps and not dry_run:
        ui.confirm(f"Release this to {cloud.name} ({planned.identity})?", yes=yes)
        with ui.stage(f"Releasing to {cloud.name}", quiet=as_json) as say:
            record = run(planned, project, cloud, say)
    if as_json:
        ui.emit_json({**describe.as_data(planned, record), "dry_run": dry_run})
    elif record:
        rows = [(step.phase, step.title, units.format_seconds(step.seconds)) for step in record.steps]
        ui.table(f"Released; record {record.key}", ("phase", "step", "time"), rows)
