"""Layers and images as data: the same bytes for the same files, and what goes on top of an image."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake.oci import image as images
from splitbake.oci import layer as layers
from splitbake.oci.image import Descriptor, Image, Layer

names = st.text(st.characters(exclude_categories=["C"], exclude_characters="/"), min_size=1).filter(
    lambda name: name not in {".", ".."}
)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


def pack(content: dict[str, bytes], mode: int = 0o644) -> tuple[bytes, Layer]:
    files = [
        layers.File(f"app/{path}", mode, len(data), lambda data=data: io.BytesIO(data))
        for path, data in sorted(content.items())
    ]
    into = io.BytesIO()
    layer = layers.pack(files, layers.parents((file.path for file in files), "app"), into, key="x")
    return into.getvalue(), layer


@given(st.dictionaries(paths, st.binary(max_size=50), max_size=8))
def test_a_layer_holds_exactly_its_files(content):
    folders = {path.rpartition("/")[0] for path in content}
    content = {path: data for path, data in content.items() if not any(f"{path}/" in f"{each}/" for each in folders)}
    blob, layer = pack(content)
    assert (layer.blob.digest, layer.blob.size) == (images.digest(blob), len(blob))
    plain = gzip.decompress(blob)
    assert layer.diff_id == images.digest(plain)
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        members = archive.getmembers()
        found = {each.name: archive.extractfile(each).read() for each in members if each.isfile()}
    assert found == {f"app/{path}": data for path, data in content.items()}
    owners = {(each.mtime, each.uid, each.gid, each.uname, each.gname) for each in members}
    assert owners <= {(layers.TIME, 0, 0, "", "")}
    assert "app" not in {each.name for each in members}, "a folder of the image below keeps its owner and mode"


def test_a_layer_is_the_same_today_as_ever():
    _, layer = pack({"lib/ü -x.py": b"a", "run.py": b"b" * 1000})
    assert layer.diff_id == "sha256:438591ca42f87c23f36c8e40e96bf58d0a1c85912efefe54bbdf881306c797a6"


@pytest.mark.parametrize(
    ("path", "below", "made"),
    [
        ("app/run.py", "app", set()),
        ("app/a/b/c.py", "app", {"app/a", "app/a/b"}),
        ("opt/x/app/a/b.py", "opt/x/app", {"opt/x/app/a"}),
    ],
)
def test_only_folders_below_are_made(path, below, made):
    assert layers.parents([path], below) == made


def test_a_file_that_is_shorter_than_it_was_breaks_the_layer():
    file = layers.File("app/x", 0o644, 10, lambda: io.BytesIO(b"short"))
    with pytest.raises(OSError, match="unexpected end of data"):
        layers.pack([file], [], io.BytesIO())


def base() -> Image:
    config: dict[str, Any] = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Env": ["A=1"], "Labels": {"a": "1"}, "Cmd": ["old"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:1"]},
        "history": [{"created_by": "base"}, {"created_by": "ENV", "empty_layer": True}],
    }
    blob = Descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", "sha256:b1", 10)
    return Image((Layer(blob, "sha256:1"),), config)


def test_layers_on_top():
    top = Layer(Descriptor(images.LAYER, "sha256:b2", 5, {"key": "k"}), "sha256:2")
    made = base().with_layers([top], ["run.py"], created="2026-01-01T00:00:00Z")
    made = made.started(User="1:1", Cmd=["new"], Labels={"b": "2"})
    assert made.config["config"] == {"Env": ["A=1"], "Labels": {"a": "1", "b": "2"}, "Cmd": ["new"], "User": "1:1"}
    assert made.config["rootfs"]["diff_ids"] == ["sha256:1", "sha256:2"]
    assert made.config["history"][-1] == {"created": "2026-01-01T00:00:00Z", "created_by": "run.py"}
    assert (made.platform, made.compressed_size) == ("linux/amd64", 15)
    config, manifest = made.texts()
    said = json.loads(manifest)
    assert said["config"] == {"mediaType": images.CONFIG, "digest": images.digest(config), "size": len(config)}
    assert [layer["mediaType"] for layer in said["layers"]] == [images.LAYER, images.LAYER], "Docker's name and OCI's"
    lowest = Layer(Descriptor(images.LAYER, "sha256:b1", 10), "sha256:1")
    assert images.read(manifest, config) == Image((lowest, top), made.config)
    assert base().config["config"]["Cmd"] == ["old"], "what it was made from stays as it was"


@pytest.mark.parametrize(
    ("manifest", "config"),
    [(b"", b""), (b"[]", b"{}"), (b'{"layers": []}', b"{}"), (b'{"layers": [{}]}', b'{"rootfs": {"diff_ids": []}}')],
)
def test_what_is_no_image_is_told(manifest, config):
    with pytest.raises(ValueError, match="neither OCI nor Docker"):
        images.read(manifest, config)


def test_the_digest_of_nothing():
    assert images.digest(b"") == f"sha256:{hashlib.sha256().hexdigest()}"
