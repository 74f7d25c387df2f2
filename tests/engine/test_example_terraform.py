"""The reference project's Terraform stays valid to Terraform itself, before and after a release patched it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from splitbake import hclpatch

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2] / "examples/video-analysis/terraform"


def plugin_directory() -> Path | None:
    """Return a local folder of Terraform providers that has the AWS provider: validating needs it, offline."""
    places = (Path("/opt"), Path("/usr/local/share/terraform"), Path.home() / ".terraform.d")
    found = (match for place in places for match in place.glob("*/*/hashicorp/aws"))
    return next((match.parents[2] for match in found), None)


def terraform(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["terraform", *arguments], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path) -> Path:
    if shutil.which("terraform") is None:
        pytest.skip("Terraform is not on PATH")
    plugins = plugin_directory()
    if plugins is None:
        pytest.skip("Terraform has no AWS provider in a local plugin folder here")
    copy = tmp_path / "terraform"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".terraform*"))
    started = terraform(copy, "init", "-input=false", "-backend=false", f"-plugin-dir={plugins}")
    assert started.returncode == 0, started.stderr
    return copy


def test_it_is_valid_and_formatted_before_and_after_a_patch(folder):
    def accepted() -> None:
        assert terraform(folder, "fmt", "-check", "-recursive").returncode == 0
        validated = terraform(folder, "validate", "-no-color")
        assert "The configuration is valid" in validated.stdout, validated.stdout + validated.stderr

    accepted()
    sources = hclpatch.load([folder])
    selector = hclpatch.Selector.of("aws_launch_template.batch_gpu", "image_id")
    patch = hclpatch.plan(sources, [hclpatch.set_value(sources, selector, "ami-00112233445566778")])
    hclpatch.write(patch)
    assert patch.changed_lines == 1
    accepted()
