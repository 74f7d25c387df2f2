"""A small project with files on disk, and an account of moto's in which it can be built without any tool."""

from __future__ import annotations

import copy
import datetime
import functools
import hashlib
import ipaddress
import json
import pickle
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.loaders import JSONFileLoader
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from moto import mock_aws

from splitbake import artifact as artifacts
from splitbake import lock as locks
from splitbake.artifact import Artifact, Check, Half, Report
from splitbake.bake import ami, image
from splitbake.cloud import Cloud
from splitbake.lock import Lock
from splitbake.project import Project

ACCOUNT, REGION = "123456789012", "eu-west-1"
MANIFEST: dict[str, Any] = {
    "version": 1,
    "project": "faces",
    "state": "state",
    "models": {
        "files": [
            {"path": "models/a", "from": "weights/a"},
            {"path": "checkpoints/", "from": "s3://bucket/checkpoints/"},
        ],
        "budget": "1 GB",
    },
    "ami": {"base": "ecs-gpu-al2023", "provision": ["setup/first.sh", "setup/second.sh"]},
    "image": {
        "base": "python:3.11-slim",
        "context": "app",
        "requirements": "requirements.txt",
        "include": ["lib/", "run.py"],
        "mounts": {"models": "/models", "checkpoints": "/checkpoints"},
        "command": ["python", "run.py"],
        "repository": "faces",
        "budget": "500 MB",
    },
    "environments": {"dev": {"account": ACCOUNT, "region": REGION}},
}
LOCK: dict[str, Any] = {
    "base_ami": {
        "request": "ecs-gpu-al2023",
        "id": "ami-01234567",
        "name": "base",
        "owner": "self",
        "created": "2026-01-01T00:00:00Z",
        "architecture": "x86_64",
        "region": REGION,
        "root_device": "/dev/xvda",
        "root_size": 30 * 1024**3,
    },
    "base_image": {"request": "python:3.11-slim", "digest": "sha256:" + "c" * 64},
    "models": [
        {
            "path": "models/a",
            "source": "weights/a",
            "files": [
                {"path": "models/a", "source": "weights/a", "size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
            ],
        },
        {
            "path": "checkpoints/",
            "source": "s3://bucket/checkpoints/",
            "files": [
                {
                    "path": f"checkpoints/{name}",
                    "source": f"s3://bucket/checkpoints/{name}",
                    "size": 5,
                    "sha256": name * 64,
                    "etag": f'"{name}"',
                }
                for name in ("d", "e")
            ],
        },
    ],
}
FILES = {
    "setup/first.sh": "#!/bin/sh\necho first\n",
    "setup/second.sh": "#!/bin/sh\necho second\n",
    "weights/a": "abc",
    "app/run.py": "print()\n",
    "app/lib/faces.py": "faces = 1\n",
    "app/lib/deep/er.py": "deeper = 1\n",
    "app/requirements.txt": "numpy==2.0.0\n",
    "app/notes.txt": "never included\n",
}


class Small:
    """A project below ``root``; change ``manifest`` and ``lock`` (plain data) and the files as you like."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest, self.lock = copy.deepcopy(MANIFEST), copy.deepcopy(LOCK)
        for name, text in FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    @property
    def project(self) -> Project:
        """The project as it is now; nothing of an earlier one is kept."""
        (self.root / "splitbake.yaml").write_text(json.dumps(self.manifest))
        locks.write(self.root / locks.FILE_NAME, Lock.model_validate(self.lock))
        return Project(self.root / "splitbake.yaml")


@pytest.fixture(autouse=True, scope="session")
def _cheap_clients() -> Iterator[None]:
    """Read once what boto3 and moto read at every start: a test makes its clients anew, of a new account."""
    with pytest.MonkeyPatch.context() as patch:
        load = JSONFileLoader().load_file
        read = functools.cache(lambda path: pickle.dumps(load(path)))
        # moto writes to the models that it gets, so each reader has its own.
        patch.setattr(JSONFileLoader, "load_file", lambda _, path: pickle.loads(read(path)))  # noqa: S301 - our own
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        yield


@pytest.fixture(scope="session")
def make_small() -> Callable[[Path], Small]:
    """For tests that need several, or one for each example of hypothesis."""
    return Small


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path / "project")


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, small: Small) -> Iterator[Cloud]:
    """The project's environment in an account of moto's without anything in it."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield small.project.cloud()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, cloud: Cloud) -> list[Artifact]:
    """Building is replaced by putting an AMI or an image into the account; the list has all that were made."""
    done: list[Artifact] = []

    def make(half: Half, id_and_location: dict[str, Any], fingerprint: str) -> Artifact:
        values = {"half": half, "fingerprint": fingerprint, "created": artifacts.now(), "seconds": 90.0, "size": 1}
        done.append(Artifact(**values, **id_and_location))
        return done[-1]

    monkeypatch.setattr(ami, "bake", lambda *_, fingerprint, **__: make("ami", _register(), fingerprint))
    monkeypatch.setattr(
        image,
        "build",
        lambda project, _, inputs, **__: make(
            "image", _push(project.manifest.image.repository, inputs.fingerprint), inputs.fingerprint
        ),
    )
    return done


def _register() -> dict[str, Any]:
    ec2 = boto3.client("ec2", region_name=REGION)
    volume = ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=8)["VolumeId"]
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    count = len(ec2.describe_images(Owners=["self"])["Images"])
    disks = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}]
    image = ec2.register_image(Name=f"faces-{count}", RootDeviceName="/dev/xvda", BlockDeviceMappings=disks)
    return {"id": image["ImageId"], "location": REGION, "snapshots": (snapshot,)}


def _push(repository: str, content: str) -> dict[str, Any]:
    ecr = boto3.client("ecr", region_name=REGION)
    try:
        found = ecr.create_repository(repositoryName=repository)["repository"]
    except ecr.exceptions.RepositoryAlreadyExistsException:
        found = ecr.describe_repositories(repositoryNames=[repository])["repositories"][0]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"digest": content},
        "layers": [],
    }
    try:
        pushed = ecr.put_image(repositoryName=repository, imageManifest=json.dumps(manifest))["image"]["imageId"]
    except ecr.exceptions.ImageAlreadyExistsException:
        pushed = ecr.list_images(repositoryName=repository)["imageIds"][0]
    return {"id": pushed["imageDigest"], "location": found["repositoryUri"]}


@pytest.fixture(scope="session")
def report_on() -> Callable[..., Report]:
    """``report_on(project, artifact, failed="…")``: what verification of it would have kept."""

    def report(project: Project, artifact: Artifact, *, failed: str = "", standard: str = "") -> Report:
        return Report(
            half=artifact.half,
            artifact=artifact.id,
            fingerprint=artifact.fingerprint,
            standard=standard or project.standard(artifact.half),
            created=artifacts.now(),
            seconds=30.0,
            checks=(Check(name="size", passed=True), Check(name=failed or "boots", passed=not failed)),
        )

    return report


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificate of 127.0.0.1 (``cert.pem``), which is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder


@pytest.fixture
def serve(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """``serve(Handler)`` starts an https server that this process trusts, and returns its address."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with ExitStack() as running:

        def start(handler: type[BaseHTTPRequestHandler]) -> str:
            server = running.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            server.socket = context.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            running.callback(thread.join)
            running.callback(server.shutdown)
            return f"https://127.0.0.1:{server.server_port}"

        yield start
