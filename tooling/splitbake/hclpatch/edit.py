"""Plan the replacement of one literal string."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import PatchError
from .find import Found, find
from .references import Chain
from .references import follow as follow_references
from .selector import Selector
from .source import Sources
from .values import quote


@dataclass(frozen=True, slots=True)
class Edit:
    """The text from `start` to `end` (code points, no byte-order mark) of a file becomes `text`.

    Attributes:
        path: the file.
        line: the line, from 1.
        start: the offset where the old text begins.
        end: the offset just after it.
        text: the new text, as HCL.
        old: the old value, its escapes undone.
        new: the new value.
        notes: what the user should know although nothing is wrong.
    """

    path: Path
    line: int
    start: int
    end: int
    text: str
    old: str
    new: str
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether the value becomes another one."""
        return self.old != self.new


def set_value(
    sources: Sources,
    selector: Selector,
    value: str,
    *,
    expect: re.Pattern[str] | None = None,
    follow: bool = False,
) -> Edit:
    """Plan to set one literal string; reads and writes nothing.

    Args:
        sources: the files to look in.
        selector: the value to set.
        value: what it shall be.
        expect: what the old value must look like, all of it; a value that is already right is left alone.
        follow: where the value is a reference to a variable or local, set its default or literal instead.

    Raises:
        PatchError: the value is not found, stands twice, is not a literal string, or is not what `expect` wants.
    """
    found = find(sources, selector)
    chain = follow_references(sources, found)
    target = chain.last if follow else found
    old = target.value.literal
    if old is None or target.rest:
        raise _refusal(selector, chain)
    if old != value and expect and not expect.fullmatch(old):
        raise PatchError(
            f"{target.where}: {selector} holds {old!r}, which does not look like {expect.pattern}",
            hint="Is this the right address? Where it is, change the value by hand once.",
        )
    _refuse_unwritable(value)
    span, text = target.value, target.text if old == value else quote(value)
    return Edit(
        path=target.source.path,
        line=target.source.line(span.start),
        start=span.start,
        end=span.end,
        text=text,
        old=old,
        new=value,
        notes=tuple(note for link in (chain.links if follow else [found]) for note in _notes(selector, link)),
    )


def _refuse_unwritable(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PatchError(f"{value!r} cannot be written as UTF-8") from error


def _refusal(selector: Selector, chain: Chain) -> PatchError:
    found, last = chain.links[0], chain.last
    hint = "Move the value into a variable or local of its own, and select that."
    if found is not last and last.value.literal is not None and not last.rest:
        hint = f"Select the value at {last.where}, or have references followed (follow: true)."
    return PatchError(f"{found.where}: {selector} is {chain.story}", hint=hint)


def _notes(selector: Selector, link: Found) -> list[str]:
    """What may keep the new value from being used."""
    notes = []
    if link.block.type == "variable":
        name = link.block.labels[0]
        notes.append(f"{link.where}: a default; a tfvars file, TF_VAR_{name} or -var takes precedence")
    name = str(selector.path[0])
    for lifecycle in (block for block in link.block.body.blocks if block.type == "lifecycle"):
        for attribute in lifecycle.body.attributes:
            ignored = {token.text.strip('"') for token in attribute.value.tokens}
            if attribute.name == "ignore_changes" and ignored & {name, "all"}:
                where = link.source.where(attribute.start)
                notes.append(f"{where}: ignore_changes covers {name}, so terraform apply will not act on it")
    return notes
