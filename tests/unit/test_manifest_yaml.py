"""YAML has traps; none of them may change silently what a manifest means, or end the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitbake.errors import ManifestError
from splitbake.manifest import yamldoc

HERE = Path("m.yaml")


def data(text: str) -> object:
    """Return the data of a text that has no problem."""
    document = yamldoc.parse(text, HERE)
    assert document.problems == []
    return document.data


def told(text: str) -> list[str]:
    """Return what is told about a text, whether reading stops at it or not."""
    try:
        return [str(problem) for problem in yamldoc.parse(text, HERE).problems]
    except ManifestError as error:
        return [error.message]


@pytest.mark.parametrize(
    "written",
    ["yes", "no", "on", "off", "y", "0123", "0o17", "0x1F", "1_000", "1:30", "2026-01-31", "1e3", ".5", ".inf"],
)
def test_what_yaml_1_1_would_convert_is_text(written):
    assert data(f"a: {written}") == {"a": written}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("0", 0),
        ("-7", -7),
        ("1.5", 1.5),
        ("'1'", "1"),
        ('"true"', "true"),
    ],
)
def test_what_nobody_can_mistake_is_converted(written, value):
    assert data(f"a: {written}") == {"a": value}


def test_a_huge_number_stays_text():
    digits = "9" * 5000
    assert data(f"a: {digits}") == {"a": digits}


def test_keys_are_text_as_they_are_written():
    assert data("{on: 1, 010: 2, true: 3, ~: 4}") == {"on": 1, "010": 2, "true": 3, "~": 4}


def test_an_alias_stands_for_a_whole_value():
    assert data("a: &x [1, {b: 2}]\nc: *x") == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "m.yaml is empty"),
        ("# only a comment\n", "m.yaml is empty"),
        ("a: 1\nb: 2\na: 3", "m.yaml:3:1: 'a' is given twice (first on line 1); keep one"),
        ("a:\n\t- b", "m.yaml:2:1: not YAML: found character that cannot start any token"),
        ("a: 1\n---\nb: 2", "m.yaml:2:1: a second document (---) begins; a manifest is one"),
        ("a: [1", "m.yaml:2:1: not YAML: did not find expected ',' or ']'"),
        ("a: b: c", "m.yaml:1:5: not YAML: mapping values are not allowed in this context"),
        ("a: *x", "m.yaml:1:4: not YAML: found undefined alias"),
        ("<<: {a: 1}", "m.yaml:1:1: merge keys (<<) are not supported"),
        ("? [a]\n: 1", "m.yaml:1:3: a key must be plain text"),
        ("a: !!python/object:os.system x", "m.yaml:1:4: tags such as !!python/object:os.system have no meaning here"),
        ("a: !!int x", "m.yaml:1:4: tags such as !!int have no meaning here"),
        ("a: b\nc: \x07", "m.yaml:2:4: a character that YAML does not allow"),
        ("a: &a [*a]", "m.yaml:1:4: nested deeper than 50 levels; does an alias contain itself?"),
        ("[" * 300_000, "m.yaml:1:51: nested deeper than 50 levels"),
    ],
)
def test_what_a_manifest_may_not_use_is_told_at_its_place(text, expected):
    assert told(text)[0].startswith(expected)


def test_aliases_cannot_multiply_without_end():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    assert "more than 50000 values" in told(bomb)[0]


def test_a_missing_file_and_a_file_of_bytes_are_told(tmp_path):
    with pytest.raises(ManifestError, match="does not exist"):
        yamldoc.read(tmp_path / "m.yaml")
    (tmp_path / "m.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ManifestError, match="is not UTF-8: byte 3"):
        yamldoc.read(tmp_path / "m.yaml")
    with pytest.raises(ManifestError, match="cannot be read: Is a directory"):
        yamldoc.read(tmp_path)


def test_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path):
    (tmp_path / "m.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    document = yamldoc.read(tmp_path / "m.yaml")
    assert document.data == {"a": 1, "b": 2}
    assert str(document.key_position(("b",))).endswith("m.yaml:2:1")
