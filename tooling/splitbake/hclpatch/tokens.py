"""Cut HCL text into tokens that tile it: joined, they are the text again, byte for byte.

A quoted string or a heredoc is one token, whatever templates it holds: the patcher either replaces a whole
literal or leaves it alone. Every regular expression below moves forward only, so a scan is linear in the text.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What a token is."""

    SPACE = "space"
    NEWLINE = "newline"
    COMMENT = "comment"
    STRING = "string"  # a quoted string without a template
    TEMPLATE = "template"  # a quoted string with ${ } or %{ }
    HEREDOC = "heredoc"  # from << up to and with its end marker, without the newline after it
    NUMBER = "number"
    NAME = "name"
    OPEN = "open"
    CLOSE = "close"
    OPERATOR = "operator"


class Token(NamedTuple):
    """A piece of the text and where it starts, in code points."""

    kind: Kind
    text: str
    start: int

    @property
    def end(self) -> int:
        """The offset just after the token."""
        return self.start + len(self.text)


class ScanError(Exception):
    """The text is not HCL at `offset`; whoever knows the file turns this into a PatchError."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


_NAME = r"[^\W\d][\w-]*"
_HEREDOC = rf"<<-?(?P<marker>{_NAME})(?=\r?\n)"  # its end marker is looked for after every newline, this one too
_TOKEN = re.compile(
    rf"""
      (?P<SPACE>[ \t]+)
    | (?P<NEWLINE>\r?\n)
    | (?P<COMMENT>(?:\#|//)[^\r\n]*|/\*.*?\*/)
    | (?P<HEREDOC>{_HEREDOC})
    | (?P<STRING>")
    | (?P<NAME>{_NAME})
    | (?P<NUMBER>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
    | (?P<OPEN>[{{(\[])
    | (?P<CLOSE>[}})\]])
    | (?P<OPERATOR>=>|==|!=|<=|>=|&&|\|\||\.\.\.|::|/(?!\*)|[=<>!?:,.+*%-])
    """,
    re.VERBOSE | re.DOTALL,
)
# "$${" and "%%{" come before their unescaped twins; Terraform reads "$$${" as "$" and an escaped "${".
_IN_STRING = re.compile(r'\\[^\r\n]|\$\$\{|%%\{|[$%]\{|"|\n')
_IN_HEREDOC = re.compile(r"\$\$\{|%%\{|[$%]\{|\n")
_IN_BRACES = re.compile(rf'#[^\n]*|//[^\n]*|/\*.*?\*/|/\*|"|[{{}}]|{_HEREDOC}', re.DOTALL)
_LONE_CR = re.compile(r"\r(?!\n)")
_WHAT = {'"': "string", "{": "template"}


def tokenize(text: str) -> list[Token]:
    """Cut the text into tokens that tile it.

    Raises:
        ScanError: a string, heredoc, template or comment does not end, a character means nothing in HCL, or a
            carriage return stands without its line feed (Terraform refuses those outside comments).
    """
    if lone := _LONE_CR.search(text):
        raise ScanError("a carriage return without a line feed", lone.start())
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            unclosed = text.startswith("/*", position)
            what = "a comment that does not end" if unclosed else f"{text[position]!r} means nothing here"
            raise ScanError(what, position)
        kind = Kind[match.lastgroup]
        end = match.end()
        if kind is Kind.STRING:
            end, has_template = _template_end(text, position, end, '"')
            kind = Kind.TEMPLATE if has_template else Kind.STRING
        elif kind is Kind.HEREDOC:
            end, _ = _template_end(text, position, end, match["marker"])
        tokens.append(Token(kind, text[position:end], position))
        position = end
    return tokens


def _template_end(text: str, start: int, position: int, opener: str) -> tuple[int, bool]:
    """Find the end of a string or heredoc whose content starts at `position`.

    Args:
        text: the whole text.
        start: the offset where it starts.
        position: the offset just after the opening quote or the heredoc's opening marker.
        opener: a double quote, or the heredoc's marker.

    Returns:
        The offset after its end, and whether it holds a template.
    """
    # What is open, innermost last: '"' for a string, "{" for a brace or template, a marker for a heredoc.
    # A stack of our own, as templates may nest deeper than Python recurses.
    stack = [(opener, start)]
    has_template = False
    while True:
        opener, opened_at = stack[-1]
        pattern = {'"': _IN_STRING, "{": _IN_BRACES}.get(opener, _IN_HEREDOC)
        match = pattern.search(text, position)
        if match is None or (opener == '"' and match[0] == "\n"):
            raise ScanError(f"a {_WHAT.get(opener, f'heredoc {opener}')} that does not end", opened_at)
        found, position = match[0], match.end()
        closed = found == ("}" if opener == "{" else '"') and opener in _WHAT
        if found == "\n" and (end := _marker_end(text, position, opener)):
            closed, position = True, end
        if closed:
            stack.pop()
            if not stack:
                return position, has_template
        elif found in ("${", "%{", "{"):
            has_template = True
            stack.append(("{", match.start()))
        elif found == '"':
            stack.append(('"', match.start()))
        elif found == "/*":
            raise ScanError("a comment that does not end", match.start())
        elif found.startswith("<<"):
            stack.append((match["marker"], match.start()))


def _marker_end(text: str, line_start: int, marker: str) -> int | None:
    """The offset after a heredoc's end marker, if the line at `line_start` is that marker and a newline ends it."""
    match = re.compile(rf"[ \t]*{re.escape(marker)}(?=[ \t]*\r?\n)").match(text, line_start)
    return match.end() if match else None
