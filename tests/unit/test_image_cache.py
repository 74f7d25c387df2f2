"""``image.cache``: what a builder that can is asked for, what one that cannot is not, and where it must not lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splitbake.bake import dependencies, docker
from splitbake.bake.builders import Made, Order
from splitbake.bake.docker import DockerBuilder
from splitbake.bake.engines import Access, Engine
from splitbake.ecr import Credentials
from splitbake.errors import ManifestError
from splitbake.project import Project

CACHE = "registry.example/faces-cache:faces-amd64"
FLAGS = [
    f"--cache-from=type=registry,ref={CACHE}",
    f"--cache-to=type=registry,ref={CACHE},mode=max,image-manifest=true,oci-mediatypes=true,ignore-error=true",
]
#: What ``docker buildx inspect`` says of the builder in the engine, and of one in a container.
WITHIN = "Name:   default\nDriver: docker\n\nNodes:\nName: default\nPlatforms: linux/amd64, linux/386\n"
BESIDE = "Name:   ci\nDriver: docker-container\n\nNodes:\nName: ci0\nPlatforms: linux/amd64*\n"


def order(cache: str | None = CACHE) -> Order:
    values: dict[str, Any] = {
        "context": Path("context"),
        "platform": "linux/amd64",
        "repository": "registry.example/app",
        "tag": "deps-1",
        "arguments": {},
        "secrets": {},
        "network": None,
        "credentials": Credentials("registry.example", "c2VjcmV0"),
        "budget": 100,
        "project": None,
        "cloud": None,
        "log": Path("image.log"),
        "cache": cache,
    }
    return Order(**values)


def asked(monkeypatch, inspected: str, cache: str | None = CACHE) -> tuple[list[str], list[str]]:
    """What the client is asked for, and what is said."""
    said: list[str] = []
    seen: list[list[str]] = []

    def make(self, given: Order, _say: Any) -> Made:
        seen.append(self.build(given, Access(Path("config"), ("--config", "config"))))
        return Made("sha256:1", 1)

    monkeypatch.setattr(DockerBuilder, "_inspected", lambda _self: inspected)
    monkeypatch.setattr(Engine, "make", make)
    DockerBuilder().make(order(cache), said.append)
    (command,) = seen
    return command, said


def test_a_builder_beside_the_engine_reads_and_writes_the_cache(monkeypatch):
    command, said = asked(monkeypatch, BESIDE)
    assert command[:5] == ["docker", "--config", "config", "buildx", "build"]
    assert [option for option in command if "cache" in option] == FLAGS
    assert said == []


def test_the_builder_in_the_engine_cannot_and_says_so_once(monkeypatch):
    command, said = asked(monkeypatch, WITHIN)
    assert [option for option in command if "cache" in option] == []
    assert said == ["this engine's own builder cannot export a cache, so image.cache does nothing (docs/ecr.md)"]


def test_without_a_cache_nobody_is_asked(monkeypatch):
    command, said = asked(monkeypatch, WITHIN, cache=None)
    assert (said, [option for option in command if "cache" in option]) == ([], [])


@pytest.mark.parametrize(("said", "driver"), [(WITHIN, "docker"), (BESIDE, "docker-container"), ("", "")])
def test_which_builder_it_is(said, driver):
    assert docker.driver(said) == driver


def test_a_project_and_an_architecture_have_a_cache_of_their_own(small, cloud):
    small.manifest["image"]["cache"] = "faces-cache"
    said: list[str] = []
    name = dependencies._cache(small.project, cloud, said.append)
    (there,) = cloud.client("ecr").describe_repositories(repositoryNames=["faces-cache"])["repositories"]
    assert name == f"{there['repositoryUri']}:faces-amd64"
    assert (there["imageTagMutability"], said) == ("MUTABLE", [])
    cloud.client("ecr").put_image_tag_mutability(repositoryName="faces-cache", imageTagMutability="IMMUTABLE")
    dependencies._cache(small.project, cloud, said.append)
    assert said == ["repository faces-cache is left as it is, though not as wanted: its tags are immutable"]
    del small.manifest["image"]["cache"]
    assert dependencies._cache(small.project, cloud, said.append) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cache": "faces", "ecr": {"immutable": True}}, "the tags of image.repository are immutable; name another"),
        ({"cache": "cache", "builder": "podman"}, "only the builder docker keeps layers there"),
        ({"cache": "faces"}, ""),
        ({"cache": "cache", "ecr": {"immutable": True}}, ""),
    ],
)
def test_a_cache_that_could_not_be_kept_is_refused(small, changes, told):
    small.manifest["image"].update(changes)
    path = small.root / "splitbake.yaml"
    path.write_text(json.dumps(small.manifest))
    if not told:
        assert Project(path).manifest.image.cache == changes["cache"]
        return
    with pytest.raises(ManifestError, match=told):
        _ = Project(path).manifest
