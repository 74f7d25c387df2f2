"""What the project at hand wants of this machine beyond what every project does: its ``image.builder``."""

from __future__ import annotations

from typing import Final, Protocol, runtime_checkable

from splitbake import registry
from splitbake.cloud import Cloud
from splitbake.doctor.model import Finding, Status
from splitbake.errors import GuardError, SplitbakeError
from splitbake.project import Project

#: ``image.builder`` -> the tool that is required where a project chooses it.
_TOOLS: Final = {"podman": "podman"}
#: What is left to do for Docker where it does not build; buildx then does nothing at all.
_STILL: Final = "verify image, local cloud"
_OF_DOCKER: Final = {"Docker CLI": _STILL, "Docker Engine": _STILL, "Docker buildx": "image.builder: docker"}


@runtime_checkable
class Remote(Protocol):
    """An image builder that works elsewhere, and can be asked whether it could."""

    def check(self, project: Project, cloud: Cloud) -> None:
        """Return if the image of ``project`` could be built; SplitbakeError says what is missing."""


def tools(project: Project) -> tuple[str, ...]:
    """Return the names of tools that the project needs and others do not; none where its manifest cannot be read."""
    kind = _kind(project)
    return (_TOOLS[kind],) if kind in _TOOLS else ()


def spared(project: Project) -> dict[str, str]:
    """Return the tools that the project can do without and others cannot, and what they would still be for."""
    return {} if _kind(project) in {"", "docker"} else _OF_DOCKER


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
        builder = registry.load(registry.IMAGE_BUILDERS, kind)()
        builder.health()
        if isinstance(builder, Remote):
            builder.check(project, _cloud(project))
    except SplitbakeError as problem:
        return (_finding(name, Status.BROKEN, detail=problem.message, remedy=problem.hint),)
    return (_finding(name, Status.OK),)


def _cloud(project: Project) -> Cloud:
    """Return the first environment of the project that the credentials in use are for.

    Raises:
        GuardError: they are for none.
        CloudError: they are not valid, or nobody can be asked.
    """
    refused: list[GuardError] = []
    for name in project.manifest.environments:
        cloud = project.cloud(name)
        try:
            cloud.guard()
        except GuardError as problem:
            refused.append(problem)
        else:
            return cloud
    raise refused[0]


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
