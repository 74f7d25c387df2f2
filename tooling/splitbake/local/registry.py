"""The registry behind ECR: Debian's docker-registry on loopback, with a password of this ``up``."""

from __future__ import annotations

import json
import secrets
import shutil
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from splitbake.errors import LocalCloudError, ToolError
from splitbake.local.state import write_private

#: The user name that Amazon ECR gives out in GetAuthorizationToken.
USER = "AWS"

#: The repository that models an ECR pull-through cache of Docker Hub, and the tag that `up` puts there.
PULL_THROUGH = "docker-hub/library/python"
PULL_THROUGH_TAG = "3.11-slim"

_MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
)


def command(directory: Path, port: int, password: str) -> list[str]:
    """Write the registry's configuration into ``directory`` and return the call that serves it.

    Raises:
        ToolError: no registry is installed.
    """
    import bcrypt

    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        raise ToolError(
            "The local cloud's ECR needs a registry, and neither docker-registry nor registry is installed.",
            hint="On Debian or Ubuntu: apt install docker-registry (or `splitbake doctor --fix`).",
        )
    directory.mkdir(exist_ok=True, mode=0o700)
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=4)).decode()
    write_private(directory / "htpasswd", f"{USER}:{hashed}\n")
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(directory / "storage")},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": f"127.0.0.1:{port}", "secret": secrets.token_hex(16)},
        "auth": {"htpasswd": {"realm": "splitbake", "path": str(directory / "htpasswd")}},
    }
    path = directory / "config.yml"
    write_private(path, json.dumps(config, indent=2))  # JSON is YAML
    return [program, "serve", str(path)]


def restore(storage: Path, kept: Path) -> bool:
    """Fill the storage of a registry with what :func:`keep` kept; False where there is nothing yet."""
    if not kept.exists():
        return False
    _copy(kept, storage, storage)
    return True


def keep(storage: Path, kept: Path) -> None:
    """Keep the storage of a registry for the next one: compressing a base image for the push takes seconds."""
    with TemporaryDirectory(dir=kept.parent, prefix=f"{kept.name}-") as scratch:
        partial = Path(scratch) / "storage"
        _copy(storage, partial, kept)
        try:
            partial.rename(kept)
        except OSError:
            if not kept.exists():  # another `up` was faster, or else this is a real error
                raise


def _copy(source: Path, target: Path, named: Path) -> None:
    try:
        shutil.copytree(source, target)
    except shutil.Error as problem:  # it holds one triple a file: source, target, reason
        raise LocalCloudError(
            f"The registry's content cannot be copied to {named}: {problem.args[0][0][2]}",
            hint="See that the disk has room and that the folder belongs to you.",
        ) from problem


@dataclass(frozen=True)
class Manifest:
    """A manifest as it lies in the registry.

    Attributes:
        digest: ``sha256:…`` of its bytes.
        media_type: what kind of manifest it is.
        text: its bytes as text.
        size: bytes of its layers and configuration as stored (compressed), as ECR counts an image; of a list "the max
            size of all manifests in the list" (ECR API model).
    """

    digest: str
    media_type: str
    text: str
    size: int


@dataclass(frozen=True)
class Registry:
    """A client of the registry's HTTP API (Docker Registry HTTP API V2)."""

    address: str
    password: str = field(repr=False)

    def ready(self) -> bool:
        """Whether it answers and knows the password."""
        try:
            self._call("GET", "/v2/")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def tags(self, repository: str) -> list[str]:
        """Return the tags of ``repository``; none where nothing was pushed yet."""
        try:
            _, body = self._call("GET", f"/v2/{repository}/tags/list")
        except urllib.error.HTTPError as problem:
            if problem.code == 404:  # noqa: PLR2004
                return []
            raise
        return sorted(json.loads(body).get("tags") or [])

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        """Return the manifest that ``reference`` (tag or digest) names, or None."""
        try:
            headers, body = self._call("GET", f"/v2/{repository}/manifests/{reference}")
        except urllib.error.HTTPError as problem:
            if problem.code == 404:  # noqa: PLR2004
                return None
            raise
        parsed = json.loads(body)
        listed = [self.manifest(repository, each["digest"]) for each in parsed.get("manifests", [])]
        own = sum(part["size"] for part in parsed.get("layers", [])) + parsed.get("config", {}).get("size", 0)
        size = max((each.size for each in listed if each), default=own)
        return Manifest(headers["Docker-Content-Digest"], headers["Content-Type"], body.decode(), size)

    def put(self, repository: str, tag: str, text: str, media_type: str) -> None:
        """Give ``tag`` to a manifest whose blobs the repository has.

        Raises:
            HTTPError: the registry refused it, for example as a blob is missing.
        """
        self._call("PUT", f"/v2/{repository}/manifests/{tag}", (text.encode(), media_type))

    def delete(self, repository: str, digest: str) -> None:
        """Remove the manifest ``digest`` with all its tags; one that is gone already is fine."""
        try:
            self._call("DELETE", f"/v2/{repository}/manifests/{digest}")
        except urllib.error.HTTPError as problem:
            if problem.code != 404:  # noqa: PLR2004
                raise

    def push(self, client: Any, image: str, repository: str, tag: str) -> None:
        """Push the engine's ``image`` as ``repository:tag``.

        Raises:
            LocalCloudError: the engine could not push it.
        """
        name = f"{self.address}/{repository}"
        client.images.get(image).tag(name, tag)
        login = {"username": USER, "password": self.password}
        try:
            for line in client.images.push(name, tag=tag, auth_config=login, stream=True, decode=True):
                if "error" in line:
                    raise LocalCloudError(f"The base image could not be pushed to {name}:{tag}: {line['error']}")
        finally:
            client.images.remove(f"{name}:{tag}")

    def _call(self, method: str, path: str, body: tuple[bytes, str] | None = None) -> tuple[Any, bytes]:
        login = b64encode(f"{USER}:{self.password}".encode()).decode()
        request = urllib.request.Request(
            f"http://{self.address}{path}",
            method=method,
            data=body[0] if body else None,
            headers={
                "Authorization": f"Basic {login}",
                "Accept": ", ".join(_MANIFESTS),
                **({"Content-Type": body[1]} if body else {}),
            },
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=30) as answer:
            return answer.headers, answer.read()
