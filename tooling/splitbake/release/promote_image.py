"""Promoting the image half: copied by its digest from registry to registry, through no engine's store."""

from __future__ import annotations

import re
from dataclasses import replace

from splitbake import dockercli, ecr
from splitbake.artifact import Artifact, Report
from splitbake.errors import ReleaseError
from splitbake.release.steps import ApiCall
from splitbake.release.transfer import Route, Transfer, arrived, is_complete
from splitbake.ui import Say

#: What reading somebody else's repository takes (ECR, repository policies).
_ACTIONS = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
_REFUSED = re.compile(r"denied|forbidden|unauthorized|no basic auth|\b40[13]\b", re.IGNORECASE)


def plan(route: Route, source: Artifact, report: Report) -> Transfer:
    """Plan how ``source`` gets to the end of ``route``; nothing is changed.

    Raises:
        ReleaseError: it is there, but archived.
        CloudError: ECR cannot be asked.
    """
    if route.ami_way == "same":
        return Transfer(source=source, report=report, way="same", there=source)
    name = route.project.manifest.image.repository
    uri = ecr.repository_uri(route.target, name)
    is_there = uri is not None and _is_there(route, source)
    kept = route.catalog.artifact("image", source.fingerprint)
    if is_there and kept == _copy(source, uri or "") and is_complete(route, kept, source):
        return Transfer(source=source, report=report, way="copy", there=kept)
    calls = []
    if uri is None:
        calls.append(str(ApiCall.plain("ecr", "CreateRepository", repositoryName=name)))
    if not is_there:
        target = f"{uri or name}:{_tag(source)}"
        calls.append(f"docker buildx imagetools create --tag {target} {source.uri}")
    return Transfer(source=source, report=report, way="copy", calls=tuple(calls))


def run(route: Route, transfer: Transfer, say: Say) -> Artifact:
    """Do what was planned and return the image at the end of the way.

    Raises:
        ReleaseError: the source cannot be read, or what arrived is something else.
        ToolError: there is no Docker client with buildx.
        CloudError: ECR refused something.
    """
    source = transfer.source
    before = route.catalog.artifact("image", source.fingerprint)
    if transfer.calls:
        dockercli.require_buildx()
    uri = ecr.ensure_repository(route.target, route.project.manifest.image.repository)
    if not _is_there(route, source):
        say(f"copying {source.uri} to {uri}")
        _transport(route, source, f"{uri}:{_tag(source)}")
        if not _is_there(route, source):
            raise ReleaseError(
                f"{source.uri} was copied to {uri}, but did not arrive with its digest",
                hint="run the release again; where it stays so, push the image to that repository by its digest",
            )
    kept = route.catalog.keep(copy := _copy(source, uri), instead_of=before)
    if kept != copy:
        raise ReleaseError(
            f"another run has changed what the state says of {copy.uri} at the same time", hint="run the release again"
        )
    return arrived(route, transfer, kept)


def _copy(source: Artifact, uri: str) -> Artifact:
    return source.model_copy(update={"location": uri, "promoted_from": source.uri})


def _tag(source: Artifact) -> str:
    return source.fingerprint.removeprefix("sha256:")[:12]


def _is_there(route: Route, source: Artifact) -> bool:
    repository = route.project.manifest.image.repository
    image = ecr.find_image(route.target, repository, digest=source.id)
    if image is not None and image.status != "ACTIVE":
        raise ReleaseError(
            f"{source.id} is in repository {repository} of {route.end}, but {image.status.lower()}",
            hint="restore it in ECR (UpdateImageStorageClass to STANDARD), then run the release again",
        )
    return image is not None


def _transport(route: Route, source: Artifact, target: str) -> None:
    """Copy manifest and layers as they are.

    ``imagetools create`` of a single image writes an index around it (buildx 0.13 has no other way). That is what the
    tag names; the image in it keeps its digest, and the index keeps rules for untagged images away from it.
    """
    host = source.location.partition("/")[0]
    # A password opens what its caller may read in every account, in the region that gave it.
    theirs = replace(ecr.credentials(route.origin), host=host)
    try:
        with (
            dockercli.login(theirs, ecr.credentials(route.target)) as docker,
            dockercli.told(f"copy {source.uri} to {target}", ReleaseError),
        ):
            docker.buildx.imagetools.create(sources=[source.uri], tags=[target])
    except ReleaseError as problem:
        if route.crosses_accounts and _REFUSED.search(problem.message):
            problem.hint = _policy(route)
        raise


def _policy(route: Route) -> str:
    repository = route.project.manifest.image.repository
    return (
        f"the policy of repository {repository} in {route.start} must allow account "
        f"{route.target.environment.account} {', '.join(_ACTIONS)}"
    )
