"""What the project at hand wants of this machine beyond what every project does: its ``image.builder``."""

from __future__ import annotations

from typing import Final

from splitbake import registry
from splitbake.doctor.model import Finding, Status
from splitbake.errors import SplitbakeError
from splitbake.project import Project

#: ``image.builder`` -> the tool that is required where a project chooses it.
_TOOLS: Final = {"podman": "podman"}


def tools(project: Project) -> tuple[str, ...]:
    """Return the names of tools that the project needs and others do not; none where its manifest cannot be read."""
    kind = _kind(project)
    return (_TOOLS[kind],) if kind in _TOOLS else ()


def examine(project: Project) -> tuple[Finding, ...]:
    """Ask the builder of the project's image whether it could build here; nothing where there is no manifest."""
    if not project.manifest_path.exists():
        return ()
    try:
        kind = project.manifest.image.builder
    except SplitbakeError as problem:
        remedy = "correct it: splitbake generate --check tells all that is wrong with it"
        detail = problem.message.splitlines()[0]
        return (_finding("image.builder", Status.BROKEN, detail=detail, remedy=remedy, required=False),)
    name = f"image.builder: {kind}"
    try:
        registry.load(registry.IMAGE_BUILDERS, kind)().health()
    except SplitbakeError as problem:
        return (_finding(name, Status.BROKEN, detail=problem.message, remedy=problem.hint),)
    return (_finding(name, Status.OK),)


def _kind(project: Project) -> str:
    if not project.manifest_path.exists():
        return ""
    try:
        return project.manifest.image.builder
    except SplitbakeError:
        return ""


def _finding(name: str, status: Status, *, detail: str = "", remedy: str = "", required: bool = True) -> Finding:
    return Finding(
        name=name,
        status=status,
        found="",
        needed="any",
        why="building the dependencies of the image",
        required=required,
        detail=detail,
        remedy=remedy or ("cure that, and ask again" if detail else ""),
    )
