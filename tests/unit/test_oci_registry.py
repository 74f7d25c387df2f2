"""A registry by its HTTP API, and what is done with it: pushing, fetching, copying, loading a file, measuring."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.server
import io
import json
import re
import resource
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from splitbake import ecr
from splitbake.bake import found, load
from splitbake.bake.load import Loaded
from splitbake.cli.image import command
from splitbake.cloud import Cloud
from splitbake.ecr import Credentials, RemoteImage
from splitbake.errors import BuildError, CloudError, SourceError, UsageError
from splitbake.oci import client
from splitbake.oci import image as images
from splitbake.oci.archive import opened
from splitbake.oci.client import Manifest, Repository
from splitbake.oci.measure import measure

INDEX = "application/vnd.oci.image.index.v1+json"


class Store:
    """What a registry has: repository -> digest -> bytes, and repository:tag -> (bytes, kind)."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.asked: list[str] = []
        self.immutable = False
        self.broken = 0
        self.busy: list[tuple[int, str]] = []
        self.uploads = 0

    def put(self, repository: str, tag: str, text: bytes, kind: str) -> bool:
        if self.immutable and (repository, tag) in self.manifests:
            return False
        for name in (tag, images.digest(text)):
            self.manifests[repository, name] = (text, kind)
        return True


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *args: object) -> None:
        return

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def place(self) -> tuple[str, str, str]:
        path = urlsplit(self.path).path.removeprefix("/v2/").removesuffix("/uploads/")
        repository, kind, name = re.fullmatch("(.+)/(manifests|blobs|upload)/?(.*)", path).groups()
        self.store.asked.append(f"{self.command} {repository} {kind}")
        return repository, kind, name

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        repository, kind, name = self.place()
        if self.headers["Authorization"] != "Basic c2VjcmV0":
            self.answer(401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "who?"}]}')
        elif kind == "manifests" and (repository, name) in self.store.manifests:
            text, media = self.store.manifests[repository, name]
            self.answer(200, text, Content_Type=media)
        elif kind == "blobs" and (repository, name) in self.store.blobs:
            body = self.store.blobs[repository, name]
            if self.store.broken and self.command == "GET":
                self.store.broken -= 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:5])
                self.close_connection = True
                return
            self.answer(200, body)
        else:
            self.answer(404)

    def refuses(self) -> bool:
        """Whether the registry is busy for the moment, as it was told to be."""
        if not self.store.busy or self.store.busy[0][1] != self.command:
            return False
        status, _ = self.store.busy.pop(0)
        after = {"Retry_After": "7"} if status == 503 else {}
        self.answer(status, b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "Rate exceeded"}]}', **after)
        return True

    def do_POST(self) -> None:
        repository, *_ = self.place()
        if self.refuses():
            return
        self.store.uploads += 1
        self.answer(202, Location=f"/v2/{repository}/upload/{self.store.uploads}")

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def do_PUT(self) -> None:
        repository, kind, name = self.place()
        body = self.body()
        if self.refuses():
            return
        if kind == "manifests":
            if self.store.put(repository, name, body, self.headers["Content-Type"]):
                self.answer(201)
            else:
                self.answer(400, b'{"errors": [{"code": "TAG_INVALID", "message": "it is immutable"}]}')
            return
        (digest,) = parse_qs(urlsplit(self.path).query)["digest"]
        assert images.digest(body) == digest
        self.store.blobs[repository, digest] = body
        self.answer(201)


class Registry(Store):
    host: str

    def repository(self, name: str = "app") -> Repository:
        return Repository(f"{self.host}/{name}", self.credentials())

    def credentials(self) -> Credentials:
        return Credentials(self.host, "c2VjcmV0", plain=True)

    def count(self, what: str) -> int:
        return self.asked.count(what)


@pytest.fixture
def registry() -> Iterator[Registry]:
    store = Registry()
    handler = type("Bound", (Handler,), {"store": store})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        store.host = f"127.0.0.1:{server.server_port}"
        yield store
        server.shutdown()


def tar(files: dict[str, bytes], **links: str) -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in links.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return into.getvalue()


def config(*layers: bytes, architecture: str = "amd64", **more: Any) -> bytes:
    history = [
        {"created_by": "nothing", "empty_layer": True},
        *({"created_by": f"RUN {n}"} for n in range(len(layers))),
    ]
    rootfs = {"type": "layers", "diff_ids": [images.digest(layer) for layer in layers]}
    # Written as ours would not: it has to travel byte for byte.
    return json.dumps(
        {"os": "linux", "architecture": architecture, "rootfs": rootfs, "history": history, **more}, indent=3
    ).encode()


ONE, TWO = tar({"a": b"a" * 3000}), tar({"b": b"b" * 500, "c": b"c"})


def blob(content: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def layout(*made: tuple[bytes, list[bytes]], nested: bool = False, **more: Any) -> dict[str, bytes]:
    """An OCI image layout with these images: configuration and layers as they lie there."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    entries = []
    for number, (settings, layers) in enumerate(made):
        for each in (settings, *layers):
            files[blob(each)] = each
        kind = images.LAYER if layers[0].startswith(b"\x1f\x8b") else "application/vnd.oci.image.layer.v1.tar"
        described = [{"mediaType": kind, "digest": images.digest(each), "size": len(each)} for each in layers]
        of = {"mediaType": images.CONFIG, "digest": images.digest(settings), "size": len(settings)}
        text = json.dumps({"schemaVersion": 2, "config": of, "layers": described}, indent=2).encode()
        files[blob(text)] = text
        name = {"org.opencontainers.image.ref.name": f"v{number}"}
        entries.append(
            {"mediaType": images.MANIFEST, "digest": images.digest(text), "size": 1, "annotations": name, **more}
        )
    index = {"schemaVersion": 2, "manifests": entries}
    if nested:
        text = json.dumps(index).encode()
        files[blob(text)] = text
        index = {"schemaVersion": 2, "manifests": [{"mediaType": INDEX, "digest": images.digest(text), "size": 1}]}
    return {**files, "index.json": json.dumps(index).encode()}


def docker_save(settings: bytes, layers: dict[str, bytes], *, tags: tuple[str, ...] = ("app:1",)) -> dict[str, bytes]:
    """What an older docker save writes."""
    name = f"{hashlib.sha256(settings).hexdigest()}.json"
    entry = {"Config": name, "RepoTags": [*tags], "Layers": [*layers]}
    return {name: settings, **layers, "manifest.json": json.dumps([entry]).encode()}


@pytest.fixture
def loading(small, cloud, registry, monkeypatch, tmp_path) -> Any:
    """Load a file with these contents."""
    made: list[tuple[str, Any]] = []

    def ensure(_cloud: Cloud, name: str, wanted: Any, _say: Any) -> str:
        made.append((name, wanted))
        return f"{registry.host}/{name}"

    monkeypatch.setattr(ecr, "ensure_repository", ensure)
    monkeypatch.setattr(ecr, "credentials", lambda _cloud: registry.credentials())
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def act(content: bytes, *, repository: str = "", tag: str = "", platform: str = "") -> Loaded:
        path = tmp_path / "image.tar"
        path.write_bytes(content)
        act.said.clear()
        act.path = path
        return load.load(
            small.project, cloud, path, repository=repository, tag=tag, platform=platform, say=act.said.append
        )

    act.said, act.made, act.small = [], made, small
    return act


def test_a_push_and_what_comes_back(registry):
    repository = registry.repository()
    blobs = [gzip.compress(each, mtime=0) for each in (ONE, TWO)]
    layers = [
        images.Layer(images.Descriptor(images.LAYER, images.digest(each), len(each)), images.digest(plain))
        for each, plain in zip(blobs, (ONE, TWO), strict=True)
    ]
    for each in blobs:
        assert not repository.has(images.digest(each))
        repository.upload(io.BytesIO(each), images.digest(each), len(each))
    image = images.Image(tuple(layers), json.loads(config(ONE, TWO)))
    digest = repository.put(image, "v1")
    assert digest == image.digest
    assert repository.image("v1") == repository.image(digest) == image
    assert repository.manifest(digest) == Manifest(image.texts()[1], images.MANIFEST)
    assert repository.image("v2") is None
    with repository.blob(images.digest(blobs[0])) as file:
        assert file.read() == blobs[0]


def test_a_tag_that_cannot_be_moved_is_fine_where_it_names_the_same(registry):
    repository = registry.repository()
    same = Manifest(b"{}", images.MANIFEST)
    repository.put_manifest(same, "v1")
    registry.immutable = True
    assert repository.put_manifest(same, "v1") == same.digest
    with pytest.raises(
        CloudError, match=r"could not name the image v1 .* it answered 400 TAG_INVALID it is immutable"
    ) as caught:
        repository.put_manifest(Manifest(b'{"other": 1}', images.MANIFEST), "v1")
    assert "immutable" in caught.value.hint


def test_a_download_that_breaks_off_is_begun_anew_a_few_times(registry):
    registry.blobs["app", images.digest(ONE)] = ONE
    registry.broken = 2
    with registry.repository().blob(images.digest(ONE)) as file:
        assert file.read() == ONE
    registry.broken = 3
    with pytest.raises(CloudError, match="could not fetch sha256:"), registry.repository().blob(images.digest(ONE)):
        pass


@pytest.fixture
def waited(monkeypatch) -> list[float]:
    """How long was waited."""
    waits: list[float] = []
    monkeypatch.setattr(client.time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize("busy", [(429, "POST"), (500, "POST"), (429, "PUT"), (502, "PUT"), (504, "PUT")])
def test_an_upload_that_a_busy_registry_refuses_is_begun_anew(registry, waited, busy):
    registry.busy = [busy, busy]
    registry.repository().upload(io.BytesIO(ONE), images.digest(ONE), len(ONE))
    assert registry.blobs["app", images.digest(ONE)] == ONE
    assert len(waited) == 2
    assert 0 < waited[0] < waited[1], "longer each time"


def test_a_registry_says_how_long_it_is_busy(registry, waited):
    registry.busy = [(503, "PUT"), (503, "POST")]
    registry.repository().upload(io.BytesIO(ONE), images.digest(ONE), len(ONE))
    assert waited == [7, 7]


def test_a_registry_that_stays_busy_is_told(registry, waited):
    registry.busy = [(429, "POST")] * 20
    with pytest.raises(CloudError, match=r"could not upload sha256:.* it answered 429 TOOMANYREQUESTS") as caught:
        registry.repository().upload(io.BytesIO(ONE), images.digest(ONE), len(ONE))
    assert "busy" in caught.value.hint
    assert len(waited) < 10


def test_what_is_refused_for_good_is_sent_once(registry, waited):
    registry.busy = [(403, "POST"), (429, "POST")]
    with pytest.raises(CloudError, match="it answered 403"):
        registry.repository().upload(io.BytesIO(ONE), images.digest(ONE), len(ONE))
    assert waited == []


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can grow to 2 MiB: the system cuts a write that would, and refuses the next."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 1024**2 - 5, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_no_trouble_of_the_network(registry):
    large = bytes(2 * 1024**2)
    registry.blobs["app", images.digest(large)] = large
    with pytest.raises(CloudError, match="File too large") as caught, registry.repository().blob(images.digest(large)):
        pass
    assert "TMPDIR" in caught.value.hint
    assert "network" not in caught.value.hint


def test_a_blob_that_is_something_else_is_refused(registry):
    registry.blobs["app", images.digest(ONE)] = TWO
    with pytest.raises(CloudError, match="it is not sha256:"), registry.repository().blob(images.digest(ONE)):
        pass


def test_what_a_registry_refuses_is_told(registry):
    stranger = Repository(f"{registry.host}/app", Credentials(registry.host, "b3RoZXI=", plain=True))
    with pytest.raises(CloudError, match="401 UNAUTHORIZED who") as caught:
        stranger.manifest("v1")
    assert "credentials" in caught.value.hint


def test_an_image_is_copied_as_it_is_and_only_what_is_missing(loading, registry):
    uri = loading(tar(layout((config(ONE, TWO), [gzip.compress(ONE), gzip.compress(TWO)])))).uri
    digest, said = uri.partition("@")[2], list[str]()
    source, target = registry.repository("faces"), registry.repository("copy")
    one = images.digest(gzip.compress(ONE))
    registry.blobs["copy", one] = b"there already"
    target.copy(source, source.manifest(digest), "v1", said.append)
    assert registry.manifests["copy", "v1"] == registry.manifests["faces", digest]
    assert len(said) == 2, "a layer and the configuration"
    assert registry.blobs["copy", one] == b"there already"
    index = Manifest(b'{"manifests": []}', INDEX)
    with pytest.raises(CloudError, match="it is a list of images"):
        target.copy(source, index, "v2", said.append)


def test_an_older_docker_save_is_compressed_and_keeps_its_configuration(loading, registry):
    settings = config(ONE, TWO, ONE)
    entry = docker_save(settings, {"1/layer.tar": ONE, "2/layer.tar": TWO, "3/layer.tar": b""})
    del entry["3/layer.tar"]  # a layer that comes twice is a link to the first
    content = tar(entry, **{"3__layer.tar": "../1/layer.tar"})
    done = loading(content, repository="bases/python", tag="3.11")
    assert (done.repository, done.tag, done.platforms[0].platform) == (
        f"{registry.host}/bases/python",
        "3.11",
        "linux/amd64",
    )
    assert (done.layers, done.sent, done.size) == (3, 2, 3000 + 501 + 3000)
    image = registry.repository("bases/python").image("3.11")
    assert [layer.diff_id for layer in image.layers] == [images.digest(each) for each in (ONE, TWO, ONE)]
    assert loading.made == [("bases/python", None)], "how others are made the manifest does not say"
    assert "layer 3 of 3: " in loading.said[2]
    assert "is there already" in loading.said[2]


def test_what_is_loaded_is_what_the_image_was(loading, registry):
    settings = config(ONE, TWO)
    done = loading(tar(docker_save(settings, {"1/layer.tar": ONE, "2/layer.tar": TWO})))
    image = registry.repository("faces").image(done.digest)
    assert [layer.diff_id for layer in image.layers] == [images.digest(ONE), images.digest(TWO)]
    said = json.loads(registry.repository("faces").manifest(done.digest).text)
    assert said["config"]["digest"] == images.digest(settings), "the id of the image stays"
    assert registry.blobs["faces", images.digest(settings)] == settings
    assert [gzip.decompress(registry.blobs["faces", layer.blob.digest]) for layer in image.layers] == [ONE, TWO]
    assert (done.tag, done.compressed_size) == (f"loaded-{done.digest[7:19]}", image.compressed_size)
    assert loading.made == [("faces", loading.small.project.manifest.image.ecr)]
    again = loading(tar(docker_save(settings, {"1/layer.tar": ONE, "2/layer.tar": TWO})))
    assert (again.uri, again.sent, again.sent_bytes) == (done.uri, 0, 0), "the same bytes, and none is sent twice"


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_an_oci_archive_with_compressed_layers_keeps_its_digest(loading, registry, nested, packed):
    files = layout((config(ONE, TWO), [gzip.compress(ONE), gzip.compress(TWO)]), nested=nested)
    (text,) = [each for each in files.values() if b'"layers"' in each and b'"config"' in each]
    content = tar({f"./{name}": each for name, each in files.items()})
    done = loading(gzip.compress(content) if packed else content)
    assert done.digest == images.digest(text)
    assert registry.manifests["faces", done.digest] == (text, images.MANIFEST)
    assert done.size == 3501


def test_an_oci_archive_with_plain_layers_is_compressed(loading, registry):
    done = loading(tar({**layout((config(ONE), [ONE])), "manifest.json": b"[]"}))
    (layer,) = registry.repository("faces").image(done.digest).layers
    assert layer.blob.media_type == images.LAYER
    assert gzip.decompress(registry.blobs["faces", layer.blob.digest]) == ONE


def test_of_several_images_one_is_chosen_by_its_platform(loading):
    one, two = gzip.compress(ONE), gzip.compress(TWO)
    files = layout((config(ONE), [one]), (config(TWO, architecture="arm64", variant="v8"), [two]))
    with pytest.raises(UsageError, match=r"several images: v0 \(linux/amd64\); v1 \(linux/arm64\)") as caught:
        loading(tar(files))
    assert "--platform" in caught.value.hint
    assert loading(tar(files), platform="linux/arm64").platforms[0].platform == "linux/arm64"
    with pytest.raises(UsageError, match=r"no image for linux/arm/v7 in the archive, but v0"):
        loading(tar(files), platform="linux/arm/v7")
    same = layout((config(ONE), [one]), (config(TWO), [two]))
    with pytest.raises(UsageError, match=r"several images: v0 .*; v1"):
        loading(tar(same))


def test_attestations_and_platforms_that_were_not_saved_are_passed_over(loading):
    files = layout((config(ONE), [gzip.compress(ONE)]))
    index = json.loads(files["index.json"])
    gone = {"mediaType": images.MANIFEST, "digest": f"sha256:{'0' * 64}", "size": 1}
    about = {**index["manifests"][0], "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    index["manifests"] += [gone, about]
    assert loading(tar({**files, "index.json": json.dumps(index).encode()})).layers == 1


AMD64, ARM64, ARMV7 = (
    {"os": "linux", "architecture": "amd64"},
    {"os": "linux", "architecture": "arm64", "variant": "v8"},
    {"os": "linux", "architecture": "arm", "variant": "v7"},
)


def manifested(
    settings: bytes, layers: list[bytes], layer: str = images.LAYER
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """How an index lists an image, and all the blobs of that."""
    described = [{"mediaType": layer, "digest": images.digest(each), "size": len(each)} for each in layers]
    of = {"mediaType": images.CONFIG, "digest": images.digest(settings), "size": len(settings)}
    text = json.dumps({"schemaVersion": 2, "config": of, "layers": described}, indent=2).encode()
    entry = {"mediaType": images.MANIFEST, "digest": images.digest(text), "size": len(text)}
    return entry, {blob(each): each for each in (settings, *layers, text)}


def platforms(
    *made: dict[str, Any], nested: bool = True, attested: bool = False, **more: Any
) -> tuple[bytes, dict[str, bytes]]:
    """An index, and an OCI layout that has it: each image with its layers, and its platform where it says one."""
    files: dict[str, bytes] = {}
    entries: list[dict[str, Any]] = []
    statements = []
    for each in made:
        platform = each.get("platform")
        of = each.get("of", platform)
        settings = config(*each["layers"], architecture=of["architecture"])  # it knows no variant
        packed = [gzip.compress(layer, mtime=0) if each.get("packed", True) else layer for layer in each["layers"]]
        entry, blobs = manifested(settings, packed)
        files |= blobs
        entries.append({**entry, **({"platform": platform} if platform else {})})
        if attested:
            entry, blobs = manifested(
                b'{"architecture": "unknown"}', [b"{}" + settings], "application/vnd.in-toto+json"
            )
            marks = {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": entries[-1]["digest"],
            }
            statements.append({**entry, "annotations": marks, "platform": {"os": "unknown", "architecture": "unknown"}})
            files |= blobs
    text = json.dumps(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*entries, *statements], **more}, indent=4
    ).encode()
    top = text
    if nested:
        files[blob(text)] = text
        named = {"mediaType": INDEX, "digest": images.digest(text), "size": len(text)}
        marks = {"io.containerd.image.name": "docker.io/library/app:1"}
        top = json.dumps({"schemaVersion": 2, "manifests": [{**named, "annotations": marks}]}).encode()
    return text, {**files, "oci-layout": b"{}", "index.json": top}


def listed(registry: Registry, reference: str) -> list[dict[str, Any]]:
    return json.loads(registry.repository("faces").manifest(reference).text)["manifests"]


@pytest.mark.parametrize("attested", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_an_image_for_several_platforms_comes_as_a_whole_and_keeps_its_digest(loading, registry, nested, attested):
    text, files = platforms(
        {"platform": AMD64, "layers": [ONE, TWO]},
        {"platform": ARM64, "layers": [ONE]},
        nested=nested,
        attested=attested,
    )
    done = loading(tar(files), tag="3.11")
    assert done.digest == images.digest(text)
    assert registry.manifests["faces", "3.11"] == (text, INDEX)
    assert [each.platform for each in done.platforms] == ["linux/amd64", "linux/arm64"]
    one, two = [gzip.compress(each, mtime=0) for each in (ONE, TWO)]
    assert [(each.compressed_size, each.size) for each in done.platforms] == [
        (len(one) + len(two), 3501),
        (len(one), 3000),
    ]
    assert (done.layers, done.sent, done.compressed_size, done.size) == (2, 2, len(one) + len(two), 3501)
    assert [each.partition(" layer ")[::2] for each in (line.partition(":")[0] for line in loading.said)] == [
        ("linux/amd64,", "1 of 2"),
        ("linux/amd64,", "2 of 2"),
    ], "a layer that both have is sent once"
    for each, entry in zip(done.platforms, json.loads(text)["manifests"], strict=False):
        assert each.digest == entry["digest"]
        assert registry.manifests["faces", each.digest] == (files[blob_of(each.digest)], images.MANIFEST)
        assert registry.repository("faces").image(each.digest).platform == each.platform
    for entry in json.loads(text)["manifests"][2:]:
        statement = json.loads(registry.manifests["faces", entry["digest"]][0])
        for part in (statement["config"], *statement["layers"]):
            assert registry.blobs["faces", part["digest"]] == files[blob_of(part["digest"])]
    assert loading(tar(files), platform="linux/arm64").digest == done.platforms[1].digest, "or one of them alone"


def blob_of(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def test_the_list_of_dockers_own_kind_stays_one(loading, registry):
    kind = "application/vnd.docker.distribution.manifest.list.v2+json"
    made = [{"platform": each, "layers": [ONE]} for each in (AMD64, ARM64)]
    text, files = platforms(*made, mediaType=kind)
    files["index.json"] = files["index.json"].replace(INDEX.encode(), kind.encode())
    assert registry.manifests["faces", loading(tar(files)).tag] == (text, kind)


def test_the_index_of_what_had_to_be_compressed_is_written_anew_and_loses_nothing(loading, registry):
    marks = {"annotations": {"a": "b"}}
    text, files = platforms(
        {"platform": ARMV7, "layers": [ONE], "packed": False},
        {"platform": {**AMD64, "os.version": "6"}, "layers": [TWO]},
        attested=True,
        **marks,
    )
    done, again = loading(tar(files)), loading(tar(files))
    said = json.loads(registry.manifests["faces", done.tag][0])
    old, new = json.loads(text), said["manifests"]
    assert (again.uri, again.sent) == (done.uri, 0), "the same bytes each time"
    assert (said["mediaType"], said["annotations"]) == (INDEX, {"a": "b"})
    assert [each["platform"] for each in new[:2]] == [ARMV7, {**AMD64, "os.version": "6"}]
    assert [each["digest"] for each in new[:2]] == [each.digest for each in done.platforms]
    assert new[0]["digest"] != old["manifests"][0]["digest"]
    assert new[0]["size"] == len(registry.manifests["faces", new[0]["digest"]][0])
    assert new[1:] == [old["manifests"][1], old["manifests"][3]], "what speaks of a manifest that is gone is left out"
    assert sum("left out: it speaks of" in line for line in loading.said) == 1
    assert [each.platform for each in done.platforms] == ["linux/arm/v7", "linux/amd64"]
    assert loading(tar(files), platform="linux/arm/v7").digest == done.platforms[0].digest


def test_an_index_that_says_no_platforms_gets_those_of_the_configurations(loading, registry):
    _, files = platforms({"of": AMD64, "layers": [ONE]}, {"of": ARM64, "layers": [TWO]}, nested=False)
    found = listed(registry, loading(tar(files)).digest)
    assert [each["platform"] for each in found] == [AMD64, {"os": "linux", "architecture": "arm64"}]


def test_attestations_that_were_not_saved_are_not_listed(loading, registry):
    text, files = platforms(*({"platform": each, "layers": [ONE]} for each in (AMD64, ARM64)), attested=True)
    *known, first, second = json.loads(text)["manifests"]
    del files[blob_of(first["digest"])]
    (layer,) = json.loads(files[blob_of(second["digest"])])["layers"]
    del files[blob_of(layer["digest"])]
    assert listed(registry, loading(tar(files)).digest) == known
    assert sum("does not have all of it" in line for line in loading.said) == 2


PLATFORMS = st.lists(st.sampled_from([AMD64, ARM64, ARMV7, {**ARMV7, "variant": "v6"}]), min_size=2, unique_by=str)


@given(st.data(), PLATFORMS, st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=4, max_size=4))
@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_loaded_can_be_pulled_for_each_of_its_platforms(loading, registry, data, of, layers):
    """With its own digest where nothing had to be compressed, and always with the platforms that it had."""
    registry.blobs.clear(), registry.manifests.clear()
    packed = data.draw(st.lists(st.booleans(), min_size=len(of), max_size=len(of)) | st.just([True] * len(of)))
    nested, attested = data.draw(st.booleans()), data.draw(st.booleans())
    made = [
        {"platform": platform, "layers": [tar({f"f{each}": bytes([each]) * 9}) for each in wanted], "packed": each}
        for platform, wanted, each in zip(of, layers, packed, strict=False)
    ]
    text, files = platforms(*made, nested=nested, attested=attested)
    done = loading(tar(files), tag="v1")
    assert (done.digest == images.digest(text)) == all(packed)
    entries = listed(registry, done.digest)
    assert [each["platform"] for each in entries[: len(of)]] == of
    assert registry.repository("faces").manifest("v1").digest == done.digest
    for entry, each in zip(entries, made, strict=False):
        image = registry.repository("faces").image(entry["digest"])
        assert [layer.diff_id for layer in image.layers] == [images.digest(layer) for layer in each["layers"]]
        assert all(("faces", layer.blob.digest) in registry.blobs for layer in image.layers)
        assert (entry["digest"], 9 * len(each["layers"])) in {(shown.digest, shown.size) for shown in done.platforms}
    assert len(done.platforms) == len(of)
    assert all(("faces", entry["digest"]) in registry.manifests for entry in entries)
    assert loading(tar(files), tag="v1").sent == 0


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        (lambda index, _files: index["manifests"][1]["digest"], "linux/arm64 of its image for .* is missing in it"),
        (
            lambda index, files: json.loads(files[blob_of(index["manifests"][2]["digest"])])["config"]["digest"],
            "is missing",
        ),
        (
            lambda index, files: json.loads(files[blob_of(index["manifests"][2]["digest"])])["layers"][1]["digest"],
            "is missing in it",
        ),
    ],
)
def test_where_a_part_of_a_platform_is_missing_nothing_gets_a_name(loading, registry, gone, told):
    text, files = platforms(
        {"platform": AMD64, "layers": [ONE]},
        {"platform": ARM64, "layers": [ONE]},
        {"platform": ARMV7, "layers": [ONE, TWO]},
    )
    del files[blob_of(gone(json.loads(text), files))]
    with pytest.raises(SourceError, match=told):
        loading(tar(files), tag="v1")
    assert registry.manifests == {}


def test_what_is_no_image_in_an_index_is_refused_and_so_is_a_damaged_attestation(loading, registry):
    text, files = platforms(*({"platform": each, "layers": [ONE]} for each in (AMD64, ARM64)), attested=True)
    index = json.loads(text)
    index["manifests"][3]["annotations"] = {}
    index["manifests"][3].update(mediaType="application/x", platform={"os": "plan9", "architecture": "mips"})
    with pytest.raises(SourceError, match="plan9/mips of its image is of the kind application/x") as caught:
        loading(tar({**files, "index.json": json.dumps(index).encode()}))
    assert "--platform" in caught.value.hint
    assert registry.manifests == {}
    (layer,) = json.loads(files[blob_of(index["manifests"][2]["digest"])])["layers"]
    for name, content, told in (
        (layer["digest"], b"{}", "sha256:.* is damaged"),
        (index["manifests"][2]["digest"], b"{}", "damaged"),
    ):
        with pytest.raises(SourceError, match=told):
            loading(tar({**files, blob_of(name): content}), tag="v1")
    assert ("faces", "v1") not in registry.manifests
    other = b"[]"
    index = json.loads(text)
    index["manifests"][2]["digest"] = images.digest(other)
    with pytest.raises(SourceError, match="is no manifest"):
        loading(tar({**files, blob(other): other, "index.json": json.dumps(index).encode()}), tag="v1")
    assert ("faces", "v1") not in registry.manifests


def test_the_only_platform_that_was_saved_comes_alone_and_that_is_told(loading, registry):
    text, files = platforms(*({"platform": each, "layers": [ONE]} for each in (AMD64, ARM64)))
    first, second = json.loads(text)["manifests"]
    del files[blob_of(second["digest"])]
    assert loading(tar(files)).digest == first["digest"]
    assert loading.said[0] == "the file names linux/arm64 too, and does not have it"


def test_two_indexes_are_two_images(loading):
    first, one = platforms(*({"platform": each, "layers": [ONE]} for each in (AMD64, ARM64)))
    _, two = platforms(*({"platform": each, "layers": [TWO]} for each in (AMD64, ARMV7)))
    entries = [json.loads(files["index.json"])["manifests"][0] for files in (one, two)]
    both = {**one, **two, "index.json": json.dumps({"manifests": entries}).encode()}
    with pytest.raises(UsageError, match=r"the archive holds several images: .*app:1"):
        loading(tar(both))
    with pytest.raises(UsageError, match="several images"):
        loading(tar(both), platform="linux/amd64")
    assert loading(tar(both), platform="linux/arm64").platforms[0].platform == "linux/arm64"
    # An index of the same name twice, or beside its own manifests, is one.
    entry = json.loads(one["index.json"])["manifests"][0]
    same = {"manifests": [entry, {**entry, "annotations": {}}, *json.loads(first)["manifests"]]}
    assert loading(tar({**one, "index.json": json.dumps(same).encode()})).digest == images.digest(first)


def test_an_index_is_fine_under_a_tag_that_cannot_be_moved_and_names_it(loading, registry):
    _, files = platforms(*({"platform": each, "layers": [ONE]} for each in (AMD64, ARM64)))
    first = loading(tar(files), tag="v1")
    registry.immutable = True
    assert loading(tar(files), tag="v1") == dataclasses.replace(first, sent=0, sent_bytes=0)


def broken(**changes: bytes) -> bytes:
    files = layout((config(ONE), [gzip.compress(ONE)]))
    return tar({**files, **{name.replace("__", "."): each for name, each in changes.items()}})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no archive of images"),
        (b"hello " * 500, "is no archive of images"),
        (gzip.compress(b"hello " * 500, mtime=0), "is no archive of images"),
        (gzip.compress(tar({"x": b"x"}), mtime=0)[:-12], "is no archive of images"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 600, "compressed by zstd"),
        (tar({"x": b"x"}), "there is no image in it"),
        (tar({"manifest.json": b"[]"}), "there is no image in it"),
        (tar({"manifest.json": b"{"}), "cannot be understood"),
        (tar({"manifest.json": b'[{"Config": "c", "Layers": []}]', "c": b"{}"}), "cannot be understood"),
        (tar({"manifest.json": b'[{"Config": "c", "Layers": []}]'}), "c is missing in it"),
        (tar(docker_save(config(ONE), {"1": TWO})), "layer 1 of 1 is damaged: it is sha256:"),
        (tar(docker_save(config(ONE), {"1": b"no layer" * 100})), "layer 1 of 1 is damaged: it is no layer"),
        (tar(docker_save(config(ONE), {"1": gzip.compress(ONE)[:-20]})), "layer 1 of 1 is damaged"),
        (tar(docker_save(config(ONE, TWO), {"1": ONE})), "the image has 1 layers, and its configuration says 2"),
        (tar(docker_save(config(ONE), {"1": ONE}))[:-9000], "."),
        (broken(**{blob(config(ONE)): b"{}"}), "is damaged: it has another digest"),
        (broken(index__json=b'{"manifests": [{"digest": "md5:1"}]}'), "no digest that is known here"),
        (tar({"manifest.json": b'[{"Config": "c", "Layers": []}]'}, c="c"), "c is missing in it"),
    ],
)
def test_what_is_no_image_is_refused(loading, registry, content, told):
    with pytest.raises(SourceError, match=told) as caught:
        loading(content)
    assert caught.value.hint
    assert registry.manifests == {}


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(SourceError, match=r"cannot read .*none\.tar: No such file"), opened(tmp_path / "none.tar"):
        pass


def test_a_layer_is_never_held_in_memory(loading, registry, tmp_path):
    """Each part that is read of it is small."""
    largest = 0

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal largest
            assert size is not None
            assert size > 0
            largest = max(largest, size)
            return super().read(size)

    measure(Watched(gzip.compress(tar({"big": bytes(20_000_000)}))))
    assert 0 < largest <= 1024**2


def test_the_command_prints_what_can_be_pulled(loading, registry, monkeypatch):
    path = Path(loading.small.root) / "image.tar"
    path.write_bytes(tar(docker_save(config(ONE), {"1": ONE})))
    monkeypatch.setattr("splitbake.cli.options.guarded", lambda project, _env: project.cloud())
    _ = loading.small.project
    arguments = ["load", str(path), "--manifest", str(loading.small.root / "splitbake.yaml")]
    shown = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert shown.stdout.startswith(f"{registry.host}/faces@sha256:")
    assert "3.0 kB uncompressed" in shown.stderr or "uncompressed" in shown.stderr
    assert "1 of 1 layer sent" in shown.stderr
    data = json.loads(CliRunner().invoke(command, [*arguments, "--tag", "v1", "--json"], catch_exceptions=False).stdout)
    assert data["image"] == shown.stdout.strip()
    assert (data["tag"], data["sent"], data["layers"], data["size"]) == ("v1", 0, 1, 3000)
    wrong = CliRunner().invoke(command, [*arguments, "--tag", "no/tag"])
    assert wrong.exit_code == 2
    assert "letters, digits" in wrong.stderr


@pytest.fixture
def there(small, cloud, registry, monkeypatch, loading) -> Any:
    """The dependencies image that the repository has, under the tag of key 1."""
    settings = config(ONE, TWO)
    digest = loading(tar(docker_save(settings, {"1": ONE, "2": TWO})), tag="deps-1").digest
    remote: list[RemoteImage | None] = [RemoteImage(digest, 1)]
    monkeypatch.setattr(ecr, "find_image", lambda *_args, tag: remote[0] if tag == "deps-1" else None)

    def act(key: str = "1") -> Any:
        return found.dependencies(small.project, cloud, f"{registry.host}/faces", key, lambda _line: None)

    act.remote, act.digest = remote, digest
    return act


def test_dependencies_of_another_runner_are_taken_and_measured(there):
    made = there()
    assert (made.key, made.digest, made.size) == ("1", there.digest, 3501)
    assert [(each.kind, each.size, each.name) for each in made.heaviest] == [
        ("layer", 3000, "RUN 0"),
        ("layer", 501, "RUN 1"),
    ]
    assert there("2") is None
    there.remote[0] = RemoteImage(there.digest, 1, "ARCHIVED")
    assert there() is None


def test_distributions_of_another_runner_are_weighed(there, loading):
    site = "opt/python"
    compiled = "numpy/__pycache__/__init__.cpython-311.pyc"
    record = f"numpy/__init__.py,,\n{compiled},,\n../../bin/f2py,,\nnumpy-2.0.dist-info/RECORD,,\n"
    layer = tar(
        {
            f"{site}/{compiled}": bytes(70),
            f"{site}/numpy-2.0.dist-info/RECORD": record.encode(),
            f"{site}/numpy/__init__.py": bytes(1000),
            f"{site}/numpy/tests.py": bytes(5000),
            "opt/other/numpy-3.0.dist-info/RECORD": record.encode(),
            "bin/f2py": bytes(10),  # of the base, whatever pip writes of it
        }
    )
    digest = loading(tar(docker_save(config(layer), {"1": layer})), tag="deps-1").digest
    there.remote[0] = RemoteImage(digest, 1)
    weights = [(each.kind, each.size, each.name) for each in there().heaviest]
    assert weights[1:] == [("distribution", 1000 + 70 + len(record), "numpy 2.0")]


def test_something_else_under_the_tag_of_dependencies_is_no_dependency(there, loading):
    arm = loading(tar(docker_save(config(ONE, architecture="arm64"), {"1": ONE})), tag="deps-1").digest
    there.remote[0] = RemoteImage(arm, 1)
    with pytest.raises(BuildError, match=r"deps-1 is an image for linux/arm64, and no dependencies for linux/amd64"):
        there()


def test_damaged_dependencies_are_told(there, registry):
    image = registry.repository("faces").image(there.digest)
    manifest = json.loads(registry.manifests["faces", there.digest][0])
    other = gzip.compress(TWO + bytes(1024))
    registry.blobs["faces", images.digest(other)] = other
    manifest["layers"][0] = {**manifest["layers"][0], "digest": images.digest(other), "size": len(other)}
    text = json.dumps(manifest).encode()
    registry.put("faces", "deps-1", text, images.MANIFEST)
    there.remote[0] = RemoteImage(images.digest(text), 1)
    assert image is not None
    with pytest.raises(BuildError, match=r"layer sha256:.* of the dependencies .* is damaged: it is sha256:"):
        there()
