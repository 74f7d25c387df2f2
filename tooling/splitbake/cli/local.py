"""``splitbake local``: start, look at and end the local cloud."""

from __future__ import annotations

import json
import os
import shlex
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from splitbake import units
from splitbake.errors import LocalCloudError, UsageError

if TYPE_CHECKING:
    from splitbake.local.state import Cloud


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
@click.option("--role", metavar="NAME", help="Of a session of this role: only what its policies allow, for one hour.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def local_env(account: str | None, region: str | None, role: str | None, as_json: bool) -> None:
    """Print the AWS configuration of the running local cloud, as shell commands.

    It holds the secret key of this cloud, which may do everything in it; with --role a key that is bound by the
    policies of a role. Your own AWS profile, session and endpoints are unset, so that nothing of them is mixed in.

    \b
    Example:
      eval "$(splitbake local env)"
      eval "$(splitbake local env --account 222222222222 --region eu-west-1)"
      eval "$(splitbake local env --role splitbake-builder)"
    """
    from splitbake.local import cloud, sessions, state

    if region:
        cloud.check_region(region)
    running = _running()
    environment = running.environment(account, region)
    if role:
        environment |= sessions.assume(environment, running.keys.of(account or running.account), role)
    if as_json:
        click.echo(json.dumps(environment, indent=2))
        return
    click.echo(f"unset {' '.join(name for name in state.foreign(os.environ) if name not in environment)}")
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


@command.command("calls", short_help="Show the API calls that were made to it.")
@click.option("--since", metavar="TIME", help="Only later ones: 10min, 2h, or a time in ISO 8601.")
@click.option("--role", metavar="NAME", help="Only those of this role.")
@click.option("--refused", is_flag=True, help="Only those that were refused.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def local_calls(since: str | None, role: str | None, refused: bool, as_json: bool) -> None:
    """Show the API calls that were made to the local cloud, with the IAM actions that each one takes.

    What is secret in them is masked. The oldest of very many calls are dropped.

    \b
    Example:
      splitbake local calls --since 10min
      splitbake local calls --role splitbake-builder --refused
    """
    from splitbake.iam import calls as recorded
    from splitbake.local.calls import paths

    for call in recorded.read(*paths(_running().directory), since=_moment(since)):
        if (role and call.role != role) or (refused and not call.error):
            continue
        if as_json:
            click.echo(call.line())
            continue
        who = call.role or "(account)"
        click.echo(f"{call.time[11:19]}  {call.status}  {who}  {call.region}  {call.name}")
        for action, resource in call.actions:
            click.echo(f"{'':15}{action}  {resource}")
        if call.error:
            click.echo(f"{'':15}{call.error}")


@command.command("throttle", short_help="Let one in so many calls fail, as an AWS does that throttles.")
@click.argument("every", type=click.IntRange(min=0))
def local_throttle(every: int) -> None:
    """Answer one in EVERY calls with 503 Service Unavailable from now on; 0 ends it.

    Nothing was done for such a call. Clients of AWS try it again, and so what you run should get through.

    \b
    Example:
      splitbake local throttle 5
    """
    from splitbake.local import throttle

    throttle.set_every(_running().directory, every)


def _running() -> Cloud:
    from splitbake.local import cloud

    directory = cloud.default_directory()
    running = cloud.status(directory)
    if running is None:
        raise LocalCloudError(f"No local cloud runs in {directory}.", hint="Start it with `splitbake local up`.")
    return running


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=units.parse_duration(text))
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--since {text!r} is no time", hint="write 10min, 2h, or a time such as 2026-11-21T12:00:00Z"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _show(values: dict[str, object], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    for name, value in values.items():
        click.echo(f"{name:>10}  {value}")
