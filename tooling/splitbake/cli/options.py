"""Options that several commands share; each is a decorator that passes its value under a fixed name."""

from __future__ import annotations

from pathlib import Path

import click

from splitbake.artifact import Half
from splitbake.cloud import Cloud
from splitbake.manifest import FILE_NAME
from splitbake.project import Project


def _project(_context: click.Context, _parameter: click.Parameter, path: Path) -> Project:
    return Project(path)


#: ``--manifest PATH``: passes ``project: Project``. Nothing is read before the command asks for it.
project = click.option(
    "--manifest",
    "project",
    type=click.Path(path_type=Path, dir_okay=False),
    default=FILE_NAME,
    show_default=True,
    callback=_project,
    help="The manifest; its folder is the project.",
)

#: ``--env NAME``: passes ``env: str | None``; None is the first environment of the manifest.
environment = click.option(
    "--env", metavar="NAME", help="The environment; without it the first one that the manifest lists."
)

#: ``--image REPOSITORY@DIGEST``: passes ``image: str | None``; None is that of the project as it is now.
image = click.option(
    "--image", metavar="REPOSITORY@DIGEST", help="Another image than that of the project as it is now."
)

#: ``--json``: passes ``as_json: bool``.
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for scripts.")


#: Half -> the name under which a step of GitHub Actions gives its artifact to later ones.
OUTPUT_OF: dict[Half, str] = {"ami": "ami-id", "image": "image-uri"}


def current_image(project: Project, cloud: Cloud) -> str:
    """Return the built image of the project as it is now, ``repository@digest``."""
    from splitbake import build

    return build.current(project, cloud, "image").uri


def guarded(project: Project, env: str | None) -> Cloud:
    """Return the environment after comparing it with the credentials in use, and say which one that is (stderr)."""
    cloud = project.cloud(env)
    click.echo(f"{cloud.name}: {cloud.guard()}", err=True)
    return cloud
