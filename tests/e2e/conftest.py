"""The reference project in a local cloud of its own, and its command line as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from splitbake import local
from splitbake.demo import scene
from splitbake.project import Project

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class World:
    """A project with what surrounds it."""

    project: Project
    environment: dict[str, str]
    cloud: local.Cloud

    def splitbake(self, *arguments: str, **variables: str) -> Outcome:
        """Run ``splitbake ARGUMENTS`` in the project's folder."""
        done = subprocess.run(
            [sys.executable, "-m", "splitbake", *arguments],
            cwd=self.project.root,
            env={**os.environ, **self.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def client(self, service: str) -> Any:
        return self.project.cloud().client(service)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The reference project before splitbake ever touched it."""
    with made_world(tmp_path_factory) as made:
        yield made


@pytest.fixture(scope="module")
def own_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The same in a cloud that only the tests of one module see."""
    with made_world(tmp_path_factory) as made:
        yield made


@contextmanager
def made_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Start a cloud with everything around the reference project; end it with the block."""
    directory = tmp_path_factory.mktemp("cloud")
    project = scene.copy_project(REPOSITORY, tmp_path_factory.mktemp("project"))
    assets = tmp_path_factory.mktemp("assets")
    scene.prepare_assets(REPOSITORY, assets)
    cloud = local.up(directory)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in local.foreign(os.environ):
                patch.delenv(name, raising=False)
            for name, value in cloud.environment().items():
                patch.setenv(name, value)
            scene.fill(project, project.cloud(), assets, lambda line: None)
            yield World(project, cloud.environment(), cloud)
    finally:
        local.down(directory)


@pytest.fixture
def edited(world: World) -> Iterator[Callable[[str, str, str], None]]:
    """Replace text in a file of the project for one test: ``edited(path, old, new)``."""
    originals: dict[Path, bytes] = {}

    def edit(name: str, old: str, new: str) -> None:
        path = world.project.root / name
        originals.setdefault(path, path.read_bytes())
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    yield edit
    for path, content in originals.items():
        path.write_bytes(content)
