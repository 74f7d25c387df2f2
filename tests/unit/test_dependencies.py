"""Where the dependencies image comes from: the state, the tag in the repository, or a build, and who was quicker."""

from __future__ import annotations

from typing import Any

import pytest

from splitbake import artifact as artifacts
from splitbake import ecr, registry
from splitbake.artifact import Dependencies
from splitbake.bake import dependencies, found
from splitbake.bake.builders import Made, Order
from splitbake.bake.dependencies import Room
from splitbake.bake.weights import OverBudgetError
from splitbake.ecr import RemoteImage
from splitbake.errors import BuildError, CloudError
from splitbake.ui import silent

URI = "registry.example/faces"


class World:
    """A repository that answers by digest, a tag that may be there, and a builder."""

    def __init__(self, small: Any, cloud: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        small.manifest["image"].pop("requirements")
        self.project, self.cloud = small.project, cloud
        self.tagged: list[Dependencies | CloudError | None] = []
        self.looked = 0
        self.orders: list[Order] = []
        self.refusal: BuildError | None = None
        monkeypatch.setattr(found, "dependencies", self._look)
        monkeypatch.setattr(ecr, "find_image", lambda *_args, digest: RemoteImage(digest, 1))
        load = registry.load
        ours = registry.IMAGE_BUILDERS
        monkeypatch.setattr(registry, "load", lambda of, name: (lambda: self) if of is ours else load(of, name))

    def _look(self, *_: Any) -> Dependencies | None:
        self.looked += 1
        there = self.tagged.pop(0) if self.tagged else None
        if isinstance(there, CloudError):
            raise there
        return there

    def health(self) -> None:
        return

    def make(self, order: Order, _say: Any) -> Made:
        self.orders.append(order)
        if self.refusal:
            raise self.refusal
        return Made("sha256:made", 5)

    def ensure(self) -> Dependencies:
        wanted, room = dependencies.read(self.project), Room(100, None)
        return dependencies.ensure(self.project, self.cloud, URI, wanted, room=room, say=silent)

    def theirs(self) -> Dependencies:
        key = dependencies.read(self.project).key
        return Dependencies(key=key, digest="sha256:theirs", location=URI, size=7, created=artifacts.now())


@pytest.fixture
def world(small, cloud, monkeypatch) -> World:
    return World(small, cloud, monkeypatch)


def test_what_is_nowhere_is_built_once(world):
    made = world.ensure()
    assert (made.digest, made.size) == ("sha256:made", 5)
    assert world.orders[0].name == f"{URI}:deps-{made.key}"
    assert world.ensure() == made
    assert (len(world.orders), world.looked) == (1, 1), "the state knows it now"


def test_what_the_repository_has_under_the_tag_is_taken_and_remembered(world):
    world.tagged = [world.theirs()]
    assert world.ensure().digest == world.ensure().digest == "sha256:theirs"
    assert world.orders == []


def test_a_push_that_somebody_else_was_quicker_with_takes_theirs(world):
    world.refusal = BuildError("could not push it: tag invalid: the tag is immutable")
    world.tagged = [None, world.theirs()]
    assert world.ensure().digest == "sha256:theirs"
    assert world.ensure().digest == "sha256:theirs"
    assert len(world.orders) == 1


@pytest.mark.parametrize("there", [None, CloudError("ECR is away")])
def test_a_build_that_fails_says_why_whatever_the_repository_says(world, there):
    world.refusal = BuildError("no such distribution")
    world.tagged = [None, there]
    with pytest.raises(BuildError, match="no such distribution"):
        world.ensure()


def test_dependencies_over_the_budget_are_not_looked_for_elsewhere(world):
    world.refusal = OverBudgetError(7, 5, [], compressed=False)
    with pytest.raises(OverBudgetError):
        world.ensure()
    assert world.looked == 1
