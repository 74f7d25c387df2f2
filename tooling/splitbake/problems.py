"""pydantic's findings in the words of somebody who edits a YAML file: where, what was expected, what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from splitbake.yamldoc import Document, Location, Problem

ModelT = TypeVar("ModelT", bound=BaseModel)


def explain(model: type[ModelT], document: Document) -> tuple[ModelT | None, list[Problem]]:
    """Validate ``document`` as ``model`` and return it, or every problem in the order of the file."""
    problems = list(document.problems)
    result: ModelT | None = None
    try:
        result = model.model_validate(document.data if document.data is not None else {})
    except ValidationError as invalid:
        problems += [problem for error in _without_echoes(invalid) for problem in _translate(error, model, document)]
    unique = dict.fromkeys(problems)
    return result, sorted(unique, key=lambda problem: (problem.position.line, problem.position.column))


def _without_echoes(invalid: ValidationError) -> list[ErrorDetails]:
    """Drop what a union reports about the alternatives that the user did not choose.

    A value that is a mapping gets only the complaints of mappings; pydantic reports every member of a plain union.
    """
    errors = invalid.errors(include_url=False)
    kept = [error for error in errors if not (error["type"] == "string_type" and isinstance(error["input"], Mapping))]
    return kept or errors


def _translate(error: ErrorDetails, model: type[BaseModel], document: Document) -> Iterator[Problem]:
    location = _in_document(error["loc"], document)
    kind = error["type"]
    if kind == "extra_forbidden":
        key = str(location[-1])
        yield Problem(document.key_position(location), _unknown_key(key, _keys_at(model, error["loc"][:-1])))
    elif kind == "missing":
        missing = str(error["loc"][-1])
        yield Problem(document.value_position(location), f"{missing!r} is missing{_description(model, error['loc'])}")
    elif kind == "target_kind" and isinstance(error["input"], Mapping):
        message = str(error["msg"]) + _nearest_of(error["input"], str(error["msg"]))
        yield Problem(document.value_position(location), message)
    else:
        yield Problem(document.value_position(location), _wrong_value(error))


def _in_document(loc: tuple[int | str, ...], document: Document) -> Location:
    """Return the longest reading of pydantic's ``loc`` that the file knows.

    pydantic puts the names of union members and validators into a location; those are not keys of the file.
    """
    location: Location = ()
    for part in loc:
        if (*location, part) in document.values or part == loc[-1]:
            location = (*location, part)
    return location


def _unknown_key(key: str, valid: list[str]) -> str:
    return f"unknown key {key!r}; {_suggest(key, valid)}"


def _suggest(word: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(word, valid, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"expected one of {', '.join(valid)}"


def _nearest_of(item: Mapping[str, Any], message: str) -> str:
    valid = message.rpartition("keys ")[2].split(", ")
    near = [match for key in item for match in difflib.get_close_matches(key, valid, n=1, cutoff=0.6)]
    return f"; did you mean {near[0]!r}?" if near else ""


def _wrong_value(error: ErrorDetails) -> str:
    value, context = error["input"], error.get("ctx", {})
    if error["type"] == "literal_error":
        expected = str(context["expected"])
        choices = [choice.strip("'") for choice in expected.replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(str(value), choices, n=1)
        return f"expected {expected}, found {value!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    if error["type"] == "string_type":
        quote = f'; write it in quotes: "{value}"' if isinstance(value, int | float) else ""
        return f"expected text, found {_shown(value)}{quote}"
    if error["type"] == "string_pattern_mismatch":
        return f"{value!r} does not look right: expected text of the form {context['pattern']}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return (
        message
        if error["type"] == "value_error" and isinstance(value, Mapping)
        else f"{message}, found {_shown(value)}"
    )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "nothing" if value is None else repr(value)


def _keys_at(model: type[BaseModel], loc: Location) -> list[str]:
    """Return the keys that the file may have at ``loc``."""
    found = _model_at(model, loc)
    return [field.alias or name for name, field in found.model_fields.items()] if found else []


def _description(model: type[BaseModel], loc: Location) -> str:
    parent = _model_at(model, loc[:-1])
    for name, field in parent.model_fields.items() if parent else ():
        if (field.alias or name) == loc[-1] and field.description:
            return f" ({field.description})"
    return ""


def _model_at(model: type[BaseModel], loc: Location) -> type[BaseModel] | None:
    """Follow ``loc`` through the fields of ``model``; a union member's name chooses that member."""
    current: list[type[BaseModel]] = [model]
    for part in loc:
        named = [candidate for candidate in current if candidate.__name__ == part]
        tagged = [candidate for candidate in current if part in candidate.model_fields] if len(current) > 1 else []
        steps = [
            nested
            for candidate in current
            for name, field in candidate.model_fields.items()
            if part in (field.alias, name)
            for nested in _models_in(field.annotation)
        ]
        current = named or steps or tagged or current
    return current[0] if len(current) == 1 else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield cast("type[BaseModel]", annotation)
    for argument in get_args(annotation):
        yield from _models_in(argument)
