"""Generated files on disk: written whole or not at all, and never at the cost of somebody else's file."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from splitbake import generate
from splitbake.errors import BuildError
from splitbake.generate.mark import MARK
from splitbake.project import Project

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The reference project without its generated files."""
    for name in ("splitbake.yaml", "splitbake.lock"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return Project(tmp_path / "splitbake.yaml")


def changed(project: Project) -> list[str]:
    return [difference.path for difference in generate.differences(project, "1.6")]


def test_what_was_written_is_up_to_date_and_not_written_again(project: Project) -> None:
    written = generate.write(project, "1.6")
    assert "packer/main.pkr.hcl" in written
    assert changed(project) == []
    assert generate.write(project, "1.6") == []
    assert (project.root / "packer/scripts/30-models.sh").stat().st_mode & 0o777 == 0o755


def test_every_generated_file_says_so(project: Project) -> None:
    for path, text in generate.render(project, "latest").items():
        assert any("by splitbake generate" in line for line in text.splitlines()[:2]), path


def test_other_line_ends_are_a_difference(project: Project) -> None:
    """A carriage return breaks a shell script on the builder."""
    generate.write(project, "1.6")
    script = project.root / "packer/scripts/30-models.sh"
    script.write_bytes(script.read_bytes().replace(b"\n", b"\r\n"))
    assert changed(project) == ["packer/scripts/30-models.sh"]


def test_a_file_that_is_no_text_is_a_difference(project: Project) -> None:
    generate.write(project, "1.6")
    (project.root / "dockerfiles/needs").write_bytes(b"\xff\xfe\n")
    assert changed(project) == ["dockerfiles/needs"]


def test_what_is_generated_no_longer_goes(project: Project) -> None:
    generate.write(project, "latest")
    generate.write(project, "1.6")
    assert not (project.root / "packer/versions.pkr.hcl").exists()


def test_scripts_of_the_user_stay(project: Project) -> None:
    generate.write(project, "1.6")
    own = project.root / "packer/scripts/20-drivers.sh"
    own.write_text("#!/bin/sh\n")
    assert changed(project) == []
    generate.write(project, "1.6")
    assert own.exists()


@pytest.mark.parametrize("path", ["packer/main.pkr.hcl", "dockerfiles/Dockerfile"])
def test_a_file_that_somebody_else_wrote_is_not_overwritten(project: Project, path: str) -> None:
    own = project.root / path
    own.parent.mkdir(parents=True)
    own.write_text("# mine\n")
    assert path in changed(project)
    with pytest.raises(BuildError, match=f"{path} was not made by splitbake"):
        generate.write(project, "1.6")
    assert own.read_text() == "# mine\n"
    assert [file for file in project.root.rglob("*") if file.is_file() and file.suffix in {".sh", ".hcl"}] in (
        [],
        [own],
    )


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """What a full disk is like: what is there stays, more cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_what_was_there(project: Project) -> None:
    generate.write(project, "1.6")
    main = project.root / "packer/main.pkr.hcl"
    stale = f"{MARK}\n# stale\n"
    main.write_text(stale)
    before = sorted(project.root.rglob("*"))
    with no_file_larger_than(1000), pytest.raises(BuildError, match=r"cannot write .*main\.pkr\.hcl: File too large"):
        generate.write(project, "1.6")
    assert main.read_text() == stale
    assert sorted(project.root.rglob("*")) == before
