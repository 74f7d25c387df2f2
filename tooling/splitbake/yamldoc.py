"""A YAML file as plain data that remembers where each key and value stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from splitbake.errors import ManifestError

#: The way to a value: mapping keys and list indexes.
Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Position:
    """A place in a text file; line and column count from 1, as editors do."""

    path: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong at one place."""

    position: Position
    message: str

    def __str__(self) -> str:
        return f"{self.position}: {self.message}"


@dataclass
class Document:
    """The data of a YAML file with the positions of its keys and values, and problems found while reading."""

    path: Path
    data: Any = None
    keys: dict[Location, Position] = field(default_factory=dict)
    values: dict[Location, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def value_position(self, location: Location) -> Position:
        """Return where the value at ``location`` stands, or its nearest parent that the file has."""
        for length in range(len(location), -1, -1):
            if location[:length] in self.values:
                return self.values[location[:length]]
        return Position(self.path, 1, 1)

    def key_position(self, location: Location) -> Position:
        """Return where the key of ``location`` stands."""
        return self.keys.get(location) or self.value_position(location)


def read(path: Path) -> Document:
    """Read ``path`` with positions.

    Raises:
        ManifestError: the file is missing, not UTF-8, or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(
            f"{path} does not exist",
            hint="run splitbake in the project's folder, or name the file with --manifest",
        ) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise ManifestError(f"{path} cannot be read: {problem}", hint="the manifest is a UTF-8 text file") from None
    try:
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
        document = Document(path)
        if node is not None:
            document.data = _construct(node, (), document)
    except yaml.MarkedYAMLError as problem:
        raise ManifestError(
            _syntax_message(path, problem), hint="check indentation, quotes and brackets there"
        ) from None
    except yaml.YAMLError as problem:
        raise ManifestError(f"{path}: not YAML: {problem}") from None
    return document


def _syntax_message(path: Path, problem: yaml.MarkedYAMLError) -> str:
    mark = problem.problem_mark or problem.context_mark
    where = Position(path, mark.line + 1, mark.column + 1) if mark else path
    return f"{where}: not YAML: {problem.problem or problem.context}"


def _construct(node: yaml.Node, location: Location, document: Document) -> Any:
    document.values[location] = _position(node, document)
    if isinstance(node, yaml.MappingNode):
        return dict(_pairs(node, location, document))
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*location, index), document) for index, item in enumerate(node.value)]
    return yaml.CSafeLoader("").construct_object(node)


def _pairs(node: yaml.MappingNode, location: Location, document: Document) -> Iterator[tuple[str, Any]]:
    for key_node, value_node in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else str(key_node.tag)
        here = (*location, key)
        if here in document.keys:
            first = document.keys[here].line
            document.problems.append(
                Problem(_position(key_node, document), f"{key!r} is given twice (first on line {first}); keep one")
            )
            continue
        document.keys[here] = _position(key_node, document)
        yield key, _construct(value_node, here, document)


def _position(node: yaml.Node, document: Document) -> Position:
    mark = node.start_mark
    return Position(document.path, mark.line + 1, mark.column + 1)
