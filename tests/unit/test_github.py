"""What GitHub Actions reads of a step: whatever stands in a value, it is that value for the one who reads it."""

from __future__ import annotations

import html
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from splitbake import github
from splitbake.errors import SplitbakeError

HOSTILE = [
    "a\nchanges=true\n",
    "x\r\nchanges<<END\ntrue\nEND",
    "::set-output name=a::b",
    "a | b | c",
    "**bold** _it_ `code` ~~gone~~ [link](https://example.com) ![i](x) <b>html</b> <!-- c --> &amp; &lt;",
    "| --- |\n| a |",
    "# title\n- list\n> quote\n```\nfence",
    "\\| \\\\ \\",
    "$x$ @team :tada: #1 https://example.com www.example.com",
    "grüße … →",
    "",
]


def read_outputs(text: str) -> dict[str, str]:
    """Read it as the runner does: NAME=VALUE, or NAME<<END with all lines up to END."""
    lines, found = iter(text.split("\n")), {}
    for line in lines:
        if "<<" in line and "=" not in line.partition("<<")[0]:
            name, _, end = line.partition("<<")
            value = []
            for inner in lines:
                if inner == end:
                    break
                value.append(inner)
            else:
                raise AssertionError(f"{name} has no end")
            found[name] = "\n".join(value)
        elif line:
            name, _, found[name] = line.partition("=")
    return found


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    return tmp_path / "output"


@pytest.fixture
def summary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    return tmp_path / "summary"


@pytest.mark.parametrize("value", HOSTILE)
def test_outputs_are_read_as_they_were_written(output, value):
    github.write_outputs({"first": value, "second": "2"})
    github.write_outputs({"third": value})
    assert read_outputs(output.read_bytes().decode()) == {"first": value, "second": "2", "third": value}


def test_nobody_can_write_the_end_of_a_value_in_advance(output):
    github.write_outputs({"name": "value"})
    first = output.read_text()
    github.write_outputs({"name": first})
    ends = re.findall(r"^name<<([0-9a-f]{32})$", output.read_text(), re.MULTILINE)
    assert len(ends) == 3
    assert ends[0] == ends[2] != ends[1]
    assert read_outputs(output.read_text().removeprefix(first)) == {"name": first}


def test_what_stands_there_already_stays(output):
    output.write_text("earlier=1\n")
    github.write_outputs({"later": "2"})
    assert read_outputs(output.read_text()) == {"earlier": "1", "later": "2"}


def cells(markdown: str) -> list[list[str]]:
    """Render it as GitHub does (CommonMark with tables), and return what a reader sees in each row."""
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)
    assert page.startswith("<h3>")
    assert page.count("<table>") == 1
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    seen = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[shown(cell) for cell in row] for row in seen]


def shown(cell: str) -> str:
    assert re.findall(r"<(?!br>)", cell) == [], "there is markup in it"
    return html.unescape(cell.replace("<br>", "\n"))


@pytest.mark.parametrize("text", HOSTILE)
def test_cells_of_the_summary_show_the_text_itself(summary, text):
    github.write_summary(text.replace("\n", " ") or "title", ("half", "why"), [("ami", text), (text, "nothing")])
    seen = text.replace("\r\n", "\n").strip()
    assert cells(summary.read_text()) == [["half", "why"], ["ami", seen], [seen, "nothing"]]


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["C", "Z"]), max_size=30))
@example("&#124;")
@example("&lt;script&gt;")
def test_any_text_is_shown_as_it_is(text):
    with tempfile.NamedTemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GITHUB_STEP_SUMMARY", file.name)
        github.write_summary("title", ("why",), [(text,)])
        assert cells(Path(file.name).read_text()) == [["why"], [text]]


def test_two_summaries_are_two_tables(summary):
    github.write_summary("one", ("a",), [("1",)])
    github.write_summary("two", ("b",), [("2",)])
    page = MarkdownIt("commonmark").enable("table").render(summary.read_text())
    assert page.count("<table>") == page.count("<h3>") == 2


@pytest.mark.parametrize("value", [None, ""])
def test_elsewhere_nothing_is_written(tmp_path, monkeypatch, value):
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    github.write_outputs({"a": "b"})
    github.write_summary("a", ("b",), [("c",)])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path))
    with pytest.raises(SplitbakeError, match=f"cannot write {tmp_path}"):
        github.write_outputs({"a": "b"})
