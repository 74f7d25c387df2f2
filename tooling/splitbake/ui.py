"""What people see: progress on stderr, results on stdout; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from splitbake.units import format_seconds

if TYPE_CHECKING:
    from rich.console import Console

#: Where long work tells its progress, one line at a time.
Say = Callable[[str], None]


def silent(_line: str) -> None:
    """Take a line of progress and show nothing."""


@contextmanager
def stage(title: str, *, quiet: bool = False) -> Iterator[Say]:
    """Show ``title`` while the block runs, with its latest line and the time it takes.

    Yields a function that takes the latest line. On a terminal that line replaces the one before;
    elsewhere (CI, a pipe) every line is kept. ``quiet`` shows nothing (for ``--json``).
    """
    if quiet:
        yield silent
        return
    started = time.monotonic()
    from rich.console import Console

    console = Console(stderr=True, highlight=False)

    def end(mark: str) -> None:
        took = format_seconds(time.monotonic() - started)
        console.print(f"{mark} {title} ({took})", markup=False, soft_wrap=True)

    try:
        with _live(console, title) as say:
            yield say
    except BaseException:
        end("✘")
        raise
    end("✔")


@contextmanager
def _live(console: Console, title: str) -> Iterator[Say]:
    """Yield where lines go: a spinner that shows the latest one, or one after the other where it cannot turn."""
    if not console.is_terminal:
        console.print(f"{title} …", markup=False, soft_wrap=True)
        yield lambda line: console.print(f"  {line}", markup=False, soft_wrap=True)
        return
    from rich.markup import escape

    room = max(console.width - len(title) - 8, 0)
    with console.status(escape(title)) as status:
        yield lambda line: status.update(f"{escape(title)}  [dim]{escape(line[:room])}[/]")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout; cells are plain text, never markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(*columns, title=title, title_justify="left")
    for row in rows:
        grid.add_row(*[Text(cell) for cell in row])
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(grid)


def emit_json(result: Any) -> None:
    """Print ``result`` (plain data) as the command's one answer on stdout."""
    import json

    click.echo(json.dumps(result, indent=2, ensure_ascii=False))


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is changed; ``yes`` answers in advance.

    Raises:
        UsageError: there is no terminal to ask on and ``yes`` was not given.
        SplitbakeError: the answer was no.
    """
    import sys

    from splitbake.errors import SplitbakeError, UsageError

    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody can be asked here.", hint="give --yes to answer in advance")
    if not click.confirm(question, err=True):
        raise SplitbakeError("nothing was changed: the answer was no")
