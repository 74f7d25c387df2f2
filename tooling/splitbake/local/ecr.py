"""ECR over a real registry: moto keeps repositories, tags and policies; the images are what was really pushed."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.error import HTTPError

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult
from moto.ecr.exceptions import ImageAlreadyExistsException, RepositoryNotFoundException
from moto.ecr.models import ECRBackend, Image, Repository, ecr_backends
from moto.ecr.responses import ECRResponse

from splitbake.local.hooks import Hook, around
from splitbake.local.registry import PULL_THROUGH, USER, Manifest, Registry
from splitbake.local.state import Cloud


class ImageDigestDoesNotMatchException(ServiceException):
    """PutImage was told another digest than the manifest has."""

    code = "ImageDigestDoesNotMatchException"


class ImageTagAlreadyExistsException(ServiceException):
    """A tag that cannot be moved names another image."""

    code = "ImageTagAlreadyExistsException"


class LayersNotFoundException(ServiceException):
    """The repository lacks what a manifest names."""

    code = "LayersNotFoundException"


def install(registry: Registry, cloud: Cloud) -> None:
    """Hook the ECR calls, and book the repository that `up` fills."""
    images = Images(registry, home=(cloud.account, cloud.region))
    around(ECRBackend, "create_repository", images.create_repository)
    around(ECRBackend, "delete_repository", images.delete_repository)
    for name in ("describe_images", "list_images", "batch_get_image"):
        around(ECRBackend, name, images.refreshed)
    around(ECRBackend, "batch_delete_image", images.delete)
    around(ECRBackend, "put_image", images.put)
    around(ECRResponse, "describe_images", by_status)
    around(ECRResponse, "get_authorization_token", images.token)
    ECRResponse.update_image_storage_class = store  # type: ignore[attr-defined]
    Image.get_image_size_in_bytes = _size  # type: ignore[method-assign,assignment]
    ecr_backends[cloud.account][cloud.region].create_repository(PULL_THROUGH, None, {}, None, "", [])


class Images:
    """The images of all repositories, as they lie in the one registry.

    Each account and region has its own part of it: the home ones the root, every other a folder such as
    ``222222222222__eu-west-1/``, which no repository can be called (ECR allows one separator at a time).
    """

    def __init__(self, registry: Registry, home: tuple[str, str]) -> None:
        self._registry = registry
        self._home = home
        self._untagged: dict[tuple[str, str], str] = {}

    def create_repository(self, proceed: Hook, backend: Any, repository_name: str, *args: Any, **options: Any) -> Any:
        """CreateRepository: its URI is an address that Docker can push to."""
        repository: Repository = proceed(repository_name, *args, **options)
        owner = (backend.account_id, backend.region_name)
        folder = "" if owner == self._home else "__".join(owner) + "/"
        repository.uri = f"{self._registry.address}/{folder}{repository.name}"
        return repository

    def delete_repository(
        self,
        proceed: Hook,
        backend: Any,
        repository_name: str,
        registry_id: str | None = None,
        force: bool | None = False,
    ) -> Any:
        """DeleteRepository: what was pushed goes as well, so that the next one of that name starts empty."""
        repository = self.refreshed(
            lambda *_: backend.repositories.get(repository_name), backend, repository_name, registry_id
        )
        answer = proceed(repository_name, registry_id, force)
        lost = [digest for (path, _), digest in self._untagged.items() if path == self._path(repository)]
        for digest in {*self._snapshot(repository), *lost}:
            self._drop(repository, digest)
        return answer

    def token(self, proceed: Hook, response: Any) -> ActionResult:
        """GetAuthorizationToken: the registry's password, valid as long as this `up`, whoever asks."""
        secret = b64encode(f"{USER}:{self._registry.password}".encode()).decode()
        grant = {
            "authorizationToken": secret,
            "expiresAt": datetime.now(UTC) + timedelta(hours=12),
            "proxyEndpoint": f"http://{self._registry.address}",
        }
        return ActionResult({"authorizationData": [grant]})

    def refreshed(
        self,
        proceed: Hook,
        backend: Any,
        repository_name: str,
        registry_id: str | None = None,
        image_ids: list[dict[str, str]] | None = None,
        **options: Any,
    ) -> Any:
        """Ask the registry before moto answers; ``image_ids`` may name digests that no tag points to.

        Another account's registry (``registry_id``) stays closed: repository policies are not judged here.
        """
        if registry_id not in (None, backend.account_id):
            raise RepositoryNotFoundException(repository_name, registry_id)
        if repository := backend.repositories.get(repository_name):
            wanted = [one.get("imageDigest") for one in image_ids or []]
            self._refresh(repository, [digest for digest in wanted if digest])
        return proceed(repository_name, registry_id, *([image_ids] if image_ids else []), **options)

    def delete(
        self,
        proceed: Hook,
        backend: Any,
        repository_name: str,
        registry_id: str | None = None,
        image_ids: list[dict[str, str]] | None = None,
    ) -> Any:
        """BatchDeleteImage: an image without tags leaves the registry; a lost tag is only forgotten here.

        The registry's API can remove manifests, not single tags.
        """
        repository = backend.repositories.get(repository_name)
        before, result = self.refreshed(
            lambda *args: (self._snapshot(repository), proceed(*args)),
            backend, repository_name, registry_id, image_ids,
        )  # fmt: skip
        now = self._snapshot(repository)
        for digest, tags in before.items():
            if digest not in now:
                self._drop(repository, digest)
                continue
            for tag in tags - now[digest]:
                self._untagged[self._path(repository), tag] = digest
        return result

    def put(  # noqa: PLR0917 - as moto calls it
        self,
        _proceed: Hook,
        backend: Any,
        repository_name: str,
        image_manifest: str,
        image_tag: str,
        image_manifest_mediatype: str | None = None,
        digest: str | None = None,
    ) -> Image:
        """PutImage: the manifest goes into the registry under its tag, byte for byte.

        moto takes a manifest whose layers are nowhere, and removes an image that loses its last tag by it.
        """
        repository = backend.repositories.get(repository_name)
        if repository is None:
            raise RepositoryNotFoundException(repository_name, backend.account_id)
        self._refresh(repository, [])
        real = f"sha256:{sha256(image_manifest.encode()).hexdigest()}"
        if digest not in (None, real):
            raise ImageDigestDoesNotMatchException(f"The digest of the image is {real}")
        named = next((image.image_digest for image in repository.images if image_tag in image.image_tags), None)
        if named == real:
            raise ImageAlreadyExistsException(repository_name, backend.account_id, real, image_tag)
        if named and (repository.image_tag_mutability or "").startswith("IMMUTABLE"):
            raise ImageTagAlreadyExistsException(
                f"The image tag '{image_tag}' already exists in the '{repository_name}' repository and cannot be "
                "overwritten because the repository is immutable."
            )
        path = self._path(repository)
        try:
            kind = image_manifest_mediatype or json.loads(image_manifest).get("mediaType", "")
            self._registry.put(path, image_tag, image_manifest, kind)
        except HTTPError as problem:
            raise LayersNotFoundException(f"The registry refused the manifest: {problem}") from problem
        self._untagged.pop((path, image_tag), None)
        self._refresh(repository, [real])
        made: Image = next(image for image in repository.images if image.image_digest == real)
        return made

    def _drop(self, repository: Any, digest: str) -> None:
        """Remove a manifest with all its tags, the lost ones too: whoever pushes it again sees it again."""
        path = self._path(repository)
        self._registry.delete(path, digest)
        for lost in [lost for lost, of in self._untagged.items() if (lost[0], of) == (path, digest)]:
            del self._untagged[lost]

    def _path(self, repository: Repository) -> str:
        """Return the repository's name in the registry."""
        return repository.uri.removeprefix(f"{self._registry.address}/")

    def _refresh(self, repository: Repository, digests: list[str]) -> None:
        known = {image.image_digest: image for image in repository.images}
        path = self._path(repository)
        found: dict[str, tuple[Manifest, list[str]]] = {}
        wanted = [*self._registry.tags(path), *digests]
        while wanted:
            reference = wanted.pop(0)
            manifest = self._registry.manifest(path, reference)
            if manifest is None or self._untagged.get((path, reference)) == manifest.digest:
                continue
            # What an index lists is an image of the repository like any other, mostly one without a tag.
            wanted += [each["digest"] for each in json.loads(manifest.text).get("manifests", [])]
            tags = found.setdefault(manifest.digest, (manifest, []))[1]
            if reference != manifest.digest:
                tags.append(reference)
        repository.images = [
            _image(repository, manifest, tags, known.get(digest)) for digest, (manifest, tags) in found.items()
        ]

    @staticmethod
    def _snapshot(repository: Repository | None) -> dict[str, set[str]]:
        images = repository.images if repository else []
        return {image.image_digest: set(image.image_tags) for image in images}


def store(response: Any) -> ActionResult:
    """UpdateImageStorageClass: an archived image says so; the registry would still hand it out."""
    name, image_id = response._get_param("repositoryName"), response._get_param("imageId")
    backend = response.ecr_backend
    (image,) = backend.describe_images(name, response._get_param("registryId"), [image_id])
    image.image_status = "ARCHIVED" if response._get_param("targetStorageClass") == "ARCHIVE" else "ACTIVE"
    return ActionResult(
        {
            "registryId": image.registry_id,
            "repositoryName": name,
            "imageId": image_id,
            "imageStatus": image.image_status,
        }
    )


def by_status(proceed: Hook, response: Any) -> ActionResult:
    """DescribeImages: by default "only images with ACTIVE status" (ECR API model), but whichever is named."""
    answer: ActionResult = proceed()
    if response._get_param("imageIds"):
        return answer
    wanted = (response._get_param("filter") or {}).get("imageStatus", "ACTIVE")
    images: Any = answer.result
    return ActionResult(
        {"imageDetails": [one for one in images["imageDetails"] if wanted in ("ANY", one.image_status)]}
    )


def _image(repository: Repository, manifest: Manifest, tags: list[str], known: Image | None) -> Image:
    """Describe a manifest in moto's terms; one seen before keeps the time of its push."""
    image = known or Image(
        account_id=repository.account_id,
        tag=tags[-1] if tags else None,  # type: ignore[arg-type]
        manifest=manifest.text,
        repository=repository.name,
        image_manifest_mediatype=manifest.media_type,
        digest=manifest.digest,
    )
    image.image_status = getattr(known, "image_status", "ACTIVE")  # type: ignore[attr-defined]
    image.image_tags = tags
    image.image_tag = tags[-1] if tags else None  # type: ignore[assignment]
    image.splitbake_size = manifest.size  # type: ignore[attr-defined]
    return image


def _size(image: Image) -> int | None:
    """Return the compressed size of layers and configuration (moto: the configuration's alone)."""
    return getattr(image, "splitbake_size", None)
