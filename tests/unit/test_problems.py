"""Finding the model, the field and the right words for a place in the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Discriminator, Field

from splitbake.manifest import yamldoc
from splitbake.manifest.outline import field_at, keys_of, model_at
from splitbake.manifest.problems import explain
from splitbake.spec import Spec, tag, tag_name


class Leaf(Spec):
    """A mapping with one number."""

    number: int = Field(description="a number")


class Other(Spec):
    """Another form of it."""

    other: bool


def _form(item: Any) -> str:
    return tag_name("other" if isinstance(item, dict) and "other" in item else "leaf")


Either = Annotated[Annotated[Leaf, tag("leaf")] | Annotated[Other, tag("other")], Discriminator(_form)]


class Root(Spec):
    """Everything that a model can hold others in."""

    plain: Leaf
    optional: Leaf | None = None
    listed: tuple[Leaf, ...] = Field(default=(), strict=False)
    named: dict[str, Leaf] = Field(default_factory=dict)
    either: tuple[Either, ...] = Field(default=(), strict=False)


@pytest.mark.parametrize(
    "location",
    [("plain",), ("optional",), ("listed", 3), ("named", "anything"), ("either", 0, tag_name("leaf"))],
)
def test_a_model_is_found_wherever_it_is_held(location):
    assert model_at(Root, location) is Leaf
    field = field_at(Root, (*location, "number"))
    assert field is not None
    assert field.description == "a number"


def test_what_is_no_model_is_none():
    assert model_at(Root, ("plain", "number")) is None
    assert model_at(Root, ("nothing", "number")) is None
    assert model_at(Root, ("either", 0)) is None
    assert model_at(Root, ("either", 0, tag_name("other"))) is Other
    assert field_at(Root, ()) is None
    assert field_at(Root, ("plain", "nothing")) is None
    assert keys_of(Other) == ["other"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain: {number: 1.5}", ["1:17: expected a whole number, found 1.5"]),
        ("plain: {number: true}", ["1:17: expected a whole number, found true"]),
        ("plain:\n  number: x", ["2:11: expected a whole number, found 'x'"]),
        ("plain: 1", ["1:8: expected a mapping with the keys number, found 1"]),
        ("plain:\n  - 1", ["1:1: expected a mapping with the keys number, found a list"]),
        ("plain: {}", ["1:1: 'number' is missing (a number)"]),
        (
            "plain: {number: 1}\nlisted: [{}, {number: 2, nmber: 3}]",
            ["2:10: 'number' is missing (a number)", "2:26: unknown key 'nmber'; did you mean 'number'?"],
        ),
        (
            "plain: {number: 1}\neither: [{other: 1}, {numbr: 1}]",
            ["2:18: expected true or false, found 1", "2:23: unknown key 'numbr'; did you mean 'number'?"],
        ),
        (
            "plain: {number: 1}\nnamed: {a: {x: 1}}",
            ["2:9: 'number' is missing (a number)", "2:13: unknown key 'x'; expected one of number"],
        ),
        ("[]", ["1:1: expected a mapping with the keys plain, optional, listed, named, either, found an empty list"]),
    ],
)
def test_each_problem_has_its_place_and_words(text, expected):
    document = yamldoc.parse(text, Path("x"))
    found, problems = explain(Root, document, lambda _: ())
    assert found is None
    assert [str(problem).removeprefix("x:") for problem in problems] == expected


def test_further_checks_are_told_among_the_others_in_the_order_of_the_file():
    document = yamldoc.parse("extra: 1\nplain: {number: 1}\nmore: 2", Path("x"))
    _, problems = explain(Root, document, lambda data: [(("plain", "number"), f"{len(data)} keys")])
    assert [problem.position.line for problem in problems] == [1, 2, 3]
    assert str(problems[1]) == "x:2:9: 3 keys"
