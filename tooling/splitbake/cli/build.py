"""``splitbake build``."""

from __future__ import annotations

from typing import Any, get_args

import click

from splitbake import ui, units
from splitbake.artifact import Half
from splitbake.build import Built
from splitbake.cli import options
from splitbake.project import Project

_TITLES: dict[Half, str] = {"ami": "AMI", "image": "Image"}


@click.command()
@click.argument("half", type=click.Choice(get_args(Half)), required=False)
@click.option("--force", is_flag=True, help="Build even where the artifact of these inputs exists.")
@options.project
@options.environment
@options.as_json
def command(half: Half | None, force: bool, project: Project, env: str | None, as_json: bool) -> None:
    """Bake the AMI and build the image, as splitbake plan says: what has not changed is reused.

    In GitHub Actions it also writes the step outputs ami-id and image-uri, whether built or reused.

    \b
    Examples:
      splitbake build             # both halves
      splitbake build image       # only the code
      splitbake build ami --force
    """
    from splitbake import build, github

    cloud = options.guarded(project, env)
    results = {}
    halves: tuple[Half, ...] = (half,) if half else get_args(Half)
    for each in halves:
        with ui.stage(_TITLES[each], quiet=as_json) as say:
            built = build.build(project, cloud, each, force=force, say=say)
        results[each] = _as_data(built)
        github.write_outputs({options.OUTPUT_OF[each]: built.artifact.uri})
        if not as_json:
            verb = "unchanged" if built.reused else "built"
            click.echo(f"{each}: {verb} {built.artifact.uri} ({units.format_size(built.artifact.size)})")
    if as_json:
        ui.emit_json(results)


def _as_data(built: Built) -> dict[str, Any]:
    artifact = built.artifact
    return {
        **artifact.model_dump(mode="json"),
        "uri": artifact.uri,
        "reused": built.reused,
        "reasons": list(built.reasons),
    }
