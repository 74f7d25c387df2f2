"""Heavy packages on the host: locked, baked onto a volume of their own, and imported by a real job."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

RUNTIME = 'runtime: {requirements: requirements-gpu.txt, python: "3.11", budget: 100 MB}\n\nami:'

#: The wheel for this very Python, and nothing that tells from where it came.
PROGRAM = """\
import pathlib
import heavy
assert heavy.weight == "a ton"
assert not [*pathlib.Path("/opt/dl-runtime").glob("*.dist-info/direct_url.json")]
assert not pathlib.Path("/opt/dl-runtime/.lock").exists()
"""


def done(outcome):
    assert outcome.code == 0, outcome.err + outcome.out
    return outcome


@pytest.fixture
def with_runtime(world, edited, package_index):
    """The reference project with a runtime, whose wheels are at an address that builder and jobs reach."""
    edited("splitbake.yaml", "\nami:", f"\n{RUNTIME}")
    edited("examples/video-analysis/run.py", "import argparse", f"import argparse\n{PROGRAM}")
    if world.project.lock_path.exists():
        edited("splitbake.lock", "{", "{")
    wanted = world.project.root / "requirements-gpu.txt"
    wanted.write_text("heavy\n", encoding="utf-8")
    bridge = urlsplit(world.environment["AWS_ENDPOINT_URL"]).hostname
    yield {"UV_DEFAULT_INDEX": package_index(bridge)}
    wanted.unlink()


def test_a_job_imports_what_only_the_host_has(world, with_runtime):
    done(world.splitbake("lock", **with_runtime))
    done(world.splitbake("generate"))
    done(world.splitbake("build"))
    found = done(world.splitbake("verify", "--json")).json
    checks = {check["name"]: check for check in found["ami"]["checks"]}
    assert checks["runtime"]["saw"].startswith("1 package, ")
    assert checks["volume: dl-runtime"]["passed"]
    saw = {check["name"]: check["saw"] for check in found["image"]["checks"]}
    assert saw["runtime"].startswith("1 distribution in /opt/dl-runtime, for Python 3.11 with glibc 2.")
    assert saw["runtime import: heavy"] == "heavy"
    done(world.splitbake("release", "--yes"))
    assert "faces" in done(world.splitbake("smoke")).out
    planned = done(world.splitbake("plan", "--json")).json
    assert {planned[half]["action"] for half in ("ami", "image")} == {"reuse"}
    (world.project.root / "requirements-gpu.txt").write_text("heavy==1.0\n", encoding="utf-8")
    refused = world.splitbake("plan")
    assert "requirements-gpu.txt has changed since the runtime was locked" in refused.err
    done(world.splitbake("lock", "--update", "runtime", **with_runtime))
    planned = done(world.splitbake("plan", "--json")).json
    assert planned["ami"]["action"] == "reuse"
