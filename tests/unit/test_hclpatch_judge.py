"""The judges must catch a patcher that is wrong, so these edits are made by hand, and wrong."""

from pathlib import Path

import hcl2
import pytest

from splitbake.errors import PatchError
from splitbake.hclpatch import Edit, Sources, plan

PATH = Path("main.tf")
TEXT = '# é\nlocals {\n  a = "old" # tail\n  b = 1\n  c = "${"old"}-x"\n}\n'


def patched(old: str, new: str, text: str = TEXT) -> bytes:
    start = text.index(old)
    edit = Edit(PATH, 1, start, start + len(old), new, "old", "new")
    return plan(Sources.parse({PATH: text.encode()}), [edit]).changes[0].after


def test_a_right_edit_passes() -> None:
    assert patched('"old"', '"new"') == TEXT.replace('"old"', '"new"', 1).encode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"old" # tail', '"new"'),  # takes a comment away
        ('"old"', '"new"\n  d = "more"'),  # brings an attribute in
        ("old", "new"),  # not the whole literal
        ('a = "old"', 'b = "new"'),  # another name
        ('"old"', '"new" /* x */'),  # brings a comment in
    ],
)
def test_an_edit_of_more_than_one_literal_is_refused_by_the_scanner(old: str, new: str) -> None:
    with pytest.raises(PatchError, match="would change more of the file than that: its tokens"):
        patched(old, new)


@pytest.mark.parametrize(("old", "new"), [("1", "2"), ("a", "z"), ("# tail", "# else"), ('"old"', "var.x")])
def test_an_edit_of_something_else_than_a_string_is_refused(old: str, new: str) -> None:
    with pytest.raises(PatchError, match="would change more of the file than that"):
        patched(old, new)


def test_an_edit_that_breaks_the_text_is_refused() -> None:
    with pytest.raises(PatchError, match=r"main\.tf:3:7: a string that does not end"):
        patched('"old"', '"new')


def test_what_python_hcl2_sees_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    really = hcl2.parses_to_tree

    def sees_another_number(text: str) -> object:
        return really(text if '"old" #' in text else text.replace("b = 1", "b = 2"))

    monkeypatch.setattr(hcl2, "parses_to_tree", sees_another_number)
    with pytest.raises(PatchError, match="its meaning for python-hcl2"):
        patched('"old"', '"new"')
