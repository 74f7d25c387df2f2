"""Verifying an AMI: who may do it at a time, how long it may take, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from splitbake import lease, verify
from splitbake.artifact import Artifact, Check, Report
from splitbake.cli import cli, run
from splitbake.inventory import Inventory
from splitbake.ui import silent
from splitbake.verify import ami, suite

FINGERPRINT = "sha256:" + "a" * 64
LEASE = f"verify/123456789012/eu-west-1/ami/{FINGERPRINT}"
ARTIFACT = Artifact(
    half="ami",
    id="ami-0aaaaaaaaaaaaaaaa",
    location="eu-west-1",
    fingerprint=FINGERPRINT,
    created="2026-01-01",
    seconds=1.0,
    size=1,
)
RUNTIME = {"requirements": "gpu.txt", "python": "3.11", "budget": "2 GB"}


class BootedError(Exception):
    """Instances were asked for."""


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, small: Any, cloud: Any) -> list[bool]:
    """Instead of booting: whether the lease was held when instances were asked for."""
    seen: list[bool] = []

    @contextmanager
    def booted(*_: Any, **__: Any) -> Iterator[Any]:
        holding = lease.last(small.project.store(cloud), LEASE)
        seen.append(holding is not None and holding.is_held(lease.now()))
        raise BootedError
        yield

    monkeypatch.setattr(ami, "booted", booted)
    return seen


def test_gc_can_see_that_the_instances_are_somebodys(small: Any, cloud: Any, held: list[bool]) -> None:
    with pytest.raises(BootedError):
        ami.verify(small.project, cloud, ARTIFACT, junit=None, say=silent)
    assert held == [True]
    holding = lease.last(small.project.store(cloud), LEASE)
    assert holding is not None
    assert (holding.released, holding.doing) == (True, f"verifying {ARTIFACT.id}")


def test_a_second_verification_of_the_same_ami_waits_for_the_first(
    small: Any, cloud: Any, held: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with ExitStack() as first:
        first.enter_context(lease.held(small.project.store(cloud), LEASE, who="somebody else", doing="verifying it"))

        def ends(_: float) -> None:
            assert held == []
            first.close()

        monkeypatch.setattr(lease.time, "sleep", ends)
        with pytest.raises(BootedError):
            ami.verify(small.project, cloud, ARTIFACT, junit=None, say=said.append)
    assert held == [True]
    (line,) = said
    assert line.startswith(f"waiting for {LEASE}, held by somebody else")


def test_a_check_has_time_to_read_models_and_runtime(small: Any) -> None:
    lock = small.project.lock
    plain = ami.limit(small.project.manifest, lock)
    assert plain >= suite.LIMIT
    small.manifest["runtime"] = RUNTIME
    assert ami.limit(small.project.manifest, lock) == pytest.approx(plain + 2e9 / (5 * 1024**2))


@pytest.mark.parametrize("passed", [True, False])
def test_scripts_are_told_where_the_inventory_is(
    small: Any, cloud: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], passed: bool
) -> None:
    """One of an earlier verification is none of one that failed."""
    catalog = small.project.catalog(cloud)
    versions = dict.fromkeys(("system", "driver", "docker", "ecs_agent", "python"), "")
    lists: dict[str, Any] = {"packages": {}, "images": {}, "models": {}, "sizes": {}}
    inventory = Inventory(ami=ARTIFACT.id, fingerprint=FINGERPRINT, taken="now", kernel="6", **versions, **lists)
    catalog.keep_inventory(inventory)
    checks = (Check(name="boots", passed=passed),)
    report = Report(
        half="ami",
        artifact=ARTIFACT.id,
        fingerprint=FINGERPRINT,
        standard="s",
        created="now",
        seconds=1.0,
        checks=checks,
    )
    monkeypatch.setattr(verify, "verify", lambda *_, **__: report)
    argv = ["verify", "ami", "--json", f"--manifest={small.root / 'splitbake.yaml'}"]
    assert run(cli, prog_name="splitbake", argv=argv) == (0 if passed else 2)
    place = json.loads(capsys.readouterr().out)["ami"]["inventory"]
    if not passed:
        assert place is None
        return
    assert Inventory.model_validate_json((small.root / place).read_bytes()) == inventory
