"""What the local cloud takes back from the engine, and what it says where the engine does not play along."""

from __future__ import annotations

from types import SimpleNamespace

import docker
import pytest
import requests

from splitbake.errors import LocalCloudError, ToolError
from splitbake.local import engine, images


def refusal(code, text="no"):
    kind = docker.errors.NotFound if code == 404 else docker.errors.APIError
    return kind(text, response=SimpleNamespace(status_code=code, reason="", url=""), explanation=text)


class Thing:
    """A container, volume or network; removing it raises what it is told to."""

    def __init__(self, name, problem=None):
        self.name, self.problem, self.happened = name, problem, []

    def remove(self, **_):
        self.happened.append("remove")
        if self.problem:
            raise self.problem

    def wait(self, condition):
        self.happened.append(condition)


def engine_with(containers=(), volumes=(), networks=()):
    def listed(things):
        return SimpleNamespace(list=lambda **_: list(things))

    images_ = SimpleNamespace(remove=lambda **_: None)
    api = SimpleNamespace(images=lambda **_: [])
    return SimpleNamespace(
        containers=listed(containers), volumes=listed(volumes), networks=listed(networks), images=images_, api=api
    )


def test_a_container_that_somebody_else_removes_is_waited_for():
    going, network = Thing("going", refusal(409)), Thing("network")
    assert engine.sweep(engine_with([going], networks=[network]), "c1", "") == ["container going", "network network"]
    assert going.happened == ["remove", "removed"]


def test_what_cannot_be_removed_does_not_keep_the_rest():
    stuck, gone, network = Thing("stuck", refusal(500, "busy")), Thing("gone", refusal(404)), Thing("network")
    client = engine_with([stuck, gone], [Thing("volume", refusal(409, "in use"))], [network])
    with pytest.raises(docker.errors.APIError, match="busy"):
        engine.sweep(client, "c1", "")
    assert network.happened == ["remove"]


def test_an_engine_that_does_not_answer_any_more_is_told():
    with pytest.raises(ToolError, match="Docker failed while sweeping: read timed out"), engine.refusals("sweeping"):
        raise requests.exceptions.ReadTimeout("read timed out")


def bases(containers=(), networks=()):
    """An engine without base images, as far as a purge goes."""

    def gone(tag):
        raise docker.errors.ImageNotFound("gone")

    api = SimpleNamespace(containers=lambda **_: list(containers), networks=lambda **_: list(networks))
    return SimpleNamespace(images=SimpleNamespace(list=lambda **_: [], remove=gone), api=api)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("models/a", "runtimes/b", "local/instance-1.tar"):
        (tmp_path / "splitbake" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "splitbake" / name).touch()
    return tmp_path / "splitbake"


def test_a_purge_takes_what_belongs_to_the_local_cloud_only(cache):
    assert images.purge(bases()) == [f"cache {cache / 'local'}"]
    assert sorted(path.name for path in cache.iterdir()) == ["models", "runtimes"]


@pytest.mark.parametrize("kind", ["containers", "networks"])
def test_a_cloud_that_is_up_keeps_its_bases_even_while_it_is_idle(cache, kind):
    with pytest.raises(LocalCloudError, match="still there: c0ffee00") as problem:
        images.purge(bases(**{kind: [{"Labels": {engine.LABEL: "c0ffee00"}}]}))
    assert "docker network ls" in problem.value.hint
    assert (cache / "local" / "instance-1.tar").exists()


def test_building_a_base_drops_the_archives_of_older_recipes(cache, monkeypatch):
    loaded = []

    def get(tag):
        if not loaded:
            raise docker.errors.ImageNotFound("not yet")
        return SimpleNamespace(id="sha256:1")

    client = SimpleNamespace(images=SimpleNamespace(get=get, load=loaded.append))
    monkeypatch.setattr(images, "_build", lambda recipe, archive: archive.touch())
    (cache / "local" / "python-1.tar").touch()
    assert images._ensure(client, images.INSTANCE, lambda _: None) == "sha256:1"
    kept = sorted(path.name for path in (cache / "local").glob("*.tar"))
    assert kept == [f"instance-{images.INSTANCE.digest[:12]}.tar", "python-1.tar"]
