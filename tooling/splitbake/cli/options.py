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

#: ``--image REPOSITORY@DIGEST``: passes ``image: str | None``; None is ``current_image``.
image = click.option(
    "--image",
    metavar="REPOSITORY@DIGEST",
    help="Without it that of the project as it is now; of an environment that promotes, that of its last release.",
)

#: ``--json``: passes ``as_json: bool``.
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for scripts.")


#: Half -> the name under which a step of GitHub Actions gives its artifact to later ones.
OUTPUT_OF: dict[Half, str] = {"ami": "ami-id", "image": "image-uri"}


def current_image(project: Project, cloud: Cloud) -> str:
    """Return the built image of the project as it is now, ``repository@digest``.

    Where the environment promotes, nothing is built: then it is that of its last good release, and which one that is
    is said (stderr).
    """
    if cloud.environment.promote is None:
        from splitbake import build

        return build.current(project, cloud, "image").uri
    from splitbake.errors import ReleaseError
    from splitbake.release import record as records

    record = records.last_good(project.store(cloud), cloud.name)
    image = record.image if record else None
    if record is None or image is None:
        raise ReleaseError(
            f"there is no good release of {cloud.name!r}, which promotes what it releases",
            hint=f"run splitbake release --env {cloud.name}, or name an image: --image REPOSITORY@DIGEST",
        )
    click.echo(f"the image of {record.key}: {image.uri}", err=True)
    return image.uri


def guarded(project: Project, env: str | None) -> Cloud:
    """Return the environment after comparing it with the credentials in use, and say which one that is (stderr)."""
    cloud = project.cloud(env)
    click.echo(f"{cloud.name}: {cloud.guard()}", err=True)
    return cloud
