"""The image half for real: built by BuildKit, pushed to the local cloud's registry, verified in a container."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from splitbake import contract, dockercli, ecr, fingerprint, health
from splitbake import lock as locks
from splitbake.bake import dependencies, found, image
from splitbake.bake import docker as docker_builder
from splitbake.bake.docker import DockerBuilder
from splitbake.contract import Need
from splitbake.errors import BuildError, CloudError, SourceError, ToolError, VerifyError
from splitbake.lock import Lock, LockedBaseAmi, LockedBaseImage, LockedFile, LockedModels
from splitbake.project import Project
from splitbake.sources import base_image
from splitbake.ui import silent
from splitbake.verify import image as verification

pytestmark = pytest.mark.engine

BASE = "ecr://docker-hub/library/python:3.11-slim"
MANIFEST = """
version: 1
project: image-test
state: state
models:
  files: [{{path: models/weights.bin, from: weights.bin}}]
  budget: 1 GiB
ami: {{base: ecs-gpu-al2023}}
image:
  base: {base}
  context: app
  include: {include}
  exclude: ["**/*.csv"]
  requirements: requirements.txt
  workdir: {workdir}
  mounts: {{models: /workspace/models}}
  command: [python3, run.py]
  repository: image-test/batch
  budget: {budget}
{more}
verify: {{imports: [lib, iniconfig], run: [python3, run.py]}}
environments: {{local: {{account: "123456789012", region: us-east-1, endpoint: custom}}}}
"""
RUN = 'import lib, iniconfig\nprint(len(open("/workspace/models/weights.bin", "rb").read()))\n'
WEIGHTS = b"weights" * 10_000
HASH = "--hash=sha256:b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374"
PINNED = f"iniconfig==2.0.0 {HASH}"


@pytest.fixture(scope="module")
def base(cloud) -> str:
    """The base image's digest in this cloud; the engine keeps none of the images that tests build."""
    with tempfile.TemporaryDirectory() as folder:
        project = write_project(Path(folder), f"sha256:{'0' * 64}")
        yield base_image.resolve_base(project.cloud(), BASE)
    names = subprocess.run(
        ["docker", "images", "--format", "{{.ID}}", "--filter", f"reference={cloud.registry}/image-test/*"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    if names:
        subprocess.run(["docker", "rmi", "--force", *set(names)], capture_output=True, check=True)


def write_project(
    root: Path,
    digest: str,
    *,
    include="[lib/, run.py]",
    budget="900 MB",
    workdir="/app",
    requirements=PINNED,
    architecture="x86_64",
    more="",
) -> Project:
    files = {
        "splitbake.yaml": MANIFEST.format(base=BASE, include=include, budget=budget, workdir=workdir, more=more),
        "app/run.py": RUN,
        "app/lib/__init__.py": "",
        "app/lib/junk.csv": "1,2",
        "app/src/train.py": "x",
        "app/requirements.txt": f"{requirements}\n",
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "weights.bin").write_bytes(WEIGHTS)
    project = Project(root / "splitbake.yaml")
    model = {"path": "models/weights.bin", "source": "weights.bin"}
    file = LockedFile(**model, size=len(WEIGHTS), sha256=hashlib.sha256(WEIGHTS).hexdigest())
    lock = Lock(
        base_ami=LockedBaseAmi(
            request=locks.base_request(project.manifest), id="ami-1", name="x", owner="x", created="x",
            architecture=architecture, region="us-east-1", root_device="/dev/xvda", root_size=1,
        ),
        base_image=LockedBaseImage(request=BASE, digest=digest),
        models=(LockedModels(**model, files=(file,)),),
    )  # fmt: skip
    project.lock_path.write_text(lock.to_text())
    return project


def build(project: Project, say=silent):
    inputs = fingerprint.inputs(project, "image")
    own = dataclasses.replace(inputs, values={**inputs.values, "root": str(project.root)})
    return image.build(project, project.cloud(), own, say=say)


def pulled(project: Project):
    """Build it, and give it to the engine as well."""
    artifact = build(project)
    with dockercli.login(ecr.credentials(project.cloud())) as client:
        client.pull(artifact.uri, quiet=True)
    return artifact


def verify(project: Project, artifact, monkeypatch, tmp_path, junit=None):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    report = verification.verify(project, project.cloud(), artifact, junit=junit, say=silent)
    assert (
        docker("ps", "--all", "--quiet", "--filter", "name=splitbake-verify-", f"--filter=ancestor={artifact.uri}")
        == ""
    )
    return report, {check.name: check.saw for check in report.checks if not check.passed}


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def layers(artifact) -> list[str]:
    return docker("inspect", "--format", '{{join .RootFS.Layers " "}}', artifact.uri).split()


def test_built_pushed_and_verified(base, tmp_path, monkeypatch):
    project = write_project(tmp_path, base)
    said: list[str] = []
    artifact = build(project, said.append)
    assert artifact.id.startswith("sha256:")
    assert 0 < artifact.compressed_size < artifact.size < project.manifest.image.budget
    assert not health.problem(project.cloud(), artifact, "image-test/batch")
    assert (tmp_path / dependencies.LOG).read_text().count("exporting to image") >= 1
    assert any("uv pip install" in line for line in said)

    junit = tmp_path / "reports" / "image.xml"
    report, failed = verify(project, artifact, monkeypatch, tmp_path, junit)
    assert failed == {}
    assert report.artifact == artifact.id
    seen = {check.name: check.saw for check in report.checks}
    assert seen["exactly the wanted files"] == "2 files below /app, nothing else"
    assert seen["exactly the wanted distributions"] == "iniconfig 2.0.0"
    assert seen["runs read only"] == str(len(WEIGHTS))
    assert seen["contract"] == 'contract 1, needs ["models/"]'
    assert seen["entry check accepts the models"] == "started"
    assert seen["entry check refuses a host without models"].startswith(
        "exit status 78: splitbake: this host offers no"
    )
    assert seen["architecture"] == "linux/amd64, x86_64"
    assert artifact.needs == Need(
        version=1, architecture="x86_64", paths=("models/",), mounts={"models": "/workspace/models"}
    )
    assert junit.is_file()


def test_a_code_edit_leaves_all_lower_layers_equal(base, tmp_path):
    project = write_project(tmp_path, base)
    before = pulled(project)
    (tmp_path / "app/run.py").write_text(f"{RUN}# one more line\n")
    after = pulled(project)
    assert before.id != after.id
    assert layers(before)[:-1] == layers(after)[:-1]
    assert layers(before)[-1] != layers(after)[-1]


def test_the_same_tree_is_the_same_image_on_a_machine_that_has_nothing(base, tmp_path, monkeypatch):
    """No cache, no earlier image, another folder, other times: the same bytes. Only the state says what there is."""

    def made(project: Project, say=silent):
        return image.build(project, project.cloud(), fingerprint.inputs(project, "image"), say=say)

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first = made(write_project(tmp_path / "one", base))
    other = write_project(tmp_path / "two", base)
    shutil.copytree(tmp_path / "one/state/dependencies", tmp_path / "two/state/dependencies")
    for path in (tmp_path / "two").rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    said: list[str] = []
    assert made(other, said.append).id == first.id
    assert not any(line.startswith("pushing") for line in said)


def test_dependencies_are_built_once(base, tmp_path, monkeypatch):
    project = write_project(tmp_path, base)
    build(project)
    (tmp_path / "app/lib/more.py").write_text("more = 1")

    def never(*_):
        pytest.fail("the dependencies were built again")

    monkeypatch.setattr(DockerBuilder, "make", never)
    build(project)


def test_dependencies_that_the_state_has_lost_are_taken_and_weigh_the_same(base, tmp_path, monkeypatch):
    project = write_project(tmp_path, base)
    catalog, key = project.catalog(project.cloud()), dependencies.read(project).key
    (tmp_path / "app/lib/more.py").write_text("more = 2")
    with monkeypatch.context() as patch:
        patch.setattr(found, "dependencies", lambda *_: None)
        built = build(project), catalog.dependencies(key)
    shutil.rmtree(tmp_path / "state")
    monkeypatch.setattr(DockerBuilder, "make", lambda *_: pytest.fail("the dependencies were built again"))
    taken = build(project), catalog.dependencies(key)
    assert (taken[0].id, taken[1].digest, taken[1].size) == (built[0].id, built[1].digest, built[1].size)
    for kind in ("layer", "distribution"):
        weights = [[(one.size, one.name) for one in made.heaviest if one.kind == kind] for made in (built[1], taken[1])]
        assert [size for size, _ in weights[0]] == [size for size, _ in weights[1]]
    assert weights[0] == weights[1]


def test_odd_names_are_built_exactly(base, tmp_path, monkeypatch):
    odd = {
        'it\'s $HOME/"quoted" #1.py': "a",
        "-rf/--from=x.py": "b",
        "brackets [ab] (x) {y}+^|.py": "c",
        "déjà vu/数.py": "d",
        "back\\slash/n.py": "e",
        "# comment.py": "f",
        "!not.py": "g",
    }
    patterns = [f"{path.partition('/')[0]}/" if "/" in path else path for path in odd]
    project = write_project(
        tmp_path,
        base,
        include="[lib/, run.py, " + ", ".join("'" + each.replace("'", "''") + "'" for each in patterns) + "]",
        workdir="'/app $x \"y'''",
    )
    for path, text in odd.items():
        (tmp_path / "app" / path).parent.mkdir(exist_ok=True)
        (tmp_path / "app" / path).write_text(text)
    artifact = build(project)
    _, failed = verify(project, artifact, monkeypatch, tmp_path)
    assert failed == {}


def test_a_pattern_that_takes_all_brings_nothing_of_ours(base, tmp_path, monkeypatch):
    project = write_project(tmp_path, base, include="[lib/, '*']")
    (tmp_path / "app/.splitbake").mkdir()
    (tmp_path / "app/.splitbake/state").write_text("x")
    (tmp_path / "app/entry").write_text("of the project")
    report, failed = verify(project, build(project), monkeypatch, tmp_path)
    assert failed == {}
    seen = {check.name: check.saw for check in report.checks}
    assert seen["exactly the wanted files"] == "5 files below /app, nothing else"


def test_started_where_nothing_is_mounted_it_leaves_with_78_and_one_line(base, tmp_path):
    artifact = pulled(write_project(tmp_path, base))
    started = subprocess.run(
        ["docker", "run", "--rm", "--network=none", artifact.uri], capture_output=True, text=True, check=False
    )
    assert (started.returncode, started.stdout) == (78, "")
    (line,) = started.stderr.splitlines()
    assert line.startswith("splitbake: this host offers no models: there is no /opt/splitbake/host/contract, ")
    around = ["docker", "run", "--rm", "--network=none", "--entrypoint", "python3", artifact.uri, "-c", "print(1)"]
    assert subprocess.run(around, capture_output=True, text=True, check=True).stdout == "1\n"


def test_an_entry_check_that_was_taken_away_is_found(base, tmp_path, monkeypatch):
    project = write_project(tmp_path, base)
    artifact = build(project)
    instructions = f"ENTRYPOINT []\nCMD {json.dumps(['python3', 'run.py'])}\nLABEL splitbake.contract=2\n"
    _, failed = verify(project, derived(project, artifact, tmp_path, instructions), monkeypatch, tmp_path)
    assert failed == {
        "command": "starts it through []",
        "contract": "labelled {'splitbake.contract': '2', 'splitbake.needs': '[\"models/\"]'}",
        "entry check refuses a host without models": "exit status 0, wanted 78; it said nothing",
    }


def test_a_base_without_a_shell_is_told(base, tmp_path, monkeypatch):
    project = write_project(tmp_path, base)
    bad = derived(project, build(project), tmp_path, "USER 0\nRUN rm /bin/sh\nUSER 10001:10001\n")
    with pytest.raises(VerifyError, match="cannot start its entry check /opt/splitbake/entry") as told:
        verify(project, bad, monkeypatch, tmp_path)
    assert "choose an image.base that has a POSIX shell as /bin/sh" in told.value.hint


def test_an_architecture_that_this_machine_cannot_build_for_is_told(base, tmp_path, monkeypatch):
    project = write_project(tmp_path, base)
    monkeypatch.setattr(contract, "platform", lambda _lock: "linux/none")
    with pytest.raises(BuildError, match=r"must be for linux/none, .*; this machine builds for .*linux/amd64"):
        build(project)


def test_programs_of_another_architecture_than_the_label_are_found(base, tmp_path, monkeypatch):
    """BuildKit takes a base that exists for one architecture only as whatever it was asked for."""
    project = write_project(tmp_path, base, architecture="arm64")
    monkeypatch.setattr(docker_builder, "platforms", lambda _said: set())
    _, failed = verify(project, build(project), monkeypatch, tmp_path)
    assert failed == {"architecture": "is labelled linux/arm64, but its programs are for x86_64"}


def derived(project: Project, artifact, folder: Path, instructions: str):
    """Push an image that goes on from that of ``artifact``, and return it as if it were that."""
    (folder / "derived").mkdir()
    (folder / "derived/Dockerfile").write_text(f"FROM {artifact.uri}\n{instructions}")
    name = f"{artifact.location}:{artifact.id.removeprefix('sha256:')[:12]}-derived"
    with dockercli.login(ecr.credentials(project.cloud())) as client:
        client.build(folder / "derived", tags=name, progress=False, load=True)
        client.push(name, quiet=True)
        (digest,) = client.image.inspect(name).repo_digests
    return artifact.model_copy(update={"id": digest.partition("@")[2]})


def test_an_image_over_its_budget_is_not_pushed(base, tmp_path):
    project = write_project(tmp_path, base, budget="1 MB", requirements=f"# nobody has built these\n{PINNED}")
    uri = ecr.ensure_repository(project.cloud(), "image-test/batch")
    registry = project.cloud().client("ecr")
    before = registry.list_images(repositoryName="image-test/batch")["imageIds"]
    with pytest.raises(BuildError, match=r"nothing was pushed(.|\n)*layers:(.|\n)*:\n.* iniconfig 2\.0\.0"):
        build(project)
    assert docker("images", "--quiet", uri)  # the dependencies were built
    assert registry.list_images(repositoryName="image-test/batch")["imageIds"] == before


def test_a_failing_install_shows_its_last_lines(base, tmp_path):
    project = write_project(tmp_path, base, requirements=f"iniconfig==0.0.0.dev0 {HASH}")
    with pytest.raises(BuildError, match=r"no version of iniconfig==0\.0\.0\.dev0") as caught:
        build(project)
    assert "image.log" in caught.value.hint
    assert "iniconfig==0.0.0.dev0" in (tmp_path / dependencies.LOG).read_text()
    assert not list(Path(tempfile.gettempdir()).glob("splitbake-image-*"))


def test_what_does_not_belong_is_found_even_where_a_later_layer_hides_it(base, tmp_path, monkeypatch):
    project = write_project(tmp_path, base)
    artifact = build(project)
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    (spoiled / "w").write_bytes(WEIGHTS)
    (spoiled / "Dockerfile").write_text(
        f"FROM {artifact.uri}\nUSER 0\nCOPY w /opt/w\nRUN rm /opt/w && echo x > /app/extra.py && mkdir -p /root/.aws\n"
        "RUN echo key > /root/.aws/credentials && echo 'raise OSError(\"broken\")' > /app/lib/__init__.py\n"
        'ENV API_TOKEN=x\nCMD ["sh"]\n'
    )
    name = f"{artifact.location}:spoiled"
    with dockercli.login(ecr.credentials(project.cloud())) as client:
        client.build(spoiled, tags=name, progress=False, load=True)
        client.push(name, quiet=True)
        (digest,) = client.image.inspect(name).repo_digests
    bad = artifact.model_copy(update={"id": digest.partition("@")[2]})
    report, failed = verify(project, bad, monkeypatch, tmp_path)
    assert not report.passed
    assert failed["no model in any layer"] == "/opt/w is model models/weights.bin"
    assert failed["nothing left behind"] == "root/.aws/credentials; API_TOKEN"
    assert failed["exactly the wanted files"] == "differs: lib/__init__.py; not wanted: extra.py"
    assert failed["import: lib"] == "OSError: broken"
    assert failed["not root"] == "uid 0, wanted 10001"
    assert failed["command"] == "starts ['sh']"
    assert failed["runs read only"] == "exit status 1: OSError: broken"
    assert len(failed) == 7


def test_base_images_that_cannot_be_resolved(base, tmp_path):
    project = write_project(tmp_path, base)
    cloud = project.cloud()
    assert base_image.resolve_base(cloud, BASE) == base
    with pytest.raises(SourceError, match="is not in the registry of environment 'local'"):
        base_image.resolve_base(cloud, "ecr://docker-hub/library/python:0.1")
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:1/x:latest cannot be looked up"):
        base_image.resolve_base(cloud, "127.0.0.1:1/x")


def test_without_engine_or_client_the_error_says_so(base, tmp_path, monkeypatch):
    project = write_project(tmp_path, base, requirements=f"# nor these\n{PINNED}")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    with pytest.raises(ToolError, match="Cannot connect to the Docker daemon"):
        build(project)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="no Docker client is installed"):
        build(project)


def test_an_unreachable_endpoint_is_told(base, tmp_path, monkeypatch):
    project = write_project(tmp_path, base)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(CloudError, match="could not look for the ECR repository"):
        build(project)
