"""What a benchmark is, how it is run, and what becomes of its figures."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

#: Counted runs of each side, after one that is not.
RUNS = 5

T = TypeVar("T")

#: One run of one side; returns its figure.
Run = Callable[[], float]


@dataclass(frozen=True)
class Duel:
    """The two sides of a benchmark; ``theirs`` is None where there is nothing to compare with."""

    ours: Run
    theirs: Run | None = None


@dataclass
class Stage:
    """What benchmarks share: made when the first one asks for it, taken down in reverse order at the end."""

    folder: Path
    _made: dict[Any, Any] = field(default_factory=dict)
    _ending: ExitStack = field(default_factory=ExitStack)

    def use(self, make: Callable[[Stage], AbstractContextManager[T]]) -> T:
        """Return what ``make`` yields; it is called once, however many benchmarks ask."""
        if make not in self._made:
            self._made[make] = self._ending.enter_context(make(self))
        made: T = self._made[make]
        return made

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *problem: Any) -> None:
        self._ending.__exit__(*problem)


@dataclass(frozen=True)
class Bench:
    """A registered benchmark.

    Attributes:
        unit: of its figures: s, MB or KiB.
        at_most: the bound: a figure of that unit, or with ``of_theirs`` a multiple of theirs.
        or_more: with ``of_theirs``: so much more than theirs holds as well.
        prepare: sets up and returns the two sides.
    """

    name: str
    unit: str
    at_most: float
    of_theirs: bool
    prepare: Callable[[Stage], Duel]
    or_more: float = 0

    @property
    def bound(self) -> str:
        """The bound as people read it."""
        if not self.of_theirs:
            return f"<= {self.at_most:g} {self.unit}"
        more = f" or +{self.or_more:g} {self.unit}" if self.or_more else ""
        return f"<= {self.at_most:g}x theirs{more}"

    def limit(self, theirs: float | None) -> float:
        """Return the most that ours may be."""
        return (
            self.at_most if not self.of_theirs or theirs is None else max(self.at_most * theirs, theirs + self.or_more)
        )


#: Every benchmark in the order of its registration.
BENCHES: dict[str, Bench] = {}


def bench(
    name: str, unit: str, *, at_most: float, of_theirs: bool = False, or_more: float = 0
) -> Callable[[Callable[[Stage], Duel]], Callable[[Stage], Duel]]:
    """Register what follows as the benchmark ``name``: a function that sets up and returns the two sides."""

    def register(prepare: Callable[[Stage], Duel]) -> Callable[[Stage], Duel]:
        BENCHES[name] = Bench(name, unit, at_most, of_theirs, prepare, or_more)
        return prepare

    return register


@dataclass(frozen=True)
class Result:
    """The figures of one benchmark, run by run."""

    bench: Bench
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def holds(self) -> bool:
        """Whether the medians keep the bound."""
        theirs = statistics.median(self.theirs) if self.theirs else None
        return statistics.median(self.ours) <= self.bench.limit(theirs)

    def as_data(self) -> dict[str, Any]:
        """Return it as ``results.json`` holds it; ``ours`` and ``theirs`` are medians."""
        return {
            "name": self.bench.name,
            "ours": _rounded(statistics.median(self.ours)),
            "theirs": _rounded(statistics.median(self.theirs)) if self.theirs else None,
            "unit": self.bench.unit,
            "runs": {"ours": [*map(_rounded, self.ours)], "theirs": [*map(_rounded, self.theirs)]},
        }

    def as_row(self) -> tuple[str, ...]:
        """Return it as a row under ``COLUMNS``."""
        ours = statistics.median(self.ours)
        theirs = statistics.median(self.theirs) if self.theirs else None
        return (
            self.bench.name,
            _shown(ours, self.bench.unit),
            _spread(self.ours),
            "-" if theirs is None else _shown(theirs, self.bench.unit),
            _spread(self.theirs) if self.theirs else "",
            "" if theirs is None else f"{ours / theirs:.2f}x",
            self.bench.bound,
            "holds" if self.holds else "MISSED",
        )


COLUMNS = ("name", "ours", "min - max", "theirs", "min - max", "ratio", "bound", "")


def run(wanted: Sequence[Bench], stage: Stage) -> Iterator[Result]:
    """Run each benchmark: both sides once for nothing, then in turn, so that a machine that slows down slows both."""
    for one in wanted:
        sys.stderr.write(f"{one.name} …\n")
        duel = one.prepare(stage)
        sides = (duel.ours, duel.theirs) if duel.theirs else (duel.ours,)
        rounds = [[side() for side in sides] for _ in range(1 + RUNS)][1:]
        ours, *theirs = zip(*rounds, strict=True)
        yield Result(one, ours, theirs[0] if theirs else ())


def write(path: Path, results: Sequence[Result]) -> None:
    """Write the figures to ``path`` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([result.as_data() for result in results], indent=2) + "\n", encoding="utf-8")


def table(results: Sequence[Result]) -> str:
    """Return the figures as a table."""
    rows = [COLUMNS, *(result.as_row() for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _rounded(figure: float) -> float:
    return round(figure, 4)


def _shown(figure: float, unit: str) -> str:
    return f"{figure:.3f} s" if unit == "s" else f"{figure:.1f} {unit}"


def _spread(figures: Sequence[float]) -> str:
    return f"{min(figures):.3g} - {max(figures):.3g}"
