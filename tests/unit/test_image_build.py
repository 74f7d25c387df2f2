"""Putting the image together: what is read once, what is pushed where a budget is broken, and what the image says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import IO, Any

import pytest

from splitbake import ecr, fingerprint, registry
from splitbake.artifact import Weight
from splitbake.bake import dependencies, found, image, weights
from splitbake.bake.builders import Made, Order
from splitbake.ecr import Credentials, RemoteImage
from splitbake.errors import BuildError, ToolError
from splitbake.oci import layer as layers
from splitbake.oci.image import Image
from splitbake.ui import silent

URI = "registry.example/faces"
PIN = "numpy==2.0.0 --hash=sha256:" + "1" * 64 + "\n"
OTHER = "other==2.0 --hash=sha256:" + "0" * 64 + "\n"
#: Of the dependencies, as the builder says it and as the registry has it.
SIZE, PACKED = 4000, 3000


class World:
    """A registry in memory, and a builder whose image takes as much as it is told."""

    def __init__(self, small: Any, cloud: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.small, self.cloud = small, cloud
        self.requirements = small.root / "app/requirements.txt"
        self.requirements.write_text(PIN)
        self.blobs: set[str] = set()
        self.images: dict[str, Image] = {}
        self.orders: list[Order] = []
        self.built: list[str] = []
        self.history: list[dict[str, str]] | None = [{"created_by": "COPY /opt/python"}]
        monkeypatch.setattr(image, "Repository", lambda *_: self)
        monkeypatch.setattr(ecr, "ensure_repository", lambda *_: URI)
        monkeypatch.setattr(ecr, "credentials", lambda _cloud: Credentials("registry.example", "eDp5"))
        monkeypatch.setattr(ecr, "find_image", lambda *_, digest: RemoteImage(digest, 1))
        monkeypatch.setattr(found, "dependencies", lambda *_: None)
        load, ours = registry.load, registry.IMAGE_BUILDERS
        monkeypatch.setattr(registry, "load", lambda of, name: (lambda: self) if of is ours else load(of, name))
        for name in ("SOURCE_DATE_EPOCH", "GIT_DIR"):
            monkeypatch.delenv(name, raising=False)

    uri = URI

    def health(self) -> None:
        return

    def make(self, order: Order, _say: Any) -> Made:
        self.orders.append(order)
        self.built.append((order.context / "requirements.txt").read_text())
        heaviest = (Weight(kind="distribution", size=SIZE, name="numpy 2.0.0"),)
        weights.require_within(SIZE, order.budget, heaviest)
        weights.require_compressed_within(PACKED, order.compressed_budget, heaviest)
        blob = layers.Layer(layers.Descriptor("layer", "sha256:" + "d" * 64, PACKED), "sha256:" + "e" * 64)
        config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [blob.diff_id]}}
        base = Image((blob,), config | ({"history": self.history} if self.history else {}))
        self.images[base.digest] = base
        return Made(base.digest, SIZE, heaviest)

    def has(self, digest: str) -> bool:
        return digest in self.blobs

    def image(self, reference: str) -> Image | None:
        return self.images.get(reference)

    def upload(self, _content: IO[bytes], digest: str, _size: int) -> None:
        self.blobs.add(digest)

    def put(self, made: Image, _tag: str) -> str:
        self.images[made.digest] = made
        return made.digest

    def build(self, **budgets: str) -> Image:
        self.small.manifest["image"] |= budgets
        project = self.small.project
        artifact = image.build(project, self.cloud, fingerprint.inputs(project, "image"), say=silent)
        return self.images[artifact.id]

    def code_sizes(self) -> tuple[int, int]:
        """Bytes of the code as it is, and packed."""
        made = self.build()
        project = self.small.project
        planned = image.layering.plan(project, image.context.collect(project))
        return sum(each.size for each in planned), made.compressed_size - PACKED

    def forget(self) -> None:
        """There are no dependencies any more."""
        self.requirements.write_text(f"# again\n{self.requirements.read_text()}")
        self.orders.clear()
        self.blobs.clear()


@pytest.fixture
def world(small, cloud, monkeypatch) -> World:
    return World(small, cloud, monkeypatch)


# What is read once


def test_requirements_that_are_saved_during_the_build_are_not_built_under_the_key_of_others(world, monkeypatch):
    wanted = dependencies.read(world.small.project)

    def look(*_: Any) -> None:
        world.requirements.write_text(OTHER)

    monkeypatch.setattr(found, "dependencies", look)
    world.build()
    assert world.built == [PIN]
    assert world.orders[0].tag == f"deps-{wanted.key}"
    assert dependencies.read(world.small.project).key != wanted.key


@pytest.mark.parametrize("include", [["lib/"], ["lib/", "requirements.txt"]])
def test_requirements_that_are_saved_while_the_files_are_read_are_told(world, monkeypatch, include):
    world.small.manifest["image"]["include"] = include
    project = world.small.project
    inputs = fingerprint.inputs(project, "image")
    collect = image.context.collect
    for first, then in ((OTHER, PIN), (PIN, OTHER)):
        world.requirements.write_text(first)

        def saved(given: Any, then: str = then) -> Any:
            world.requirements.write_text(then)
            return collect(given)

        with monkeypatch.context() as patch:
            patch.setattr(image.context, "collect", saved)
            with pytest.raises(BuildError, match=r"the project changed .*requirements\.txt"):
                image.build(project, world.cloud, inputs, say=silent)
    assert world.orders == []


# Budgets


def test_the_code_is_weighed_before_dependencies_are_pushed(world):
    code, _ = world.code_sizes()
    world.forget()
    world.build(budget=f"{SIZE + code} B")
    assert world.orders[0].budget == SIZE
    world.forget()
    with pytest.raises(BuildError, match=r", 1 B over image\.budget \(.*\); nothing was pushed\.") as told:
        world.build(budget=f"{SIZE + code - 1} B")
    assert len(world.orders) == 1
    assert world.blobs == set()
    assert f"the image has {image.units.format_size(SIZE + code)} uncompressed" in told.value.message
    assert "numpy 2.0.0" in told.value.message
    assert "lib/deep/er.py" in told.value.message
    assert "code: lib/" in told.value.message


def test_the_compressed_budget_is_asked_before_dependencies_are_pushed(world):
    _, code = world.code_sizes()
    world.forget()
    world.build(compressed_budget=f"{PACKED + code} B")
    assert world.orders[0].compressed_budget == PACKED
    world.forget()
    with pytest.raises(BuildError, match=r"in the registry, 1 B over image\.compressed.*; nothing was pushed\."):
        world.build(compressed_budget=f"{PACKED + code - 1} B")
    assert world.blobs == set()


def test_without_a_compressed_budget_nobody_has_to_compress(world):
    world.build()
    assert world.orders[0].compressed_budget is None


@pytest.mark.parametrize("kind", ["budget", "compressed_budget"])
def test_dependencies_that_are_there_already_stay_and_the_error_says_so(world, kind):
    world.build()
    blobs = {*world.blobs}
    (world.small.root / "app/run.py").write_text("print(2)\n")
    said = "the code was not pushed, its dependencies are in the repository"
    with pytest.raises(BuildError, match=said) as told:
        world.build(**{kind: "3500 B"})
    assert len(world.orders) == 1
    assert world.blobs == blobs
    assert "code: run.py" in told.value.message
    assert "numpy 2.0.0" in told.value.message


@pytest.mark.parametrize("history", [None, [{"created_by": "COPY /opt/python"}]])
def test_layers_have_their_own_names_where_the_base_says_nothing_of_its_history(world, history):
    world.history = history
    world.build()
    with pytest.raises(BuildError, match="in the registry") as told:
        world.build(compressed_budget="1 B")
    lines = [line.split(maxsplit=2) for line in told.value.message.splitlines()]
    named = {line[2] for line in lines if len(line) > 2 and line[1] in ("B", "kB")}
    assert f"{'COPY /opt/python' if history else 'a layer'}" in named
    assert {"code: lib/", "code: run.py", "code: the entry check"} <= named


# What the image says


def test_the_time_of_an_image_is_a_time_or_nothing_is_built(world, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert world.build().config["created"] == "2023-11-14T22:13:20Z"
    world.forget()
    for wrong in ("99999999999999", "yesterday", "-1", "1e9", "\u0661"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(ToolError, match="cannot be of the time") as told:
            world.build()
        assert "SOURCE_DATE_EPOCH" in told.value.hint
    assert world.orders == []


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def labels(made: Image) -> dict[str, str]:
    return {name.rpartition(".")[2]: value for name, value in made.config["config"]["Labels"].items()}


@pytest.fixture
def committed(world, monkeypatch) -> World:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    project = world.small.project
    git(project.root, "init", "--quiet")
    git(project.root, "add", "--all")
    git(project.root, "commit", "--quiet", "--message", "x")
    return world


def test_a_commit_says_what_travels_only_where_it_has_all_of_it(committed):
    root = committed.small.root
    assert len(clean := labels(committed.build())["revision"]) == 40
    (root / "app/notes-2.txt").write_text("not included")
    assert labels(committed.build())["revision"] == clean
    (root / "app/lib/ new\n.py").write_text("never added")
    assert labels(committed.build())["revision"] == f"{clean}-dirty"
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "y")
    assert len(labels(committed.build())["revision"]) == 40
    (root / ".git/info/exclude").write_text("*.gen\n")
    (root / "app/lib/b.gen").write_text("ignored by git, and travels")
    assert labels(committed.build())["revision"].endswith("-dirty")


def test_who_cloned_by_https_and_by_ssh_gets_the_same_image(committed):
    root = committed.small.root
    digests = set()
    for remote in ("https://github.com/o/r", "git@github.com:o/r.git", "ssh://git@github.com/o/r.git/"):
        git(root, "config", "remote.origin.url", remote)
        made = committed.build()
        assert labels(made)["source"] == "https://github.com/o/r"
        digests.add(made.digest)
    assert len(digests) == 1


def test_a_path_of_this_machine_is_in_neither_image_nor_record(committed):
    root = committed.small.root
    for remote in ("/home/me/src/r.git", "../r.git", "file:///home/me/src/r.git"):
        git(root, "config", "remote.origin.url", remote)
        made = committed.build()
        assert "source" not in labels(made)
        statement = json.dumps(committed.small.project.catalog(committed.cloud).provenance(made.digest))
        assert "r.git" not in statement
