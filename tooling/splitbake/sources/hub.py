"""Model files in repositories of the Hugging Face Hub, by its HTTP API.

The API is that of huggingface_hub 2.4 (``hf_api.py``, ``file_download.py``): ``/api/models/ID/revision/REVISION`` says
which commit a revision is, ``/tree/COMMIT`` lists files with the SHA-256 of those that lie in LFS, and
``/resolve/COMMIT/PATH`` gives one, mostly by a redirect to a signed address elsewhere.
"""

from __future__ import annotations

import os
import re
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import quote, unquote, urlencode, urljoin

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from splitbake.cloud import Cloud
from splitbake.errors import SourceError
from splitbake.lock import LockedFile
from splitbake.manifest import ModelFile
from splitbake.sources import Found, Readable, Stream, cache, web
from splitbake.spec import Sha256

ENDPOINT = "https://huggingface.co"

# The grammar of huggingface_hub 2.4 (utils/_hf_uris.py). A / in a revision is written %2F, but in these two.
_URI = re.compile(
    r"hf://(?:(?P<kind>models|datasets|spaces)/)?(?P<repository>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:convert/[\w.-]+|pr/\d+)|[^/@]+))?/(?P<path>.*)",
    re.ASCII,
)


@dataclass(frozen=True)
class Place:
    """A file or folder of a repository at a revision; a folder's path ends with / or, at the top, is empty."""

    kind: str
    repository: str
    revision: str
    path: str

    @property
    def name(self) -> str:
        """The repository as addresses for people name it: those of models have no prefix."""
        return self.repository if self.kind == "models" else f"{self.kind}/{self.repository}"

    @property
    def uri(self) -> str:
        """The place as the manifest and the lock name it."""
        return f"hf://{self.name}@{quote(self.revision, safe='')}/{self.path}"


def parse(uri: str) -> Place:
    """Take ``uri`` apart; ValueError where it names nothing."""
    found = _URI.fullmatch(uri)
    if found is None or not {"", ".", ".."}.isdisjoint(
        found["path"].removesuffix("/").split("/") if found["path"] else ()
    ):
        raise ValueError("expected hf://org/repository@revision/path, for example hf://my-org/llava@main/model.onnx")
    return Place(found["kind"] or "models", found["repository"], unquote(found["revision"] or "main"), found["path"])


class _Revision(BaseModel):
    """What a revision is. Some private or gated repositories do not say so to those who may not read them."""

    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    sha: str = Field(pattern="^[0-9a-f]{40}$")
    private: bool = False
    gated: bool | str = False


class _Lfs(BaseModel):
    oid: Sha256
    size: int


class _Entry(BaseModel):
    """A file or folder in a tree; ``oid`` is git's name of the content, which of an LFS file is its pointer."""

    type: str
    path: str
    oid: str
    size: int = 0
    lfs: _Lfs | None = None


_ENTRIES = TypeAdapter(list[_Entry])


class HubSource:
    """A file of a repository, or every file below a folder; branches and tags are pinned to their commits."""

    def __init__(self, cloud: Cloud, root: Path) -> None:
        self._web = web.Web()
        self._endpoint = (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        self._token = _token()
        self._revisions: dict[tuple[str, str], _Revision] = {}
        self._asking = threading.Lock()

    @staticmethod
    def check(uri: str) -> None:
        """See Source."""
        if not parse(uri).path and not uri.endswith("/"):
            raise ValueError("expected a file, or a folder with a trailing /")

    def find(self, entry: ModelFile) -> list[Found]:
        """See Source. The repository may have been renamed: what is locked has its name of today."""
        asked = parse(entry.source)
        revision = self._revision(asked)
        place = replace(asked, repository=revision.id, revision=revision.sha)
        files = [item for item in self._entries(place) if item.type == "file"]
        if not files:
            raise SourceError(
                f"no file lies at {entry.source}", hint=f"{_CORRECT}; a folder is written with a trailing /"
            )
        return [
            Found(
                path=entry.path + item.path.removeprefix(place.path) if entry.is_folder else entry.path,
                source=replace(place, path=item.path).uri,
                size=item.lfs.size if item.lfs else item.size,
                etag=item.oid,
                sha256=item.lfs.oid if item.lfs else None,
            )
            for item in files
        ]

    @contextmanager
    def open(self, file: Readable) -> Iterator[Stream]:
        """See Source. What a commit holds does not change."""
        place = parse(file.source)
        with _told(place):
            answer = self._web.ask("GET", self._address(place), token=self._token)
        with answer:
            yield web.Whole(answer, file.source)

    def url(self, file: LockedFile) -> str | Path:
        """See Source.

        The builder never gets the token. Of a repository that not everybody may read it gets the signed address that
        the hub redirects to; the few small files that the hub serves itself are fetched here, and uploaded.
        """
        place = parse(file.source)
        address, revision = self._address(place), self._revision(place)
        if not (revision.private or revision.gated):
            return address
        with _told(place):
            signed = self._web.leads_to(address, token=self._token)
        if web.origin(signed) == web.origin(address):
            return cache.fetched(self, file)
        return signed

    def _revision(self, place: Place) -> _Revision:
        key = (place.name, place.revision)
        with self._asking:
            if key not in self._revisions:
                body, _ = self._get(place, f"revision/{quote(place.revision, safe='')}")
                with _understood(place):
                    self._revisions[key] = _Revision.model_validate_json(body)
            return self._revisions[key]

    def _entries(self, place: Place) -> Iterator[_Entry]:
        """Yield what lies at ``place``, or below it where it is a folder."""
        if place.path and not place.path.endswith("/"):
            form = urlencode({"paths": place.path, "expand": "false"}).encode()
            body, _ = self._get(place, f"paths-info/{place.revision}", form=form)
            with _understood(place):
                yield from _ENTRIES.validate_json(body)
            return
        folder = quote(f"/{place.path}".removesuffix("/"))
        following: str | None = f"tree/{place.revision}{folder}?recursive=true&expand=false"
        while following:
            body, following = self._get(place, following)
            with _understood(place):
                yield from _ENTRIES.validate_json(body)

    def _get(self, place: Place, what: str, *, form: bytes | None = None) -> tuple[bytes, str | None]:
        """Return the answer of the API, and the address of its next page (RFC 8288, as GitHub has it)."""
        base = f"{self._endpoint}/api/{place.kind}/{place.repository}/"
        address = urljoin(base, what)
        with (
            _told(place),
            self._web.ask("POST" if form else "GET", address, token=self._token, form=form) as answer,
        ):
            return answer.read(), _next(answer)

    def _address(self, place: Place) -> str:
        return f"{self._endpoint}/{place.name}/resolve/{quote(place.revision, safe='')}/{quote(place.path)}"


def _next(answer: HTTPResponse) -> str | None:
    found = re.search(r'<([^>]+)>\s*;[^,]*\brel="?next"?', answer.headers.get("Link", ""))
    following = urljoin(answer.url, found[1]) if found else None
    if following and web.origin(following) != web.origin(answer.url):
        raise SourceError(f"the next page of {answer.url} is on another server", hint="check HF_ENDPOINT")
    return following


def _token() -> str | None:
    """Return the token where ``hf auth login`` and HF_TOKEN have it; it goes into one header and nowhere else."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        home = Path(os.environ.get("HF_HOME") or Path(caches) / "huggingface")
        try:
            path = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
            token = path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as problem:
            raise SourceError(f"the token of the Hugging Face Hub cannot be read: {problem}") from problem
    if not re.fullmatch("[!-~]+", token):
        raise SourceError("the token of the Hugging Face Hub is not one", hint="correct HF_TOKEN, or log in again")
    return token


@contextmanager
def _understood(place: Place) -> Iterator[None]:
    try:
        yield
    except ValidationError as problem:
        raise SourceError(
            f"the answer about {place.uri} is not one of the Hugging Face Hub", hint="check HF_ENDPOINT and the proxy"
        ) from problem


@contextmanager
def _told(place: Place) -> Iterator[None]:
    """Turn the hub's answers about ``place`` into what they mean."""
    with web.told(place.uri):
        try:
            yield
        except urllib.error.HTTPError as problem:
            if told := _meaning(problem, place):
                problem.close()
                raise told from problem
            raise


def _meaning(problem: urllib.error.HTTPError, place: Place) -> SourceError | None:
    """Return what an error of the hub says (its header X-Error-Code, and 401 for whatever you may not know of)."""
    code = problem.headers.get("X-Error-Code", "")
    if code == "RevisionNotFound":
        return SourceError(f"hf://{place.name} has no revision {place.revision!r}", hint=_CORRECT)
    if code == "EntryNotFound":
        return SourceError(f"{place.uri} does not exist", hint=_CORRECT)
    if code == "GatedRepo":
        return SourceError(
            f"hf://{place.name} is gated",
            hint=f"accept its conditions on {ENDPOINT}/{place.name}, with the account that HF_TOKEN belongs to",
        )
    if code == "RepoNotFound" or problem.code == 401:  # noqa: PLR2004 - unauthorized
        return SourceError(
            f"there is no repository hf://{place.name}, or it may not be read from here",
            hint="correct from in models.files; for a private or gated one, set HF_TOKEN or run hf auth login",
        )
    if problem.code == 429:  # noqa: PLR2004 - too many requests
        return SourceError(f"{place.uri}: the hub wants fewer requests", hint="wait some minutes; set HF_TOKEN")
    return None


_CORRECT = "correct from in models.files"
