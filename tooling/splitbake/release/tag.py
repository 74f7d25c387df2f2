"""The tag ``release-<environment>-<release>``: by it lifecycle rules of the repository know what not to expire.

Such rules know nothing of what hosts and jobs name. The tag comes before anything names the image, so that it is never
live without; it is never taken off again, as an earlier release may be wanted back. An image that has one of this
environment gets no other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splitbake import ecr
from splitbake.artifact import Artifact
from splitbake.cloud import error_code
from splitbake.errors import CloudError, ReleaseError
from splitbake.oci import image as images
from splitbake.release.live import Live
from splitbake.release.steps import ApiCall, ApiStep, Outputs, Phase

#: The id of a release, which ends a tag: "prod" shall not take the tags of "prod-eu" for its own.
_ID = r"\d{8}T\d{6}Z-[0-9a-f]+"


@dataclass(frozen=True, kw_only=True)
class TagStep(ApiStep):
    """One more tag for an image; that it has the tag already is as good."""

    def apply(self, live: Live, outputs: Outputs) -> Outputs:
        """See Step."""
        try:
            return super().apply(live, outputs)
        except CloudError as problem:  # the answer to an earlier try got lost, and the SDK tried again
            if error_code(problem) != "ImageAlreadyExistsException":
                raise
            return {}


def plan(live: Live, environment: str, release: str, image: Artifact, repository: str) -> tuple[TagStep, ...]:
    """Return the step that tags ``image`` as released; none where an earlier release of the environment has done so.

    Raises:
        ReleaseError: its manifest cannot be had.
        CloudError: ECR cannot be asked.
    """
    found = ecr.find_image(live.cloud, repository, digest=image.id)
    ours = re.compile(f"{ecr.RELEASE_TAG}{re.escape(environment)}-{_ID}")
    kept = sorted(tag for tag in (found.tags if found else ()) if ours.fullmatch(tag))
    if kept:
        return ()
    tag = f"{ecr.RELEASE_TAG}{environment}-{release}"
    shown = {"repositoryName": repository, "imageDigest": image.id, "imageTag": tag}
    call = ApiCall("ecr", "PutImage", {**_manifest(live, image, repository), **shown}, shown)
    return (
        TagStep(
            phase=Phase.TAG,
            target=f"repository {repository}",
            title=f"tag the image {tag}",
            before={"release tag": "none"},
            after={"release tag": tag},
            call=call,
            check=lambda live, _outputs: _check(live, image, repository, tag),
        ),
    )


def _manifest(live: Live, image: Artifact, repository: str) -> Mapping[str, Any]:
    """Return what PutImage needs to give a tag to an image that is there ("Retagging an image", ECR user guide)."""
    answer = live.call(
        *("ecr", "BatchGetImage", f"read the manifest of {image.uri}"),
        repositoryName=repository,
        imageIds=[{"imageDigest": image.id}],
        # Of a kind that is not named ECR would make another manifest, with another digest.
        acceptedMediaTypes=[*images.MANIFESTS, *images.INDEXES],
    )
    if not answer["images"]:
        reasons = "; ".join(one.get("failureReason", "") for one in answer.get("failures", []))
        raise ReleaseError(f"the manifest of {image.uri} cannot be read: {reasons}", hint="build the image again")
    (found,) = answer["images"][:1]
    kind = found.get("imageManifestMediaType")
    return {"imageManifest": found["imageManifest"], **({"imageManifestMediaType": kind} if kind else {})}


def _check(live: Live, image: Artifact, repository: str, tag: str) -> None:
    found = ecr.find_image(live.cloud, repository, tag=tag)
    if found is None or found.digest != image.id:
        raise ReleaseError(
            f"{tag} in repository {repository} is {found.digest if found else 'nowhere'}, not {image.id}",
            hint="did somebody move or remove it just now? release again",
        )
