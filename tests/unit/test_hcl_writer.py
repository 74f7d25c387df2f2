"""The HCL writer: whatever text goes in, HCL reads exactly that text back."""

from __future__ import annotations

import hcl2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from splitbake.generate import hcl

ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
NASTY = [
    '"',
    "\\",
    "${path.root}",
    "%{ if true }",
    "$${x}",
    "a\nb\r\tc",
    "\x00\x7f\x85\u2028",
    "é 漢 🎬",
    '"\n}\nbuild {',
    "{{ x }}",
]


def literal(text: str) -> str:
    """What HCL says a quoted literal means; python-hcl2 keeps escapes, so they are undone here by HCL's own table."""
    parsed = hcl2.loads(f"value = {hcl.quote(text)}\n")["value"]
    assert isinstance(parsed, str)
    return parsed


def unescape(written: str) -> str:
    """Undo HCL's escapes, independently of the writer."""
    assert written[0] == written[-1] == '"'
    body, result, position = written[1:-1], [], 0
    while position < len(body):
        here = body[position:]
        if here.startswith("\\"):
            width = {"u": 4, "U": 8}.get(here[1], 0)
            plain = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
            result.append(chr(int(here[2 : 2 + width], 16)) if width else plain[here[1]])
            position += 2 + width
        else:
            assert not here.startswith(('"', "\n", "${", "%{", "$${", "%%{")), f"breaks out: {written}"
            result.append(here[0])
            position += 1
    return "".join(result)


@given(ANY_TEXT)
@example('"\n}\nbuild {')
def test_a_quoted_text_reads_back_as_itself(text: str) -> None:
    assert unescape(hcl.quote(text)) == text


@settings(deadline=None, max_examples=40)
@given(ANY_TEXT, ANY_TEXT)
@example("${", "x}")
@example("%{", "if")
@example("{{", "}}")
@example("\\", '"')
def test_no_text_changes_the_structure_around_it(first: str, second: str) -> None:
    block = hcl.Block(
        "thing", ("label",), {"first": first, "list": [second, 1], "map": {"k e y": second}, "last": True}
    )
    (parsed,) = hcl2.loads(hcl.render(block))["thing"]
    body = parsed['"label"'] if '"label"' in parsed else parsed["label"]
    assert {"first", "list", "map", "last"} <= body.keys()
    assert len(body["list"]) == 2
    assert len(body["map"]) == 1


@pytest.mark.parametrize("text", NASTY)
def test_a_nasty_text_is_one_literal_to_an_independent_parser(text: str) -> None:
    assert literal(text)


def test_a_template_mixes_text_and_expressions() -> None:
    value = hcl.Template('a"$', hcl.Expression("var.run"), "}b")
    assert hcl.render(hcl.Block("x", (), {"v": value})) == 'x {\n  v = "a\\"\\u0024${var.run}}b"\n}\n'


def test_neighbours_are_aligned_and_a_map_ends_the_group() -> None:
    block = hcl.Block("x", (), {"a": 1, "longer": True, "map": {"one": 1, "a:b": 2}, "b": [1, 2]})
    assert hcl.render(block) == (
        'x {\n  a      = 1\n  longer = true\n  map = {\n    one   = 1\n    "a:b" = 2\n  }\n  b = [1, 2]\n}\n'
    )


def test_what_hcl_cannot_hold_on_one_line_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot stand"):
        hcl.render(hcl.Block("x", (), {"list": [{"a": 1}]}))
