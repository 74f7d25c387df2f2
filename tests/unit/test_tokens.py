"""Tokens in the files of the image: found by their form, told without being shown, looked for once.

No token stands here as it would be found: each is put together when the tests run.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake import tokens
from splitbake.context import Entry
from splitbake.errors import BuildError


def part_of_jwt(data: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")


#: Kind -> something of that form.
SECRETS = {
    "AWS Access Key": "AK" + "IA" + "Q7" * 8,
    "Azure Storage Account access key": "Account" + "Key=" + "a1" * 44,
    "Discord Bot Token": "M" + "a1" * 12 + "." + "b2" * 3 + "." + "c3" * 13 + "c",
    "GitHub Token": "gh" + "p_" + "a1" * 18,
    "GitLab Token": "gl" + "pat-" + "a1" * 10,
    "JSON Web Token": f"{part_of_jwt({'alg': 'HS256'})}.{part_of_jwt({'sub': 'somebody'})}." + "c3" * 20,
    "Mailchimp Access Key": "a1" * 16 + "-us" + "12",
    "NPM tokens": "//registry.example.com/:_auth" + "Token=npm" + "_" + "a1" * 18,
    "OpenAI Token": "sk" + "-" + "a1" * 10 + "T3Blbk" + "FJ" + "b2" * 10,
    "Private Key": "-----BEGIN RSA PRIVATE " + "KEY-----",
    "PyPI Token": "pypi" + "-AgEIcHlwaS5vcmc" + "a1" * 40,
    "SendGrid API Key": "SG" + "." + "a1" * 11 + "." + "b2" * 21 + "b",
    "Slack Token": "xo" + "xb-123456789012-" + "a1" * 12,
    "Square OAuth Secret": "sq0" + "csp-" + "a1" * 21 + "a",
    "Stripe Access Key": "sk_" + "live_" + "a1" * 12,
    "Twilio API Key": "S" + "K" + "a1" * 16,
}
ALLOWED = "  # pragma: allowlist " + "secret"


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "tree", tmp_path / "cache/tokens")


class Tree:
    def __init__(self, root: Path, cache: Path) -> None:
        self.root, self.cache = root, cache
        root.mkdir()

    def write(self, files: dict[str, str | bytes]) -> Tree:
        for path, content in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(content if isinstance(content, bytes) else content.encode())
        return self

    def entries(self) -> list[Entry]:
        found = sorted(path for path in self.root.rglob("*") if path.is_file())
        return [
            Entry(str(path.relative_to(self.root)), 0o644, 0, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in found
        ]

    def check(self) -> None:
        tokens.refuse_tokens(self.root, self.entries(), self.cache)

    def refused(self) -> list[str]:
        """Return the findings as told, ``path:line: kind``."""
        with pytest.raises(BuildError) as caught:
            self.check()
        return [line.removeprefix(f"  {self.root}/") for line in caught.value.message.splitlines()[1:]]


@pytest.fixture
def looked_at(monkeypatch) -> list[str]:
    """Which files are looked at."""
    looked: list[str] = []
    find = tokens._Scanner.places

    def note(self, root, path, digest):
        looked.append(path)
        return find(self, root, path, digest)

    monkeypatch.setattr(tokens._Scanner, "places", note)
    return looked


def test_every_detector_is_tried_here():
    kinds = [getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name).secret_type
             for module, name, _ in tokens._DETECTORS]  # fmt: skip
    assert kinds == sorted(kinds, key=str.casefold) == list(SECRETS)


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("around", ["{}", 'x = call("{}")', "\t'{}',", "é {} é", "{}\r"])
def test_each_kind_is_told_with_its_place_and_never_shown(tree, kind, around):
    tree.write({"lib/clean.py": "x = 1\n", "lib/a.py": f"\n\n{around.format(SECRETS[kind])}\n"})
    with pytest.raises(BuildError) as caught:
        tree.check()
    told = f"{caught.value.message} {caught.value.hint}"
    assert told.count("lib/") == 1
    assert f"{tree.root}/lib/a.py:3: {kind}" in told
    assert SECRETS[kind] not in told
    assert SECRETS[kind].encode() not in tree.cache.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "password = 'hunter2-correct-horse'",
        "api_key = '" + "f3a9" * 16 + "'",
        "secret_token: " + "Zm9v" * 11,
        "sha256:" + "ab" * 32,
        "https://user:password@example.com",
        "server 203.0.113.7",
        "eyJhbGciOi.no.token",
        "class APController(Base): pass",
        "arn:aws:sns:eu-west-1:123456789012:" + "a-long-name-of-a-topic-" * 3,
        "AKIAIOSFODNN7" + "EXAMPLE",
        "aws_secret_access_key = 'wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY'",
    ],
)
def test_no_guesses_are_made_and_documented_examples_pass(tree, text):
    tree.write({"a.py": f"{text}\n"}).check()


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_a_pragma_allows_its_line_and_no_other(tree, ending):
    key = SECRETS["AWS Access Key"]
    tree.write({"a.py": f"x = '{key}'{ALLOWED}{ending}"}).check()
    tree.write({"a.yaml": f"# pragma: allowlist nextline {'secret'}\nx: {key}\n<!-- -->\ny: {key}{ALLOWED}{ending}"})
    tree.check()
    tree.write({"b.py": f"x = '{key}'{ALLOWED}\ny = '{key}'\n"})
    assert tree.refused() == ["b.py:2: AWS Access Key"]


def test_several_findings_are_told_in_order_and_not_without_end(tree):
    key, other = SECRETS["GitHub Token"], SECRETS["Slack Token"]
    tree.write({"b.py": f"{key} {other}\n", "a.py": f"{other}\n\n{key}\n{key}\n"})
    assert tree.refused() == [
        "a.py:1: Slack Token", "a.py:3: GitHub Token", "a.py:4: GitHub Token", "b.py:1: GitHub Token",
        "b.py:1: Slack Token",
    ]  # fmt: skip
    tree.write({"c.py": f"{key}\n" * 9})
    assert tree.refused()[-2:] == ["c.py:5: GitHub Token", "  and 4 more"]


def test_what_is_no_text_is_passed_over_and_other_encodings_are_read(tree):
    key = SECRETS["GitHub Token"]
    tree.write({"a.bin": b"\x00" + key.encode(), "b.bin": os.urandom(100_000) + b"\0"}).check()
    tree.write({"latin.py": "# \xe9\n".encode("latin-1") + key.encode(), "windows.txt": f"\n{key}".encode("utf-16")})
    assert tree.refused() == ["latin.py:2: GitHub Token", "windows.txt:2: GitHub Token"]


@pytest.mark.parametrize("at", [0, 1, 5, tokens._PART - 20, tokens._PART - 1, tokens._PART, 3 * tokens._PART - 7])
@pytest.mark.parametrize("filler", ["x" * 7 + "\n", "+"])
def test_nothing_is_missed_between_the_parts_of_a_large_file(tree, at, filler):
    before = (filler * (at // len(filler) + 1))[:at]
    after = (filler * tokens._PART)[: 2 * tokens._PART]
    tree.write({"a.txt": f"{before} {SECRETS['GitHub Token']} {after}"})
    assert tree.refused() == [f"a.txt:{before.count(chr(10)) + 1}: GitHub Token"]


def test_a_pragma_counts_across_the_parts_of_a_large_file(tree):
    pragma = f"# pragma: allowlist nextline {'secret'}\n"
    for room in (len(pragma) - 1, len(pragma), len(pragma) + 1):
        lines = "x" * (tokens._PART - room - 1) + "\n"
        tree.write({"a.txt": f"{lines}{pragma}{SECRETS['GitHub Token']}\n"}).check()


@pytest.mark.parametrize("line", [b"x" * 1000 + b"\n", b"x", b'"https://example.com/a","'])
def test_a_large_file_is_never_held_as_a_whole(tree, line):
    tree.write({"a.json": line * (20_000_000 // len(line))})
    entries = tree.entries()
    tokens._Scanner()  # what is loaded once does not count
    tracemalloc.start()
    try:
        tokens.refuse_tokens(tree.root, entries, tree.cache)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_only_what_is_new_is_looked_at(tree, looked_at):
    tree.write({f"lib/{name}.py": name for name in "abc"} | {"bad.py": SECRETS["GitHub Token"]})
    assert tree.refused() == ["bad.py:1: GitHub Token"]
    looked_at.clear()
    tree.write({"lib/b.py": "changed", "lib/copy.py": "a", "moved/c.py": "c"})
    (tree.root / "lib/c.py").unlink()
    assert tree.refused() == ["bad.py:1: GitHub Token"]
    assert sorted(looked_at) == ["bad.py", "lib/b.py"]
    looked_at.clear()
    (tree.root / "bad.py").unlink()
    tree.check()
    assert looked_at == []


def test_the_cache_forgets_what_does_not_travel_any_more(tree):
    tree.write({"a.py": "a", "b.py": "b"}).check()
    size = tree.cache.stat().st_size
    (tree.root / "b.py").write_text("other")
    tree.check()
    assert tree.cache.stat().st_size == size
    assert (tree.cache.parent / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"x" * 32,
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content.replace(tokens.SCHEME.encode(), b"splitbake-tokens-0"),
        lambda content: os.urandom(200),
    ],
)
def test_with_a_damaged_cache_everything_is_looked_at(tree, looked_at, damage):
    tree.write({"a.py": "a", "b.py": "b"}).check()
    looked_at.clear()
    tree.cache.write_bytes(damage(tree.cache.read_bytes()))
    tree.check()
    assert sorted(looked_at) == ["a.py", "b.py"]


def test_another_version_of_the_scanner_looks_anew(tree, looked_at, monkeypatch):
    tree.write({"a.py": "a"}).check()
    monkeypatch.setattr(tokens.importlib.metadata, "version", lambda _: "1.6.0")
    tree.check()
    assert looked_at == ["a.py", "a.py"]


def test_a_cache_that_cannot_be_written_is_no_error(tree, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    tree.write({"a.py": "a"}).check()
    tree.check()
    tokens.refuse_tokens(tree.root, tree.entries())


def test_the_scanner_is_loaded_only_where_something_must_be_looked_at(tree):
    tree.write({"a.py": "a"}).check()
    program = f"""
import sys
from pathlib import Path
from splitbake import tokens
from splitbake.context import Entry
entries = [Entry("a.py", 0o644, 1, {tree.entries()[0].sha256!r})]
tokens.refuse_tokens(Path({str(tree.root)!r}), entries, Path({str(tree.cache)!r}))
sys.exit("detect_secrets" in sys.modules or "requests" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_nobody_is_asked_across_the_network(tree, monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a connection is opened"))
    for module, name, _ in tokens._DETECTORS:
        detector = getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)
        monkeypatch.setattr(detector, "verify", lambda *_, **__: pytest.fail("a token is verified"))
    tree.write({"a.py": "\n".join(SECRETS.values())})
    assert len(tree.refused()) == tokens._SHOWN + 1


def test_a_file_that_changed_since_it_was_collected_is_noticed(tree, looked_at):
    entries = tree.write({"a.py": "one"}).entries()
    (tree.root / "a.py").write_text("two")
    with pytest.raises(BuildError, match=r"a\.py changed during the build"):
        tokens.refuse_tokens(tree.root, entries, tree.cache)
    assert not tree.cache.exists()


def test_a_file_that_cannot_be_read_is_named(tree):
    entries = tree.write({"a.py": "one", "b.py": "two"}).entries()
    (tree.root / "a.py").unlink()
    with pytest.raises(BuildError, match=r"cannot read .*a\.py: No such file"):
        tokens.refuse_tokens(tree.root, entries)
    os.mkfifo(tree.root / "a.py")
    with pytest.raises(BuildError, match="changed during the build"):
        tokens.refuse_tokens(tree.root, entries)


@pytest.mark.parametrize("name", ["new\nline.py", " blank ", "-rf", "it's", "日本.py", "\U0001f600", "caf\u00e9"])
def test_odd_names(tree, name):
    tree.write({name: SECRETS["Private Key"]})
    (tree.root / "-link").symlink_to(name)
    told = "\n".join(tree.refused())
    assert f"{name}:1: Private Key" in told
    assert "-link:1: Private Key" in told


def test_detectors_that_wait_for_a_text_find_nothing_without_it():
    """Each such text is a literal piece of the detector's only regular expression."""
    for detector, needed in tokens._Scanner()._detectors:
        if needed:
            [regex] = detector.denylist
            assert needed in regex.pattern
            assert not regex.search(SECRETS[detector.secret_type].replace(needed, ""))


pieces = st.sampled_from([*SECRETS.values(), ALLOWED, "\n", "\n", "\r\n", " ", "x", '"', "//a/", "=", "é", "-us1"])


@given(text=st.lists(pieces, max_size=8).map("".join))
def test_a_file_is_judged_as_line_by_line(text):
    """However it is searched: each detector on each line, whatever stands in the lines around."""
    scanner = tokens._Scanner()
    wanted = {
        (number, detector.secret_type)
        for number, line in enumerate(text.split("\n"), start=1)
        for detector, _ in scanner._detectors
        if list(detector.analyze_string(line)) and ALLOWED not in line
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").write_bytes(text.encode())
        found = scanner.places(Path(folder), "a", hashlib.sha256(text.encode()).digest())
    assert found == wanted
