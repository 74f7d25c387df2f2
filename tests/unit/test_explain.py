"""What has changed, in words: nothing for equals, something for whatever is not."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake.explain import explain
from splitbake.inputs import TEXTS, Inputs


def words(old: dict | None = None, new: dict | None = None, *, of: str = "values") -> list[str]:
    empty = {"half": "image", "values": {}, "files": {}}
    return explain(Inputs(**{**empty, of: old or {}}), Inputs(**{**empty, of: new or {}}))


def files(*names: str, content: str = "644 a") -> dict[str, str]:
    return dict.fromkeys(names, content)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"base AMI": "ami-1"}, {"base AMI": "ami-2"}, "base AMI moved from ami-1 to ami-2"),
        ({"models.mode": "0755"}, {"models.mode": "0555"}, "models.mode changed from 0755 to 0555"),
        ({"contract": 1}, {"contract": 2}, "contract changed from 1 to 2"),
        ({}, {"colour": "blue"}, "colour is blue now"),
        ({"colour": "blue"}, {}, "colour is gone (it was blue)"),
        (
            {"Dockerfile": ["FROM a", "USER 1", "CMD x"]},
            {"Dockerfile": ["FROM a", "USER 2", "CMD x"]},
            "the Dockerfile changed: - USER 1; + USER 2",
        ),
        (
            {"Packer template": ["build {", "}"]},
            {"Packer template": ["build {", '  provisioner "shell" {', '    script = "a"', "  }", "}"]},
            'the Packer template changed: + provisioner "shell" {; + script = "a"; + }',
        ),
        (
            {"Dockerfile": ["FROM a", *(f"COPY {number}" for number in range(5))]},
            {"Dockerfile": ["FROM a"]},
            "the Dockerfile changed: - COPY 0; - COPY 1; - COPY 2; and 2 more lines",
        ),
    ],
)
def test_values(old, new, said):
    assert words(old, new) == [said]


@pytest.mark.parametrize("name", ["models.root", "Dockerfile"])
def test_of_long_texts_the_part_that_differs_is_shown(name):
    start = "x" * 200
    old, new = f"{start} before {'y' * 200}", f"{start} after {'y' * 200}"
    wrap = (lambda text: [text]) if name in TEXTS else (lambda text: text)
    (said,) = words({name: wrap(old)}, {name: wrap(new)})
    assert "before" in said
    assert "after" in said
    assert len(said) < 250
    (said,) = words({name: wrap(start)}, {name: wrap(f"{start} and more")})
    assert "and more" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (files("file/run.py"), files("file/run.py", content="644 b"), ["file run.py changed"]),
        (files("file/run.py"), files("file/run.py", content="755 a"), ["file run.py changed"]),
        (files("file/a/b/c.py"), {}, ["file a/b/c.py removed"]),
        (
            {},
            files("file/lib/a", "file/lib/b/c", "file/d"),
            ["2 files added in lib/", "1 file added in the top folder"],
        ),
        (files("file/a", "file/b"), files("file/c"), ["file c added", "2 files removed in the top folder"]),
        (
            files("model/a", "model/b", "model/c"),
            files("model/a", "model/b", "model/c", content="b"),
            ["model a changed", "model b changed", "model c changed"],
        ),
        (
            files("model/m/a", "model/m/b", "model/m/c", "model/n/d"),
            {},
            ["3 models removed in m/", "1 model removed in n/"],
        ),
        (files("script/setup.sh"), files("script/setup.sh", content="b"), ["script setup.sh changed"]),
        (
            files("file/lib/a", "model/a"),
            files("file/lib/a", "model/a", content="b"),
            ["file lib/a changed", "model a changed"],
        ),
    ],
)
def test_files(old, new, said):
    assert words(old, new, of="files") == said


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\nb", r"a\nb"), ("\x1b[31mred", r"\x1b[31mred"), ("a\u202eb", r"a\u202eb"), ("grüße …", "grüße …")],
)
def test_of_names_only_what_can_be_printed_is_shown_as_it_is(name, shown):
    assert words({}, files(f"file/{name}"), of="files") == [f"file {shown} added"]


def test_values_come_before_files():
    old = Inputs("ami", {"base AMI": "a"}, {"model/a": "a"})
    assert explain(old, Inputs("ami", {"base AMI": "b"}, {})) == ["base AMI moved from a to b", "model a removed"]


def test_a_dockerfile_of_a_thousand_other_lines_is_explained_at_once():
    old, new = ([f'COPY ["{folder}/{number}/", "./"]' for number in range(1000)] for folder in ("lib", "src"))
    started = time.process_time()
    (said,) = words({"Dockerfile": old}, {"Dockerfile": new})
    assert said.endswith("and 1997 more lines")
    assert time.process_time() - started < 2


text = st.text(max_size=90)
values = st.dictionaries(
    st.sampled_from([*TEXTS, "base AMI", "models.root", "contract", "more"]), text | st.integers(), max_size=4
).map(lambda one: {name: [str(value)] * 2 if name in TEXTS else value for name, value in one.items()})
listings = st.dictionaries(
    st.builds("{}/{}".format, st.sampled_from(["file", "model", "script"]), text), st.sampled_from("ab"), max_size=6
)
inputs = st.builds(Inputs, st.just("ami"), values, listings)


@given(inputs)
def test_nothing_is_said_of_equals(one):
    assert explain(one, Inputs(one.half, dict(one.values), dict(one.files))) == []


@given(inputs, inputs)
def test_whatever_differs_is_told(one, other):
    said = explain(one, other)
    assert bool(said) == (one.fingerprint != other.fingerprint)
    assert all(said)


@given(inputs, inputs)
def test_the_order_of_names_says_nothing(one, other):
    mirrored = Inputs(other.half, dict(reversed(other.values.items())), dict(reversed(other.files.items())))
    assert explain(one, mirrored) == explain(one, other)
