"""The engines that make a dependencies image, for real: what they push, what they leave, and where secrets are not.

Podman gets a storage of its own, so that nothing of a test stays on the machine.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import http.server
import json
import os
import secrets
import shutil
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import certifi
import pytest

from splitbake import ecr, fingerprint
from splitbake import lock as locks
from splitbake.artifact import Artifact, Dependencies
from splitbake.bake import dependencies, image
from splitbake.bake.podman import PodmanBuilder
from splitbake.errors import BuildError
from splitbake.generate import dockerfile
from splitbake.iam.policies import Scope, policies
from splitbake.lock import Lock, LockedBaseAmi, LockedBaseImage, LockedFile, LockedModels
from splitbake.oci.client import Repository
from splitbake.oci.image import Image
from splitbake.project import Project
from splitbake.sources import base_image
from splitbake.ui import Say, silent

pytestmark = pytest.mark.engine

BASE = "ecr://docker-hub/library/python:3.11-slim"
REPOSITORY = "builders/batch"
MANIFEST = """
version: 1
project: builders
state: state
models: {files: [{path: models/a, from: a}], budget: 1 GiB}
ami: {base: ecs-gpu-al2023}
image:
  base: BASE
  include: [run.py]
  requirements: requirements.txt
  mounts: {models: /models}
  command: [python3, run.py]
  repository: REPOSITORY
  budget: 900 MB
  MORE
environments: {local: {account: "123456789012", region: us-east-1, endpoint: custom}}
"""
INICONFIG = "iniconfig==2.0.0 --hash=sha256:b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374"
PODMAN = pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed (splitbake doctor podman)")


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give podman a storage and a scratch folder of its own; nothing runs or is mounted there in the end."""
    root = tmp_path / "containers"
    for name in ("scratch", "graph", "run"):
        (root / name).mkdir(parents=True)
    settings = root / "storage.conf"
    settings.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{root}/graph"\nrunroot = "{root}/run"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(settings))
    monkeypatch.setenv("TMPDIR", str(root / "scratch"))
    yield root
    try:
        assert podman("ps", "--all", "--external", "--quiet") == ""
        assert {path.name for path in (root / "scratch").iterdir()} <= {"buildah-cache", f"buildah-cache-{os.getuid()}"}
        podman("rmi", "--all", "--force")
    finally:
        inside = [] if os.getuid() == 0 else ["podman", "unshare"]
        subprocess.run([*inside, "umount", str(root / "graph/overlay")], capture_output=True, check=False)
        subprocess.run([*inside, "rm", "-rf", str(root)], check=True)
    assert str(root) not in Path("/proc/self/mountinfo").read_text()


def podman(*arguments: str) -> str:
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def base(cloud, tmp_path_factory) -> Iterator[str]:
    """The base image's digest in this cloud; the engine keeps none of the images that tests build."""
    project = write(tmp_path_factory.mktemp("base"), f"sha256:{'0' * 64}", INICONFIG)
    yield base_image.resolve_base(project.cloud(), BASE)
    listed = ["docker", "images", "--quiet", "--filter", f"reference={cloud.registry}/builders/*"]
    if names := subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split():
        subprocess.run(["docker", "rmi", "--force", *set(names)], capture_output=True, check=True)


def write(root: Path, digest: str, requirements: str, more: str = "") -> Project:
    manifest = MANIFEST.replace("BASE", BASE).replace("REPOSITORY", REPOSITORY).replace("MORE", more)
    (root / "splitbake.yaml").write_text(manifest)
    (root / "run.py").write_text("print(1)\n")
    (root / "requirements.txt").write_text(f"{requirements}\n")
    (root / "a").write_bytes(b"weights")
    project = Project(root / "splitbake.yaml")
    file = LockedFile(path="models/a", source="a", size=7, sha256=hashlib.sha256(b"weights").hexdigest())
    lock = Lock(
        base_ami=LockedBaseAmi(
            request=locks.base_request(project.manifest), id="ami-1", name="x", owner="x", created="x",
            architecture="x86_64", region="us-east-1", root_device="/dev/xvda", root_size=1,
        ),
        base_image=LockedBaseImage(request=BASE, digest=digest),
        models=(LockedModels(path="models/a", source="a", files=(file,)),),
    )  # fmt: skip
    project.lock_path.write_text(lock.to_text())
    return project


def new_requirements() -> str:
    """Return what no image was made from yet: one that the repository has would be taken."""
    return f"{INICONFIG}  # {secrets.token_hex(8)}"


def build(project: Project, say: Say = silent) -> tuple[Artifact, Dependencies]:
    inputs = fingerprint.inputs(project, "image")
    own = dataclasses.replace(inputs, values={**inputs.values, "root": str(project.root)})
    cloud = project.cloud()
    artifact = image.build(project, cloud, own, say=say)
    below = project.catalog(cloud).dependencies(dependencies.read(project).key)
    assert below is not None
    return artifact, below


def pushed(project: Project, digest: str) -> Image:
    cloud = project.cloud()
    credentials = ecr.credentials(cloud)
    found = Repository(f"{credentials.host}/{REPOSITORY}", credentials).image(digest)
    assert found is not None
    return found


@PODMAN
def test_podman_makes_the_dependencies_and_the_code_lies_on_them(base, storage, tmp_path):
    project = write(tmp_path, base, new_requirements(), "builder: podman")
    said: list[str] = []
    artifact, below = build(project, said.append)
    assert "+ iniconfig==2.0.0" in said
    assert "iniconfig==2.0.0" in (tmp_path / dependencies.LOG).read_text()
    kinds = {each.kind for each in below.heaviest}
    assert kinds == {"layer", "distribution"}
    found, code = pushed(project, below.digest), pushed(project, artifact.id)
    assert [layer.blob.digest for layer in code.layers][: len(found.layers)] == [
        layer.blob.digest for layer in found.layers
    ]
    assert found.layers[0].blob.digest == pushed_base(project, base).layers[0].blob.digest
    assert not [name for name in found.config["config"].get("Labels", {}) if "buildah" in name]

    run = ["docker", "run", "--rm", "--network=none", "--read-only", "--entrypoint=python3"]
    with logged_in(project) as config:
        subprocess.run(["docker", "--config", config, "pull", "--quiet", artifact.uri], check=True, capture_output=True)
    program = "import iniconfig, os; print(iniconfig.__file__, os.getuid())"
    done = subprocess.run([*run, artifact.uri, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "/opt/python/iniconfig/__init__.py 10001\n"

    (tmp_path / "run.py").write_text("print(2)\n")  # podman is not asked again
    again, same = build(project)
    assert (again.id != artifact.id, same) == (True, below)


def pushed_base(project: Project, digest: str) -> Image:
    credentials = ecr.credentials(project.cloud())
    found = Repository(f"{credentials.host}/docker-hub/library/python", credentials).image(digest)
    assert found is not None
    return found


@contextmanager
def logged_in(project: Project) -> Iterator[str]:
    from splitbake import dockercli

    with dockercli.configuration(ecr.credentials(project.cloud())) as folder:
        yield str(folder)


@PODMAN
@pytest.mark.parametrize("key", ["budget", "compressed_budget"])
def test_podman_pushes_nothing_that_breaks_a_budget(base, storage, tmp_path, key):
    refuse(tmp_path, base, "podman", key)


@pytest.mark.parametrize("key", ["budget", "compressed_budget"])
def test_docker_pushes_nothing_that_breaks_a_budget(base, tmp_path, key):
    refuse(tmp_path, base, "docker", key)


def refuse(root: Path, base: str, builder: str, key: str) -> None:
    project = write(root, base, new_requirements(), f"builder: {builder}")
    manifest = project.manifest_path.read_text()
    manifest = manifest.replace("900 MB", "5 MB" if key == "budget" else "900 MB\n  compressed_budget: 5 MB")
    project.manifest_path.write_text(manifest)
    project = Project(project.manifest_path)
    ecr.ensure_repository(project.cloud(), REPOSITORY)
    before = project.cloud().client("ecr").list_images(repositoryName=REPOSITORY)["imageIds"]
    with pytest.raises(BuildError, match=rf"over image\.{key} \(5\.0 MB\); nothing was pushed") as caught:
        build(project)
    assert "  iniconfig 2.0.0" in caught.value.message
    assert "take a slimmer image.base" in caught.value.hint
    assert project.cloud().client("ecr").list_images(repositoryName=REPOSITORY)["imageIds"] == before


@PODMAN
def test_podman_that_is_interrupted_leaves_neither_containers_nor_secrets(base, storage, tmp_path, monkeypatch):
    hushed = f"hushed-{secrets.token_hex(8)}"
    monkeypatch.setenv("HUSHED", hushed)
    project = write(tmp_path, base, new_requirements(), "builder: podman\n  secrets: [HUSHED]")

    def interrupt(line: str) -> None:
        if line.startswith("Collecting uv"):
            assert holding(
                storage / "graph/overlay-containers", hushed
            )  # podman's copy of the secret, which it would leave
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(project, interrupt)
    assert podman("ps", "--all", "--external", "--quiet") == ""
    assert not holding(storage, hushed)


@PODMAN
def test_podman_is_healthy_here(storage):
    PodmanBuilder().health()
    assert "linux/amd64" in PodmanBuilder().platforms()


# Secrets


@dataclasses.dataclass
class Index:
    """A package index of this machine with one wheel, which opens to one password.

    Attributes:
        url: with the password.
        requirement: what the wheel is required by.
        served: how often the wheel was fetched.
    """

    url: str
    requirement: str
    served: list[str]


@contextmanager
def index(password: str, address: str = "127.0.0.1", others: Path | None = None) -> Iterator[Index]:
    """Serve it at ``address``; ``others`` is a folder of more wheels, laid out as an index."""
    name, content = f"hushed-1.0+{secrets.token_hex(4)}-py3-none-any.whl", BytesIO()
    version = name.split("-")[1]
    info = f"hushed-{version}.dist-info"
    files = {
        "hushed.py": "x = 1\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: hushed\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(content, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))
    bytes_, digest = content.getvalue(), hashlib.sha256(content.getvalue()).hexdigest()
    opens = "Basic " + base64.b64encode(f"user:{password}".encode()).decode()
    served: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != opens:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="index"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            wheel, more = self.path.startswith("/files/"), beside(others, self.path)
            page = f'<a href="/files/{name.replace("+", "%2B")}#sha256={digest}">{name}</a>'.encode()
            answer = more or (bytes_ if wheel else page)
            if wheel:
                served.append(self.path)
            self.send_response(200 if more or wheel or "hushed" in self.path else 404)
            self.send_header("Content-Type", "application/octet-stream" if ".whl" in self.path else "text/html")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(answer)

        do_HEAD = do_GET  # noqa: N815 - its name decides

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer((address, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://user:{password}@{address}:{server.server_port}/simple"
            yield Index(url, f"hushed=={version} --hash=sha256:{digest}", served)
        finally:
            server.shutdown()


def beside(folder: Path | None, path: str) -> bytes | None:
    """Return what a folder that is laid out as an index has at ``path``."""
    if folder is None:
        return None
    found = folder / path.strip("/")
    found = found / "index.html" if found.is_dir() else found
    return found.read_bytes() if found.is_file() else None


def holding(root: Path, *words: str) -> list[str]:
    """Return the files below ``root`` that hold one of ``words``, as they are or decompressed."""
    found: list[str] = []
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            content = path.read_bytes()
        except OSError:  # gone just now
            continue
        if content[:2] == b"\x1f\x8b":
            content += gzip.decompress(content)
        if any(word.encode() in content for word in words):
            found.append(str(path.relative_to(root)))
    return found


def saved(*names: str) -> Iterator[tuple[str, bytes]]:
    """Yield every file of every layer of images that the engine has, and their configurations."""
    for name in names:
        done = subprocess.run(["docker", "image", "save", name], capture_output=True, check=True)
        with tarfile.open(fileobj=BytesIO(done.stdout)) as outer:
            for member in outer:
                if content := outer.extractfile(member) if member.isfile() else None:
                    yield f"{name}: {member.name}", content.read()


@dataclasses.dataclass(frozen=True)
class Planted:
    """A project that was built with secrets: an index that opens to a password, and a CA bundle.

    Attributes:
        project: in a folder of its own.
        artifact: the code image.
        below: what it lies on.
        words: what may be found nowhere.
        said: by the build.
    """

    project: Project
    artifact: Artifact
    below: Dependencies
    words: tuple[str, ...]
    said: tuple[str, ...]


def plant(folder: Path, base: str, variable: str, more: str) -> Planted:
    """Build with secrets, and see that both are used."""
    password, planted = f"hush{secrets.token_hex(16)}", f"planted{secrets.token_hex(16)}"
    known = next((os.environ[name] for name in dependencies.CA_VARIABLES if os.environ.get(name)), None)
    (folder / "outside").mkdir()
    bundle = folder / "outside" / "ca.pem"
    bundle.write_text(f"# {planted}\n{Path(known).read_text() if known else ''}")
    (folder / "project").mkdir()
    said: list[str] = []
    with index(password) as served, pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, served.url)
        patch.setenv(dependencies.NETWORK_VARIABLE, "host")
        if known:  # without one, no index of the internet would be trusted
            patch.setenv(dependencies.CA_VARIABLES[0], str(bundle))
        project = write(folder / "project", base, served.requirement, f"{more}\n  secrets: [{variable}]")
        artifact, below = build(project, said.append)
    assert served.served
    assert any(each.kind == "distribution" and each.name.startswith("hushed 1.0+") for each in below.heaviest)
    header = base64.b64encode(f"user:{password}".encode()).decode()
    return Planted(project, artifact, below, (password, header, planted), tuple(said))


def require_unseen(planted: Planted, registry: Path) -> None:
    """Look for the secrets in all that stays of a build, and in all that travels."""
    words, project = planted.words, planted.project
    ours = {
        layer.blob.digest.removeprefix("sha256:")
        for digest in (planted.below.digest, planted.artifact.id)
        for layer in pushed(project, digest).layers
    }
    assert ours <= {path.parent.name for path in registry.rglob("data")}
    assert holding(registry, *words) == []
    assert holding(project.root, *words) == []  # state, log and all else
    assert not [line for line in planted.said if any(word in line for word in words)]

    names = [f"{planted.below.location}@{planted.below.digest}", planted.artifact.uri]
    texts: list[str] = []
    with logged_in(project) as config:
        for name in names:
            subprocess.run(["docker", "--config", config, "pull", "--quiet", name], check=True, capture_output=True)
            for what in (["history", "--no-trunc", name], ["image", "inspect", name]):
                texts += [subprocess.run(["docker", *what], capture_output=True, text=True, check=True).stdout]
    assert "COPY" in texts[0]
    assert not [text for text in texts if any(word in text for word in words)]
    files = [*saved(*names)]
    assert len(files) > len(ours)
    assert not [where for where, content in files if any(word.encode() in content for word in words)]


@pytest.mark.parametrize(("installer", "variable"), [("uv", "UV_INDEX"), ("pip", "PIP_EXTRA_INDEX_URL")])
def test_a_secret_of_docker_is_used_and_nowhere_to_be_found(base, cloud, tmp_path, installer, variable):
    planted = plant(tmp_path, base, variable, f"installer: {installer}")
    require_unseen(planted, cloud.directory / "registry" / "storage")


@PODMAN
def test_a_secret_of_podman_is_used_and_nowhere_to_be_found(base, cloud, storage, tmp_path):
    planted = plant(tmp_path, base, "UV_INDEX", "builder: podman")
    require_unseen(planted, cloud.directory / "registry" / "storage")
    assert holding(storage, *planted.words) == []  # nor what it keeps for the next build


@pytest.mark.usefixtures("package_index")  # its wheels are served by an index with a password
def test_a_secret_of_codebuild_is_used_and_nowhere_to_be_found(base, cloud, aws, tmp_path, monkeypatch):
    """The Dockerfile is the generated one; what it installs comes from one index, that of this machine."""
    (uv,) = (tmp_path / "index/simple/uv").glob("uv-*manylinux*.whl")
    pinned = f"uv=={uv.name.split('-')[1]} --hash=sha256:{hashlib.sha256(uv.read_bytes()).hexdigest()}\n"
    monkeypatch.setattr(dockerfile, "installers", lambda _: {dockerfile.UV: pinned})

    password, planted = f"hush{secrets.token_hex(16)}", f"planted{secrets.token_hex(16)}"
    bundle = tmp_path / "ca.pem"
    known = next((os.environ[name] for name in dependencies.CA_VARIABLES if os.environ.get(name)), None)
    bundle.write_text(f"# {planted}\n{Path(known or certifi.where()).read_text()}")
    monkeypatch.setenv(dependencies.CA_VARIABLES[0], str(bundle))
    names = {"PIP_INDEX_URL": "url", "PIP_TRUSTED_HOST": "host", "UV_DEFAULT_INDEX": "url"}
    there = ", ".join(f'{name}: "hushed/index:{key}"' for name, key in names.items())
    more = f"""builder: codebuild
  secrets: [{", ".join(names)}]
  codebuild: {{role: hushed-builds, bucket: hushed-builds, secrets: {{{there}}}}}"""
    said: list[str] = []
    (tmp_path / "project").mkdir()
    with index(password, cloud.gateway, tmp_path / "index") as served:
        project = write(tmp_path / "project", base, served.requirement, more)
        allow_builds(aws, project, json.dumps({"url": served.url, "host": cloud.gateway}))
        artifact, below = build(project, said.append)
    assert served.served
    assert any(each.kind == "distribution" and each.name.startswith("hushed 1.0+") for each in below.heaviest)
    header = base64.b64encode(f"user:{password}".encode()).decode()
    found = Planted(project, artifact, below, (password, header, planted), tuple(said))
    require_unseen(found, cloud.directory / "registry" / "storage")

    builds = aws("codebuild").list_builds_for_project(projectName="splitbake-builders-image")["ids"]
    told = [json.dumps(each, default=str) for each in aws("codebuild").batch_get_builds(ids=builds)["builds"]]
    group = "/aws/codebuild/splitbake-builders-image"
    lines = [event["message"] for event in aws("logs").filter_log_events(logGroupName=group)["events"]]
    assert told
    assert any("hushed==1.0+" in line for line in lines)
    assert not [text for text in (*told, *lines) if any(word in text for word in found.words)]
    statement = json.dumps(project.catalog(project.cloud()).provenance(below.digest))
    assert '"codebuild build": "splitbake-builders-image:' in statement
    assert '"docker engine": "20.10' in statement


def allow_builds(aws: Any, project: Project, secret: str) -> None:
    """Make what CodeBuild needs: a bucket, the secret, and a role with the policy that splitbake prints."""
    trust = {"Effect": "Allow", "Principal": {"Service": "codebuild.amazonaws.com"}, "Action": "sts:AssumeRole"}
    aws("s3").create_bucket(Bucket="hushed-builds")
    aws("secretsmanager").create_secret(Name="hushed/index", SecretString=secret)
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    aws("iam").create_role(RoleName="hushed-builds", AssumeRolePolicyDocument=document)
    for policy in policies(Scope(project.manifest, "local"), "codebuild"):
        printed = json.dumps(policy.document())
        aws("iam").put_role_policy(RoleName="hushed-builds", PolicyName=policy.name, PolicyDocument=printed)


def test_what_was_planted_would_be_found(tmp_path):
    """The search itself: it sees a word in a file, and in one that gzip has packed."""
    (tmp_path / "plain").write_text("a hush b")
    (tmp_path / "packed").write_bytes(gzip.compress(b"x" * 10_000 + b"hush"))
    (tmp_path / "other").write_text("x")
    assert holding(tmp_path, "hush") == ["packed", "plain"]
