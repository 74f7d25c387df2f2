"""``splitbake local``: start, look at and end the local cloud."""

from __future__ import annotations

import json
import shlex

import click

from splitbake.errors import LocalCloudError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Run the local cloud: the AWS API over real containers, no AWS account needed.

    Its state is in $SPLITBAKE_LOCAL_DIR, or in .splitbake/local below the current folder; another folder is
    another cloud, and both can run at once.

    \b
    Example:
      splitbake local up
      eval "$(splitbake local env)"
      aws ec2 describe-images --owners amazon
      splitbake local down
    """


@command.command("up", short_help="Start it, or find the one that runs.")
@click.option("--region", default="us-east-1", show_default=True, help="The region that `env` selects.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def local_up(region: str, as_json: bool) -> None:
    """Start the local cloud, or find the one that runs; two calls in a row are one.

    The first start on a machine builds two base images (about half a minute); later ones take seconds.

    \b
    Example:
      splitbake local up --region ap-northeast-2
    """
    from splitbake.local import cloud

    def progress(line: str) -> None:
        click.echo(line, err=True)

    running = cloud.up(cloud.default_directory(), region=region, progress=progress)
    _show(running.public(), as_json)


@command.command("status", short_help="Show whether it runs, and where.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def local_status(as_json: bool) -> int:
    """Show whether the local cloud runs and where; exit code 2 where it does not.

    \b
    Example:
      splitbake local status --json
    """
    from splitbake.local import cloud

    running = cloud.status(cloud.default_directory())
    _show({"running": running is not None} | (running.public() if running else {}), as_json)
    return 0 if running else 2


@command.command("env", short_help="Print its AWS configuration, for eval.")
@click.option("--account", metavar="NUMBER", help="Of another account of this cloud (any twelve digits).")
@click.option("--region", help="Another region than the one it was started with.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def local_env(account: str | None, region: str | None, as_json: bool) -> None:
    """Print the AWS configuration of the running local cloud, as shell commands.

    It holds the secret key of this cloud. Your own AWS profile is shut out while it is set.

    \b
    Example:
      eval "$(splitbake local env)"
      eval "$(splitbake local env --account 222222222222 --region eu-west-1)"
    """
    from splitbake.local import cloud

    directory = cloud.default_directory()
    running = cloud.status(directory)
    if running is None:
        raise LocalCloudError(f"No local cloud runs in {directory}.", hint="Start it with `splitbake local up`.")
    environment = running.environment(account, region)
    if as_json:
        click.echo(json.dumps(environment, indent=2))
        return
    for name, value in environment.items():
        click.echo(f"export {name}={shlex.quote(value)}")


@command.command("down", short_help="End it, and remove all that belongs to it.")
@click.option("--purge", is_flag=True, help="Drop the base images as well; all clouds of this machine share them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def local_down(purge: bool, as_json: bool) -> None:
    """End the local cloud and remove all that belongs to it: containers, images, networks, processes, files.

    \b
    Example:
      splitbake local down --purge
    """
    from splitbake.local import cloud

    directory = cloud.default_directory()
    removed = cloud.down(directory, purge=purge)
    if as_json:
        click.echo(json.dumps({"removed": removed}, indent=2))
        return
    click.echo("\n".join(f"removed {one}" for one in removed) or f"No local cloud has its state in {directory}.")


def _show(values: dict[str, object], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    for name, value in values.items():
        click.echo(f"{name:>10}  {value}")
