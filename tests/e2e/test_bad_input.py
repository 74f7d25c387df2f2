"""What goes wrong for users: one paragraph that says what, where and what to do; exit code 1; nothing half-done."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def locked(world):
    if not world.project.lock_path.exists():
        assert world.splitbake("lock").code == 0
        assert world.splitbake("generate").code == 0


def refused(outcome, *words: str, code: int = 1) -> None:
    """Assert a clean error: the exit code, the words, and no traceback."""
    assert outcome.code == code, outcome.out + outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.err.count("error:") == 1, outcome.err
    for word in words:
        assert word in outcome.err, f"{word!r} is missing in: {outcome.err}"


def test_endpoint_that_does_not_answer(world):
    outcome = world.splitbake("build", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    refused(outcome, "127.0.0.1:9", "splitbake local status")


def test_no_endpoint_at_all(world):
    refused(world.splitbake("build", AWS_ENDPOINT_URL=""), "AWS_ENDPOINT_URL", "splitbake local env")


def test_wrong_account(world, edited):
    edited("splitbake.yaml", '"123456789012"', '"210987654321"')
    for command in (["lock"], ["build"], ["verify"], ["release", "--yes"], ["smoke"]):
        refused(world.splitbake(*command), "210987654321", "123456789012", "AWS_PROFILE")


def test_missing_model(world, edited):
    edited("splitbake.yaml", "models/models/centerface.onnx", "models/models/gone.onnx")
    before = world.project.lock_path.read_bytes()
    refused(world.splitbake("lock"), "models/gone.onnx")
    assert world.project.lock_path.read_bytes() == before


def test_wrong_checksum(world, edited):
    edited("splitbake.yaml", 'onnx"}', f'onnx", sha256: {"0" * 64}}}')
    refused(world.splitbake("lock"), "0" * 12, "models/centerface.onnx")


def test_base_ami_that_does_not_exist(world, edited):
    edited("splitbake.yaml", "base: ecs-gpu-al2023", "base: ami-00000000000000000")
    refused(world.splitbake("lock"), "ami-00000000000000000")


def test_a_manifest_that_moved_on_from_its_lock(world, edited):
    edited("splitbake.yaml", 'checkpoints/ocr-det/"', 'checkpoints/other/"')
    refused(world.splitbake("build"), "checkpoints/other/", "splitbake lock")


def test_no_docker(world, edited):
    edited("examples/video-analysis/run.py", "import argparse\n", "import argparse  # no docker\n")
    outcome = world.splitbake("build", "image", DOCKER_HOST="unix:///nonexistent/docker.sock")
    refused(outcome, "Docker", "splitbake doctor")


def test_every_mistake_in_the_manifest_at_once(world, edited):
    edited("splitbake.yaml", "budget: 500 MB", "budgett: 500 MB")
    edited("splitbake.yaml", "endpoint: custom", "endpoint: custm")
    outcome = world.splitbake("lock")
    refused(outcome, "budgett", "did you mean 'budget'", "did you mean 'custom'")


def test_json_errors_are_json(world, edited):
    edited("splitbake.yaml", '"123456789012"', '"210987654321"')
    outcome = world.splitbake("build", "--json")
    assert outcome.code == 1
    assert outcome.json["error"]["code"] == "guard"
    assert "AWS_PROFILE" in outcome.json["error"]["hint"]


def test_usage(world):
    assert world.splitbake("build", "everything").code == 64
    assert world.splitbake("build", "everything", "--json").json["error"]["code"] == "usage"
    refused(world.splitbake("build", "--env", "nowhere"), "nowhere", "local", code=64)
