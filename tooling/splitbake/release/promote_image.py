"""Promoting the image half: its manifest and its layers are copied as they are from registry to registry."""

from __future__ import annotations

import re
from dataclasses import replace

from splitbake import ecr
from splitbake.artifact import Artifact, Report
from splitbake.errors import CloudError, ReleaseError
from splitbake.oci.client import Repository
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
        wanted = route.project.manifest.image.ecr
        calls.append(str(ApiCall.plain("ecr", "CreateRepository", **ecr.creation(name, wanted))))
        if wanted.keep is not None:
            policy = {"repositoryName": name, "lifecyclePolicyText": ecr.lifecycle(wanted.keep)}
            calls.append(str(ApiCall.plain("ecr", "PutLifecyclePolicy", **policy)))
    if not is_there:
        calls.append(f"copy {source.uri} to {uri or name}:{_tag(source)}")
    return Transfer(source=source, report=report, way="copy", calls=tuple(calls))


def run(route: Route, transfer: Transfer, say: Say) -> Artifact:
    """Do what was planned and return the image at the end of the way.

    Raises:
        ReleaseError: the source cannot be read, or what arrived is something else.
        CloudError: ECR or a registry refused something.
    """
    source = transfer.source
    before = route.catalog.artifact("image", source.fingerprint)
    own = route.project.manifest.image
    uri = ecr.ensure_repository(route.target, own.repository, own.ecr, say)
    if not _is_there(route, source):
        say(f"copying {source.uri} to {uri}")
        _transport(route, source, uri, say)
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
    return ecr.unique_tag(source.fingerprint, source.id)


def _is_there(route: Route, source: Artifact) -> bool:
    repository = route.project.manifest.image.repository
    image = ecr.find_image(route.target, repository, digest=source.id)
    if image is not None and image.status != "ACTIVE":
        raise ReleaseError(
            f"{source.id} is in repository {repository} of {route.end}, but {image.status.lower()}",
            hint="restore it in ECR (UpdateImageStorageClass to STANDARD), then run the release again",
        )
    return image is not None


def _transport(route: Route, source: Artifact, uri: str, say: Say) -> None:
    """Copy what the target lacks, layer by layer through a temporary file; the manifest stays byte for byte."""
    host = source.location.partition("/")[0]
    # A password opens what its caller may read in every account, in the region that gave it.
    theirs = Repository(source.location, replace(ecr.credentials(route.origin), host=host))
    try:
        manifest = theirs.manifest(source.id)
        if manifest is None:
            raise ReleaseError(f"{source.uri} is gone", hint="build and verify it there again")
        Repository(uri, ecr.credentials(route.target)).copy(theirs, manifest, _tag(source), say)
    except CloudError as problem:
        if route.crosses_accounts and _REFUSED.search(problem.message):
            raise ReleaseError(problem.message, hint=_policy(route)) from problem
        raise


def _policy(route: Route) -> str:
    repository = route.project.manifest.image.repository
    return (
        f"the policy of repository {repository} in {route.start} must allow account "
        f"{route.target.environment.account} {', '.join(_ACTIONS)}"
    )
