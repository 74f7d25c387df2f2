"""``splitbake generate``."""

from __future__ import annotations

import click

from splitbake import ui
from splitbake.cli import options
from splitbake.project import Project


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; show what differs and leave with 2 if anything does.")
@click.option(
    "--packer-compat",
    type=click.Choice(["auto", "1.6", "latest"]),
    default="auto",
    show_default=True,
    help="Which Packer the HCL is for. auto: the one installed here; with --check the one the HCL on disk is for.",
)
@options.project
@options.as_json
def command(check: bool, packer_compat: str, project: Project, as_json: bool) -> int:
    """Write packer/ and dockerfiles/ from the manifest and the lock.

    \b
    Examples:
      splitbake generate
      splitbake generate --check                # in CI: is what is committed up to date?
      splitbake generate --packer-compat 1.6    # HCL for Debian's Packer
    """
    from splitbake import generate
    from splitbake.bake import packer

    if packer_compat == "auto":
        compat = (generate.committed_compat(project) if check else None) or packer.installed_compat()
    else:
        compat = "1.6" if packer_compat == "1.6" else "latest"
    differences = generate.differences(project, compat)
    paths = [difference.path for difference in differences] if check else generate.write(project, compat)
    if as_json:
        ui.emit_json({"packer_compat": compat, "check": check, "changed": paths})
    elif not paths:
        click.echo("packer/ and dockerfiles/ are up to date.")
    elif check:
        click.echo("".join(difference.diff for difference in differences), nl=False)
        click.echo(f"{len(paths)} generated files differ; run splitbake generate.", err=True)
    else:
        click.echo("\n".join(f"changed {path}" for path in paths))
    return 2 if check and paths else 0
