"""What takes most of an image: finding it out, and the words of a budget that is broken.

Distributions can move to the runtime of the host, files of the code can stay behind; of a layer that is neither, only
another base makes less.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from splitbake import units
from splitbake.artifact import Weight
from splitbake.errors import BuildError

#: For the Python of an image: a line for each distribution in the folders that it is given, bytes and name. What was
#: compiled at the installation stands in no RECORD.
DISTRIBUTIONS: Final = """\
import importlib.metadata, importlib.util, os, sys
for found in importlib.metadata.distributions(path=sys.argv[1:]):
    paths = {str(found.locate_file(file)) for file in found.files or ()}
    paths |= {importlib.util.cache_from_source(path) for path in paths if path.endswith(".py")}
    print(sum(os.path.getsize(path) for path in paths if os.path.isfile(path)), found.metadata["Name"], found.version)
"""
#: For ``docker history``: a line for each layer, bytes and what made it.
LAYERS: Final = "{{.Size}} {{.CreatedBy}}"

#: So many of a kind are remembered.
KEPT: Final = 20
_SHOWN: Final = 5
_LONGEST_NAME: Final = 90
#: What is less than this part of what is too much is not worth to be moved.
_WORTH: Final = 0.05
#: How engines write that no program was run, what they copied, and who did it.
_NOISE: Final = re.compile(r"^(\|\d+ (\w+=\S* )+)?/bin/sh -c( #\(nop\))? ?|:[0-9a-f]{64}(?= )| # buildkit$")
_HEADINGS: Final = {"layer": "layers", "distribution": "distributions", "file": "files"}

_UNKNOWN: Final = "a layer"
#: What there is of an image that was refused in its repository.
NOTHING: Final = "nothing was pushed"
CODE: Final = "the code was not pushed, its dependencies are in the repository"

Kind = Literal["layer", "distribution", "file"]


class OverBudgetError(BuildError):
    """An image is larger than it may be; the message names what takes most, the hint what would do.

    Attributes:
        compressed: whether it is so in the registry, or as an engine unpacks it.
    """

    def __init__(
        self, size: int, budget: int, weights: Sequence[Weight], *, compressed: bool, pushed: str = NOTHING
    ) -> None:
        message = _message(size, budget, weights, compressed=compressed, pushed=pushed)
        super().__init__(message, hint=_hint(size, budget, weights, compressed=compressed))
        self.compressed = compressed
        self._found = (size, budget, weights)

    def of_all(self, code: int, weights: Sequence[Weight]) -> OverBudgetError:
        """Return it in words of the whole image, where ``code`` bytes of the budget were kept for what lies on it."""
        size, budget, found = self._found
        return OverBudgetError(size + code, budget + code, [*found, *weights], compressed=self.compressed)


def heaviest(kind: Kind, found: Iterable[tuple[int, str]]) -> tuple[Weight, ...]:
    """Return the largest of what was ``found``, from the largest; what takes nothing is left out."""
    largest = sorted((each for each in found if each[0] > 0), reverse=True)[:KEPT]
    return tuple(Weight(kind=kind, size=size, name=_name(name)) for size, name in largest)


def read(kind: Kind, text: str) -> tuple[Weight, ...]:
    """Return the largest of what lines of ``text`` say, each bytes and a name; other lines are left out."""
    lines = (line.split(None, 1) for line in text.splitlines())
    return heaviest(kind, ((int(line[0]), line[1]) for line in lines if len(line) > 1 and line[0].isdecimal()))


def makers(config: Mapping[str, Any], layers: int) -> list[str]:
    """Return what made each of so many layers, as the configuration of their image says; it may say nothing."""
    steps = [step for step in config.get("history") or [] if not step.get("empty_layer")]
    return [step.get("created_by") or _UNKNOWN for step in steps] if len(steps) == layers else [_UNKNOWN] * layers


def require_within(size: int, budget: int, weights: Sequence[Weight], pushed: str = NOTHING) -> None:
    """Refuse an image of ``size`` bytes uncompressed where ``image.budget`` is smaller.

    Raises:
        OverBudgetError: it is.
    """
    if size > budget:
        raise OverBudgetError(size, budget, weights, compressed=False, pushed=pushed)


def require_compressed_within(size: int, budget: int | None, weights: Sequence[Weight], pushed: str = NOTHING) -> None:
    """Refuse an image of ``size`` bytes in the registry where ``image.compressed_budget`` is smaller.

    Args:
        size: of the image.
        budget: what is allowed, None: anything.
        weights: layers as they are in the registry; distributions and files as they are in the image.
        pushed: what there is of it in the repository now.

    Raises:
        OverBudgetError: it is.
    """
    if budget is not None and size > budget:
        raise OverBudgetError(size, budget, weights, compressed=True, pushed=pushed)


def _message(size: int, budget: int, weights: Sequence[Weight], *, compressed: bool, pushed: str) -> str:
    how, key = ("in the registry", "image.compressed_budget") if compressed else ("uncompressed", "image.budget")
    over, allowed = units.format_size(size - budget), units.format_size(budget)
    lines = [
        f"the image has {units.format_size(size)} {how}, {over} over {key} ({allowed}); {pushed}. What takes most:"
    ]
    for kind, heading in _HEADINGS.items():
        found = sorted((each for each in weights if each.kind == kind), key=lambda each: -each.size)
        if found:
            lines.append(f"  {heading}{', as installed' if compressed and kind != 'layer' else ''}:")
            lines += [f"  {units.format_size(each.size):>10}  {each.name}" for each in found[:_SHOWN]]
    return "\n".join(lines)


def _hint(size: int, budget: int, weights: Sequence[Weight], *, compressed: bool) -> str:
    if not compressed:
        return f"{_cure(size, budget, weights)}, or raise image.budget"
    first = next((each.name for each in weights if each.kind == "distribution"), "the largest distribution")
    return (
        f"begin with {first}: in runtime.requirements it lives on the host; leave files out with image.exclude, "
        "take a slimmer image.base, or raise image.compressed_budget"
    )


def _cure(size: int, budget: int, weights: Sequence[Weight]) -> str:
    """Say what would bring an image of ``size`` bytes below ``budget``, from the largest that can move."""
    left, moved = size, list[Weight]()
    for each in sorted(weights, key=lambda each: -each.size):
        if each.kind != "layer" and left > budget and each.size >= _WORTH * (size - budget):
            moved.append(each)
            left -= each.size
    steps: list[str] = []
    if found := [each for each in moved if each.kind == "distribution"]:
        steps.append(f"move {_listed(found)} to runtime.requirements ({_sum(found)} less; the host has it then)")
    if found := [each for each in moved if each.kind == "file"]:
        steps.append(f"leave {_listed(found)} out with image.exclude ({_sum(found)} less)")
    if left <= budget:
        return " and ".join(steps)
    still = f"; {units.format_size(left)} would be left, so " if steps else ""
    return f"{' and '.join(steps)}{still}take a slimmer image.base"


def _listed(found: Sequence[Weight]) -> str:
    names = [each.name for each in found[:_SHOWN]] + ([f"{len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _sum(found: Sequence[Weight]) -> str:
    return units.format_size(sum(each.size for each in found))


def _name(text: str) -> str:
    """Return a name as one short line; of what made a layer, without what stands in every line of a history."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    line = _NOISE.sub("", line) or "?"
    return line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…"
