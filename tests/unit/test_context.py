"""Which files travel into the image, and which projects are refused."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitbake import context, patterns
from splitbake.errors import BuildError
from splitbake.lock import LockedFile
from splitbake.manifest.image import Image


@pytest.fixture
def project(tmp_path):
    """Make a project of these files (path -> content) that includes these patterns."""

    def make(files: dict[str, str], include: list[str], *, models: list[bytes] = (), **image):
        for path, content in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
        plain = {"base": "x", "mounts": {"models": "/m"}, "command": ["x"], "repository": "x", "budget": "1 GB"}
        wanted = Image.model_validate(plain | {"include": include} | image)
        manifest = SimpleNamespace(image=wanted, contract=1, runtime=None)
        locked = [
            LockedFile(path=f"models/{i}", source="x", size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for i, data in enumerate(models)
        ]
        lock = SimpleNamespace(files=locked, base_ami=SimpleNamespace(architecture="x86_64"))
        return SimpleNamespace(root=tmp_path, manifest=manifest, lock=lock)

    return make


def settle(folder: Path) -> None:
    """Wait until the file system's clock has moved on since anything below ``folder`` changed."""
    newest = max(path.lstat().st_ctime_ns for path in [folder, *folder.rglob("*")])
    while True:
        with tempfile.TemporaryFile(dir=folder) as probe:
            if os.fstat(probe.fileno()).st_ctime_ns > newest:
                return


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
        (["**/run.py", "**/lib/", "**/src"], ["**/deep/"], ["lib/a.py", "lib/x.csv", "run.py", "src/train.py"]),
        (["**"], ["**/lib/", "**/src", "**/note.md"], ["run.py"]),
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
    files = {"lib/a.py": "", "lib/__pycache__/a.pyc": "x", "__pycache__/b.pyc": "x"}
    assert paths(project(files, ["lib/"])) == paths(project({}, ["**"])) == ["lib/a.py"]


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


@pytest.mark.parametrize(
    ("path", "more", "message"),
    [
        ("lib/.env", {}, "likely to hold secrets"),
        ("lib/a.onnx", {}, "look like models"),
        ("lib/a.txt", {"budget": "3 B"}, r"the files for the image have 4 B, more than image\.budget \(3 B\)"),
    ],
)
def test_what_names_and_sizes_tell_is_refused_unread(project, monkeypatch, path, more, message):
    made = project({"run.py": "1", path: "123"}, ["run.py", "lib/"], **more)
    monkeypatch.setattr(context.digests, "read", lambda *_, **__: pytest.fail("a file is read"))
    with pytest.raises(BuildError, match=message):
        context.collect(made)


def test_a_model_that_is_named_itself_may_travel(project):
    assert paths(project({"lib/a.onnx": "1", "lib/b.py": "2"}, ["lib/", "lib/a.onnx"])) == ["lib/a.onnx", "lib/b.py"]


def test_what_git_ignores_stays_behind_where_that_is_asked_for(project):
    files = {".gitignore": "*.log\n", "lib/a.py": "a", "lib/.env": "x", "lib/.gitignore": ".env\n", "lib/a.log": "l"}
    made = project(files, ["lib/"], gitignore=True)
    subprocess.run(["git", "init", "--quiet", made.root], check=True)
    assert paths(made) == ["lib/.gitignore", "lib/a.py"]
    with pytest.raises(BuildError, match=r"takes no file below .*: lib/\*\.log"):
        context.collect(project({}, ["lib/*.log"], gitignore=True))
    with pytest.raises(BuildError, match=r"lib/\.env"):
        context.collect(project({}, ["lib/"]))


def test_what_git_ignores_is_neither_followed_nor_weighed(project):
    made = project({".gitignore": ".venv/\n*.cache\n", "lib/a.py": "a", "lib/.venv/x": ""}, ["lib/"], gitignore=True)
    subprocess.run(["git", "init", "--quiet", made.root], check=True)
    (made.root / "lib/.venv/python").symlink_to("/bin/sh")
    (made.root / "lib/.venv/lib64").symlink_to(".")
    (made.root / "lib/.venv/gone").symlink_to("nowhere")
    with (made.root / "lib/x.cache").open("wb") as file:
        file.truncate(context.LARGEST_FILE + 1)
    assert paths(made) == ["lib/a.py"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (".env", r"hold secrets.*\n  .*/lib/x -> \.env"),
        ("alias", r"hold secrets.*\n  .*/lib/x -> \.env"),
        ("step.env", r"hold secrets.*\n  .*/lib/x -> step\.env"),
        ("weights/a.onnx", r"look like models.*\n  .*/lib/x -> weights/a\.onnx"),
        (".git/config", r"lib/x is a link to \.git/config, which may not travel"),
        ("here/config", r"lib/x is a link to \.git/config, which may not travel"),
        ("private/note", r"lib/x is a link to private/note, which may not travel"),
    ],
)
def test_no_link_brings_under_another_name_what_may_not_travel(project, target, message):
    files = dict.fromkeys([".env", "lib/a.py", "weights/a.onnx", ".git/config", "private/note"], "x")
    made = project(files, ["lib/"], exclude=["private/"])
    for link, leads_to in {"alias": ".env", "step.env": "lib/a.py", "here": ".git"}.items():
        (made.root / link).symlink_to(leads_to)
    (made.root / "lib/x").symlink_to(f"../{target}")
    with pytest.raises(BuildError, match=message):
        context.collect(made)
    assert paths(project({}, ["lib/"], exclude=["private/", "lib/x"])) == ["lib/a.py"]


def test_the_requirements_may_be_a_link_to_what_is_excluded_but_to_no_secret(project):
    made = project({"run.py": "", "deps/r.txt": "x==1\n", ".env": ""}, ["run.py"], requirements="r", exclude=["deps/"])
    (made.root / "r").symlink_to("deps/r.txt")
    assert paths(made) == ["r", "run.py"]
    (made.root / "r").unlink()
    (made.root / "r").symlink_to(".env")
    with pytest.raises(BuildError, match="likely to hold secrets"):
        context.collect(made)


def test_what_git_has_of_a_project_or_submodule_never_travels(project):
    files = {"lib/sub/.git": "gitdir: /home/me/x", "lib/sub/.gitignore": "", ".git/config": "", ".gitignore": ""}
    assert paths(project(files, ["**"])) == [".gitignore", "lib/sub/.gitignore"]


def test_a_file_that_a_mount_would_hide_is_refused(project):
    files = {"run.py": "", "models/note.md": "", "modelsize.py": ""}
    assert paths(project(files, ["*.py"], mounts={"m": "/app/models", "n": "/other"})) == ["modelsize.py", "run.py"]
    for include in (["**"], ["models/"]):
        with pytest.raises(BuildError, match=r"hides these files:\n  .*/models/note\.md$"):
            context.collect(project(files, include, mounts={"m": "/app/models"}))
    with pytest.raises(BuildError, match=r"/srv/run\.py.* hides these files:\n  .*/run\.py$"):
        context.collect(project(files, ["*.py"], mounts={"m": "/srv/run.py"}, workdir="/srv"))


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


def test_a_link_that_is_retargeted_counts_as_its_new_target(project):
    made = project({"lib/a.py": "a", "lib/b.py": "b"}, ["lib/"])
    link = made.root / "lib/link"
    for target in ("a", "b", "a"):
        link.unlink(missing_ok=True)
        link.symlink_to(f"{target}.py")
        settle(made.root)
        for _ in range(2):
            assert context.collect(made)[2].sha256 == hashlib.sha256(target.encode()).hexdigest()


def test_a_circle_of_links_is_refused(project):
    made = project({"lib/a.py": "a"}, ["lib/"])
    (made.root / "lib/one").symlink_to("two")
    (made.root / "lib/two").symlink_to("one")
    with pytest.raises(BuildError, match=r"cannot read .*lib/(one|two)"):
        context.collect(made)


def test_requirements_below_a_link_must_lie_in_the_context_too(project, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "r.txt").write_text("x==1\n")
    made = project({"run.py": "", "in/r.txt": "x==1\n"}, ["run.py"], requirements="link/r.txt")
    (made.root / "link").symlink_to("in")
    assert paths(made) == ["link/r.txt", "run.py"]
    (made.root / "link").unlink()
    (made.root / "link").symlink_to(outside)
    with pytest.raises(BuildError, match="outside the context"):
        context.collect(made)


def test_the_context_may_be_reached_through_a_link(project):
    made = project({"real/lib/a.py": "a"}, ["lib/"], context="src")
    (made.root / "src").symlink_to("real")
    assert paths(made) == ["lib/a.py"]


def test_a_folder_that_cannot_be_listed_is_named(project, monkeypatch):
    made = project({"lib/a.py": "a"}, ["lib/"])

    def refuse(folder: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(context.os, "open", refuse)
    with pytest.raises(BuildError, match=f"cannot list {made.root}/?: .*Permission denied"):
        context.collect(made)


def test_a_file_that_cannot_be_read_is_named(project, monkeypatch):
    made = project({"lib/a.py": "a"}, ["lib/"])

    def refuse(_descriptor, _buffers):
        raise OSError(5, "Input/output error", str(made.root / "lib/a.py"))

    monkeypatch.setattr(context.digests.os, "readv", refuse)
    with pytest.raises(BuildError, match=r"cannot read .*lib/a\.py: Input/output error"):
        context.collect(made)


def test_a_name_that_is_not_utf_8_is_refused(project):
    made = project({"run.py": ""}, ["*"])
    (made.root / os.fsdecode(b"\xff.py")).write_bytes(b"")
    with pytest.raises(BuildError, match=r"udcff\.py' is not UTF-8"):
        context.collect(made)


NAMES = [
    "new\nline",
    " blank ",
    "-rf",
    "'",
    "a.b",
    "a/b",
    "a-b",
    "caf\u00e9",
    "cafe\u0301",
    "日本",
    "\U0001f600",
    "\uffff",
]


def test_names_of_every_kind_travel_in_the_order_of_their_bytes(project):
    made = project(dict.fromkeys(NAMES, "x"), ["**"])
    assert [path.encode() for path in paths(made)] == sorted(name.encode() for name in NAMES)


@pytest.mark.parametrize("place", [".", "build"])
def test_the_cache_itself_never_travels(project, place):
    made = project({f"{place}/run.py": "x"}, ["**"], context=place)
    settle(made.root)
    first = context.collect(made)
    assert (made.root / context.CACHE).is_file()
    assert [entry.path for entry in first] == ["run.py"]
    assert context.collect(made) == first


def test_a_project_that_is_at_rest_is_not_read_again(project, monkeypatch):
    made = project(TREE, ["lib/", "*.py"])
    settle(made.root)
    first = context.collect(made)
    monkeypatch.setattr(context.digests.os, "readv", lambda *_: pytest.fail("a file is read"))
    assert context.collect(made) == first
    with pytest.raises(pytest.fail.Exception):
        context.collect(made, cached=False)


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_left_as_it_was(project, enabled):
    made = project(TREE, ["lib/"])
    try:
        if not enabled:
            gc.disable()
        context.collect(made)
        assert gc.isenabled() == enabled
        shutil.rmtree(made.root / "lib")
        with pytest.raises(BuildError):
            context.collect(made)
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_a_pipe_is_refused_and_never_opened(project):
    made = project({"lib/a.py": ""}, ["lib/"])
    os.mkfifo(made.root / "lib/pipe")
    with pytest.raises(BuildError, match="no regular file"):
        context.collect(made)


# What may happen to a file between two scans; each takes its path and a byte, and none changes its size.
def write(file: Path, byte: bytes) -> None:
    file.write_bytes(byte)


def write_at_the_old_time(file: Path, byte: bytes) -> None:
    before = file.stat()
    file.write_bytes(byte)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path, byte: bytes) -> None:
    before, other = file.stat(), file.with_name("other")
    other.write_bytes(byte)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(file)


def touch(file: Path, byte: bytes) -> None:
    os.utime(file, ns=(0, byte[0]))


def chmod(file: Path, byte: bytes) -> None:
    file.chmod(0o755 if byte[0] % 2 else 0o644)


def swap(file: Path, byte: bytes) -> None:
    folder = file.parent
    file.rename(folder / "aside")
    (folder / byte.decode()).rename(file)
    (folder / "aside").rename(folder / byte.decode())


def relink(file: Path, byte: bytes) -> None:
    link = file.parent / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(byte.decode())


def clone(file: Path, byte: bytes) -> None:
    """Copy the tree with its times and its cache, and put the copy in its place."""
    root = file.parents[1]
    shutil.copytree(root, f"{root}.copy", symlinks=True)
    shutil.rmtree(root)
    Path(f"{root}.copy").rename(root)


def rest(file: Path, byte: bytes) -> None:
    settle(file.parent)


@settings(max_examples=50)
@given(
    happened=st.lists(
        st.tuples(
            st.sampled_from([write, write_at_the_old_time, replace, touch, chmod, swap, relink, clone, rest, rest]),
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from([b"a", b"b", b"c"]),
        ),
        max_size=12,
    )
)
def test_whatever_happens_the_cache_changes_no_answer(happened):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        (root / "lib").mkdir(parents=True)
        for name in "abc":
            (root / "lib" / name).write_text(name)
        image = Image.model_validate(
            {"base": "x", "mounts": {"models": "/m"}, "command": ["x"], "repository": "x", "budget": "1 GB"}
            | {"include": ["**"]}
        )
        made = SimpleNamespace(root=root, manifest=SimpleNamespace(image=image), lock=SimpleNamespace(files=[]))
        for change, name, byte in happened:
            if not (change is swap and name.encode() == byte):
                change(root / "lib" / name, byte)
            assert context.collect(made) == context.collect(made, cached=False)


parts = st.just("**") | st.text(st.sampled_from("ab.*?"), min_size=1, max_size=4)
paths_of_parts = st.lists(st.text(st.sampled_from("ab."), min_size=1, max_size=3), min_size=1, max_size=3)
some_patterns = st.builds(
    "{}{}".format, st.lists(parts, min_size=1, max_size=3).map("/".join), st.sampled_from(["", "/"])
)
some_paths = paths_of_parts.map(lambda path: "/".join(part for part in path if part.strip(".")) or "a")


@given(pattern=some_patterns, path=some_paths)
def test_a_pattern_is_looked_for_wherever_it_could_take_something(pattern, path):
    if patterns.takes(pattern, path):
        folders = [str(parent) for parent in PurePosixPath(path).parents][:-1]
        assert all(patterns.may_take_below(pattern, folder) for folder in folders)


@given(pattern=some_patterns, path=some_paths)
def test_a_pattern_takes_what_it_names_and_all_below_a_folder_that_it_names(pattern, path):
    folders = [str(parent) for parent in PurePosixPath(path).parents][:-1]
    below = any(patterns.names(pattern, folder) for folder in folders)
    assert patterns.takes(pattern, path) == (below or (not pattern.endswith("/") and patterns.names(pattern, path)))


@given(wanted=st.lists(some_patterns, max_size=4), path=some_paths)
def test_many_patterns_at_once_are_each_on_its_own(wanted, path):
    assert bool(patterns.naming(wanted)(path)) == any(patterns.names(pattern, path) for pattern in wanted)


@given(pattern=some_patterns, among=st.lists(some_paths, unique=True).map(sorted))
def test_what_is_taken_among_many(pattern, among):
    assert list(patterns.taken(pattern, among)) == [path for path in among if patterns.takes(pattern, path)]


@given(wanted=some_patterns, unwanted=st.lists(some_patterns, max_size=2), tree=st.lists(some_paths, unique=True))
def test_a_scan_finds_exactly_what_the_patterns_take(wanted, unwanted, tree):
    """However it cuts the search short."""
    tree = [path for path in tree if not any(other.startswith(f"{path}/") for other in tree)]
    image = Image.model_construct(include=(wanted,), exclude=tuple(unwanted))
    with tempfile.TemporaryDirectory() as folder:
        for path in tree:
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_bytes(b"")
        search = context._Search(image, Path(folder), Path(folder) / "none")
        search.run()
    assert sorted(search.paths) == sorted(
        path
        for path in tree
        if patterns.takes(wanted, path) and not any(patterns.takes(pattern, path) for pattern in unwanted)
    )


@given(name=st.text(st.characters(exclude_categories=["C"], exclude_characters="/*?"), min_size=1))
def test_without_wildcards_a_pattern_takes_itself_alone(name):
    if name in {".", ".."}:
        return
    assert patterns.takes(name, name)
    assert patterns.takes(f"{name}/", f"{name}/below")
    assert not patterns.takes(f"{name}/", name)
    assert not patterns.takes(name, f"{name}x")
