"""Find the one value that a selector means, or say what is there instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from ..errors import PatchError
from .selector import Selector, Step
from .source import Source, Sources
from .structure import Block, Body
from .values import Value, items


@dataclass(frozen=True, slots=True)
class Found:
    """A value and where it stands.

    Attributes:
        source: the file.
        block: the top-level block.
        start: the offset of the name that the value belongs to.
        value: the value.
        rest: steps that lead on into the value although it is not written as an object or list (empty for
            most; `local.amis.us` where `amis = var.amis`).
    """

    source: Source
    block: Block
    start: int
    value: Value
    rest: tuple[Step, ...] = ()

    @property
    def where(self) -> str:
        """`path:line` of the name."""
        return self.source.where(self.start)

    @property
    def text(self) -> str:
        """The value as it is written."""
        return self.source.text[self.value.start : self.value.end]


@dataclass(frozen=True, slots=True)
class _Place:
    """What a step leads to: the body of a block, or a value; `start` is the offset of its name."""

    start: int
    target: Body | Value
    name: Step = ""


@dataclass(frozen=True, slots=True)
class _Miss:
    """Why a step leads nowhere, and the names that would."""

    step: Step
    why: str
    names: tuple[str, ...]


def find(sources: Sources, selector: Selector) -> Found:
    """Find the value that a selector means.

    Raises:
        PatchError: nothing, or more than one value, is there; the message lists every candidate with file:line.
    """
    blocks = [(s, block) for s in sources for block in s.body.blocks if _is(block, selector)]
    if not blocks:
        raise _no_block(sources, selector)
    results = [_descend(source, block, selector) for source, block in blocks]
    found = [result for result in results if isinstance(result, Found)]
    if len(found) > 1:
        raise _ambiguous(selector, (match.where for match in found), "Name one of these files only.")
    if not found:
        raise _no_value(selector, [result for result in results if isinstance(result, _Miss)])
    return found[0]


def _is(block: Block, selector: Selector) -> bool:
    return (block.type, block.labels) == (selector.kind, selector.labels)


def _descend(source: Source, block: Block, selector: Selector) -> Found | _Miss:
    """Take the steps of a selector from a block on."""
    here = _Place(block.start, block.body)
    steps = list(selector.path)
    while steps and (isinstance(here.target, Body) or here.target.has_items):
        step = steps.pop(0)
        children = _children(here)
        places = [place for place in children if place.name == step]
        if not places:
            why = _dynamic(source, here.target, step) or f"there is no {step} at {source.where(here.start)}"
            return _Miss(step, why, _names(children))
        index = steps[0] if steps and isinstance(places[0].target, Body) else None
        if isinstance(index, int):
            del steps[0]
            if index >= len(places):
                why = f"{source.where(here.start)} has {len(places)} {step}, numbered from 0"
                return _Miss(step, why, ())
            places = [places[index]]
        if len(places) > 1:
            raise _twice(source, selector, places)
        here = places[0]
    if isinstance(here.target, Body):
        return _Miss("", f"at {source.where(here.start)} stands a block, not a value", _names(_children(here)))
    return Found(source, block, here.start, here.target, tuple(steps))


def _twice(source: Source, selector: Selector, places: list[_Place]) -> PatchError:
    name = places[0].name
    hint = f"Give {name} an index: {name}[0], {name}[1], …"
    if any(isinstance(place.target, Value) for place in places):
        hint = f"Take one {name} away: Terraform wants it once."
    return _ambiguous(selector, (source.where(place.start) for place in places), hint)


def _children(place: _Place) -> list[_Place]:
    """Everything that one step can lead to."""
    if isinstance(place.target, Value):
        return [_Place(i.start, i.value, i.key) for i in items(place.target)]
    attributes = [_Place(a.start, a.value, a.name) for a in place.target.attributes]
    return attributes + [_Place(b.start, b.body, b.type) for b in place.target.blocks]


def _names(places: list[_Place]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(place.name) for place in places))


def _dynamic(source: Source, body: Body | Value, step: Step) -> str:
    """That a `dynamic` block makes the nested blocks which a step asks for, if so."""
    blocks = [] if isinstance(body, Value) else body.blocks
    made = (source.where(b.start) for b in blocks if (b.type, b.labels) == ("dynamic", (step,)))
    return next((f"a dynamic block at {where} makes {step}" for where in made), "")


def _ambiguous(selector: Selector, lines: Iterable[str], hint: str) -> PatchError:
    listed = "\n".join(f"  {line}" for line in lines)
    return PatchError(f"{selector} stands in more than one place:\n{listed}", hint=hint)


def _no_block(sources: Sources, selector: Selector) -> PatchError:
    candidates = {
        ".".join(block.labels): f"{selector.kind}.{'.'.join(block.labels)} at {source.where(block.start)}"
        for source in sources
        for block in source.body.blocks
        if block.type == selector.kind
    }
    near = get_close_matches(".".join(selector.labels), candidates)
    listed = ", ".join(candidates[labels] for labels in near or candidates)
    hint = f"{'Did you mean' if near else 'There are'}: {listed}" if listed else ""
    return PatchError(f"no {selector.block} in {sources}", hint=hint or f"No {selector.kind} block is there at all.")


def _no_value(selector: Selector, misses: list[_Miss]) -> PatchError:
    names = dict.fromkeys(name for miss in misses for name in miss.names)
    near = get_close_matches(str(misses[0].step), names, cutoff=0.5)
    hint = f"{'Did you mean' if near else 'There are'}: {', '.join(near or names)}" if names else ""
    return PatchError(f"{selector} is not there: {'; '.join(miss.why for miss in misses)}", hint=hint)
