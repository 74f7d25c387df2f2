"""pydantic's findings in the words of somebody who edits a YAML file: where, what was expected, what was meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from splitbake.errors import printable
from splitbake.manifest.outline import field_at, keys_of, model_at
from splitbake.manifest.yamldoc import Document, Location, Position, Problem
from splitbake.spec import is_tag, nearest

ModelT = TypeVar("ModelT", bound=BaseModel)

#: Further checks of the plain data: each finding has a place and words.
Checks = Callable[[Any], Iterable[tuple[Location, str]]]

#: What YAML calls the things that pydantic calls by their Python names; the key is the type of the error.
_EXPECTED = {
    "string_type": "expected text",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "bool_type": "expected true or false",
    "float_type": "expected a number",
    "too_short": "expected at least one entry",
    "greater_than_equal": "expected {ge} or more",
    "less_than_equal": "expected {le} or less",
    "literal_error": "expected {expected}",
}


def explain(model: type[ModelT], document: Document, checks: Checks) -> tuple[ModelT | None, list[Problem]]:
    """Validate ``document`` as ``model`` and return it, or every problem in the order of the file."""
    problems = list(document.problems)
    result: ModelT | None = None
    try:
        result = model.model_validate(document.data)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
        known = _Translator(model, document, errors)
        problems += [known.problem(error) for error in errors if not known.is_echo(error)]
    found = checks(document.data)
    problems += [Problem(document.key_position(location), printable(message)) for location, message in found]
    return result, sorted(dict.fromkeys(problems), key=_order)


def _order(problem: Problem) -> tuple[int, int]:
    return problem.position.line, problem.position.column


class _Translator:
    """Says what pydantic's errors about one document mean in it."""

    def __init__(self, model: type[BaseModel], document: Document, errors: Iterable[ErrorDetails]) -> None:
        self._model = model
        self._document = document
        self._renamed = set(self._suspects(errors))

    def is_echo(self, error: ErrorDetails) -> bool:
        """Return whether ``error`` only follows from another one.

        A list whose entries are all wrong counts as empty; a misspelt key makes the right one missing.
        """
        if error["type"] == "too_short":
            return len(error["input"]) > 0
        return error["type"] == "missing" and _in_file(error["loc"]) in self._renamed

    def problem(self, error: ErrorDetails) -> Problem:
        """Return what ``error`` is, in the file."""
        location, document = _in_file(error["loc"]), self._document
        if error["type"] == "extra_forbidden":
            return Problem(document.key_position(location), self._unknown_key(error))
        if error["type"] == "missing":
            return Problem(document.key_position(location[:-1]), self._missing(error))
        if error["type"] == "one_key_of":
            return self._no_kind(error)
        if location and location[-1] == "[key]":  # pydantic's own mark for the key of a mapping
            return Problem(document.key_position(location[:-1]), self._wrong_value(error))
        return Problem(self._position(location), self._wrong_value(error))

    def _position(self, location: Location) -> Position:
        """Return where a wrong value stands; of a block that starts on a later line, where its key stands."""
        value, key = self._document.value_position(location), self._document.key_position(location)
        return value if value.line == key.line else key

    def _unknown_key(self, error: ErrorDetails) -> str:
        key, valid = str(error["loc"][-1]), self._keys_beside(error)
        return f"unknown key {key!r}" + (nearest(key, valid) or f"; expected one of {', '.join(valid)}")

    def _missing(self, error: ErrorDetails) -> str:
        field = field_at(self._model, error["loc"])
        description = field.description if field else None
        return f"{error['loc'][-1]!r} is missing" + (f" ({description})" if description else "")

    def _no_kind(self, error: ErrorDetails) -> Problem:
        """Explain an item that has none of the keys that say what it is."""
        location, keys = _in_file(error["loc"]), error["ctx"]["keys"]
        for key in error["input"] if isinstance(error["input"], Mapping) else ():
            if guess := nearest(key, keys.split(", ")):
                return Problem(self._document.key_position((*location, key)), f"unknown key {key!r}{guess}")
        message = f"expected a mapping with one of the keys {keys}"
        return Problem(self._position(location), f"{message}, found {self._shown(error)}")

    def _wrong_value(self, error: ErrorDetails) -> str:
        kind, context, value = error["type"], error.get("ctx", {}), error["input"]
        if kind in {"model_type", "model_attributes_type"}:
            model = model_at(self._model, error["loc"])
            expected = f"expected a mapping with the keys {', '.join(keys_of(model) if model else ())}"
        elif kind == "value_error":
            expected = str(context["error"])
        else:
            expected = _EXPECTED.get(kind, error["msg"]).format(**context)
        expected, asks, guess = expected.partition("; did you mean")
        message = f"{expected}{self._example(error)}, found {self._shown(error)}{asks}{guess}"
        if kind == "literal_error" and value == context["expected"]:
            message += "; write it without quotes"
        elif kind == "literal_error":
            message += nearest(str(value), context["expected"].replace("'", "").replace(" or ", ", ").split(", "))
        if kind == "string_type" and isinstance(value, int | float):
            message += f'; write it in quotes: "{self._written(error)}"'
        return message

    def _example(self, error: ErrorDetails) -> str:
        field = field_at(self._model, error["loc"])
        if error["type"] not in {"tuple_type", "dict_type"} or field is None or not field.examples:
            return ""
        return f" such as {_flow(field.examples[0])}"

    def _shown(self, error: ErrorDetails) -> str:
        value = error["input"]
        if isinstance(value, Mapping):
            return "a mapping"
        if isinstance(value, list):
            return "a list" if value else "an empty list"
        if value is None:
            return "nothing"
        return self._written(error) if isinstance(value, bool | int | float) else repr(value)

    def _written(self, error: ErrorDetails) -> str:
        """Return a scalar as the file has it, for 3.10 is not what Python makes of it."""
        return self._document.written.get(_in_file(error["loc"]), str(error["input"]))

    def _keys_beside(self, error: ErrorDetails) -> list[str]:
        model = model_at(self._model, error["loc"][:-1])
        return keys_of(model) if model else []

    def _suspects(self, errors: Iterable[ErrorDetails]) -> Iterator[Location]:
        """Yield the keys that were probably meant by unknown ones."""
        for error in errors:
            if error["type"] == "extra_forbidden":
                key, location = str(error["loc"][-1]), _in_file(error["loc"])
                yield from ((*location[:-1], right) for right in self._keys_beside(error) if nearest(key, [right]))


def _in_file(loc: tuple[int | str, ...]) -> Location:
    """Return pydantic's location without the names of union members, which are no keys of the file."""
    return tuple(part for part in loc if not is_tag(part))


def _flow(value: Any) -> str:
    """Return ``value`` as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return str(value)
