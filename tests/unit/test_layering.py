"""Which file goes into which layer, and in which order git would have them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake import context, layering, patterns
from splitbake.context import Entry
from splitbake.errors import SourceError
from splitbake.generate import entrypoint
from splitbake.sources import history

INCLUDE = ("lib/", "**/*.py", "lib/hot.py", "run.py")


@pytest.fixture(autouse=True)
def entry_check(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {entrypoint.SCRIPT: "#!/bin/sh\n", entrypoint.NEEDS: "contract\t1\n"}
    monkeypatch.setattr(entrypoint, "render", lambda *_: texts)


def project(*include: str, order: tuple[str, ...] | None = None):
    image = SimpleNamespace(include=include, workdir="/app")
    return SimpleNamespace(manifest=SimpleNamespace(image=image), lock=SimpleNamespace(order=order))


def entry(name: str, **changes) -> Entry:
    return Entry(**{"path": name, "mode": 0o644, "size": 1, "sha256": "0" * 64, **changes})


def plan(paths: list[str], *include: str, order: tuple[str, ...] | None = None) -> list[tuple[str, list[str]]]:
    _, *layers = layering.plan(project(*include, order=order), [entry(path) for path in paths])
    return [(layer.name, [each.path for each in layer.entries]) for layer in layers]


def test_a_file_is_in_the_layer_of_the_last_pattern_that_takes_it():
    paths = ["lib/a.txt", "lib/b.py", "lib/hot.py", "run.py"]
    assert plan(paths, *INCLUDE) == [
        ("lib/", ["lib/a.txt"]),
        ("**/*.py", ["lib/b.py"]),
        ("lib/hot.py", ["lib/hot.py"]),
        ("run.py", ["run.py"]),
    ]


def test_a_layer_without_files_is_left_out():
    assert plan(["lib/a.py"], "lib/", "**") == [("**", ["lib/a.py"])]


def test_the_locked_order_goes_before_the_declared_one():
    assert [name for name, _ in plan(["a", "b"], "a", "b", order=("b", "a"))] == ["b", "a"]


INSIDE_EACH_OTHER = ("lib/", "lib/data/", "**/*.py", "lib/hot.py", "**")


@given(
    include=st.lists(st.sampled_from(INSIDE_EACH_OTHER), unique=True, min_size=1),
    paths=st.lists(st.sampled_from(["lib/a.py", "lib/data/big", "lib/data/b.py", "lib/hot.py", "x"]), unique=True),
    data=st.data(),
)
def test_the_locked_order_moves_layers_and_no_files(include, paths, data):
    travelling = [path for path in paths if any(patterns.takes(pattern, path) for pattern in include)]
    locked = tuple(data.draw(st.permutations(include)))
    found = plan(travelling, *include, order=locked)
    assert sorted(found) == sorted(plan(travelling, *include))
    assert [name for name, _ in found] == [name for name in locked if name in dict(found)]


def test_what_only_the_build_reads_is_in_no_layer():
    requirements = entry("requirements.txt", in_image=False)
    assert len(layering.plan(project("**"), [requirements])) == 1


@given(st.lists(st.sampled_from(["a", "lib/a.py", "lib/hot.py", "run.py", "x/y/z.py", "lib/b"]), unique=True))
def test_every_file_is_in_exactly_one_layer(paths):
    wanted = sorted(path for path in paths if any(patterns.takes(pattern, path) for pattern in INCLUDE))
    found = sorted(path for _, inside in plan(wanted, *INCLUDE) for path in inside)
    assert found == wanted


def test_the_entry_check_is_the_lowest_layer_and_brings_its_texts():
    lowest = layering.plan(project("run.py"), [entry("run.py")])[0]
    assert lowest.folder == "/opt/splitbake"
    assert [(each.path, each.mode) for each in lowest.entries] == [("entry", 0o755), ("needs", 0o644)]
    assert lowest.texts == {"entry": "#!/bin/sh\n", "needs": "contract\t1\n"}


@pytest.mark.parametrize("change", [{"path": "b"}, {"mode": 0o755}, {"sha256": "1" * 64}])
def test_the_key_of_a_layer_changes_with_any_of_its_files(change):
    def key(*entries: Entry) -> str:
        return layering.Planned("x", "/app", entries, {}).key

    assert key(entry("a")) != key(entry("a", **change))
    assert key(entry("a")) == layering.Planned("another name", "/app", (entry("a"),), {}).key
    assert key(entry("a")) != layering.Planned("x", "/srv", (entry("a"),), {}).key


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)


def commit(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / path).open("a", encoding="utf-8") as file:
            file.write("x\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "x")


def test_what_changes_least_comes_first(repository):
    commit(repository, "app/lib/a.py", "app/lib/b.py", "app/run.py", "app/é\n.txt", "README")
    for _ in range(3):
        commit(repository, "app/run.py")
    commit(repository, "app/lib/a.py", "app/lib/b.py")  # one commit counts once
    commit(repository)
    include = ("run.py", "lib/", "**/*.txt", "never")
    assert history.order(include, repository / "app") == ("never", "**/*.txt", "lib/", "run.py")


def test_a_commit_counts_for_the_pattern_whose_layer_has_the_file(repository):
    commit(repository, "lib/data/big", "lib/a.py")
    commit(repository, "lib/data/big")
    assert history.order(("lib/", "lib/data/"), repository) == ("lib/", "lib/data/")
    for _ in range(2):
        commit(repository, "lib/a.py")
    assert history.order(("lib/", "lib/data/"), repository) == ("lib/data/", "lib/")


def test_commits_of_what_never_travels_do_not_count(repository):
    commit(repository, "lib/a.py", "run.py")
    commit(repository, "run.py")
    for _ in range(3):
        commit(repository, "lib/notes/a.md", "lib/b.md", "lib/__pycache__/a.pyc")
    include, exclude = ("run.py", "lib/"), ("lib/notes/", "**/*.md")
    assert history.order(include, repository) == ("run.py", "lib/")
    assert history.order(include, repository, (*exclude, *context.LEFTOVERS)) == ("lib/", "run.py")


def test_equals_stay_as_they_were_declared(repository):
    commit(repository, "b", "a")
    assert history.order(("b", "a"), repository) == ("b", "a")


def test_without_all_of_the_history_nothing_is_measured(repository, tmp_path_factory):
    commit(repository, "a")
    commit(repository, "a")
    shallow = tmp_path_factory.mktemp("shallow") / "clone"
    git(repository, "clone", "--quiet", "--depth=1", f"file://{repository}", str(shallow))
    with pytest.raises(SourceError, match="only a part of the history") as told:
        history.order(("a",), shallow)
    assert "fetch-depth: 0" in told.value.hint
    with pytest.raises(SourceError, match="git cannot tell how"):
        history.order(("a",), tmp_path_factory.mktemp("none"))
