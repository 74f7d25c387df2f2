"""The only writer of HCL: values in, text out, in the layout of ``packer fmt`` and ``terraform fmt``.

Text is data: a ``str`` is written so that HCL reads back that text, whatever is in it. One thing is lost: HCL brings
every string, escaped or not, into Unicode's composed form (NFC). What has to be syntax (a variable, a function call) is
an ``Expression``, which is written by this program and never holds foreign text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

_INDENT = "  "
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_TEMPLATE_SIGN = re.compile(r"[$%](?=\{|\Z)")
_WIDE = 0xFFFF


@dataclass(frozen=True)
class Expression:
    """HCL syntax, for example ``var.run``."""

    text: str


@dataclass(frozen=True)
class Template:
    """A string of text and expressions: ``Template("build-", Expression("var.run"))`` is ``"build-${var.run}"``."""

    parts: tuple[str | Expression, ...]

    def __init__(self, *parts: str | Expression) -> None:
        object.__setattr__(self, "parts", parts)


Value: TypeAlias = "str | bool | int | Expression | Template | Sequence[Value] | Mapping[str, Value]"


@dataclass(frozen=True)
class Block:
    """One block: ``kind "label" { … }``; ``comment`` stands above it."""

    kind: str
    labels: tuple[str, ...] = ()
    attributes: Mapping[str, Value] | None = None
    blocks: tuple[Block, ...] = ()
    comment: str = ""


def render(*blocks: Block) -> str:
    """Return the text of a file with these blocks."""
    return "\n".join("\n".join(_block(block, "")) + "\n" for block in blocks)


def quote(text: str) -> str:
    """Return ``text`` as an HCL string literal."""
    return f'"{_escape(text)}"'


def _escape(text: str) -> str:
    written = "".join(_ESCAPES.get(char) or _printable(char) for char in text)
    # As an escape, the sign opens no template (${ or %{), whatever follows. Doubling it would be read differently by
    # different parsers where several signs meet.
    return _TEMPLATE_SIGN.sub(lambda sign: f"\\u{ord(sign[0]):04x}", written)


def _printable(char: str) -> str:
    """Return ``char``, as an escape where it is a control character or a line end of Unicode."""
    code = ord(char)
    if char.isprintable() or char == " ":
        return char
    return f"\\U{code:08x}" if code > _WIDE else f"\\u{code:04x}"


def _block(block: Block, indent: str) -> list[str]:
    inner = indent + _INDENT
    lines = [f"{indent}# {line}" for line in block.comment.splitlines()]
    lines.append(indent + " ".join([block.kind, *map(quote, block.labels), "{"]))
    lines += _attributes(block.attributes or {}, inner)
    for position, nested in enumerate(block.blocks):
        lines += [""] if position or block.attributes else []
        lines += _block(nested, inner)
    return [*lines, f"{indent}}}"]


def _attributes(attributes: Mapping[str, Value], indent: str, names: Sequence[str] | None = None) -> list[str]:
    """Return the lines of ``name = value``, with the equal signs of neighbours below each other.

    A value of several lines ends such a group of neighbours, as the formatters see it.
    """
    written = list(
        zip(names or list(attributes), (_value(value, indent) for value in attributes.values()), strict=True)
    )
    lines: list[str] = []
    group: list[tuple[str, list[str]]] = []
    for name, value in written:
        group.append((name, value))
        if len(value) > 1:
            lines += _aligned(group, indent)
            group = []
    return lines + _aligned(group, indent)


def _aligned(group: Sequence[tuple[str, list[str]]], indent: str) -> list[str]:
    # The first line of a value of several lines stands in the column of its neighbours only if they precede it.
    width = max((len(name) for name, value in group if len(value) == 1), default=0)
    lines: list[str] = []
    for name, (first, *rest) in group:
        padding = name.ljust(width) if not rest else name
        lines += [f"{indent}{padding} = {first}", *rest]
    return lines


def _value(value: Value, indent: str) -> list[str]:
    """Return the lines of ``value``: the first without indentation, all others with it."""
    if isinstance(value, Mapping):
        names = [name if name.isidentifier() and name.isascii() else quote(name) for name in value]
        return ["{", *_attributes(value, indent + _INDENT, names), f"{indent}}}"] if value else ["{}"]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [f"[{', '.join(_scalar(item) for item in value)}]"]
    return [_scalar(value)]


def _scalar(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Expression):
        return value.text
    if isinstance(value, Template):
        parts = (f"${{{part.text}}}" if isinstance(part, Expression) else _escape(part) for part in value.parts)
        return f'"{"".join(parts)}"'
    if isinstance(value, str):
        return quote(value)
    raise TypeError(f"{value!r} cannot stand on one line of HCL")
