"""``splitbake verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from splitbake import ui
from splitbake.artifact import Half, Report
from splitbake.cli import options
from splitbake.cloud import Cloud
from splitbake.project import Project

_TITLES: dict[Half, str] = {"ami": "Verifying the AMI", "image": "Verifying the image"}


@click.command()
@click.argument("half", type=click.Choice(get_args(Half)), required=False)
@click.option(
    "--junit",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write JUnit XML into this folder: ami.xml, image.xml.",
)
@options.project
@options.environment
@options.as_json
def command(half: Half | None, junit: Path | None, project: Project, env: str | None, as_json: bool) -> int:
    """Check what was built against the manifest and the lock. Leaves with 2 where a check fails.

    \b
    Examples:
      splitbake verify                    # both halves
      splitbake verify ami --json
      splitbake verify --junit build/reports
    """
    from splitbake import verify

    cloud = options.guarded(project, env)
    reports: list[Report] = []
    halves: tuple[Half, ...] = (half,) if half else get_args(Half)
    for each in halves:
        with ui.stage(_TITLES[each], quiet=as_json) as say:
            reports.append(verify.verify(project, cloud, each, junit=junit, say=say))
        if not as_json:
            _show(reports[-1])
    if as_json:
        ui.emit_json({report.half: _told(project, cloud, report) for report in reports})
    return 0 if all(report.passed for report in reports) else 2


def _told(project: Project, cloud: Cloud, report: Report) -> dict[str, Any]:
    told = {**report.model_dump(mode="json"), "passed": report.passed}
    if report.half == "ami":
        # Where a check failed none was taken; one that lies there is of an earlier verification.
        place = f"{project.manifest.state.rstrip('/')}/{project.catalog(cloud).inventory_place(report.artifact)}"
        told["inventory"] = place if report.passed else None
    return told


def _show(report: Report) -> None:
    rows = [(check.mark, check.name, check.saw) for check in report.checks]
    failed, skipped = len(report.failed), sum(check.skipped for check in report.checks)
    verdict = f"{len(report.checks) - failed - skipped} passed, {failed} failed"
    verdict += f", {skipped} skipped" if skipped else ""
    ui.table(f"{report.half} {report.artifact}: {verdict}", ("", "check", "what was seen"), rows)
