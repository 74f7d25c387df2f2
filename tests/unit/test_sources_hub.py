"""Model files of the Hugging Face Hub, against a server that speaks its API (of huggingface_hub 2.4)."""

from __future__ import annotations

import errno
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from splitbake import resolve, sources
from splitbake.cloud import Cloud
from splitbake.errors import SourceError
from splitbake.lock import Lock, LockedBaseAmi, LockedBaseImage, LockedFile
from splitbake.manifest import Environment, ModelFile
from splitbake.project import Project
from splitbake.sources import Found
from splitbake.sources.hub import HubSource, parse

CLOUD = Cloud("dev", Environment(account="123456789012", region="eu-west-1"))
TOKEN = "hf_secretsecretsecret"
HERE = "hf://my-org/llava@main/README.md"
BASE_AMI = LockedBaseAmi(
    request="ecs-gpu-al2023",
    id="ami-01234567",
    name="base",
    owner="self",
    created="2026-01-01T00:00:00Z",
    architecture="x86_64",
    region="eu-west-1",
    root_device="/dev/xvda",
    root_size=1,
)
BASE_IMAGE = LockedBaseImage(request="python:3.11-slim", digest="sha256:" + "c" * 64)
OLD, NEW = "a" * 40, "b" * 40
WEIGHTS = b"weights" * 1000
#: Path in the repository -> its content; what ends in .safetensors lies in LFS.
FILES = {
    "README.md": b"# a model\n" * 200,
    "deep/config.json": b"{}",
    "deep/a b#1?.safetensors": WEIGHTS,
    "deep/er/model.safetensors": WEIGHTS + b"2",
}
REVISIONS = {"main": NEW, "v1": OLD, "refs/pr/1": OLD, "feature/x": OLD, OLD: OLD, NEW: NEW}
#: Repository, as the API names it -> what it says of itself.
REPOSITORIES: dict[str, dict[str, Any]] = {
    "models/my-org/llava": {"private": False, "gated": False},
    "models/my-org/gated": {"private": False, "gated": "manual"},
    "models/my-org/private": {"private": True, "gated": False},
    "datasets/my-org/faces": {"private": False, "gated": False},
}


def oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def entry(path: str) -> dict[str, Any]:
    content = FILES[path]
    said = {"type": "file", "path": path, "size": len(content), "oid": oid(content)}
    if path.endswith(".safetensors"):
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 132}
        said |= {"lfs": lfs, "xetHash": "c" * 64}
    return said


class Cdn(BaseHTTPRequestHandler):
    """Where LFS files lie: signed addresses, and no credentials beside the signature."""

    def do_GET(self) -> None:
        name, query = urlsplit(self.path).path.lstrip("/"), parse_qs(urlsplit(self.path).query)
        if "Authorization" in self.headers or query.get("Signature") != ["signed"]:
            self.send_error(400, "one way to authenticate, please")
            return
        content = next(text for text in FILES.values() if hashlib.sha256(text).hexdigest() == name)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Hub(BaseHTTPRequestHandler):
    """The API of the hub, as far as files are read; ``cdn`` is the address of the other server."""

    cdn = ""
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        where = urlsplit(self.path)
        parts = [unquote(part) for part in where.path.strip("/").split("/")]
        if parts[:4] == ["api", "models", "my-org", "renamed"]:
            self._moved(self.path.replace("my-org/renamed", "my-org/llava"))
        elif parts[:4] == ["api", "models", "my-org", "nonsense"]:
            self._json(["not what was asked for"])
        elif parts[0] == "api":
            self._api("/".join(parts[1:4]), parts[4], parts[5], "/".join(parts[6:]), parse_qs(where.query))
        else:
            kind = parts.pop(0) if parts[0] in {"datasets", "spaces"} else "models"
            self._resolve("/".join((kind, *parts[:2])), parts[3], "/".join(parts[4:]))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        kind, owner, name, what, commit = self.path.strip("/").split("/")[1:]
        assert what == "paths-info"
        if self._may("/".join((kind, owner, name)), commit, files=True):
            known = [entry(path) for path in form["paths"] if path in FILES]
            folders = {"type": "directory", "path": "deep", "oid": "d" * 40, "size": 0}
            self._json(known + ([folders] if form["paths"] == ["deep"] else []))

    def _api(self, repository: str, what: str, revision: str, path: str, query: dict[str, list[str]]) -> None:
        if not self._may(repository, revision, files=what == "tree"):
            return
        if what == "revision":
            self._json({"id": repository.partition("/")[2], "sha": REVISIONS[revision], **REPOSITORIES[repository]})
            return
        assert what == "tree"
        assert query["recursive"] == ["true"]
        below = [entry(name) for name in sorted(FILES) if name.startswith(f"{path}/" if path else "")]
        if not below:
            self._refuse(404, "EntryNotFound")
            return
        folder = {"type": "directory", "path": "deep", "oid": "d" * 40, "size": 0}
        below = [folder, *below]
        start = int(query.get("cursor", ["0"])[0])
        link = (
            f'<https://{self.headers["Host"]}{urlsplit(self.path).path}?recursive=true&cursor={start + 2}>; rel="next"'
        )
        self._json(below[start : start + 2], {"Link": link} if start + 2 < len(below) else {})

    def _resolve(self, repository: str, revision: str, path: str) -> None:
        if not self._may(repository, revision, files=True):
            return
        if path not in FILES:
            self._refuse(404, "EntryNotFound")
            return
        said, headers = entry(path), {"X-Repo-Commit": REVISIONS[revision]}
        if "lfs" in said:
            digest = said["lfs"]["oid"]
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(said["size"])}
            self._moved(f"{self.cdn}/{digest}?Signature=signed", headers)
            return
        self._send(200, FILES[path], headers | {"ETag": f'"{said["oid"]}"'})

    def _may(self, repository: str, revision: str, *, files: bool) -> bool:
        """Answer as the hub does where something is not there, or not for everybody."""
        said = REPOSITORIES.get(repository)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if said is None or (said["private"] and not known):
            return self._refuse(401, "RepoNotFound")
        if revision not in REVISIONS:
            return self._refuse(404, "RevisionNotFound")
        if files and said["gated"] and not known and "resolve" in self.path:
            return self._refuse(401, "GatedRepo")
        return True

    def _refuse(self, status: int, code: str) -> bool:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": "no"})
        return False

    def _moved(self, where: str, headers: dict[str, str] | None = None) -> None:
        self._send(307 if where.startswith("/") else 302, b"", {**(headers or {}), "Location": where})

    def _json(self, body: Any, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(body).encode(), headers or {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def hub(serve, monkeypatch, tmp_path) -> type[Hub]:
    running = type("Running", (Hub,), {"cdn": serve(Cdn), "asked": []})
    for name in ("HF_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", serve(running))
    return running


@pytest.fixture
def source(hub, tmp_path) -> HubSource:
    return HubSource(CLOUD, tmp_path)


@pytest.fixture
def logged_in(hub, tmp_path, monkeypatch) -> HubSource:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return HubSource(CLOUD, tmp_path)


def find(source: HubSource, path: str, uri: str) -> list[Found]:
    return source.find(ModelFile.model_validate({"path": path, "from": uri}))


def lock(found: Found) -> LockedFile:
    content = FILES[parse(found.source).path]
    sha256 = hashlib.sha256(content).hexdigest()
    return LockedFile(path=found.path, source=found.source, size=len(content), sha256=sha256)


def read(source: HubSource, found: Found) -> bytes:
    content = b""
    with source.open(found) as stream:
        while chunk := stream.read(1000):
            content += chunk
    return content


def test_a_branch_is_pinned_to_its_commit_and_a_file_in_lfs_needs_no_download(source, hub):
    (found,) = find(source, "llava.safetensors", "hf://my-org/llava@main/deep/er/model.safetensors")
    content = FILES["deep/er/model.safetensors"]
    assert found == Found(
        path="llava.safetensors",
        source=f"hf://my-org/llava@{NEW}/deep/er/model.safetensors",
        size=len(content),
        etag=oid(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    assert not any("resolve" in request for request in hub.asked)
    assert read(source, found) == content


def test_a_folder_gives_every_file_below_it_over_many_pages(source, hub):
    found = find(source, "llava/", "hf://my-org/llava@v1/deep/")
    assert {file.path: file.source for file in found} == {
        f"llava/{name.removeprefix('deep/')}": f"hf://my-org/llava@{OLD}/{name}"
        for name in FILES
        if name.startswith("deep/")
    }
    assert {file.path for file in found if file.sha256} == {"llava/a b#1?.safetensors", "llava/er/model.safetensors"}
    assert len([request for request in hub.asked if "/tree/" in request]) == 2
    for file in found:
        assert read(source, file) == FILES[parse(file.source).path]


def test_a_whole_repository_can_be_taken_and_main_is_what_is_meant_without_revision(source):
    found = find(source, "all/", "hf://models/my-org/llava/")
    assert {file.source for file in found} == {f"hf://my-org/llava@{NEW}/{name}" for name in FILES}


@pytest.mark.parametrize("revision", ["v1", OLD, "refs/pr/1", "refs%2Fpr%2F1", "feature%2Fx"])
def test_every_kind_of_revision_is_pinned(source, revision):
    (found,) = find(source, "x", f"hf://my-org/llava@{revision}/README.md")
    assert found.source == f"hf://my-org/llava@{OLD}/README.md"


def test_a_dataset_is_read_like_a_model(source):
    (found,) = find(source, "x", "hf://datasets/my-org/faces@main/README.md")
    assert found.source == f"hf://datasets/my-org/faces@{NEW}/README.md"
    assert read(source, found) == FILES["README.md"]
    assert "/datasets/my-org/faces/resolve/" in str(source.url(lock(found)))


def test_a_renamed_repository_is_locked_by_its_new_name(source):
    (found,) = find(source, "x", "hf://my-org/renamed@main/README.md")
    assert found.source == f"hf://my-org/llava@{NEW}/README.md"


def test_a_public_file_has_a_plain_address_even_for_who_is_logged_in(source, logged_in):
    (found,) = find(source, "x", "hf://my-org/llava@main/deep/a b#1?.safetensors")
    for one in (source, logged_in):
        url = one.url(lock(found))
        assert str(url).endswith(f"/my-org/llava/resolve/{NEW}/{quote('deep/a b#1?.safetensors')}")


@pytest.mark.parametrize("repository", ["gated", "private"])
def test_the_builder_gets_signed_addresses_or_files_and_never_the_token(logged_in, hub, tmp_path, repository):
    found = find(logged_in, "x/", f"hf://my-org/{repository}@main/deep/")
    urls = {file.path: logged_in.url(lock(file)) for file in found}
    config = urls.pop("x/config.json")
    assert isinstance(config, Path)
    assert config.read_bytes() == b"{}"
    assert config.is_relative_to(tmp_path / "cache")
    assert all(str(url).startswith(f"{hub.cdn}/") and "Signature=signed" in str(url) for url in urls.values())
    assert TOKEN not in repr((found, urls, hub.asked))
    for file in found:
        assert read(logged_in, file) == FILES[parse(file.source).path]  # and the token stays away from the CDN


@pytest.mark.parametrize("repository", ["gated", "private"])
def test_who_is_not_logged_in_is_told_so(source, repository):
    with pytest.raises(SourceError) as caught:
        read(source, find(source, "x", f"hf://my-org/{repository}@main/README.md")[0])
    assert f"hf://my-org/{repository}" in caught.value.message
    assert "HF_TOKEN" in caught.value.hint


def test_the_token_of_a_login_is_found(hub, tmp_path):
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface/token").write_text(f"{TOKEN}\n")
    assert find(HubSource(CLOUD, tmp_path), "x", "hf://my-org/private@main/README.md")


def test_what_is_no_token_is_not_shown(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "two\nlines")
    with pytest.raises(SourceError, match="is not one") as caught:
        HubSource(CLOUD, tmp_path)
    assert "lines" not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize(
    ("path", "uri", "expected"),
    [
        ("x", "hf://my-org/none@main/x", "there is no repository hf://my-org/none"),
        ("x", "hf://my-org/llava@none/x", "hf://my-org/llava has no revision 'none'"),
        ("x", "hf://my-org/llava@main/none", "no file lies at hf://my-org/llava@main/none"),
        ("x", "hf://my-org/llava@main/deep", "no file lies at hf://my-org/llava@main/deep"),
        ("x/", "hf://my-org/llava@main/none/", "hf://my-org/llava@b{40}/none/ does not exist"),
        ("x", "hf://my-org/nonsense@main/x", "is not one of the Hugging Face Hub"),
    ],
)
def test_what_is_not_there_is_told(source, path, uri, expected):
    with pytest.raises(SourceError, match=expected) as caught:
        find(source, path, uri)
    assert caught.value.hint


def test_the_hub_is_asked_over_https_only(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="is not https"):
        find(HubSource(CLOUD, tmp_path), "x", "hf://my-org/llava@main/x")


def test_a_file_is_copied_whole(source, tmp_path):
    (found,) = find(source, "x", "hf://my-org/llava@main/deep/er/model.safetensors")
    sources.download(source, lock(found), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == FILES["deep/er/model.safetensors"]


def test_a_full_disk_is_not_the_hubs_fault(source):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left") as caught, source.open(find(source, "x", HERE)[0]):
        raise full
    assert caught.value is full


@pytest.mark.parametrize(
    "uri",
    [
        "hf://",
        "hf://llava",
        "hf://llava/x",
        "hf://my-org/llava",
        "hf://my-org/llava@main",
        "hf://my-org/llava@/x",
        "hf://my-org/llava@a@b/x",
        "hf://my-org/llava@main//x",
        "hf://my-org/llava@main/../x",
        "hf://my-org/llava@main/./x",
    ],
)
def test_addresses_of_nothing_are_refused_as_text(uri):
    with pytest.raises(ValueError, match="expected hf://org/repository@revision/path"):
        HubSource.check(uri)


def test_a_project_locks_a_repository_and_downloads_only_its_small_files(logged_in, hub, tmp_path):
    manifest = {
        "version": 1,
        "project": "video-analysis",
        "state": ".splitbake/state",
        "models": {"files": [{"path": "models/", "from": "hf://my-org/private@main/"}], "budget": "3 GiB"},
        "ami": {"base": "ecs-gpu-al2023"},
        "image": {
            "base": "python:3.11-slim",
            "include": ["run.py"],
            "mounts": {"models": "/workspace/models"},
            "command": ["python", "run.py"],
            "repository": "processor",
            "budget": "500 MB",
        },
        "environments": {"dev": {"account": "123456789012", "region": "eu-west-1"}},
    }
    (tmp_path / "splitbake.yaml").write_text(json.dumps(manifest))
    project, said = Project(tmp_path / "splitbake.yaml"), []
    first = resolve.resolve_models(project, CLOUD, None, said.append)
    assert {path: first.ways[path] for path in sorted(first.ways)} == {
        "models/README.md": "downloaded",
        "models/deep/a b#1?.safetensors": "told",
        "models/deep/config.json": "downloaded",
        "models/deep/er/model.safetensors": "told",
    }
    files = first.entries[0].files
    assert {file.path: file.sha256 for file in files} == {
        f"models/{name}": hashlib.sha256(content).hexdigest() for name, content in FILES.items()
    }
    locked = Lock.model_validate({"base_ami": BASE_AMI, "base_image": BASE_IMAGE, "models": first.entries})
    assert TOKEN not in locked.to_text() + repr(said)
    again = resolve.resolve_models(project, CLOUD, locked, said.append)
    assert (again.entries, set(again.ways.values())) == (first.entries, {"unchanged"})
