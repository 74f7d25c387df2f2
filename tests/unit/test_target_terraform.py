"""Terraform text as a target: byte-exact, all files or none, and errors that name candidates."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from splitbake.artifact import Artifact
from splitbake.errors import PatchError
from splitbake.release.steps import TextStep
from splitbake.release.targets import Context, Pair, RootVolume
from splitbake.release.targets.terraform import Terraform

OLD, NEW = "ami-0aaaaaaaaaaaaaaaa", "ami-0bbbbbbbbbbbbbbbb"
TEXT = """\
# one
resource "aws_launch_template" "gpu" {
  image_id   = "%s"   # keep   me
  name       = "gpu"
}
variable "image" {
  default = "registry/app:latest"
}
"""


def context(root: Path) -> Context:
    def artifact(half, name, location):
        return Artifact(half=half, id=name, location=location, fingerprint="f", created="now", seconds=1.0, size=1)

    return Context(
        live=None,
        root=root,
        release="r",
        pair=Pair(artifact("ami", NEW, "us-east-1"), artifact("image", "sha256:1", "registry/app")),
        volume=RootVolume("/dev/xvda", 40),
        models_root="/opt/dl-models",
        mounts={},
    )


def target(**fields) -> Terraform:
    values = {"terraform": "*.tf", "resource": "aws_launch_template.gpu", "attribute": "image_id", "set": "ami.id"}
    return Terraform.model_validate({**values, **fields})


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "main.tf"
    path.write_text(TEXT % OLD)
    return path


def test_one_value_changes_and_can_be_put_back(file):
    (step,) = target().plan(context(file.parent)).steps
    assert file.read_text() == TEXT % OLD, "planning writes nothing"
    step.apply(None, {})
    assert file.read_text() == TEXT % NEW
    assert step.restore()
    assert file.read_text() == TEXT % OLD
    assert not step.restore(), "there is nothing to put back any more"


def test_what_somebody_wrote_since_is_not_put_back(file):
    (step,) = target().plan(context(file.parent)).steps
    step.apply(None, {})
    file.write_text("# edited\n")
    with pytest.raises(PatchError, match="has changed since"):
        step.restore()
    assert file.read_text() == "# edited\n"


def test_files_are_named_as_seen_from_the_project(file):
    (step,) = target().plan(context(file.parent)).steps
    assert step.title.startswith("patch main.tf ")
    assert step.before == {"main.tf:3": OLD}
    assert step.diff().startswith("--- a/main.tf\n+++ b/main.tf\n")


def test_the_diff_of_the_record_holds_no_line_besides_the_changed_ones(file):
    (step,) = target().plan(context(file.parent)).steps
    assert "aws_launch_template" in step.diff()
    lines = step.diff(context=0).splitlines()[3:]
    assert [line[0] for line in lines] == ["-", "+"]


def test_two_values_of_one_file_are_one_step(file):
    image = target(resource="variable.image", attribute="default", set="image.uri")
    steps = [step for one in (target(), image) for step in one.plan(context(file.parent)).steps]
    joined = TextStep.joined(steps)
    joined.apply(None, {})
    assert file.read_text() == (TEXT % NEW).replace("registry/app:latest", "registry/app@sha256:1")
    assert joined.patch.changed_lines == 2


def test_a_value_that_is_right_needs_nothing(file):
    file.write_text(TEXT % NEW)
    assert target().plan(context(file.parent)).steps == ()


@pytest.mark.parametrize(
    ("fields", "what", "hint"),
    [
        ({"attribute": "image"}, "image is not there", "image_id"),
        ({"resource": "aws_launch_template.cpu"}, "no resource.aws_launch_template.cpu", "aws_launch_template.gpu"),
        ({"attribute": "name"}, "holds 'gpu', which does not look like", "right address"),
        ({"terraform": "modules/*.tf"}, "there is no file", "relative to the manifest"),
    ],
)
def test_what_cannot_be_patched_is_told_and_nothing_is_written(file, fields, what, hint):
    with pytest.raises(PatchError, match=what) as caught:
        target(**fields).plan(context(file.parent))
    assert hint in caught.value.hint
    assert file.read_text() == TEXT % OLD


@pytest.mark.parametrize("fields", [{"expect": "("}, {"set": "ami"}, {"terraform": "/etc/main.tf"}])
def test_a_wrong_entry_is_refused(fields):
    with pytest.raises(ValidationError):
        target(**fields)
