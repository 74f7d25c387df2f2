"""The command line: one small module a command, loaded only when it is called; no logic here."""

from __future__ import annotations

import gc as memory  # the command gc is a module of this package, and would take its name
import importlib
import json
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

import click

from splitbake.errors import InternalError, InterruptError, SplitbakeError, UsageError

#: How a machine ends a process that it does not want any more; some machines say so several times.
_CANCELLED = (signal.SIGTERM, signal.SIGHUP)

#: New objects after which Python looks for garbage. By its own 700 it does so hundreds of times while modules and the
#: models of AWS's services are loaded, of which nothing is garbage: with the last look a fifth of the time of a plan.
_OBJECTS = 100_000

#: Command name -> "module:attribute". Only the called one is imported, so that ``--help`` stays fast;
#: the second entry is the line that ``splitbake --help`` shows.
COMMANDS: dict[str, tuple[str, str]] = {
    "lock": ("splitbake.cli.lock", "Pin base AMI, base image and every model into splitbake.lock."),
    "generate": ("splitbake.cli.generate", "Write packer/ and dockerfiles/ from the manifest and the lock."),
    "plan": ("splitbake.cli.plan", "Say what is to be built and verified, and why."),
    "build": ("splitbake.cli.build", "Bake the AMI, build the image; only what changed."),
    "verify": ("splitbake.cli.verify", "Check the AMI and the image against manifest and lock."),
    "diff": ("splitbake.cli.diff", "Say what two AMIs differ in: packages, driver, models, sizes."),
    "sbom": ("splitbake.cli.sbom", "Print the bill of materials of the image: CycloneDX or SPDX."),
    "provenance": ("splitbake.cli.provenance", "Print how the image was made: inputs, revision, tools."),
    "release": ("splitbake.cli.release", "Release the verified pair to an environment."),
    "smoke": ("splitbake.cli.smoke", "Submit one job on what is released and show its result."),
    "image": ("splitbake.cli.image", "Bring an image that arrived as a file into the repository: load."),
    "gc": ("splitbake.cli.gc", "Find what killed runs have left, and remove it."),
    "doctor": ("splitbake.cli.doctor", "Check the external tools, and install what is missing."),
    "schema": ("splitbake.cli.schema", "Print the JSON Schema of the manifest."),
    "iam": ("splitbake.cli.iam", "Print the least permissions of builder, verifier and releaser."),
    "local": ("splitbake.cli.local", "Run the local cloud: up, down, status, env, calls, throttle."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of a working day, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of ``cmd_name`` and return its ``command``."""
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command: click.Command = importlib.import_module(module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their summaries, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="splitbake", message="%(prog)s %(version)s")
def cli() -> None:
    """Bake models into an AMI and code into a slim image, verify both, release them as a pair.

    \b
    A first round:
      splitbake lock && splitbake generate
      splitbake build && splitbake verify
      splitbake release --dry-run && splitbake release --yes
    """


def main() -> int:
    """Run ``splitbake`` and return its exit code; entry point of the script."""
    memory.set_threshold(_OBJECTS)
    try:
        return run(cli, prog_name="splitbake")
    finally:
        # Python ends with a last look for garbage, which passes over what is frozen; the process takes it along anyway.
        memory.freeze()


def run(command: click.Command, *, prog_name: str, argv: Sequence[str] | None = None) -> int:
    """Run a click command the way all of ours end: our errors as one paragraph, our exit codes."""
    for ending in (signal.SIGINT, *_CANCELLED):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(ending, _interrupt)
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    try:
        outcome = command.main(args=arguments, prog_name=prog_name, standalone_mode=False)
    except (Exception, KeyboardInterrupt) as problem:  # noqa: BLE001 - scripts get their object, whatever happens
        if isinstance(problem, click.ClickException) and not as_json:
            problem.show()  # with the usage of the very command
            return UsageError.exit_code
        ours = _in_our_words(problem)
        show_error(ours, as_json=as_json)
        return ours.exit_code
    return outcome if isinstance(outcome, int) else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Begin to clean up: a cancelled CI job does so just as Ctrl-C. Only another Ctrl-C breaks that off."""
    for ending in _CANCELLED:
        signal.signal(ending, signal.SIG_IGN)
    raise KeyboardInterrupt


def _in_our_words(problem: BaseException) -> SplitbakeError:
    match problem:
        case SplitbakeError():
            return problem
        case KeyboardInterrupt() | click.Abort():
            return InterruptError("interrupted")
        case click.ClickException():
            return UsageError(problem.format_message(), hint="--help shows what this command takes")
        case OSError():
            return SplitbakeError(str(problem), hint="is the disk full, or something there read-only?")
        case _:
            traceback.print_exception(problem)
            hint = "this is a bug of splitbake; please report it with the lines that stand on stderr"
            return InternalError(f"{type(problem).__name__}: {problem}", hint=hint)


def show_error(problem: SplitbakeError, *, as_json: bool) -> None:
    """Print one error: a paragraph on stderr for people, an object on stdout for scripts."""
    if as_json:
        body = {"code": problem.code, "message": problem.message, "hint": problem.hint}
        click.echo(json.dumps({"error": body}, indent=2))
        return
    click.secho("error: ", fg="red", bold=True, err=True, nl=False)
    click.echo(problem.message, err=True)
    if problem.hint:
        click.secho("  hint: ", fg="cyan", err=True, nl=False)
        click.echo(problem.hint, err=True)
