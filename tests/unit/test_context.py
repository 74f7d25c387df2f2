"""Which files travel into the image, and which projects are refused."""

from __future__ import annotations

import hashlib
import os
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake import patterns
from splitbake.bake import context
from splitbake.errors import BuildError
from splitbake.lock import LockedFile
from splitbake.manifest import Image


@pytest.fixture
def project(tmp_path):
    """Make a project of these files (path -> content) that includes these patterns."""

    def make(files: dict[str, str], include: list[str], *, models: list[bytes] = (), **image):
        for path, content in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
        plain = {"base": "x", "mounts": {"models": "/m"}, "command": ["x"], "repository": "x", "budget": "1 GB"}
        manifest = SimpleNamespace(image=Image.model_validate(plain | {"include": include} | image))
        locked = [
            LockedFile(path=f"models/{i}", source="x", size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for i, data in enumerate(models)
        ]
        return SimpleNamespace(root=tmp_path, manifest=manifest, lock=SimpleNamespace(files=locked))

    return make


def paths(project) -> list[str]:
    return [entry.path for entry in context.collect(project)]


TREE = {"run.py": "r", "lib/a.py": "a", "lib/deep/b.py": "b", "lib/x.csv": "x", "src/train.py": "t", "note.md": "n"}


@pytest.mark.parametrize(
    ("include", "exclude", "wanted"),
    [
        (["run.py"], [], ["run.py"]),
        (["*.py"], [], ["run.py"]),
        (["lib/"], [], ["lib/a.py", "lib/deep/b.py", "lib/x.csv"]),
        (["lib/"], ["**/*.csv"], ["lib/a.py", "lib/deep/b.py"]),
        (["lib/"], ["lib/deep"], ["lib/a.py", "lib/x.csv"]),
        (["**/*.py"], ["src/"], ["lib/a.py", "lib/deep/b.py", "run.py"]),
        (["lib/**/b.py"], [], ["lib/deep/b.py"]),
        (["lib/?.py", "run.py"], [], ["lib/a.py", "run.py"]),
    ],
)
def test_what_patterns_take(project, include, exclude, wanted):
    assert paths(project(TREE, include, exclude=exclude)) == wanted


def test_entries_carry_normalised_mode_size_and_digest(project):
    made = project({"run.py": "print()", "go.sh": "x"}, ["*"])
    (made.root / "run.py").chmod(0o600)
    (made.root / "go.sh").chmod(0o711)
    go, run = context.collect(made)
    assert (go.path, go.mode) == ("go.sh", 0o755)
    assert run == context.Entry("run.py", 0o644, 7, hashlib.sha256(b"print()").hexdigest())


def test_bytecode_never_travels(project):
    assert paths(project({"lib/a.py": "", "lib/__pycache__/a.pyc": "x"}, ["lib/"])) == ["lib/a.py"]


def test_requirements_travel_to_the_build_only(project):
    made = project({"run.py": "", "requirements.txt": "x==1\n"}, ["run.py"], requirements="requirements.txt")
    assert [(entry.path, entry.in_image) for entry in context.collect(made)] == [
        ("requirements.txt", False),
        ("run.py", True),
    ]


@pytest.mark.parametrize("line", ["-r other.txt", "--constraint=c.txt", "-e ."])
def test_requirements_that_need_another_file_are_refused(project, line):
    made = project({"run.py": "", "r.txt": f"# first\n{line}\n"}, ["run.py"], requirements="r.txt")
    with pytest.raises(BuildError, match=r"r\.txt:2: refers to another file"):
        context.collect(made)


def test_a_pattern_that_takes_nothing_is_named(project):
    with pytest.raises(BuildError, match=r"takes no file below .*: libs/, \*\.pyx"):
        context.collect(project(TREE, ["run.py", "libs/", "*.pyx"]))


def test_missing_context_and_requirements(project):
    with pytest.raises(BuildError, match="is not a folder"):
        context.collect(project({}, ["x"], context="nowhere"))
    with pytest.raises(BuildError, match=r"cannot read .*r\.txt"):
        context.collect(project({"x": ""}, ["x"], requirements="r.txt"))


def test_a_model_is_refused_but_empty_files_are_nobodys_model(project):
    made = project({"a.bin": "weights", "__init__.py": ""}, ["*"], models=[b"weights", b""])
    with pytest.raises(BuildError, match=r"a\.bin is the model models/0"):
        context.collect(made)
    assert paths(project({}, ["*.py"], models=[b"weights", b""])) == ["__init__.py"]


def test_a_very_large_file_is_refused_unread(project):
    made = project({"run.py": ""}, ["*"])
    with (made.root / "big.bin").open("wb") as file:
        file.truncate(context.LARGEST_FILE + 1)
    with pytest.raises(BuildError, match=r"big\.bin has 100\.0 MB"):
        context.collect(made)


def test_links(project, tmp_path_factory):
    made = project({"lib/a.py": "a"}, ["lib/"])
    (made.root / "lib/same.py").symlink_to("a.py")
    assert [entry.sha256 for entry in context.collect(made)] == [hashlib.sha256(b"a").hexdigest()] * 2
    outside = tmp_path_factory.mktemp("outside") / "secret"
    outside.write_text("x")
    link = made.root / "lib/out"
    for target, message in (
        (outside, "outside the context"),
        ("gone", "cannot read"),
        (".", "no regular file"),
    ):
        link.symlink_to(target)
        with pytest.raises(BuildError, match=message):
            context.collect(made)
        link.unlink()


def test_a_pipe_is_refused_and_never_opened(project):
    made = project({"lib/a.py": ""}, ["lib/"])
    os.mkfifo(made.root / "lib/pipe")
    with pytest.raises(BuildError, match="no regular file"):
        context.collect(made)


@pytest.mark.parametrize(
    ("files", "include", "more"),
    [
        ({"lib/a.py": ""}, ["lib"], {}),
        ({"x.py/a.txt": ""}, ["*.py"], {}),
        ({"app/a.py": "", "app/r.txt": ""}, ["app/**/*.py"], {"requirements": "app/r.txt"}),
        ({"it's.py": "", "it-s.py": ""}, ["it's.py", "it-s.py/"], {}),
    ],
)
def test_what_copy_could_not_take_exactly_is_refused(project, files, include, more):
    with pytest.raises(BuildError, match=r"image\.include"):
        context.collect(project(files, include, **more))


def test_staging_copies_exactly_the_entries_with_fixed_modes_and_times(project, tmp_path_factory):
    made = project(TREE, ["lib/", "run.py"], exclude=["**/*.csv"])
    stages = [tmp_path_factory.mktemp("stage") for _ in range(2)]
    for stage in stages:
        context.stage(made, context.collect(made), stage)
        (made.root / "run.py").chmod(0o640)
    found = [
        {str(p.relative_to(stage)): (p.stat().st_mode, p.stat().st_mtime) for p in [stage, *stage.rglob("*")]}
        for stage in stages
    ]
    assert found[0] == found[1]
    assert {path for path in found[0] if path.endswith(".py")} == {"lib/a.py", "lib/deep/b.py", "run.py"}


def test_a_file_that_changes_during_the_build_is_noticed(project, tmp_path_factory):
    made = project({"run.py": "one"}, ["run.py"])
    entries = context.collect(made)
    (made.root / "run.py").write_text("two")
    with pytest.raises(BuildError, match="changed during the build"):
        context.stage(made, entries, tmp_path_factory.mktemp("stage"))


parts = st.text(st.sampled_from("ab.*?"), min_size=1, max_size=4)
paths_of_parts = st.lists(st.text(st.sampled_from("ab."), min_size=1, max_size=3), min_size=1, max_size=3)


@given(pattern=st.lists(parts, min_size=1, max_size=3).map("/".join), path=paths_of_parts)
def test_a_pattern_is_looked_for_wherever_it_could_take_something(pattern, path):
    path = [part for part in path if part.strip(".")] or ["a"]
    if patterns.takes(pattern, "/".join(path)):
        assert all(patterns.may_take_below(pattern, "/".join(path[:depth])) for depth in range(1, len(path)))


@given(name=st.text(st.characters(exclude_categories=["C"], exclude_characters="/*?"), min_size=1))
def test_without_wildcards_a_pattern_takes_itself_alone(name):
    if name in {".", ".."}:
        return
    assert patterns.takes(name, name)
    assert patterns.takes(f"{name}/", f"{name}/below")
    assert not patterns.takes(f"{name}/", name)
    assert not patterns.takes(name, f"{name}x")
