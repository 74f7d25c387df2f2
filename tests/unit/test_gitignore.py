"""What git ignores among the files of the image, asked of a real git."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitbake import gitignore
from splitbake.errors import BuildError, ToolError


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, check=True)
    return os.fsdecode(done.stdout)


def write(root: Path, files: dict[str, str]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root


def repository(root: Path, files: dict[str, str]) -> Path:
    git(write(root, files), "init", "-q", ".")
    return root


@pytest.fixture(autouse=True)
def _no_rules_of_the_user(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def test_rules_of_every_folder_count_and_tracked_files_never_are_ignored(tmp_path):
    root = repository(
        tmp_path,
        {
            ".gitignore": "*.log\nbuild/\n/top.py\n",
            "lib/.gitignore": "data/*\n!data/keep.csv\n",
            **dict.fromkeys(["a.log", "kept.log", "build/x.py", "top.py", "lib/top.py", "lib/a.py"], ""),
            **dict.fromkeys(["lib/data/a.csv", "lib/data/keep.csv", "lib/deep/b.log"], ""),
        },
    )
    git(root, "add", "--force", "kept.log")
    paths = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and ".git" not in path.parts]
    wanted = {"a.log", "build/x.py", "top.py", "lib/data/a.csv", "lib/deep/b.log"}
    assert gitignore.ignored(root, paths) == wanted
    assert gitignore.ignored(root / "lib", ["top.py", "a.py", "data/a.csv", "deep/b.log"]) == {
        "data/a.csv",
        "deep/b.log",
    }


def test_nothing_asked_and_nothing_ignored(tmp_path):
    root = repository(tmp_path, {"a.py": ""})
    assert gitignore.ignored(root, []) == set()
    assert gitignore.ignored(root, ["a.py"]) == set()


ODD = [
    "*", "[a].py", "a?", ":(top)x", ":x", "!y", "-rf", "--", " blank ", "new\nline", "café", "cafe\u0301", "日本",
    'q"uote', "it's", "back\\slash", "trail ", "#hash", "\t", "a b", "é" * 100,
]  # fmt: skip


def test_odd_names(tmp_path):
    root = repository(tmp_path, {f"{folder}/{name}": "" for folder in ("in", "out", "-o") for name in ODD})
    write(root, {".gitignore": "/out/\n/-o/*\n"})
    git(root, "--literal-pathspecs", "add", "--force", "--", "-o", "out/[a].py")
    paths = [f"{folder}/{name}" for folder in ("in", "out", "-o") for name in ODD]
    assert gitignore.ignored(root, paths) == {f"out/{name}" for name in ODD} - {"out/[a].py"}


def test_a_name_that_is_not_utf_8(tmp_path):
    root = repository(tmp_path, {".gitignore": "*\n"})
    name = os.fsdecode(b"\xff.py")
    assert gitignore.ignored(root, [name, "a.py"]) == {name, "a.py"}


def test_what_looks_like_a_pattern_is_no_pattern(tmp_path):
    """Git's own check-ignore says of the ignored ``[a].py`` that it is tracked, because ``a.py`` is."""
    root = repository(tmp_path, {".gitignore": "\\[a\\].py\n\\*\n", "a.py": "", "[a].py": "", "*": ""})
    git(root, "add", "a.py")
    assert gitignore.ignored(root, ["a.py", "[a].py", "*"]) == {"[a].py", "*"}


def test_links_to_files_are_judged_by_their_own_name(tmp_path):
    root = repository(tmp_path, {".gitignore": "*.tmp\n", "a.tmp": "", "a.py": ""})
    (root / "b.py").symlink_to("a.tmp")
    (root / "b.tmp").symlink_to("a.py")
    assert gitignore.ignored(root, ["b.py", "b.tmp"]) == {"b.tmp"}


def test_submodules_and_other_repositories_within(tmp_path):
    other = repository(tmp_path / "other", {".gitignore": "*.log\n", "tracked.log": "", "lib.py": ""})
    git(other, "add", "--force", ".")
    git(other, "commit", "-qm", "one")
    root = repository(tmp_path / "root", {".gitignore": "*.tmp\n/ignored/\n"})
    git(root, "submodule", "--quiet", "add", str(other), "sub")
    git(root, "clone", "--quiet", str(other), "ignored/clone")
    write(root, {"sub/new.log": "", "sub/new.py": "", "sub/new.tmp": "", "top.log": ""})
    paths = ["sub/tracked.log", "sub/lib.py", "sub/new.log", "sub/new.py", "sub/new.tmp", "top.log"]
    assert gitignore.ignored(root, [*paths, "ignored/clone/lib.py"]) == {
        "sub/new.log", "sub/new.tmp", "ignored/clone/lib.py",
    }  # fmt: skip


def test_a_context_reached_through_a_link(tmp_path):
    root = repository(tmp_path / "real", {".gitignore": "*.log\n", "a.log": "", "a.py": ""})
    (tmp_path / "link").symlink_to(root)
    assert gitignore.ignored(tmp_path / "link", ["a.log", "a.py"]) == {"a.log"}


def test_within_a_hook_of_git_the_repository_of_the_context_is_asked(tmp_path, monkeypatch):
    root = repository(tmp_path / "root", {".gitignore": "*.log\n", "lib/a.log": "", "lib/kept.log": ""})
    git(root, "add", "--force", "lib/kept.log")
    for name, value in (("GIT_DIR", ".git"), ("GIT_INDEX_FILE", ".git/other"), ("GIT_PREFIX", "x/")):
        monkeypatch.setenv(name, value)
    assert gitignore.ignored(root / "lib", ["a.log", "kept.log"]) == {"a.log"}


def test_outside_of_a_repository_it_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(BuildError, match="does not lie in a git repository") as caught:
        gitignore.ignored(tmp_path, ["a.py"])
    assert "image.exclude" in caught.value.hint


def test_what_git_cannot_read_is_told_in_its_own_words(tmp_path):
    root = repository(tmp_path, {".gitignore": "*\n"})
    (root / ".git/config").write_text("[core\n")
    with pytest.raises(BuildError, match=r"git cannot say what it ignores .*bad config"):
        gitignore.ignored(root, ["a.py"])


def test_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="git is not there"):
        gitignore.ignored(tmp_path, ["a.py"])


def test_many_files(tmp_path):
    paths = [f"lib/{number % 100}/-{number} x.{'log' if number % 2 else 'py'}" for number in range(10_000)]
    root = repository(tmp_path, {".gitignore": "*.log\n"})
    for number in range(100):
        (root / f"lib/{number}").mkdir(parents=True)
    for path in paths:
        (root / path).touch()
    git(root, "add", "--force", "lib/1")
    wanted = {path for path in paths if path.endswith(".log") and not path.startswith("lib/1/")}
    assert gitignore.ignored(root, paths) == wanted


names = st.text(st.sampled_from("ab*[]!# \\é-"), min_size=1, max_size=4).filter(lambda name: name.strip("."))
paths_of_names = st.lists(names, min_size=1, max_size=3).map("/".join)
rules = st.lists(st.text(st.sampled_from("ab*[]!#/ \\é-?"), min_size=1, max_size=5), max_size=4)


@settings(max_examples=25, deadline=None)
@given(tree=st.lists(paths_of_names, unique=True, min_size=1, max_size=8), top=rules, nested=rules, tracked=st.data())
def test_exactly_what_git_lists_as_ignored(tree, top, nested, tracked):
    tree = [path for path in tree if not any(other.startswith(f"{path}/") for other in tree)]
    with tempfile.TemporaryDirectory() as folder:
        root = repository(Path(folder), dict.fromkeys(tree, ""))
        (root / ".gitignore").write_text("\n".join(top))
        within = [str(PurePosixPath(path).parent) for path in tree if "/" in path][:1]
        for place in within:
            (root / place / ".gitignore").write_text("\n".join(nested))
        if chosen := tracked.draw(st.lists(st.sampled_from(tree), unique=True)):
            git(root, "--literal-pathspecs", "add", "--force", "--", *chosen)
        listed = git(root, "ls-files", "--others", "--ignored", "--exclude-standard", "-z").split("\0")[:-1]
        assert gitignore.ignored(root, tree) == {path for path in listed if not path.endswith(".gitignore")}
