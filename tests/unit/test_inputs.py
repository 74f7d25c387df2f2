"""The encoding of inputs: one text for what is equal, another for what is not, and the same digest in any language."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake.inputs import SCHEME, Inputs

PAGE = Path(__file__).parents[2] / "docs/fingerprints.md"

GOLDEN = Inputs(
    "image",
    values={"contract": 1, "Dockerfile": ["FROM base", 'CMD ["grüße"]']},
    files={"file/lib/run.py": "755 ff", "file/é\n.py": "644 00"},
)
#: Written by hand; its digest comes from sha256sum.
GOLDEN_TEXT = (
    r'{"files":{"file/lib/run.py":"755 ff","file/\u00e9\n.py":"644 00"},"half":"image",'
    r'"scheme":"splitbake-fingerprint-3",'
    r'"values":{"Dockerfile":["FROM base","CMD [\"gr\u00fc\u00dfe\"]"],"contract":1}}'
)
GOLDEN_DIGEST = "sha256:1fcbd1e82ca280c3fa7fd5ca580ad6b37869f3b191481052028bf8c1199377b6"

JQ = ["jq", "--compact-output", "--sort-keys", "--ascii-output", "--join-output"]

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.dictionaries(names, names | st.integers(0, 2**31) | st.lists(names, max_size=4), max_size=4)
listings = st.dictionaries(names, names, max_size=5)
inputs = st.builds(Inputs, st.sampled_from(["ami", "image"]), values, listings)


def test_the_text_and_its_digest_are_what_they_always_were():
    """A change of either makes every artifact that exists unknown: it needs a new scheme."""
    assert GOLDEN.text == GOLDEN_TEXT.encode()
    assert GOLDEN.fingerprint == GOLDEN_DIGEST == f"sha256:{hashlib.sha256(GOLDEN_TEXT.encode()).hexdigest()}"


def test_the_page_shows_the_scheme_and_the_command():
    text = PAGE.read_text(encoding="utf-8")
    assert SCHEME in text
    assert " ".join(JQ) in text


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@given(inputs)
def test_jq_computes_the_same(one):
    loose = json.dumps({"files": dict(one.files), "scheme": SCHEME, "values": dict(one.values), "half": one.half})
    text = subprocess.run([*JQ, "."], input=loose.encode(), capture_output=True, check=True).stdout
    assert f"sha256:{hashlib.sha256(text).hexdigest()}" == one.fingerprint


@given(inputs)
def test_a_text_is_read_back_as_it_was(one):
    again = Inputs.from_text(one.text)
    assert again == one
    assert again.fingerprint == one.fingerprint


@given(inputs, inputs)
def test_two_have_one_fingerprint_only_where_they_are_equal(one, other):
    assert (one.fingerprint == other.fingerprint) == (one == other)


@given(values, listings, st.randoms())
def test_the_order_of_keys_says_nothing(some, listing, chance):
    def shuffled(mapping):
        items = list(mapping.items())
        chance.shuffle(items)
        return dict(items)

    assert Inputs("ami", shuffled(some), shuffled(listing)).text == Inputs("ami", some, listing).text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"file/a": "644 x", "file/b": "644 y"}, {"file/a": "644 y", "file/b": "644 x"}),
        ({"file/a\nb": "644 x"}, {"file/a": "644 x", "b": ""}),
        ({"file/a": "644 x"}, {"model/a": "644 x"}),
        ({'file/a":"644 x': ""}, {"file/a": "644 x"}),
        ({"file/é": "644 x"}, {"file/\\u00e9": "644 x"}),
        ({"file/é": "644 x"}, {"file/e\u0301": "644 x"}),  # two names to a file system, whatever they look like
    ],
)
def test_names_cannot_run_into_each_other(one, other):
    assert Inputs("image", {}, one).fingerprint != Inputs("image", {}, other).fingerprint


def test_the_halves_never_share_a_fingerprint():
    assert Inputs("ami", {}, {}).fingerprint != Inputs("image", {}, {}).fingerprint


def test_inputs_of_another_scheme_are_not_compared():
    body = json.loads(GOLDEN.text) | {"scheme": "splitbake-fingerprint-4", "files": ["in another form"]}
    assert Inputs.from_text(json.dumps(body).encode()) is None


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]", b"{}", GOLDEN.text.replace(b'"image"', b'"other"')])
def test_what_is_no_text_of_inputs_is_an_error(text):
    with pytest.raises(ValueError, match=r".+"):
        Inputs.from_text(text)
