"""``splitbake provenance``."""

from __future__ import annotations

from pathlib import Path

import click

from splitbake import ui
from splitbake.cli import options
from splitbake.errors import SplitbakeError, StateError
from splitbake.project import Project


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it there, not to stdout.")
@options.image
@options.project
@options.environment
@options.as_json
def command(output: Path | None, image: str | None, *, project: Project, env: str | None, as_json: bool) -> None:
    """Print how the image was made: inputs by digest, revision, versions of the tools.

    A statement of in-toto 1 with SLSA provenance 1, not signed. Its dependencies image has one of its own. Prints JSON
    in any case; --json also does so with errors.

    \b
    Examples:
      splitbake provenance
      splitbake provenance --output image.intoto.json
      splitbake provenance --image 123456789012.dkr.ecr.eu-west-1.amazonaws.com/faces@sha256:…
    """
    import json

    from splitbake import files

    cloud = project.cloud(env)
    wanted = image or options.current_image(project, cloud)
    catalog = project.catalog(cloud)
    statement = catalog.provenance(wanted.rpartition("@")[2])
    if statement is None:
        raise StateError(
            f"the state does not say how {wanted} was made",
            hint="splitbake build writes it down; is it an image of splitbake, and of this project?",
        )
    if output is None:
        ui.emit_json(statement)
        return
    files.replace(output, f"{json.dumps(statement, indent=2, ensure_ascii=False)}\n", SplitbakeError)
    if as_json:
        ui.emit_json({"image": wanted, "output": str(output)})
    else:
        click.echo(f"{wanted}: written to {output}")
