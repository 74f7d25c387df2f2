"""Find the blocks and attributes in a list of tokens, each attribute with the exact span of its value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .tokens import Kind, ScanError, Token
from .values import Value, unquote

_CLOSER = {"{": "}", "(": ")", "[": "]"}
_TRIVIA = (Kind.SPACE, Kind.COMMENT)


@dataclass(frozen=True, slots=True)
class Attribute:
    """`name = value` in a body; `start` is the offset of the name."""

    name: str
    start: int
    value: Value


@dataclass(frozen=True, slots=True)
class Body:
    """What stands between the braces of a block, or in a file."""

    attributes: list[Attribute] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Block:
    """`type "label" { … }`; labels may be written with or without quotes; `start` is the offset of the type."""

    type: str
    labels: tuple[str, ...]
    start: int
    body: Body = field(default_factory=Body)

    @property
    def address(self) -> str:
        """The type and the labels, joined by dots."""
        return ".".join((self.type, *self.labels))


def parse(tokens: Sequence[Token]) -> Body:
    """Read the body of a file.

    Raises:
        ScanError: brackets do not match, or something is neither an attribute nor a block.
    """
    return _Parser([token for token in tokens if token.kind not in _TRIVIA]).body()


class _Parser:
    """Walks over the tokens that are neither space nor comment."""

    def __init__(self, tokens: list[Token]) -> None:
        end = tokens[-1].end if tokens else 0
        self._tokens = [*tokens, Token(Kind.NEWLINE, "", end)]  # so that the last line ends like any other
        self._next = 0

    def body(self) -> Body:
        """Read the whole file; open blocks are kept on a list, as they may nest deeper than Python recurses."""
        file = Body()
        opened: list[Block] = []
        while self._next < len(self._tokens):
            token = self._take()
            if token.kind is Kind.NEWLINE:
                continue
            body = opened[-1].body if opened else file
            if token.text == "}" and opened:
                opened.pop()
            elif token.kind is not Kind.NAME:
                raise ScanError(f"{token.text!r} where an attribute or a block should start", token.start)
            elif self._tokens[self._next].text == "=":
                self._next += 1
                body.attributes.append(Attribute(token.text, token.start, self._value()))
            else:
                block = Block(token.text, self._labels(token.text), token.start)
                body.blocks.append(block)
                opened.append(block)
        if opened:
            raise ScanError(f"the block {opened[-1].address} does not end", opened[-1].start)
        return file

    def _take(self) -> Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _labels(self, name: str) -> tuple[str, ...]:
        """Read the labels of a block up to and with its opening brace."""
        labels = []
        while (token := self._take()).kind in (Kind.NAME, Kind.STRING):
            labels.append(token.text if token.kind is Kind.NAME else unquote(token.text))
        if token.text != "{":
            raise ScanError(f"{name} is followed by neither '=' nor a block's '{{'", token.start)
        return tuple(labels)

    def _value(self) -> Value:
        """Read a value: it ends before a newline, or before its block's closing brace, outside all brackets."""
        first = self._next
        opened: list[Token] = []
        while True:
            token = self._tokens[self._next]
            if not opened and (token.kind is Kind.NEWLINE or token.text == "}"):
                break
            if self._next == len(self._tokens) - 1:
                raise ScanError(f"{opened[-1].text!r} is never closed", opened[-1].start)
            if token.kind is Kind.OPEN:
                opened.append(token)
            elif token.kind is Kind.CLOSE and (not opened or token.text != _CLOSER[opened.pop().text]):
                raise ScanError(f"{token.text!r} closes nothing", token.start)
            self._next += 1
        if first == self._next:
            raise ScanError("an attribute without a value", self._tokens[first].start)
        return Value(tuple(self._tokens[first : self._next]))
