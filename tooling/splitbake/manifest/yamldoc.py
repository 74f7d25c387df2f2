"""A YAML file as plain data that remembers where each key and value stands.

Plain scalars are read as YAML 1.2 reads them, and numbers only where nobody can mistake them: ``no`` and ``on`` are
text (not booleans), ``0123`` and ``1:30`` are text (not octal, not base 60), and so are dates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from splitbake.errors import ManifestError

#: The way to a value: mapping keys and list indexes.
Location = tuple[str | int, ...]

#: Far beyond any manifest, and far below what would exhaust memory or the stack: aliases can multiply a small file.
_MOST_NODES = 50_000
_DEEPEST = 50


class _Loader(yaml.CSafeLoader):
    """libyaml's reader with our own idea of which plain scalars are not text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own attribute


_CONSTRUCT: Mapping[str, Callable[[str], Any]] = {
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:str": str,
}
for _kind, _form in (
    ("null", r"~|null|Null|NULL|"),
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,17})"),
    ("float", r"[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{0,18}(?:[eE][-+]?[0-9]{1,3})?"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_form})\\Z"), None)


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
    """The data of a YAML file with the positions of its keys and values, and problems found while reading.

    Attributes:
        written: how each scalar is written in the file, which is not always how its value is: ``3.10`` is 3.1.
    """

    path: Path
    data: Any = None
    keys: dict[Location, Position] = field(default_factory=dict)
    values: dict[Location, Position] = field(default_factory=dict)
    written: dict[Location, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def value_position(self, location: Location) -> Position:
        """Return where the value at ``location`` stands, or its nearest parent that the file has."""
        for length in range(len(location), -1, -1):
            if location[:length] in self.values:
                return self.values[location[:length]]
        return Position(self.path, 1, 1)

    def key_position(self, location: Location) -> Position:
        """Return where the key of ``location`` stands; for an item of a list, where the item begins."""
        return self.keys.get(location) or self.value_position(location)


def read(path: Path) -> Document:
    """Read ``path`` with positions.

    Raises:
        ManifestError: the file is missing, empty, not UTF-8, or not YAML that a manifest may use.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(
            f"{path} does not exist",
            hint="run splitbake in the project's folder, or name the file with --manifest",
        ) from None
    except UnicodeDecodeError as problem:
        raise ManifestError(f"{path} is not UTF-8: byte {problem.start} is wrong", hint="save it as UTF-8") from None
    except OSError as problem:
        raise ManifestError(f"{path} cannot be read: {problem.strerror}") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Document:
    """Read ``text`` as the content of ``path``; see ``read``."""
    try:
        document = Document(path, problems=list(_refused(text, path)))
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as problem:
        raise ManifestError(
            _syntax_message(path, problem),
            hint="indent with spaces alone; check quotes, brackets and colons there",
        ) from None
    except (yaml.YAMLError, UnicodeEncodeError):
        raise ManifestError(
            f"{_unprintable(text, path)}: a character that YAML does not allow", hint="remove it"
        ) from None
    if node is None:
        raise ManifestError(
            f"{path} is empty", hint="a manifest begins with version: 1; see the README for a whole one"
        )
    document.data = _Reader(document).value(node, ())
    return document


def _refused(text: str, path: Path) -> Iterator[Problem]:
    """Yield what is YAML but no manifest's; looks at events first, as composing very deep nesting ends the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                raise ManifestError(f"{_position(event, path)}: nested deeper than {_DEEPEST} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent) and event.tag is not None:
            shown = event.tag.replace("tag:yaml.org,2002:", "!!")
            yield Problem(_position(event, path), f"tags such as {shown} have no meaning here; leave it out")


def _syntax_message(path: Path, problem: yaml.MarkedYAMLError) -> str:
    if problem.context == "expected a single document in the stream":
        what = "a second document (---) begins; a manifest is one"
    else:
        what = "not YAML: " + ", ".join(part for part in (problem.problem, problem.context) if part)
    mark = problem.problem_mark or problem.context_mark
    where = Position(path, mark.line + 1, mark.column + 1) if mark else path
    return f"{where}: {what}"


def _unprintable(text: str, path: Path) -> Position:
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    before = text[: found.start()] if found else text
    return Position(path, before.count("\n") + 1, len(before) - before.rfind("\n"))


class _Reader:
    """Turns YAML's nodes into data, noting positions in a document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes = 0

    def value(self, node: yaml.Node, location: Location) -> Any:
        document = self._document
        document.values[location] = _position(node, document.path)
        self._count(node, location)
        if isinstance(node, yaml.MappingNode):
            return dict(self._pairs(node, location))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*location, index)) for index, item in enumerate(node.value)]
        document.written[location] = node.value
        try:
            return _CONSTRUCT.get(node.tag, str)(node.value)
        except ValueError:  # an explicit tag that the text does not fit; the tag is a problem already
            return node.value

    def _pairs(self, node: yaml.MappingNode, location: Location) -> Iterator[tuple[str, Any]]:
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(key_node, "a key must be plain text, not a list or mapping")
                continue
            key = key_node.value
            if key == "<<":
                self._problem(key_node, "merge keys (<<) are not supported; an alias (*name) for a whole value is")
                continue
            here = (*location, key)
            if here in self._document.keys:
                first = self._document.keys[here].line
                self._problem(key_node, f"{key!r} is given twice (first on line {first}); keep one")
                continue
            self._document.keys[here] = _position(key_node, self._document.path)
            yield key, self.value(value_node, here)

    def _count(self, node: yaml.Node, location: Location) -> None:
        self._nodes += 1
        where = _position(node, self._document.path)
        if len(location) > _DEEPEST:
            raise ManifestError(f"{where}: nested deeper than {_DEEPEST} levels; does an alias contain itself?")
        if self._nodes > _MOST_NODES:
            raise ManifestError(f"{where}: more than {_MOST_NODES} values, counting what aliases stand for")

    def _problem(self, node: yaml.Node, message: str) -> None:
        self._document.problems.append(Problem(_position(node, self._document.path), message))


def _position(node: yaml.Node | yaml.Event, path: Path) -> Position:
    mark = node.start_mark
    assert mark is not None  # noqa: S101 - libyaml marks every node and event that it reads
    return Position(path, mark.line + 1, mark.column + 1)
