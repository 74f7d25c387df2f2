"""Repositories made with options, and images that arrive as files, in the local cloud's ECR and its registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from splitbake import dockercli, ecr
from splitbake.cli.image import command
from splitbake.manifest.image import Ecr
from splitbake.oci import image as images
from splitbake.oci.client import Repository
from splitbake.project import Project
from splitbake.sources import base_image

pytestmark = pytest.mark.engine


class Site:
    """A project, and an image of two layers that the engine has."""

    def __init__(self, folder: Path, aws: Any) -> None:
        self.name = f"load-{uuid.uuid4().hex[:8]}"
        self.aws, self.folder = aws, folder
        (folder / "splitbake.yaml").write_text(yaml.safe_dump(self.manifest()), encoding="utf-8")
        self.project = Project(folder / "splitbake.yaml")
        self.cloud = self.project.cloud()
        self.image = f"{self.name}:1"
        (folder / "large").write_bytes(bytes(range(256)) * 4096)
        (folder / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\nCOPY large /large\nENV A=1\n")
        docker("build", "-q", "-t", self.image, str(folder))

    def manifest(self) -> dict[str, Any]:
        image = {"base": "python:3.11-slim", "include": ["run.py"], "mounts": {"m": "/m"}, "command": ["run"]}
        return {
            "version": 1,
            "project": self.name,
            "state": ".state",
            "models": {"files": [{"path": "m/x", "from": "x"}], "budget": "1 MB"},
            "ami": {"base": "ami-0123456789abcdef0"},
            "image": {**image, "repository": self.name, "budget": "1 MB", "ecr": {"immutable": True, "keep": 20}},
            "environments": {"local": {"account": "123456789012", "region": "us-east-1", "endpoint": "custom"}},
        }

    def load(self, path: Path, *more: str) -> dict[str, Any]:
        arguments = ["load", str(path), "--manifest", str(self.folder / "splitbake.yaml"), "--json", *more]
        done = CliRunner().invoke(command, arguments, catch_exceptions=False)
        return json.loads(done.stdout)

    def pulled(self, uri: str, platform: str | None = None) -> dict[str, Any]:
        """What the engine says of an image that it has pulled by its digest."""
        with dockercli.login(ecr.credentials(self.cloud)) as client:
            client.image.pull(uri, quiet=True, platform=platform)
        (found,) = json.loads(docker("image", "inspect", uri))
        docker("image", "rm", uri)
        return found

    def close(self) -> None:
        docker("image", "rm", "-f", self.image)
        client = self.aws("ecr")
        for repository in client.describe_repositories()["repositories"]:
            if repository["repositoryName"].startswith(self.name):
                client.delete_repository(repositoryName=repository["repositoryName"], force=True)


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def site(tmp_path, cloud, aws) -> Iterator[Site]:
    site = Site(tmp_path, aws)
    yield site
    site.close()


def test_a_repository_has_what_the_manifest_wants(site, aws):
    ecr.ensure_repository(site.cloud, site.name, Ecr(immutable=True, scan=True, keep=20))
    client = aws("ecr")
    (there,) = client.describe_repositories(repositoryNames=[site.name])["repositories"]
    assert (there["imageTagMutability"], there["imageScanningConfiguration"]) == ("IMMUTABLE", {"scanOnPush": True})
    policy = client.get_lifecycle_policy(repositoryName=site.name)["lifecyclePolicyText"]
    assert [rule["selection"]["tagStatus"] for rule in json.loads(policy)["rules"]] == ["tagged", "tagged", "any"]


@pytest.mark.parametrize("packed", [False, True])
def test_what_docker_has_saved_is_the_same_image_when_it_is_pulled(site, tmp_path, packed):
    (own,) = json.loads(docker("image", "inspect", site.image))
    path = tmp_path / "image.tar"
    docker("save", "-o", str(path), site.image)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    loaded = site.load(path)
    assert (loaded["layers"], loaded["sent"], loaded["platforms"][0]["platform"]) == (2, 2, "linux/amd64")
    pulled = site.pulled(loaded["image"])
    assert (pulled["Id"], pulled["RootFS"], pulled["Config"]["Env"]) == (own["Id"], own["RootFS"], own["Config"]["Env"])
    found = ecr.find_image(site.cloud, site.name, digest=loaded["digest"])
    assert found.tags == (loaded["tag"],)
    assert found.size >= loaded["compressed_size"]
    again = site.load(path)
    assert (again["image"], again["sent"], again["sent_bytes"]) == (loaded["image"], 0, 0)


def test_an_image_of_another_repository_arrives_with_its_digest(site, tmp_path):
    """As an OCI layout, made of what the registry has: compressed layers, and the manifest byte for byte."""
    path = tmp_path / "image.tar"
    docker("save", "-o", str(path), site.image)
    first = site.load(path, "--repository", f"{site.name}/first", "--tag", "v1")
    source = Repository(first["repository"], ecr.credentials(site.cloud))
    manifest = source.manifest("v1")
    image = source.read(manifest)
    folder = tmp_path / "layout"
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    config = json.loads(manifest.text)["config"]["digest"]
    for digest in (config, *(layer.blob.digest for layer in image.layers)):
        with source.blob(digest) as content:
            (blobs / digest.removeprefix("sha256:")).write_bytes(content.read())
    (blobs / manifest.digest.removeprefix("sha256:")).write_bytes(manifest.text)
    entry = {"mediaType": manifest.media_type, "digest": manifest.digest, "size": len(manifest.text)}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    archive = tmp_path / "oci.tar"
    subprocess.run(["tar", "-C", str(folder), "-cf", str(archive), "."], check=True)
    second = site.load(archive)
    assert (second["digest"], second["size"]) == (first["digest"], first["size"])
    assert site.pulled(second["image"])["RootFS"]["Layers"] == [layer.diff_id for layer in image.layers]


def layout(*architectures: str) -> tuple[bytes, bytes]:
    """An image for several platforms, which share a layer: its index, and the archive that skopeo and buildx make."""
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def add(content: bytes, kind: str, **more: Any) -> dict[str, Any]:
        name = hashlib.sha256(content).hexdigest()
        files[f"blobs/sha256/{name}"] = content
        return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(content), **more}

    entries = []
    for architecture in architectures:
        plain = [tarred({"shared": b"x" * 100_000}), tarred({"own": architecture.encode() * 1000})]
        layers = [add(gzip.compress(each, mtime=0), images.LAYER) for each in plain]
        rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in plain]}
        settings = {"os": "linux", "architecture": architecture, "rootfs": rootfs, "config": {"Env": ["A=1"]}}
        config = add(json.dumps(settings).encode(), images.CONFIG)
        text = json.dumps({"schemaVersion": 2, "mediaType": images.MANIFEST, "config": config, "layers": layers})
        platform = {"os": "linux", "architecture": architecture}
        entries.append(add(text.encode(), images.MANIFEST, platform=platform))
    statement = {"config": add(b"{}", images.CONFIG), "layers": [add(b"{ }", "application/vnd.in-toto+json")]}
    text = json.dumps({"schemaVersion": 2, "mediaType": images.MANIFEST, **statement})
    marks = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": entries[0]["digest"],
    }
    unknown = {"os": "unknown", "architecture": "unknown"}
    entries.append(add(text.encode(), images.MANIFEST, platform=unknown, annotations=marks))
    index = json.dumps({"schemaVersion": 2, "mediaType": images.INDEX, "manifests": entries}, indent=1).encode()
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [add(index, images.INDEX)]}).encode()
    return index, tarred(files)


def tarred(files: dict[str, bytes]) -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return into.getvalue()


def test_an_image_for_several_platforms_is_pulled_and_built_on_for_each_of_them(site, tmp_path, aws):
    index, content = layout("amd64", "arm64")
    path = tmp_path / "several.tar"
    path.write_bytes(content)
    loaded = site.load(path, "--tag", "base")
    assert loaded["digest"] == images.digest(index)
    assert (loaded["layers"], loaded["sent"]) == (3, 3)
    assert [each["platform"] for each in loaded["platforms"]] == ["linux/amd64", "linux/arm64"]
    for each in loaded["platforms"]:
        alone = site.pulled(f"{loaded['repository']}@{each['digest']}")
        assert f"{alone['Os']}/{alone['Architecture']}" == each["platform"]
        assert site.pulled(loaded["image"], each["platform"])["Id"] == alone["Id"]
    found = aws("ecr").describe_images(repositoryName=site.name)["imageDetails"]
    assert len(found) == 4
    (told,) = [each for each in found if each.get("imageTags") == ["base"]]
    assert (told["imageDigest"], told["imageManifestMediaType"]) == (loaded["digest"], images.INDEX)
    largest = max(each["imageSizeInBytes"] for each in found if each is not told)
    assert told["imageSizeInBytes"] == largest > max(each["compressed_size"] for each in loaded["platforms"])
    digest = base_image.resolve_base(site.cloud, f"ecr://{site.name}:base")
    assert digest == loaded["digest"], "one lock serves projects on both kinds of hosts"
    (site.folder / "Dockerfile").write_text(f"FROM {loaded['repository']}@{digest}\nCOPY Dockerfile /\n")
    for each in loaded["platforms"]:
        with dockercli.login(ecr.credentials(site.cloud)) as client:
            client.buildx.build(site.folder, tags=[site.image], platforms=[each["platform"]], load=True, progress=False)
        (built,) = json.loads(docker("image", "inspect", site.image))
        assert f"{built['Os']}/{built['Architecture']}" == each["platform"]
    assert site.load(path, "--tag", "again")["sent"] == 0


def test_a_tag_more_is_put_byte_for_byte_and_an_immutable_one_stays(site, tmp_path, aws):
    path = tmp_path / "image.tar"
    docker("save", "-o", str(path), site.image)
    loaded, client = site.load(path), aws("ecr")
    asked = {"repositoryName": site.name, "imageIds": [{"imageDigest": loaded["digest"]}]}
    (image,) = client.batch_get_image(**asked)["images"]
    same = {"repositoryName": site.name, "imageManifest": image["imageManifest"]}
    client.put_image(imageTag="release-x", imageDigest=loaded["digest"], **same)
    found = ecr.find_image(site.cloud, site.name, tag="release-x")
    assert (found.digest, sorted(found.tags)) == (loaded["digest"], sorted([loaded["tag"], "release-x"]))
    with pytest.raises(client.exceptions.ImageAlreadyExistsException):
        client.put_image(imageTag="release-x", **same)
    other = json.dumps({**json.loads(image["imageManifest"]), "annotations": {"a": "b"}})
    with pytest.raises(client.exceptions.ImageTagAlreadyExistsException):
        client.put_image(**{**same, "imageManifest": other}, imageTag="release-x")
    gone = json.loads(image["imageManifest"])
    gone["layers"][0]["digest"] = f"sha256:{'0' * 64}"
    with pytest.raises(client.exceptions.LayersNotFoundException):
        client.put_image(**{**same, "imageManifest": json.dumps(gone)}, imageTag="v9")
