"""One repository of a registry, by its HTTP API (OCI distribution specification 1.1), through no engine.

ECR takes the password of ``docker login`` as HTTP basic authentication ("Private registry authentication", ECR user
guide); a registry of the local cloud does so too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import ssl
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Final
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError

from splitbake import units
from splitbake.ecr import Credentials
from splitbake.errors import CloudError
from splitbake.oci import image as images
from splitbake.oci.image import Descriptor, Image
from splitbake.ui import Say

#: Bytes of a manifest or a configuration; registries take no larger manifests (4 MiB, distribution specification).
_LARGEST_TEXT: Final = 8 * 1024**2
_TIMEOUT: Final = urllib3.Timeout(connect=10, read=300)
#: Throttled, or in trouble for a moment.
_BUSY: Final = (429, 500, 502, 503, 504)
#: An upload is begun anew as a whole instead: its body is gone.
_RETRY: Final = urllib3.Retry(5, redirect=5, backoff_factor=0.5, status_forcelist=_BUSY, raise_on_status=False)
#: Seconds before each time that an upload is begun anew, where the registry says nothing else.
_WAITS: Final = (0.5, 2.0, 8.0)
#: Seconds that are waited at most, whatever a registry says.
_LONGEST_WAIT: Final = 60.0
_MISSING: Final = 404
#: How often a blob is fetched.
_TRIES: Final = 3
_CHUNK: Final = 1024**2


@dataclass(frozen=True)
class Manifest:
    """A manifest as a repository has it, byte for byte.

    Attributes:
        text: its bytes.
        media_type: what kind of manifest it is.
    """

    text: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """By which it is named."""
        return images.digest(self.text)


class _BusyError(CloudError):
    """The registry refuses something for the moment; ``wait`` are the seconds that it asks for, if it does."""

    def __init__(self, message: str, wait: float | None) -> None:
        super().__init__(message, hint="the registry is busy, or in trouble: try again in a while")
        self.wait = wait


class Repository:
    """A repository that credentials open."""

    def __init__(self, uri: str, credentials: Credentials) -> None:
        """``uri``: ``host/name`` as ECR says it."""
        host, _, name = uri.partition("/")
        scheme = "http" if credentials.plain else "https"
        self.uri = uri
        self._base = f"{scheme}://{host}/v2/{name}/"
        self._headers = {"Authorization": f"Basic {credentials.token}"}
        self._pool = _pool(self._base, direct=credentials.plain)

    def has(self, digest: str) -> bool:
        """Return whether the repository has this blob."""
        with self._told(f"look for {digest}"):
            answer = self._ask("HEAD", f"blobs/{digest}", missing=True)
            return bool(answer.status != _MISSING)

    def image(self, reference: str) -> Image | None:
        """Return the image that a tag or digest names, None where there is none.

        Raises:
            CloudError: it is not an image of one platform, or the registry cannot be asked.
        """
        found = self.manifest(reference)
        return None if found is None else self.read(found)

    def manifest(self, reference: str) -> Manifest | None:
        """Return the manifest that a tag or digest names, None where there is none."""
        with self._told(f"read {reference}"):
            kinds = {"Accept": ", ".join((*images.MANIFESTS, *images.INDEXES))}
            answer = self._ask("GET", f"manifests/{reference}", headers=kinds, missing=True)
            if answer.status == _MISSING:
                answer.release_conn()
                return None
            text = _text(answer)
            if reference.startswith("sha256:"):
                _checked(reference, text)
            return Manifest(text, answer.headers.get("Content-Type") or json.loads(text)["mediaType"])

    def read(self, manifest: Manifest) -> Image:
        """Return the image of a manifest that the repository has.

        Raises:
            CloudError: it is not an image of one platform, or the registry cannot be asked.
        """
        with self._told(f"read {manifest.digest}"):
            said = json.loads(manifest.text)
            if "manifests" in said:
                raise CloudError("it is a list of images", hint="name the one of your platform by its digest")
            config = said["config"]["digest"]
            return images.read(manifest.text, _checked(config, _text(self._ask("GET", f"blobs/{config}"))))

    @contextmanager
    def blob(self, digest: str) -> Iterator[IO[bytes]]:
        """Yield a file with the bytes of a blob; it goes with the block."""
        with tempfile.TemporaryFile(buffering=0) as file:  # what is buffered fails once more when it is closed
            with self._told(f"fetch {digest}"):
                self._download(digest, file)
                file.seek(0)
            yield file

    def _download(self, digest: str, into: IO[bytes]) -> None:
        """Fetch a blob; what breaks off is begun anew, a few times."""
        for left in reversed(range(_TRIES)):
            into.seek(0)
            into.truncate()
            seen = hashlib.sha256()
            answer = self._ask("GET", f"blobs/{digest}")
            try:
                # decode_content: a registry sends a compressed layer as it is, whatever a proxy says of it.
                for chunk in answer.stream(_CHUNK, decode_content=False):
                    seen.update(chunk)
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[into.write(rest) :]
            except HTTPError:
                if left:
                    continue
                raise
            finally:
                answer.release_conn()
            if f"sha256:{seen.hexdigest()}" != digest:
                raise ValueError(f"it is not {digest}")
            return

    def upload(self, content: IO[bytes], digest: str, size: int) -> None:
        """Bring a blob there; what breaks off, or is refused for the moment, is begun anew, a few times."""
        with self._told(f"upload {digest}"):
            for wait in _WAITS:
                try:
                    return self._upload(content, digest, size)
                except _BusyError as problem:
                    time.sleep(wait if problem.wait is None else min(problem.wait, _LONGEST_WAIT))
                except HTTPError:
                    time.sleep(wait)
                content.seek(0)
            return self._upload(content, digest, size)

    def _upload(self, content: IO[bytes], digest: str, size: int) -> None:
        """In two calls: "POST then PUT" of the specification."""
        place = self._location(self._ask("POST", "blobs/uploads/"))
        kind = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        target = f"{place}{'&' if urlsplit(place).query else '?'}digest={digest}"
        self._ask("PUT", target, body=content, headers=kind)

    def put(self, image: Image, tag: str) -> str:
        """Give the repository ``image``, whose layers it has, under ``tag``; return the digest of its manifest."""
        config, manifest = image.texts()
        self.upload(io.BytesIO(config), images.digest(config), len(config))
        return self.put_manifest(Manifest(manifest, images.MANIFEST), tag)

    def put_manifest(self, manifest: Manifest, tag: str) -> str:
        """Give the repository a manifest, whose blobs it has, under ``tag``; return its digest.

        Where tags are immutable it is enough that the tag names this very manifest already.
        """
        try:
            with self._told(f"name the image {tag}"):
                kind = {"Content-Type": manifest.media_type}
                self._ask("PUT", f"manifests/{tag}", body=manifest.text, headers=kind)
        except CloudError as problem:
            if isinstance(problem.__cause__, HTTPError):
                raise
            there = self.manifest(tag)
            if there is None or there.digest != manifest.digest:
                raise
        return manifest.digest

    def copy(self, source: Repository, manifest: Manifest, tag: str, say: Say) -> None:
        """Take over an image of one platform from another repository, as it is there, under ``tag``.

        Raises:
            CloudError: it is none, or one of the two refused something.
        """
        image = source.read(manifest)
        config = Descriptor.of(json.loads(manifest.text)["config"])
        for blob in {each.digest: each for each in (*(layer.blob for layer in image.layers), config)}.values():
            if self.has(blob.digest):
                continue
            say(f"copying {blob.digest[:19]}…, {units.format_size(blob.size)}")
            with source.blob(blob.digest) as file:
                self.upload(file, blob.digest, blob.size)
        self.put_manifest(manifest, tag)

    def _ask(
        self,
        method: str,
        where: str,
        *,
        body: bytes | IO[bytes] | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        missing: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        repeatable = method in {"GET", "HEAD"} or isinstance(body, bytes)
        answer = self._pool.request(
            method,
            urljoin(self._base, where),
            body=body,
            headers={**self._headers, **headers},
            timeout=_TIMEOUT,
            retries=_RETRY if repeatable else False,
            preload_content=method != "GET",
        )
        if answer.status >= 400 and not (missing and answer.status == _MISSING):  # noqa: PLR2004 - HTTP
            raise _refusal(answer)
        return answer

    def _location(self, answer: urllib3.BaseHTTPResponse) -> str:
        return urljoin(self._base, answer.headers["Location"])

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except CloudError as problem:
            message = f"could not {doing} in {self.uri}: {problem.message}"
            raise CloudError(message, hint=problem.hint) from problem.__cause__
        except HTTPError as problem:
            raise CloudError(
                f"could not {doing} in {self.uri}: {problem}",
                hint="is the registry reachable from here? check network and proxy",
            ) from problem
        except OSError as problem:  # what goes wrong on the wire is an HTTPError
            raise CloudError(
                f"could not {doing} in {self.uri}: a temporary file on this machine: {problem.strerror or problem}",
                hint=f"make room in {tempfile.gettempdir()}, or set TMPDIR to a folder on another disk",
            ) from problem
        except (KeyError, TypeError, ValueError) as problem:
            raise CloudError(f"could not {doing} in {self.uri}: the answer is none of a registry: {problem}") from None


def _pool(base: str, *, direct: bool) -> urllib3.PoolManager:
    """Return the way to a registry: through the proxy of the environment, but for one on this machine."""
    if direct:
        return urllib3.PoolManager()
    bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    context = ssl.create_default_context(cafile=bundle)
    host = urlsplit(base).hostname or ""
    proxy = None if proxy_bypass(host) else getproxies().get("https")
    return urllib3.ProxyManager(proxy, ssl_context=context) if proxy else urllib3.PoolManager(ssl_context=context)


def _text(answer: urllib3.BaseHTTPResponse) -> bytes:
    text = answer.read(_LARGEST_TEXT)
    answer.release_conn()
    if len(text) == _LARGEST_TEXT:
        raise ValueError("it is larger than a manifest can be")
    return text


def _checked(digest: str, content: bytes) -> bytes:
    if images.digest(content) != digest:
        raise ValueError(f"it is not {digest}")
    return content


#: Error codes of the distribution specification -> what to do about it.
_HINTS: Final[Mapping[str, str]] = {
    "UNAUTHORIZED": "the registry refused these credentials: check account and permissions",
    "DENIED": "the role lacks a permission; splitbake iam prints the policies that each role needs",
    "TAG_INVALID": "the repository's tags are immutable and this one exists: delete that image, or change an input",
    "NAME_UNKNOWN": "is the repository there? run it again",
}


def _refusal(answer: urllib3.BaseHTTPResponse) -> CloudError:
    text = answer.data[:2000].decode(errors="replace") if answer.data else ""
    try:
        first = json.loads(text)["errors"][0]
        code, message = str(first.get("code", "")), str(first.get("message", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        code, message = "", text.strip()
    said = f"it answered {answer.status} {code} {message}".strip()
    if answer.status in _BUSY:
        return _BusyError(said, _RETRY.get_retry_after(answer))
    return CloudError(said, hint=_HINTS.get(code, ""))
