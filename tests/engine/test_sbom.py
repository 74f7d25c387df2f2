"""Bill of materials and provenance of an image for real: built by BuildKit, read by syft from the registry."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import secrets
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing
from packaging.requirements import Requirement

from splitbake import build as builds
from splitbake import lock as locks
from splitbake import sbom, syft
from splitbake.artifact import Artifact
from splitbake.lock import Lock, LockedBaseAmi, LockedBaseImage, LockedFile, LockedModels
from splitbake.project import Project
from splitbake.sources import base_image
from splitbake.ui import silent
from splitbake.verify import bill
from splitbake.verify import image as verification

pytestmark = pytest.mark.engine

EXAMPLE = Path(__file__).parents[2] / "examples/video-analysis"
BASE = "ecr://docker-hub/library/python:3.11-slim"
WEIGHTS = b"weights" * 1000
PLANTED = f"planted-{secrets.token_hex(16)}"
MANIFEST = """
version: 1
project: sbom-test
state: state
models:
  files: [{path: models/weights.bin, from: weights.bin}]
  budget: 1 GiB
ami: {base: ecs-gpu-al2023}
image:
  base: ecr://docker-hub/library/python:3.11-slim
  context: app
  include: [run.py]
  requirements: requirements.txt
  mounts: {models: /workspace/models}
  command: [python3, run.py]
  repository: sbom-test/batch
  budget: 900 MB
  secrets: [PLANTED]
environments: {local: {account: "123456789012", region: us-east-1, endpoint: custom}}
"""


@pytest.fixture(scope="module")
def project(cloud: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project on the requirements of the example; the engine keeps nothing of it."""
    root = tmp_path_factory.mktemp("sbom")
    (root / "app").mkdir()
    (root / "splitbake.yaml").write_text(MANIFEST)
    (root / "weights.bin").write_bytes(WEIGHTS)
    (root / "app/run.py").write_text("print('one')\n")
    (root / "app/requirements.txt").write_text((EXAMPLE / "requirements.txt").read_text())
    made = Project(root / "splitbake.yaml")
    model = {"path": "models/weights.bin", "source": "weights.bin"}
    file = LockedFile(**model, size=len(WEIGHTS), sha256=hashlib.sha256(WEIGHTS).hexdigest())
    lock = Lock(
        base_ami=LockedBaseAmi(
            request=locks.base_request(made.manifest), id="ami-1", name="x", owner="x", created="x",
            architecture="x86_64", region="us-east-1", root_device="/dev/xvda", root_size=1,
        ),
        base_image=LockedBaseImage(request=BASE, digest=base_image.resolve_base(made.cloud(), BASE)),
        models=(LockedModels(**model, files=(file,)),),
    )  # fmt: skip
    made.lock_path.write_text(lock.to_text())
    yield made
    names = subprocess.run(
        ["docker", "images", "--format", "{{.ID}}", "--filter", f"reference={cloud.registry}/sbom-test/*"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    if names:
        subprocess.run(["docker", "rmi", "--force", *set(names)], capture_output=True, check=True)


@pytest.fixture(scope="module")
def image(project: Project) -> Artifact:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED", PLANTED)
        return builds.build(project, project.cloud(), "image", force=False, say=silent).artifact


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of what syft was given, of each time."""
    seen: list[int] = []
    original = syft.scan

    def scan(layout: Path, *arguments: Any) -> None:
        seen.append(sum(path.stat().st_size for path in layout.rglob("*") if path.is_file()))
        original(layout, *arguments)

    monkeypatch.setattr(syft, "scan", scan)
    return seen


def wanted() -> dict[str, str]:
    """Return what requirements.txt pins: name -> version."""
    lines = (line.removesuffix("\\").strip() for line in (EXAMPLE / "requirements.txt").read_text().splitlines())
    pins = [Requirement(line) for line in lines if line and not line.startswith(("#", "--hash"))]
    return {pin.name.lower(): str(pin.specifier).removeprefix("==") for pin in pins}


def check_cyclonedx(document: dict[str, Any]) -> None:
    folder = resources.files("cyclonedx.schema._res")
    schemas = {
        name: json.loads(folder.joinpath(name).read_text(encoding="utf-8"))
        for name in ("spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json")
    }
    store = referencing.Registry().with_resources(
        (f"http://cyclonedx.org/schema/{name}", referencing.Resource.from_contents(content))
        for name, content in schemas.items()
    )
    schema = json.loads(folder.joinpath("bom-1.6.SNAPSHOT.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema, registry=store).validate(document)


def test_the_bill_names_what_is_installed(project, image, scans):
    found = sbom.of(project, project.cloud(), image.uri, silent)
    document = found.document("cyclonedx")
    check_cyclonedx(document)
    parts = {part["name"].lower(): part["version"] for part in document["components"]}
    pins = wanted()
    assert {"numpy", "onnxruntime"} <= pins.keys()
    assert {name: parts.get(name) for name in pins} == pins
    assert "libc6" in parts
    assert found.sbom.packages > 50
    spdx = {each["name"].lower(): each.get("versionInfo") for each in found.document("spdx")["packages"]}
    assert {name: spdx.get(name) for name in pins} == pins
    assert len(scans) == 2
    assert str(project.root.parent) not in json.dumps(found.sbom.documents)
    assert "splitbake-sbom-" not in json.dumps(found.sbom.documents)


def test_the_next_image_on_the_same_dependencies_has_it_already(project, image, scans):
    first = sbom.of(project, project.cloud(), image.uri, silent)
    scans.clear()
    (project.root / "app/run.py").write_text("print('two')\n")
    edited = Project(project.manifest_path)
    other = builds.build(edited, edited.cloud(), "image", force=False, say=silent).artifact
    assert other.id != image.id
    second = sbom.of(edited, edited.cloud(), other.uri, silent)
    assert (second.sbom, second.made) == (first.sbom, False)
    assert second.document("cyclonedx")["metadata"]["component"]["version"] == other.id
    (size,) = scans
    assert size < 100_000, "the code alone"


def test_a_verification_makes_it(project, image, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (project.root / "app/run.py").write_text("print('one')\n")
    fresh = Project(project.manifest_path)
    report = verification.verify(fresh, fresh.cloud(), image, junit=None, say=silent)
    (noted,) = (check for check in report.checks if check.name == bill.NAME)
    assert not noted.skipped
    assert "packages by syft" in noted.saw
    assert noted.saw.split(", ")[1] in fresh.store(fresh.cloud()).keys("sboms/")


def test_every_image_that_was_built_has_its_provenance(project, image):
    catalog = project.catalog(project.cloud())
    code = catalog.provenance(image.id)
    assert code
    found = {each["name"]: each for each in code["predicate"]["buildDefinition"]["resolvedDependencies"]}
    below = catalog.provenance(f"sha256:{found['dependencies image']['digest']['sha256']}")
    assert below
    assert below["subject"][0]["name"] == code["subject"][0]["name"] == image.location
    assert found["base image"] in below["predicate"]["buildDefinition"]["resolvedDependencies"]
    tools = below["predicate"]["runDetails"]["builder"]["version"]
    assert tools.keys() >= {"splitbake", "python", "uv", "docker", "docker engine"}
    name = next(name for name in found if name.startswith("inputs/"))
    stored = catalog.store.get(name)
    assert stored
    assert hashlib.sha256(stored.value).hexdigest() == found[name]["digest"]["sha256"]


def test_nothing_secret_is_written_down(project, image):
    sbom.of(project, project.cloud(), image.uri, silent)
    token = project.cloud().client("ecr").get_authorization_token()["authorizationData"][0]["authorizationToken"]
    password = base64.b64decode(token).decode().partition(":")[2]
    store = project.store(project.cloud())
    keys = [*store.keys("sboms/"), *store.keys("provenance/")]
    assert len(keys) >= 4
    for key in keys:
        value = store.get(key).value
        text = (gzip.decompress(value) if key.endswith(".gz") else value).decode()
        for secret in (PLANTED, token, password):
            assert secret not in text, key
