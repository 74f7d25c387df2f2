"""What GitHub Actions reads: outputs of a step for those after it, and the summary that people see of a run.

Both are files named by variables that only a runner sets (GITHUB_OUTPUT, GITHUB_STEP_SUMMARY); elsewhere nothing is
written.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from splitbake import files
from splitbake.errors import SplitbakeError

#: ASCII punctuation: all that Markdown, HTML or GitHub (@people, #threads, $math$, :icons:) may take for syntax.
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")


def write_outputs(outputs: Mapping[str, str]) -> None:
    """Add ``outputs`` to the step's. A value may hold anything: its end is marked by a word that nobody can guess.

    Raises:
        SplitbakeError: the runner's file cannot be written.
    """
    end = secrets.token_hex(16)
    _append("GITHUB_OUTPUT", "".join(f"{name}<<{end}\n{value}\n{end}\n" for name, value in outputs.items()))


def write_summary(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Add a table to the run's summary; cells are plain text, never Markdown or HTML.

    Raises:
        SplitbakeError: the runner's file cannot be written.
    """
    lines = [f"### {_cell(title)}", "", _row(columns), _row(["---"] * len(columns))]
    lines += [_row([_cell(cell) for cell in row]) for row in rows]
    _append("GITHUB_STEP_SUMMARY", "\n".join([*lines, "", ""]))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Write ``text`` so that Markdown shows it as it is; a character reference never is syntax (CommonMark)."""
    return "<br>".join(_PUNCTUATION.sub(lambda found: f"&#{ord(found[0])};", line) for line in text.splitlines())


def _append(variable: str, text: str) -> None:
    name = os.environ.get(variable)
    if not name:
        return
    path = Path(name)
    with files.writing(path, SplitbakeError), path.open("a", encoding="utf-8") as file:
        file.write(text)
