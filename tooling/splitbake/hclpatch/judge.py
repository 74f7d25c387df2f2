"""Judges of an edit who did not make it: python-hcl2, or Terraform where python-hcl2 cannot read the file."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from ..errors import PatchError, ToolError
from .edit import Edit
from .source import Source
from .tokens import Kind

_TERRAFORM_TIMEOUT_S = 60
_Seen = tuple[str, str]  # the kind of a token and its text
_EDITED: _Seen = ("edited literal", "")
# python-hcl2 8.1 reads from an escaped "$${" or "%%{" to the next brace, even where the string ends before it.
_MISREAD = re.compile(r'(?:\$\$|%%)\{[^}"\n]*"')


class _Span(NamedTuple):
    start: int
    end: int


def judge(before: Source, after: Source, edits: Sequence[Edit]) -> list[str]:
    """Prove that nothing but the edited literals differs between two texts.

    Returns:
        Notes about judges that were not to be had.

    Raises:
        PatchError: something else differs, or the text is not valid.
    """
    old = [_Span(edit.start, edit.end) for edit in edits]
    grown = accumulate((len(edit.text) - (edit.end - edit.start) for edit in edits), initial=0)
    new = [_Span(e.start + shift, e.start + shift + len(e.text)) for e, shift in zip(edits, grown, strict=False)]
    if not _same(_scanned(before, old), _scanned(after, new), len(edits)):
        raise _broken(before, edits, "its tokens")
    wanted, got = _parsed(before, old), _parsed(after, new)
    if wanted is None or got is None:
        return [_ask_terraform(before, after)]
    if not _same(wanted, got, len(edits)):
        raise _broken(before, edits, "its meaning for python-hcl2")
    return []


def _same(before: list[_Seen], after: list[_Seen], edits: int) -> bool:
    """Whether two token lists are one, with every edit seen as a literal string of its own."""
    return before == after and before.count(_EDITED) == edits


def _scanned(source: Source, spans: Sequence[_Span]) -> list[_Seen]:
    """Our own tokens, each literal string at an edited span replaced by a mark."""
    edited = {(Kind.STRING, span) for span in spans}
    return [_EDITED if (t.kind, (t.start, t.end)) in edited else (t.kind.value, t.text) for t in source.tokens]


def _parsed(source: Source, spans: Sequence[_Span]) -> list[_Seen] | None:
    """python-hcl2's tokens in order, each string at an edited span replaced by a mark; None if it cannot read them.

    Its offsets count code points of the text without a byte-order mark, as ours do.
    """
    import hcl2
    from lark import Tree
    from lark.exceptions import LarkError

    if _MISREAD.search(source.text):
        return None
    edited = set(spans)
    try:
        stack: list[Any] = [hcl2.parses_to_tree(source.text)]
    except LarkError:
        return None
    tokens: list[_Seen] = []
    while stack:
        node = stack.pop()
        if not isinstance(node, Tree):
            tokens.append((node.type, str(node)))
        elif node.data == "string" and _Span(node.meta.start_pos, node.meta.end_pos) in edited:
            tokens.append(_EDITED)
        else:
            stack += reversed(node.children)
    return tokens


def _ask_terraform(before: Source, after: Source) -> str:
    """Fall back on `terraform fmt`, which reads everything that Terraform does; return a note that tells."""
    unread = f"{before.path}: python-hcl2 cannot read this file"
    terraform = shutil.which("terraform")
    if terraform is None:
        return f"{unread} and terraform is not on PATH, so splitbake's own scanner alone judged the edit"
    for source, what in ((before, "is not valid"), (after, "would no longer be valid")):
        try:
            run = subprocess.run(
                [terraform, "fmt", "-no-color", "-"],
                input=source.text.encode(),
                capture_output=True,
                timeout=_TERRAFORM_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolError(f"terraform fmt could not judge {before.path}: {error}") from error
        if run.returncode:
            why = run.stderr.decode(errors="replace").strip()
            raise PatchError(f"{before.path}: {what} for terraform fmt; nothing was changed:\n{why}")
    return f"{unread}, so terraform fmt judged the edit"


def _broken(source: Source, edits: Sequence[Edit], what: str) -> PatchError:
    lines = ", ".join(str(edit.line) for edit in edits)
    return PatchError(
        f"{source.path}: setting line {lines} would change more of the file than that: {what}; nothing was changed",
        hint="Please report this with the file.",
    )
