"""Rooms use what lies below them, as docs/architecture.md has it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "tooling/splitbake"
PAGE = REPOSITORY / "docs/architecture.md"

#: What points upwards nevertheless, each with its reason in the document: importing module -> imported one.
UPWARDS = {("splitbake.bake.ami", "splitbake.verify.gate"), ("splitbake.inventory", "splitbake.verify.probe")}


def layers() -> list[list[str]]:
    """Return the rooms of the document's list of layers, the lowest layer first."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition("\n## Layers\n")
    section, _, _ = section.partition("\n## ")
    lines = re.findall(r"^\d+\. (.+(?:\n   .+)*)", section, re.MULTILINE)
    return [re.findall(r"`(\w+)(?:/|\.py)`", line) for line in reversed(lines)]


@cache
def modules() -> dict[str, Path]:
    """Return the name of each module, and its file."""
    files = {file.relative_to(PACKAGE.parent).with_suffix("").parts: file for file in PACKAGE.rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): file for parts, file in files.items()}


def room(module: str) -> str:
    """Return the part of the package that a module belongs to; "" for the package itself."""
    return (module + ".").split(".")[1]


def imported(node: ast.AST) -> Iterator[str]:
    """Yield what a module imports, in its functions as well: it needs that no less, only later.

    What stands below ``if TYPE_CHECKING`` is passed over: it loads nothing, and words of a type may come from above.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from imported(ast.Module(child.orelse, []))
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            named = {f"{child.module}.{alias.name}" for alias in child.names}
            yield from (name if name in modules() else str(child.module) for name in named)
        else:
            yield from imported(child)


@cache
def uses() -> set[tuple[str, str]]:
    """Return every import of a module of one room by one of another: importing module, imported one."""
    found = {(module, name) for module, file in modules().items() for name in imported(ast.parse(file.read_bytes()))}
    return {(one, other) for one, other in found if other.startswith("splitbake") and room(one) != room(other)}


def test_each_room_has_one_layer():
    listed = sorted(name for layer in layers() for name in layer)
    assert listed == sorted({room(module) for module in modules()} - {""})


def test_rooms_use_their_own_layer_and_those_below():
    height = {name: number for number, layer in enumerate(layers()) for name in layer}
    assert {(one, other) for one, other in uses() if height[room(other)] > height[room(one)]} == UPWARDS


def test_no_rooms_use_each_other_in_a_circle():
    below = TopologicalSorter[str]()
    for one, other in uses() - UPWARDS:
        below.add(room(one), room(other))
    below.prepare()


def test_what_is_only_a_type_may_come_from_above_and_what_a_function_imports_may_not():
    text = """
import splitbake.units
if TYPE_CHECKING:
    from splitbake.cli import options
else:
    from splitbake.manifest import ways, load
def late():
    from splitbake import cloud
"""
    assert sorted(imported(ast.parse(text))) == [
        "splitbake.cloud", "splitbake.manifest", "splitbake.manifest.ways", "splitbake.units",
    ]  # fmt: skip
