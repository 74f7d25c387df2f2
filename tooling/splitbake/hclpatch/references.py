"""Follow a reference to the literal behind it, and tell the way there."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import PatchError
from .find import Found, find
from .selector import Selector, traversal
from .source import Sources
from .values import ValueKind

_FOLLOWED = ("var", "local")
_LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Chain:
    """The values from a reference on: each refers to the next; `dead_end` says why a reference leads nowhere."""

    links: tuple[Found, ...]
    dead_end: str = ""

    @property
    def last(self) -> Found:
        """Where the chain ends."""
        return self.links[-1]

    @property
    def story(self) -> str:
        """The chain in words: `a reference, var.ami; its default at variables.tf:12 is a literal string, "x"`."""
        words = [_describe(self.links[0])]
        for link in self.links[1:]:
            what = "its default" if link.block.type == "variable" else "its value"
            words.append(f"{what} at {link.where} is {_describe(link)}")
        return "; ".join([*words, self.dead_end] if self.dead_end else words)


def follow(sources: Sources, start: Found) -> Chain:
    """Follow variables (to their defaults) and locals within the module of `start`; any other value stands alone."""
    links = [start]
    seen = {(start.source.path, start.start)}
    while links[-1].value.kind is ValueKind.REFERENCE:
        try:
            following = _next(sources, links[-1])
        except PatchError as error:
            return Chain(tuple(links), error.message)
        if (following.source.path, following.start) in seen:
            return Chain(tuple(links), f"it comes back to {following.where}")
        seen.add((following.source.path, following.start))
        links.append(following)
    return Chain(tuple(links))


def _describe(found: Found) -> str:
    text = " ".join(found.text.split())
    shown = text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"
    inside = f", so its {'.'.join(map(str, found.rest))} stands elsewhere" if found.rest else ""
    return found.value.kind.value + (f", {shown}" if found.value.kind is not ValueKind.NULL else "") + inside


def _next(sources: Sources, found: Found) -> Found:
    steps = traversal(found.value.tokens)
    if steps is None:
        raise PatchError("an index in it is computed")
    if steps[0] in _FOLLOWED and len(steps) > 1:
        selector = Selector.of_steps((*steps, *found.rest))
        return find(sources.beside(found.source), selector)
    raise PatchError("it is neither a variable nor a local")
