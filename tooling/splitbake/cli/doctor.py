"""``splitbake doctor``: check the external tools, and install what is missing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from splitbake import ui
from splitbake.cli import options

if TYPE_CHECKING:
    from splitbake.doctor.model import Action, Check, Finding, Machine
    from splitbake.project import Project

#: A finding remains (see the exit codes in splitbake.errors).
FINDINGS = 2


@click.command()
@click.argument("wanted", metavar="[TOOL]...", nargs=-1)
@click.option("--fix", is_flag=True, help="List what would be installed or started, and do it.")
@click.option("--yes", is_flag=True, help="With --fix: do it without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@options.project
def command(*, wanted: tuple[str, ...], fix: bool, yes: bool, as_json: bool, project: Project) -> int:
    """Check every external tool: is it there, is it good enough, how to get it.

    Where there is a manifest, its image.builder is asked as well whether it could build here. Docker is optional
    where that is not docker.

    With --fix, install what is required and missing (Debian and Ubuntu, as root or with sudo) and start the
    Docker Engine. A TOOL that is optional counts as required where it is named. Exit code 2 where something required
    is not as it should be.

    \b
    Examples:
      splitbake doctor --fix
      splitbake doctor nginx --fix --yes
    """
    from splitbake.doctor import builder
    from splitbake.doctor.apply import apply
    from splitbake.doctor.catalogue import requiring
    from splitbake.doctor.machine import look
    from splitbake.doctor.plan import plan
    from splitbake.doctor.report import as_data, healthy

    machine, checks = look(), requiring({*wanted, *builder.tools(project)}, builder.spared(project))
    findings = examine(machine, checks, project)
    actions = plan(findings, machine, checks=checks)
    if fix and actions and agree(actions, yes=yes):
        with ui.stage("Setting this machine up") as say:
            unknown = apply(actions, machine, say)
        if unknown:
            names = ", ".join(unknown)
            click.echo(f"apt here has no {names} (Ubuntu: is the component universe enabled?)", err=True)
        findings = examine(machine, checks, project)
        actions = plan(findings, machine, checks=checks)
    if as_json:
        ui.emit_json(as_data(findings, actions))
    else:
        show(findings)
        if actions and not fix:
            click.echo("splitbake doctor --fix can do what is needed.", err=True)
    return 0 if healthy(findings) else FINDINGS


def examine(machine: Machine, checks: tuple[Check, ...], project: Project) -> tuple[Finding, ...]:
    """Look at the tools and, at the same time, at what the project wants."""
    from concurrent.futures import ThreadPoolExecutor

    from splitbake.doctor import builder
    from splitbake.doctor.diagnose import diagnose

    with ThreadPoolExecutor(1) as pool:
        wanted = pool.submit(builder.examine, project)
        return (*diagnose(machine, checks=checks), *wanted.result())


def show(findings: tuple[Finding, ...]) -> None:
    """Print the table, and below it what to do about each thing that is wrong."""
    from splitbake.doctor.report import COLUMNS, advice, row

    ui.table("External tools", COLUMNS, [row(finding) for finding in findings])
    for text in filter(None, map(advice, findings)):
        click.echo(text)


def agree(actions: tuple[Action, ...], *, yes: bool) -> bool:
    """Print the plan; then take ``--yes``, or a yes from the terminal where there is one."""
    click.echo("To do on this machine:", err=True)
    for action in actions:
        click.echo(f"  - {action}", err=True)
    if yes:
        return True
    if not sys.stdin.isatty():
        click.echo("Nothing was changed: say --yes to do it.", err=True)
        return False
    return click.confirm("Do it?", err=True)
