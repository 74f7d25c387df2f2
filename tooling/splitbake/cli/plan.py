"""``splitbake plan``."""

from __future__ import annotations

from typing import get_args

import click

from splitbake import ui, units
from splitbake.artifact import Half
from splitbake.cli import options
from splitbake.plan import HalfPlan, Plan
from splitbake.project import Project

_COLUMNS = ("half", "to do", "why", "expected")


@click.command()
@click.argument("half", type=click.Choice(get_args(Half)), required=False)
@click.option("--exit-code", is_flag=True, help="Leave with 2 where there is something to build or to verify.")
@options.project
@options.environment
@options.as_json
def command(half: Half | None, exit_code: bool, project: Project, env: str | None, as_json: bool) -> int:
    """Say what is to be built and verified, and why. Changes nothing.

    In GitHub Actions it also writes step outputs (ami, image: build, verify or reuse; ami-id, image-uri where they
    exist; changes: true or false) and a summary of the run.

    \b
    Examples:
      splitbake plan
      splitbake plan --json
      splitbake plan --exit-code || splitbake build
    """
    from splitbake import github
    from splitbake.plan import plan

    cloud = project.cloud(env)
    planned = plan(project, cloud, (half,) if half else get_args(Half))
    rows = [_row(each) for each in planned.halves]
    github.write_outputs(_outputs(planned))
    github.write_summary(f"splitbake plan: {planned.environment}", _COLUMNS, rows)
    if as_json:
        ui.emit_json(planned.as_data())
    else:
        where = f"account {cloud.environment.account}, region {cloud.environment.region}"
        ui.table(f"Plan for {planned.environment}: {where}", _COLUMNS, rows)
    return 2 if exit_code and planned.has_work else 0


def _row(half: HalfPlan) -> tuple[str, str, str, str]:
    return half.half, half.action, "\n".join(half.reasons), _expected(half)


def _expected(half: HalfPlan) -> str:
    if half.expected is None:
        return ""
    time = f"about {units.format_seconds(half.expected.seconds)}"
    return time if half.expected.dollars is None else f"{time}, ${half.expected.dollars:.2f}"


def _outputs(planned: Plan) -> dict[str, str]:
    outputs = {"changes": str(planned.has_work).lower()}
    for half in planned.halves:
        outputs[half.half] = half.action
        if half.artifact:
            outputs[options.OUTPUT_OF[half.half]] = half.artifact.uri
    return outputs
