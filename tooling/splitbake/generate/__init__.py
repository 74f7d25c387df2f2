"""From manifest and lock to text: ``packer/`` and ``dockerfiles/``.

Rendering is pure and deterministic; only ``write`` touches the disk, and only what it rendered.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from splitbake import files
from splitbake.errors import BuildError
from splitbake.generate import dockerfile, packer
from splitbake.generate.mark import is_marked
from splitbake.project import Project

#: Which Packer the HCL is for: Debian's 1.6, or any from 1.7 on (which takes plugins by ``packer init``).
Compat = Literal["1.6", "latest"]

_COMPAT_LINE = re.compile(r"^# packer-compat: (?P<compat>\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Difference:
    """A generated file that is not what manifest and lock say."""

    path: str
    diff: str


def render(project: Project, compat: Compat) -> dict[str, str]:
    """Return every generated file: path below the project's folder -> text."""
    return {
        **packer.render(project.manifest, project.lock, compat),
        **dockerfile.render(project.manifest, project.lock),
    }


def committed_compat(project: Project) -> Compat | None:
    """Return the compat that the generated HCL on disk was made for, None where there is no such HCL.

    What is checked must not depend on which Packer the checking machine happens to have.
    """
    found = _COMPAT_LINE.search(read(project.root / packer.MAIN))
    if found is None:
        return None
    return "1.6" if found["compat"] == "1.6" else "latest"


def differences(project: Project, compat: Compat) -> list[Difference]:
    """Compare the files on disk with what they should be; an empty list means up to date."""
    wanted = render(project, compat)
    found = {path: read(project.root / path) for path in wanted} | dict.fromkeys(_leftovers(project, wanted), "")
    return [
        Difference(path, _diff(path, found[path], wanted.get(path, "")))
        for path in sorted(found)
        if found[path] != wanted.get(path)
    ]


def write(project: Project, compat: Compat) -> list[str]:
    """Write what differs and remove what is generated no longer; return the changed paths.

    Raises:
        BuildError: a file that somebody else made is in the way (then nothing is written), or one cannot be written.
    """
    wanted = render(project, compat)
    changed = [difference.path for difference in differences(project, compat)]
    for path in changed:
        if (project.root / path).exists() and not is_marked(project.root / path):
            raise BuildError(
                f"{project.root / path} was not made by splitbake generate and would be overwritten",
                hint="move it elsewhere, or remove it",
            )
    for path in changed:
        target = project.root / path
        if path in wanted:
            files.replace(target, wanted[path], BuildError, mode=0o755 if path.endswith(".sh") else 0o644)
        else:
            target.unlink()
    return changed


def read(path: Path) -> str:
    """Return what is on disk, line ends as they are: a carriage return would break a script; "" for no file."""
    return path.read_bytes().decode(errors="replace") if path.is_file() else ""


def _leftovers(project: Project, wanted: dict[str, str]) -> list[str]:
    """Return generated files of an earlier time that nothing generates any more."""
    patterns = (f"{packer.FOLDER}/*.pkr.hcl", f"{packer.FOLDER}/scripts/*.sh", f"{dockerfile.FOLDER}/*")
    old = [path for pattern in patterns for path in project.root.glob(pattern) if path.is_file()]
    names = [path.relative_to(project.root).as_posix() for path in old if is_marked(path)]
    return [name for name in names if name not in wanted]


def _diff(path: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"{path} (on disk)", f"{path} (generated)"
    )
    return "".join(lines)
