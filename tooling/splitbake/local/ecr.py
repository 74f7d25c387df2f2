"""ECR over a real registry: moto keeps repositories, tags and policies; the images are what was really pushed."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.core.responses import ActionResult
from moto.ecr.models import ECRBackend, Image, Repository, ecr_backends
from moto.ecr.responses import ECRResponse

from splitbake.local.hooks import Hook, around
from splitbake.local.registry import PULL_THROUGH, USER, Manifest, Registry
from splitbake.local.state import Cloud


def install(registry: Registry, cloud: Cloud) -> None:
    """Hook the ECR calls, and book the repository that `up` fills."""
    images = Images(registry)
    around(ECRBackend, "create_repository", images.create_repository)
    for name in ("describe_images", "list_images", "batch_get_image"):
        around(ECRBackend, name, images.refreshed)
    around(ECRBackend, "batch_delete_image", images.delete)
    around(ECRResponse, "get_authorization_token", images.token)
    Image.get_image_size_in_bytes = _size  # type: ignore[method-assign,assignment]
    ecr_backends[cloud.account][cloud.region].create_repository(PULL_THROUGH, None, {}, None, "", [])


class Images:
    """The images of all repositories, as they lie in the registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._untagged: dict[tuple[str, str], str] = {}

    def create_repository(self, proceed: Hook, backend: Any, repository_name: str, *args: Any, **options: Any) -> Any:
        """CreateRepository: its URI is an address that Docker can push to."""
        repository: Repository = proceed(repository_name, *args, **options)
        repository.uri = f"{self._registry.address}/{repository.name}"
        return repository

    def token(self, proceed: Hook, response: Any) -> ActionResult:
        """GetAuthorizationToken: the registry's password, valid as long as this `up`."""
        secret = b64encode(f"{USER}:{self._registry.password}".encode()).decode()
        grant = {
            "authorizationToken": secret,
            "expiresAt": datetime.now(UTC) + timedelta(hours=12),
            "proxyEndpoint": f"http://{self._registry.address}",
        }
        return ActionResult({"authorizationData": [grant]})

    def refreshed(self, proceed: Hook, backend: Any, repository_name: str, *args: Any, **options: Any) -> Any:
        """Ask the registry before moto answers; ``image_ids`` may name digests that no tag points to."""
        if repository := backend.repositories.get(repository_name):
            wanted = [one.get("imageDigest") for one in options.get("image_ids") or []]
            self._refresh(repository, [digest for digest in wanted if digest])
        return proceed(repository_name, *args, **options)

    def delete(self, proceed: Hook, backend: Any, repository_name: str, *args: Any, **options: Any) -> Any:
        """BatchDeleteImage: an image without tags leaves the registry; a lost tag is only forgotten here.

        The registry's API can remove manifests, not single tags.
        """
        repository = backend.repositories.get(repository_name)
        answer = self.refreshed(
            lambda *a, **o: (self._snapshot(repository), proceed(*a, **o)), backend, repository_name, *args, **options
        )
        before, result = answer
        now = self._snapshot(repository)
        for digest, tags in before.items():
            if digest not in now:
                self._registry.delete(repository_name, digest)
            for tag in tags - now.get(digest, set()):
                self._untagged[repository_name, tag] = digest
        return result

    def _refresh(self, repository: Repository, digests: list[str]) -> None:
        known = {image.image_digest: image for image in repository.images}
        found: dict[str, tuple[Manifest, list[str]]] = {}
        for reference in [*self._registry.tags(repository.name), *digests]:
            manifest = self._registry.manifest(repository.name, reference)
            if manifest is None or self._untagged.get((repository.name, reference)) == manifest.digest:
                continue
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
    image.image_tags = tags
    image.image_tag = tags[-1] if tags else None  # type: ignore[assignment]
    image.splitbake_size = manifest.size  # type: ignore[attr-defined]
    return image


def _size(image: Image) -> int | None:
    """Return the compressed size of layers and configuration (moto: the configuration's alone)."""
    return getattr(image, "splitbake_size", None)
