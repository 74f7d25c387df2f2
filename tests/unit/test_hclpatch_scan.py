import re
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from splitbake.errors import PatchError
from splitbake.hclpatch import Selector, Source, Sources, ValueKind, find, plan, set_value
from splitbake.hclpatch.tokens import ScanError, tokenize
from splitbake.hclpatch.values import items, quote, unquote

PATH = Path("main.tf")
CORPUS = sorted((Path(__file__).parents[1] / "data" / "hcl").rglob("*.tf"))
HCL_PIECES = st.sampled_from(
    [
        *('"', "${", "%{", "$${", "}", "{", "[", "]", "(", ")", "\n", "\r\n", "\r", " ", "\t", "\ufeff"),
        *("<<A\n", "A\n", "/*", "*/", "#", "//", "=", "\\", "a", "1", ",", ".", "?", ":", "-", "é"),
        *("x = 1\n", "b {\n", "}\n"),
    ]
)
COMMENTS = st.sampled_from(
    ["", " ", "\t", "/* ami-0old */", '/* image_id = "ami-0old" */', "/* {[( */", '/* " */', "/*\n*/", "/* é */"]
)
BETWEEN = st.sampled_from(
    [
        *("\n", "\r\n", '# image_id = "ami-0old"\n', "// ${\n", "/* { */\n", 'a = "image_id = ${"}"}"\n'),
        *("b { c = [\n1\n] }\n", "h = <<E\nimage_id = 1\nE\n", "h = <<-E\n  ${ {} }\n  E\n", "p = (1\n+ 2)\n"),
        *("o = {\n image_id = 1, x : 2\n}\n", "c = a ? 1 : 2 # x\n"),
    ]
)
TRIVIA = st.lists(BETWEEN, max_size=6).map("".join)


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_tokens_tile_the_text(file: Path) -> None:
    text = file.read_text()
    assert "".join(token.text for token in tokenize(text)) == text


@given(st.lists(HCL_PIECES).map("".join))
def test_any_text_is_tiled_or_refused_with_its_place(text: str) -> None:
    try:
        source = Source.parse(PATH, text.encode())
    except PatchError as error:
        message = error.message
    else:
        message = f"main.tf:1:1: {len(source.tokens)} tokens"
        assert "".join(token.text for token in source.tokens) == text.removeprefix("\ufeff")
    assert re.match(r"main\.tf:\d+:\d+: ", message)


@given(st.lists(HCL_PIECES).map("".join))
def test_any_value_has_a_kind_and_items_that_lie_in_it(text: str) -> None:
    try:
        source = Source.parse(PATH, f"a = [{text}]\nb = {{\n{text}\n}}\nc = {text}\n".encode())
    except PatchError:
        return
    for attribute in source.body.attributes:
        value = attribute.value
        assert isinstance(value.kind, ValueKind)
        assert all(value.start <= item.value.start < item.value.end <= value.end for item in items(value))


@given(st.text())
def test_quoting_and_unquoting_give_the_text_back(text: str) -> None:
    (token,) = tokenize(quote(text))
    assert unquote(token.text) == text
    assert "\n" not in token.text


@given(TRIVIA, TRIVIA, st.tuples(COMMENTS, COMMENTS, COMMENTS))
def test_trivia_around_a_value_never_change_what_is_found(
    above: str, below: str, comments: tuple[str, str, str]
) -> None:
    gap, gap_after, tail = comments
    left = f'{above}resource "t" "x" {{\n{above}  image_id{gap}={gap_after}'
    right = f"{tail}\n{below}}}\n{below}"
    here = Sources.parse({PATH: f'{left}"ami-0old"{right}'.encode()})
    found = find(here, Selector.of("t.x", "image_id"))
    assert (found.text, found.value.kind) == ('"ami-0old"', ValueKind.STRING)
    assert (found.value.start, len(here[PATH].text) - found.value.end) == (len(left), len(right))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.text(st.sampled_from('${}%"\\~a\n')))
def test_setting_a_value_and_setting_it_back_is_the_identity(first: str, second: str) -> None:
    before = f'# é\nvariable "x" {{ default = {quote(first)} }} # "tail"\r\nlocals {{}}'.encode()
    here, selector = Sources.parse({PATH: before}), Selector.parse("var.x")
    for value in (second, first):
        edit = set_value(here, selector, value)
        text = here[PATH].text
        spliced = text[: edit.start] + edit.text + text[edit.end :]
        here = Sources.parse({PATH: spliced.encode()})
        assert find(here, selector).value.literal == value
    assert here[PATH].raw == before


@pytest.mark.parametrize("file", [f for f in CORPUS if f.parent.name == "set"], ids=lambda file: file.stem)
def test_every_literal_of_the_corpus_goes_there_and_back(file: Path) -> None:
    text = file.read_text()
    selector = Selector.parse(text.partition("\n")[0].removeprefix("# selects: "))
    here = Sources.parse({file: file.read_bytes()})
    there = plan(here, [set_value(here, selector, "x")]).changes[0]
    again = Sources.parse({file: there.after})
    assert plan(again, [set_value(again, selector, "ami-0old")]).changes[0].after == file.read_bytes()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a = 1\rb = 2\r", "main.tf:1:6: a carriage return without a line feed"),
        (b'a = "\xff"\n', "main.tf:1:6: byte 0xff is not UTF-8"),
        (b"x = 1\n# \xc3\xa9 \xe9\n", "main.tf:2:5: byte 0xe9 is not UTF-8"),
        (b'a = "x\nb = 1\n', "main.tf:1:5: a string that does not end"),
        (b'a = "x${y"\n', "main.tf:1:10: a string that does not end"),
        (b'a = "${1', "main.tf:1:6: a template that does not end"),
        (b"a = <<EOT\nx\nEOT", "main.tf:1:5: a heredoc EOT that does not end"),
        (b"a = 1 /* x\n", "main.tf:1:7: a comment that does not end"),
        (b"\n  a = [1, 2\n", "main.tf:2:7: '[' is never closed"),
        (b"a = [1, 2)\n", "main.tf:1:10: ')' closes nothing"),
        (b"a {\n  b = 1\n", "main.tf:1:1: the block a does not end"),
        (b"a {}\n}\n", "main.tf:2:1: '}' where an attribute or a block should start"),
        (b"a {} }\n", "main.tf:1:6: '}' where an attribute or a block should start"),
        (b"a =\n", "main.tf:1:4: an attribute without a value"),
        (b"a\n{\n}\n", "main.tf:1:2: a is followed by neither '=' nor a block's '{'"),
        (b'a "${x}" {}\n', "main.tf:1:3: a is followed by neither '=' nor a block's '{'"),
        (b"a = 1 ; b = 2\n", "main.tf:1:7: ';' means nothing here"),
        (b"\x00", "main.tf:1:1: '\\x00' means nothing here"),
    ],
)
def test_broken_text_is_refused_with_file_line_and_column(raw: bytes, message: str) -> None:
    with pytest.raises(PatchError) as refusal:
        Source.parse(PATH, raw)
    assert refusal.value.message == message


def test_json_is_refused() -> None:
    with pytest.raises(PatchError, match="JSON"):
        Source.parse(Path("main.tf.json"), b"{}")


def test_nesting_deeper_than_python_recurses_is_read() -> None:
    depth = 3000
    tokens = tokenize("a = " + '"${' * depth + '"x"' + '}"' * depth)
    assert len(tokens) == 5
    Source.parse(PATH, b"b {\n" * depth + b"}\n" * depth)
    Source.parse(PATH, b"a = " + b"[" * depth + b"]" * depth)


@pytest.mark.parametrize("opening", ["/*", '"${', "<<A\n", "{", '"\n'])
def test_many_unclosed_openings_are_refused(opening: str) -> None:
    with pytest.raises((ScanError, PatchError)):
        Source.parse(PATH, b"a = " + (opening * 20_000).encode())
