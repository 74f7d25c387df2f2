"""``splitbake sbom``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import click

from splitbake import ui, units
from splitbake.artifact import Format
from splitbake.cli import options
from splitbake.project import Project


@click.command()
@click.option(
    "--format", "form", type=click.Choice(get_args(Format)), default="cyclonedx", show_default=True,
    help="CycloneDX 1.6 or SPDX 2.3, both as JSON; SPDX names every file of a package.",
)  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it there, not to stdout.")
@options.image
@click.option("--force", is_flag=True, help="Read the layers anew, though the state has their bill of materials.")
@options.project
@options.environment
@options.as_json
def command(
    form: Format,
    output: Path | None,
    image: str | None,
    *,
    force: bool,
    project: Project,
    env: str | None,
    as_json: bool,
) -> None:
    """Print the bill of materials of the image: every package in it, with version and licence.

    Verification makes it and keeps it in the state, by the layers of the dependencies: images that differ in code
    share it. Where it is not there it is made now, by syft, without an engine. With --output, --json says what was
    written.

    \b
    Examples:
      splitbake sbom > image.cdx.json
      splitbake sbom --format spdx --output image.spdx.json
      splitbake sbom --image 123456789012.dkr.ecr.eu-west-1.amazonaws.com/faces@sha256:…
    """
    from splitbake import files, sbom
    from splitbake.errors import SplitbakeError

    cloud = options.guarded(project, env)
    with ui.stage("Bill of materials", quiet=as_json) as say:
        bill = sbom.of(project, cloud, image or options.current_image(project, cloud), say, force=force)
    text = json.dumps(bill.document(form), indent=2, ensure_ascii=False)
    if output is None:
        click.echo(text)
        return
    files.replace(output, f"{text}\n", SplitbakeError)
    if as_json:
        told = {"image": bill.uri, "format": form, "output": str(output), "state": bill.place, "made": bill.made}
        ui.emit_json({**told, "packages": bill.sbom.packages, "tool": bill.sbom.tool})
    else:
        click.echo(f"{bill.uri}: {units.counted(bill.sbom.packages, 'package')}, written to {output}")
