"""``splitbake release``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import click

from splitbake import ui, units
from splitbake.artifact import Half
from splitbake.cli import options
from splitbake.cloud import Cloud
from splitbake.errors import UsageError
from splitbake.project import Project

if TYPE_CHECKING:
    from splitbake.release.promote import Promotion
    from splitbake.release.targets import Pair


@click.command()
@click.argument("half", type=click.Choice(get_args(Half)), required=False)
@click.option("--record", metavar="KEY", help="Promote the pair of this record, not that of the last good release.")
@click.option("--dry-run", is_flag=True, help="Show the diff and the AWS calls; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before changing anything.")
@options.project
@options.environment
@options.as_json
def command(  # noqa: PLR0917 - click passes every option by its name
    half: Half | None,
    record: str | None,
    dry_run: bool,
    yes: bool,
    project: Project,
    env: str | None,
    as_json: bool,
) -> None:
    """Release the verified pair to an environment: Terraform text, then hosts, then jobs, then defaults.

    With a half only that one is released; the other stays what the environment's last good release has. An
    environment that promotes from another one gets the very pair of that one's last good release, built by nobody
    anew.

    \b
    Examples:
      splitbake release --dry-run         # the diff and the calls; nothing changes
      splitbake release image             # only the code
      splitbake release --env prod
      splitbake release --yes --json      # in CI
    """
    from splitbake.release import describe
    from splitbake.release import pair as pairs

    cloud = options.guarded(project, env)
    promoted: dict[str, Any] = {}
    if cloud.environment.promote:
        promotion = _promotion(project, cloud, half, record, as_json=as_json)
        pair = promotion.pair if dry_run else _promote(promotion, project, cloud, yes=yes, as_json=as_json)
        promoted = {"promoted": describe.promotion_data(promotion, pair)}
    elif record:
        raise UsageError(f"environment {cloud.name!r} promotes from no other", hint="leave out --record")
    else:
        pair = pairs.of_project(project, cloud, half)
    released = _release(project, cloud, pair, dry_run=dry_run, yes=yes, as_json=as_json) if pair else {}
    if as_json:
        nothing = {"environment": cloud.name, "status": "planned"}
        ui.emit_json({**(released or nothing), **promoted, "dry_run": dry_run})


def _promotion(project: Project, cloud: Cloud, half: Half | None, record: str | None, *, as_json: bool) -> Promotion:
    """Plan the promotion and show it."""
    from splitbake.release import describe, promote

    if half:
        raise UsageError(f"environment {cloud.name!r} promotes whole pairs", hint=f"leave out {half}")
    promotion = promote.plan(project, cloud, record)
    if not as_json:
        click.echo("\n".join(describe.promotion_lines(promotion)))
    return promotion


def _promote(promotion: Promotion, project: Project, cloud: Cloud, *, yes: bool, as_json: bool) -> Pair:
    from splitbake.release import promote

    if promotion.pair:
        return promotion.pair
    ui.confirm(f"Promote this to {cloud.name} ({cloud.guard()})?", yes=yes)
    with ui.stage(f"Promoting to {cloud.name}", quiet=as_json) as say:
        return promote.run(promotion, project, cloud, say)


def _release(project: Project, cloud: Cloud, pair: Pair, *, dry_run: bool, yes: bool, as_json: bool) -> dict[str, Any]:
    """Plan the release, show it, and do it unless it is a dry run; return both as data."""
    from splitbake.release import describe
    from splitbake.release.plan import plan
    from splitbake.release.run import run

    planned = plan(project, cloud, pair)
    if not as_json:
        click.echo("\n".join(describe.lines(planned)))
    record = None
    if planned.steps and not dry_run:
        ui.confirm(f"Release this to {cloud.name} ({planned.identity})?", yes=yes)
    if not dry_run and (planned.steps or not planned.is_recorded):
        with ui.stage(f"Releasing to {cloud.name}", quiet=as_json) as say:
            record = run(planned, project, cloud, say)
    if record and not as_json:
        rows = [(step.phase, step.title, units.format_seconds(step.seconds)) for step in record.steps]
        ui.table(f"Released; record {record.key}", ("phase", "step", "time"), rows)
    return describe.as_data(planned, record)
