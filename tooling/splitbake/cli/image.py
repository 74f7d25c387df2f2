"""``splitbake image``: images that come from elsewhere."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import click

from splitbake import ui, units
from splitbake.cli import options
from splitbake.project import Project

#: What registries take for a tag (OCI distribution specification 1.1).
_TAG = re.compile("[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


def _tag(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    if text and not _TAG.fullmatch(text):
        raise click.BadParameter("expected letters, digits and ._- (at most 128)")
    return text


@click.group()
def command() -> None:
    """Bring images into the repository that splitbake has not built."""


@command.command()
@click.argument("tarball", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--repository", metavar="NAME", default="", help="The ECR repository; default: image.repository.")
@click.option("--tag", metavar="TAG", default="", callback=_tag, help="Its tag; default: one of its digest.")
@click.option("--platform", metavar="OS/ARCH", default="", help="Only one of several platforms, as linux/amd64.")
@options.project
@options.environment
@options.as_json
def load(  # noqa: PLR0917 - click passes every option by its name
    tarball: Path,
    repository: str,
    tag: str,
    platform: str,
    project: Project,
    env: str | None,
    as_json: bool,
) -> None:
    """Bring an image that is in a file into a repository of ECR, without Docker.

    The file: what docker save or podman save writes, or an OCI image layout, as .tar or .tar.gz. An image for several
    platforms comes as a whole. Layers that the repository has are not sent. Sizes are told; image.budget is for what
    splitbake builds, and is not asked here.

    \b
    Examples:
      splitbake image load base.tar --repository bases/python --tag 3.11-slim
      splitbake image load multi.tar.gz --platform linux/arm64 --json
    """
    from splitbake.bake import load as loading

    cloud = options.guarded(project, env)
    with ui.stage(f"Loading {tarball.name}", quiet=as_json) as say:
        found = loading.load(project, cloud, tarball, repository=repository, tag=tag, platform=platform, say=say)
    if as_json:
        ui.emit_json({"image": found.uri, **dataclasses.asdict(found)})
        return
    for each in found.platforms:
        sizes = f"{units.format_size(each.compressed_size)} compressed, {units.format_size(each.size)} uncompressed"
        click.echo(f"{each.platform}: {sizes}", err=True)
    sent = f"{found.sent} of {units.counted(found.layers, 'layer')} sent ({units.format_size(found.sent_bytes)})"
    click.echo(f"{sent}; tag {found.tag}", err=True)
    click.echo(found.uri)
