"""What a value is, what a literal means, and the parts of objects and lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from .tokens import Kind, Token


class ValueKind(Enum):
    """The shapes of a value; the patcher replaces literal strings only."""

    STRING = "a literal string"
    NUMBER = "a number"
    BOOL = "a bool"
    NULL = "null"
    REFERENCE = "a reference"
    CONDITIONAL = "a conditional"
    TEMPLATE = "a template"
    CALL = "a function call"
    OBJECT = "an object"
    LIST = "a list"
    HEREDOC = "a heredoc"
    FOR = "a for expression"
    EXPRESSION = "an expression"  # operators, parentheses, an index into a literal


_BY_TOKEN = {
    Kind.STRING: ValueKind.STRING,
    Kind.TEMPLATE: ValueKind.TEMPLATE,
    Kind.HEREDOC: ValueKind.HEREDOC,
    Kind.NUMBER: ValueKind.NUMBER,
    Kind.NAME: ValueKind.REFERENCE,
}
_BY_NAME = {"true": ValueKind.BOOL, "false": ValueKind.BOOL, "null": ValueKind.NULL}
_KEYS = (Kind.NAME, Kind.NUMBER, Kind.STRING)
_TRAVERSAL = frozenset({".", "::"})
_ESCAPE = re.compile(r'\\([nrt"\\])|\\u([0-9a-fA-F]{4})|\\U(000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4})|\$\$\{|%%\{')
_UNESCAPED = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
_TO_ESCAPE = re.compile(r'[\\"\n\r\t]|[$%]\{|[\x00-\x1f\x7f\u0085\u2028\u2029]')
_ESCAPED = {"\n": r"\n", "\r": r"\r", "\t": r"\t", '"': r"\"", "\\": r"\\", "${": "$${", "%{": "%%{"}


@dataclass(frozen=True, slots=True)
class Value:
    """The tokens of one value, without the spaces and comments between them; never empty."""

    tokens: tuple[Token, ...]

    @property
    def start(self) -> int:
        """The offset of the value, in code points."""
        return self.tokens[0].start

    @property
    def end(self) -> int:
        """The offset just after the value."""
        return self.tokens[-1].end

    @property
    def kind(self) -> ValueKind:
        """The shape of the value."""
        return _classify(self.tokens)

    @property
    def has_items(self) -> bool:
        """Whether it is written as an object or a list."""
        return self.kind in (ValueKind.OBJECT, ValueKind.LIST)

    @property
    def literal(self) -> str | None:
        """What a literal string means, its escapes undone; None for anything else."""
        return unquote(self.tokens[0].text) if self.kind is ValueKind.STRING else None


@dataclass(frozen=True, slots=True)
class Item:
    """`key = value` in an object, or an element of a list; `start` is the offset of the key or the element."""

    key: str | int
    start: int
    value: Value


def items(value: Value) -> list[Item]:
    """The parts of an object or a list, in order, without those whose key Terraform computes; else none."""
    if value.kind is ValueKind.LIST:
        parts = _split(value.tokens[1:-1], newline_ends=False)
        return [Item(index, part[0].start, Value(part)) for index, part in enumerate(parts)]
    found = []
    for part in _split(value.tokens[1:-1], newline_ends=True) if value.kind is ValueKind.OBJECT else ():
        key, *rest = part
        if key.kind in _KEYS and len(rest) > 1 and rest[0].text in ("=", ":"):
            name = unquote(key.text) if key.kind is Kind.STRING else key.text
            found.append(Item(name, key.start, Value(part[2:])))
    return found


def quote(text: str) -> str:
    r"""Write a text as an HCL string: quotes, backslashes, line ends, `${` and `%{` escaped.

    Control characters and the other line separators of Unicode become `\uNNNN`, so that the string stays on
    one line in every editor.
    """
    return '"' + _TO_ESCAPE.sub(lambda match: _ESCAPED.get(match[0]) or f"\\u{ord(match[0]):04x}", text) + '"'


def unquote(text: str) -> str:
    """Undo `quote`: what a quoted HCL string without templates means."""
    return _ESCAPE.sub(_unescape, text[1:-1])


def _unescape(match: re.Match[str]) -> str:
    if short := match[1]:
        return _UNESCAPED[short]
    if code := match[2] or match[3]:
        return chr(int(code, 16))
    return match[0][1:]


def _split(tokens: tuple[Token, ...], *, newline_ends: bool) -> Iterator[tuple[Token, ...]]:
    """Cut the inside of an object or list at its commas (and, in an object, at its newlines)."""
    part: list[Token] = []
    for token, depth in zip(tokens, _depths(tokens), strict=True):
        newline = token.kind is Kind.NEWLINE
        if depth == 0 and (token.text == "," or (newline and newline_ends)):
            if part:
                yield _trim(part)
            part = []
        elif part or not newline:
            part.append(token)
    if part:
        yield _trim(part)


def _trim(part: list[Token]) -> tuple[Token, ...]:
    while part[-1].kind is Kind.NEWLINE:
        part.pop()
    return tuple(part)


def _depths(tokens: tuple[Token, ...]) -> Iterator[int]:
    """How many brackets stand open at each token; a bracket itself counts as inside."""
    depth = 0
    for token in tokens:
        depth += token.kind is Kind.OPEN
        yield depth
        depth -= token.kind is Kind.CLOSE


def _classify(tokens: tuple[Token, ...]) -> ValueKind:
    first, *rest = tokens
    if not rest:
        return _BY_NAME.get(first.text) or _BY_TOKEN.get(first.kind, ValueKind.EXPRESSION)
    levels = list(zip(tokens, _depths(tokens), strict=True))
    outside = {token.text for token, depth in levels if depth == 0 and token.kind is not Kind.NAME}
    brackets = [token.text for token, depth in levels if depth == 1 and token.kind is Kind.OPEN]
    if "?" in outside:
        return ValueKind.CONDITIONAL
    if first.text == "-" and [token.kind for token in rest] == [Kind.NUMBER]:
        return ValueKind.NUMBER
    if first.kind is Kind.NAME and all(text in _TRAVERSAL or text.isdecimal() for text in outside):
        return ValueKind.CALL if "(" in brackets else ValueKind.REFERENCE
    if levels[0][1] == 1 and len(brackets) == 1 and not any(depth == 0 for _, depth in levels):
        return _classify_bracket(tokens)
    return ValueKind.EXPRESSION


def _classify_bracket(tokens: tuple[Token, ...]) -> ValueKind:
    inside = [token.kind is Kind.NAME and token.text for token in tokens[1:] if token.kind is not Kind.NEWLINE]
    if tokens[0].text != "(" and inside[0] == "for" and inside[1]:
        return ValueKind.FOR
    return {"{": ValueKind.OBJECT, "[": ValueKind.LIST}.get(tokens[0].text, ValueKind.EXPRESSION)
