"""Bills of materials: what is read once, what again, and what syft gets to see. A program of the test is syft."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from splitbake import ecr, layering, sbom, syft
from splitbake.artifact import Artifact, Check, Report
from splitbake.cli import cli, options, run
from splitbake.ecr import Credentials
from splitbake.errors import CloudError, InterruptError, ReleaseError, StateError, ToolError, UsageError
from splitbake.oci import image as images
from splitbake.oci import purl
from splitbake.oci.image import Descriptor, Image, Layer
from splitbake.release import record as records
from splitbake.state import FolderStore
from splitbake.ui import silent
from splitbake.verify import bill

HOST, PASSWORD = "registry.test", "the password of the registry"
URI = f"{HOST}/team/faces"

#: Reads the layers of an OCI layout and finds the packages that their names tell; writes down how it was called.
SYFT = """#!{python}
import json, os, pathlib, sys, tarfile, time
folder = pathlib.Path(sys.argv[2].removeprefix("oci-dir:"))
read = lambda digest: json.loads((folder / "blobs" / digest.replace(":", "/")).read_text())
(named,) = json.loads((folder / "index.json").read_text())["manifests"]
manifest = read(named["digest"])
names = []
for layer in manifest["layers"]:
    with tarfile.open(folder / "blobs" / layer["digest"].replace(":", "/")) as archive:
        names += archive.getnames()
with open({calls!r}, "a") as file:
    said = dict(argv=sys.argv[1:], environment=dict(os.environ), cwd=os.getcwd(), pid=os.getpid(), names=names)
    print(json.dumps(said | dict(config=read(manifest["config"]["digest"]))), file=file)
{more}
found = sorted(name.split("/")[-2].removesuffix(".dist-info") for name in names if name.endswith("/METADATA"))
tools = dict(components=[dict(name="syft", version="1.0")])
metadata = dict(timestamp="t", tools=tools, component=dict(name="x", type="container"))
parts = [dict(type="library", name=name) for name in found] + [dict(type="operating-system", name="debian")]
packages = [dict(SPDXID="root", name="x"), *(dict(SPDXID=name, name=name) for name in found)]
links = [dict(spdxElementId="SPDXRef-DOCUMENT", relatedSpdxElement="root", relationshipType="DESCRIBES")]
documents = {{
    "cyclonedx-json": dict(bomFormat="CycloneDX", serialNumber="old", metadata=metadata, components=parts),
    "spdx-json": dict(spdxVersion="SPDX-2.3", creationInfo=dict(creators=[]), packages=packages, relationships=links),
}}
for option in sys.argv:
    if option.startswith("--output="):
        kind, path = option.removeprefix("--output=").split("=", 1)
        pathlib.Path(path).write_text(json.dumps(documents[kind]))
"""


def layer(*names: str, ours: bool) -> tuple[Layer, bytes]:
    """A layer with these files, in splitbake's own name or not."""
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    plain, packed = into.getvalue(), gzip.compress(into.getvalue(), mtime=0)
    marks = {layering.KEY: "x"} if ours else {}
    return Layer(Descriptor(images.LAYER, images.digest(packed), len(packed), marks), images.digest(plain)), packed


class Registry:
    """Takes the place of ``Repository``: images by digest, and what was fetched."""

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.blobs: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.uri = URI

    def __call__(self, uri: str, credentials: Credentials) -> Registry:
        assert (uri, credentials.host) == (URI, HOST)
        return self

    def push(self, *layers: tuple[Layer, bytes]) -> str:
        self.blobs |= {each.blob.digest: content for each, content in layers}
        config = {
            "os": "linux",
            "architecture": "amd64",
            "config": {"Env": ["TOKEN=a secret of the image"], "Labels": {"mail": "a secret of the label"}},
            "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each, _ in layers]},
        }
        image = Image(tuple(each for each, _ in layers), config)
        digest = images.digest(image.texts()[1])
        self.images[digest] = image
        return f"{URI}@{digest}"

    def image(self, digest: str) -> Image | None:
        return self.images.get(digest)

    @contextmanager
    def blob(self, digest: str) -> Iterator[io.BytesIO]:
        self.fetched.append(digest)
        yield io.BytesIO(self.blobs[digest])


class Program:
    """Takes the place of syft; ``calls`` has what each run was given and saw."""

    def __init__(self, folder: Path) -> None:
        self.path, self._calls = folder / "syft", folder / "calls"
        self.write("")

    def write(self, more: str) -> None:
        self.path.write_text(SYFT.format(python=sys.executable, calls=str(self._calls), more=more))
        self.path.chmod(0o755)

    def edit(self, old: str, new: str) -> None:
        text = self.path.read_text()
        assert text.count(old) == 1
        self.path.write_text(text.replace(old, new))

    @property
    def calls(self) -> list[dict[str, Any]]:
        said = self._calls.read_text() if self._calls.exists() else ""
        return [json.loads(line) for line in said.splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    there = Registry()
    token = base64.b64encode(f"AWS:{PASSWORD}".encode()).decode()
    monkeypatch.setattr(ecr, "credentials", lambda _cloud: Credentials(HOST, token))
    monkeypatch.setattr(sbom, "Repository", there)
    return there


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Program:
    made = Program(tmp_path)
    monkeypatch.setattr(syft, "binary", lambda: str(made.path))
    return made


@pytest.fixture
def make(small: Any, cloud: Any, registry: Registry, program: Program) -> Any:
    project = small.project

    def of(image: str, **options: Any) -> sbom.Bill:
        return sbom.of(project, cloud, image, silent, **options)

    return of


BASE = layer("usr/lib/os-release", ours=False)
SITE = layer("opt/python/numpy-2.0.dist-info/METADATA", ours=False)
CODE, EDITED = layer("app/run.py", ours=True), layer("app/run.py", "app/more.py", ours=True)
VENDORED = layer("app/vendor/six-1.0.dist-info/METADATA", ours=True)


def names(document: dict[str, Any]) -> list[str]:
    return [part["name"] for part in document["components"] if part["type"] == "library"]


def test_the_layers_of_the_dependencies_are_read_once(make, registry, program):
    first = make(registry.push(BASE, SITE, CODE))
    assert first.made
    assert (first.sbom.packages, first.sbom.tool) == (1, "syft 1.0")
    assert [call["names"] for call in program.calls] == [
        ["app/run.py"],
        ["usr/lib/os-release", "opt/python/numpy-2.0.dist-info/METADATA"],
    ]
    registry.fetched.clear()
    second = make(registry.push(BASE, SITE, EDITED))
    assert not second.made
    assert second.place == first.place
    assert registry.fetched == [EDITED[0].blob.digest], "of the code only what changed is looked at"
    assert len(program.calls) == 3
    registry.fetched.clear()
    assert make(second.uri).sbom == first.sbom
    assert registry.fetched == []


def test_by_force_it_is_read_anew(make, registry, program):
    image = registry.push(BASE, SITE, CODE)
    make(image)
    assert make(image, force=True).made
    assert len(program.calls) == 4


def test_code_that_brings_packages_is_read_with_all_the_rest(make, registry, program):
    found = make(registry.push(BASE, SITE, VENDORED))
    assert names(found.document("cyclonedx")) == ["numpy-2.0", "six-1.0"]
    assert len(program.calls[-1]["names"]) == 3
    assert len(found.sbom.layers) == 3
    assert make(found.uri).place == found.place
    assert len(program.calls) == 2


@pytest.mark.parametrize(
    ("layers", "below"),
    [
        ((BASE, SITE, CODE), 2),
        ((BASE, SITE), 2),
        ((BASE, CODE, SITE), 3),
        ((CODE,), 0),
    ],
    ids=["ours", "of dependencies alone", "somebody's on top of ours", "nothing below"],
)
def test_only_what_splitbake_put_on_top_is_apart(registry, layers, below):
    image = registry.images[registry.push(*layers).partition("@")[2]]
    lower, upper = sbom.split(image)
    assert (len(lower), lower + upper) == (below, image.layers if below < 3 else lower)


def test_an_image_that_is_nothing_but_code_is_read(make, registry):
    assert make(registry.push(CODE)).sbom.packages == 0


def test_each_document_is_about_the_very_image(make, registry):
    one, other = make(registry.push(BASE, SITE, CODE)), make(registry.push(BASE, SITE, EDITED))
    assert one.sbom == other.sbom
    assert one.serial != other.serial
    document = other.document("cyclonedx")
    assert document["serialNumber"] == f"urn:uuid:{other.serial}"
    component = document["metadata"]["component"]
    assert (component["name"], component["version"]) == (URI, other.digest)
    assert component["purl"] == purl.of(URI, other.digest)
    assert [part["name"] for part in document["metadata"]["tools"]["components"]] == ["syft", "splitbake"]
    assert [each["value"] for each in document["metadata"]["properties"]] == [BASE[0].diff_id, SITE[0].diff_id]
    document = other.document("spdx")
    root, package = document["packages"]
    assert (root["name"], root["versionInfo"]) == (URI, other.digest)
    assert root["checksums"] == [{"algorithm": "SHA256", "checksumValue": other.digest.removeprefix("sha256:")}]
    assert package == {"SPDXID": "numpy-2.0", "name": "numpy-2.0"}
    assert document["documentNamespace"] == f"urn:uuid:{other.serial}"


def test_a_purl_is_quoted():
    wanted = "pkg:oci/faces@sha256%3Aab?repository_url=127.0.0.1%3A5000/team/faces"
    assert purl.of("127.0.0.1:5000/team/faces", "sha256:ab") == wanted


def test_syft_sees_no_secret_and_no_settings(make, registry, program, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret of the environment")
    monkeypatch.setenv("SYFT_REGISTRY_AUTH_PASSWORD", "a secret of syft's own")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found = make(registry.push(BASE, SITE, CODE))
    for call in program.calls:
        text = json.dumps(call)
        assert "secret" not in text
        assert PASSWORD not in text
        assert base64.b64encode(f"AWS:{PASSWORD}".encode()).decode() not in text
        assert call["environment"].keys() - {"LC_CTYPE"} == {"PATH", "HOME", "TMPDIR", "SYFT_CHECK_FOR_APP_UPDATE"}
        assert call["environment"]["SYFT_CHECK_FOR_APP_UPDATE"] == "false"
        assert call["environment"]["HOME"] == call["cwd"]
        assert not Path(call["cwd"]).exists()
    assert call["cwd"] not in found.sbom.model_dump_json()


def test_the_state_keeps_it_small(make, registry, small, cloud):
    found = make(registry.push(BASE, SITE, CODE))
    stored = small.project.store(cloud).get(found.place)
    assert json.loads(gzip.decompress(stored.value))["packages"] == 1


def elsewhere(small: Any, cloud: Any) -> list[str]:
    """Bring all bills of the state to another account and region, and return their keys."""
    store = small.project.store(cloud)
    moved = []
    for key in store.keys("sboms/"):
        old, new = "/123456789012/eu-west-1/", "/210987654321/eu-west-2/"
        there = key.replace(old, new)
        store.put(there, store.get(key).value.replace(old.encode(), new.encode()))
        (small.root / "state" / key).unlink()
        moved.append(there)
    return moved


def test_that_of_another_account_will_do_and_its_place_is_told(make, registry, program, small, cloud):
    kept = make(registry.push(BASE, SITE, CODE)).sbom
    moved = elsewhere(small, cloud)
    found = make(registry.push(BASE, SITE, EDITED))
    assert (found.sbom, found.made) == (kept, False)
    assert found.place in moved
    assert len(program.calls) == 3, "of the new code alone, of which nobody has any"


# What leads from the image to its bill.


def test_a_bill_is_found_by_the_digest_of_its_image_when_the_image_is_gone(make, registry, program):
    image = registry.push(BASE, SITE, CODE)
    first = make(image)
    registry.images.clear()
    registry.fetched.clear()
    found = make(image)
    assert (found.sbom, found.place, found.made) == (first.sbom, first.place, False)
    assert registry.fetched == []
    assert len(program.calls) == 2
    with pytest.raises(CloudError, match="is not in the registry"):
        make(image, force=True)


def test_the_state_leads_from_the_digest_to_the_bill(make, registry, small, cloud):
    image = registry.push(BASE, SITE, CODE)
    found, digest = make(image), image.partition("@")[2]
    store = small.project.store(cloud)
    place = f"sboms/123456789012/eu-west-1/{digest.replace(':', '-')}.json"
    assert store.keys("sboms/") == sorted([found.place, place])
    assert json.loads(store.get(place).value) == {"image": digest, "sbom": found.place}
    store.put(place, store.get(place).value.replace(b"sha256:", b"sha256:0"))
    with pytest.raises(StateError, match="is damaged"):
        make(image)


def test_a_promoted_image_has_the_bill_of_its_origin(make, registry, program, small, cloud):
    image = registry.push(BASE, SITE, CODE)
    kept = make(image)
    moved = elsewhere(small, cloud)
    registry.images.clear()
    found = make(image)
    assert found.sbom == kept.sbom
    assert found.place in moved
    assert len(program.calls) == 2


def test_one_that_was_lost_is_made_again(make, registry, program, small, cloud):
    image = registry.push(BASE, SITE, CODE)
    first = make(image)
    (small.root / "state" / first.place).unlink()
    found = make(image)
    assert (found.place, found.made) == (first.place, True)


def test_of_a_change_of_code_the_state_keeps_no_more_than_the_way_to_its_bill(make, registry, small, cloud):
    make(registry.push(BASE, SITE, CODE))
    store = small.project.store(cloud)
    before = store.keys("sboms/")
    image = registry.push(BASE, SITE, EDITED)
    make(image)
    (more,) = set(store.keys("sboms/")) - {*before}
    assert image.partition("@")[2].replace(":", "-") in more


@pytest.mark.parametrize("value", [b"", b"{}", gzip.compress(b"{}", mtime=0), gzip.compress(b"x" * 99, mtime=0)[:-9]])
def test_a_damaged_one_is_told(make, registry, small, cloud, value):
    image = registry.push(BASE, SITE, CODE)
    place = make(image).place
    small.project.store(cloud).put(place, value)
    with pytest.raises(StateError, match=rf"{place} in the state is damaged"):
        make(image)


@pytest.mark.parametrize("image", [f"elsewhere.test/x@sha256:{'0' * 64}", f"{URI}:latest", URI, ""])
def test_what_is_no_image_of_the_registry_is_refused(make, image):
    with pytest.raises(UsageError, match=r"is no image of registry\.test"):
        make(image)


def test_an_image_that_is_gone_is_told(make):
    with pytest.raises(CloudError, match="is not in the registry"):
        make(f"{URI}@sha256:{'0' * 64}")


def test_without_syft_nothing_is_fetched(make, registry, monkeypatch, tmp_path):
    image = registry.push(BASE, SITE, CODE)
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(ToolError, match="syft is not installed") as told:
        syft.binary()
    assert "splitbake[sbom]" in told.value.hint
    assert registry.fetched == []
    (tmp_path / "bin").mkdir()
    own = tmp_path / "bin/syft"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(own.parent))
    assert syft.binary() == str(own)
    assert image


def test_what_syft_complains_of_is_shown(make, registry, program, small, cloud):
    program.write("print('no space left on device', file=sys.stderr); sys.exit(1)")
    with pytest.raises(ToolError, match="syft left with status 1:\nno space left on device"):
        make(registry.push(BASE, SITE, CODE))
    assert small.project.store(cloud).keys("sboms/") == []


@pytest.mark.parametrize("more", ["metadata['tools'] = ['syft']", "links.clear()", "del metadata['tools']"])
def test_another_syft_that_writes_something_else_is_told(make, registry, program, more):
    program.edit("documents = {", f"{more}\ndocuments = {{")
    with pytest.raises(ToolError, match="syft wrote documents that are unknown here"):
        make(registry.push(BASE, SITE, CODE))


def test_what_nobody_wants_any_more_ends_syft(make, registry, program):
    program.write("while True: time.sleep(1)")

    def wanted() -> None:
        if program.calls:
            raise InterruptError("enough")

    with pytest.raises(InterruptError):
        make(registry.push(BASE, SITE, CODE), wanted=wanted)
    with pytest.raises(ProcessLookupError):
        os.kill(program.calls[-1]["pid"], 0)


# Beside a verification.

ARTIFACT = Artifact(
    half="image", id=f"sha256:{'b' * 64}", location=URI, fingerprint="sha256:1", created="now", seconds=1.0, size=1
)


def report() -> Report:
    values = {"half": "image", "artifact": ARTIFACT.id, "fingerprint": "sha256:1", "standard": "x", "created": "now"}
    return Report(**values, seconds=1.0, checks=(Check(name="size", passed=True),))


def verified(small: Any, cloud: Any, image: str, body: Any = lambda: None) -> Report:
    artifact = ARTIFACT.model_copy(update={"id": image.partition("@")[2]})
    with bill.beside(small.project, cloud, artifact, silent) as materials:
        body()
    return materials.noted(report())


def test_a_verification_notes_it(small, cloud, registry, program):
    found = verified(small, cloud, registry.push(BASE, SITE, CODE))
    assert found.passed
    size, noted = found.checks
    assert size.name == "size"
    assert (noted.name, noted.passed, noted.skipped) == ("bill of materials", True, False)
    assert noted.saw.startswith("1 package by syft 1.0, sboms/")


def test_of_an_image_that_was_just_built_nothing_is_looked_for_elsewhere(small, cloud, registry, program, monkeypatch):
    verified(small, cloud, registry.push(BASE, SITE, CODE))

    def listed(_self: Any, prefix: str) -> None:
        raise AssertionError(f"all of {prefix} was listed")

    monkeypatch.setattr(FolderStore, "keys", listed)
    (_, noted) = verified(small, cloud, registry.push(BASE, SITE, EDITED)).checks
    assert noted.saw.startswith("1 package by syft 1.0, sboms/")


def test_a_verification_without_it_says_why(small, cloud, registry, program):
    program.write("sys.exit(3)")
    found = verified(small, cloud, registry.push(BASE, SITE, CODE))
    assert found.passed
    assert found.checks[-1].skipped
    assert found.checks[-1].saw.startswith("not made: syft left with status 3")


def test_a_bug_of_ours_is_not_hidden(small, cloud, registry, program, monkeypatch):
    def broken(*_arguments: Any, **_options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sbom, "of", broken)
    with pytest.raises(ZeroDivisionError):
        verified(small, cloud, registry.push(BASE, SITE, CODE))


@pytest.mark.parametrize("problem", [KeyboardInterrupt, ToolError("no engine")])
def test_a_verification_that_breaks_off_ends_it(small, cloud, registry, program, problem):
    program.write("while True: time.sleep(1)")

    def body() -> None:
        while not program.calls:
            time.sleep(0.01)
        raise problem

    with pytest.raises(type(problem) if isinstance(problem, Exception) else problem):
        verified(small, cloud, registry.push(BASE, SITE, CODE), body)
    with pytest.raises(ProcessLookupError):
        os.kill(program.calls[-1]["pid"], 0)
    assert [thread for thread in threading.enumerate() if thread.name == bill.NAME] == []


# The command.


@pytest.fixture
def called(small, cloud, registry, program, monkeypatch):
    image = registry.push(BASE, SITE, CODE)
    monkeypatch.setattr(options, "current_image", lambda _project, _cloud: image)
    assert small.project
    where = f"--manifest={small.root / 'splitbake.yaml'}"
    return lambda *argv: run(cli, prog_name="splitbake", argv=["sbom", *argv, where])


@pytest.mark.parametrize(
    ("argv", "first"), [([], '"bomFormat": "CycloneDX"'), (["--format", "spdx"], '"spdxVersion": "SPDX-2.3"')]
)
def test_it_is_printed(called, capsys, argv, first):
    assert called(*argv) == 0
    out = capsys.readouterr().out
    assert first in out
    assert json.loads(out)


def test_it_is_written(called, capsys, tmp_path):
    target = tmp_path / "deep/image.json"
    assert called("--output", str(target)) == 0
    assert "1 package, written to" in capsys.readouterr().out
    assert json.loads(target.read_text())["bomFormat"] == "CycloneDX"
    assert called("--output", str(target), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["packages"], told["made"], told["format"]) == (1, False, "cyclonedx")


def test_an_image_by_name(called, capsys, registry):
    image = registry.push(BASE, VENDORED)
    assert called("--image", image) == 0
    assert names(json.loads(capsys.readouterr().out)) == ["six-1.0"]
    assert called("--image", "x", "--json") == 64
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


# The image of an environment that promotes.


@pytest.fixture
def production(small, cloud):
    """An environment that promotes from the first one, and what writes a record of it."""
    small.manifest["environments"]["production"] = {
        "account": "123456789012",
        "region": "eu-west-2",
        "promote": {"from": "dev"},
        "release": [{"launch_template": "faces"}],
    }
    project = small.project

    def released(number: int, image: str, status: str = "good") -> str:
        location, _, digest = image.partition("@")
        plain = {"fingerprint": "sha256:1", "created": "then", "seconds": 1.0, "size": 1}
        record = records.Record(
            id=f"r{number}",
            status=status,
            environment="production",
            account="123456789012",
            region="eu-west-2",
            endpoint=None,
            who="me",
            started="then",
            ami=Artifact(half="ami", id="ami-1", location="eu-west-2", **plain),
            image=Artifact(half="image", id=digest, location=location, **plain),
            steps=(),
            versions={},
            diff="",
        )
        records.create(project.store(project.cloud("production")), record)
        return record.key

    return released


def asked(small: Any, command: str) -> int:
    where = f"--manifest={small.root / 'splitbake.yaml'}"
    return run(cli, prog_name="splitbake", argv=[command, "--env", "production", where])


def test_where_an_environment_promotes_its_last_good_release_is_meant(production, small, registry, program, capsys):
    old, good, failed = (registry.push(BASE, SITE, layer(f"app/{name}.py", ours=True)) for name in "abc")
    production(1, old)
    key = production(2, good)
    production(3, failed, "failed")
    assert asked(small, "sbom") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["metadata"]["component"]["version"] == good.partition("@")[2]
    assert f"the image of {key}" in told.err
    assert asked(small, "provenance") == 1
    told = capsys.readouterr()
    assert f"the image of {key}" in told.err
    assert f"the state does not say how {good} was made" in told.err


@pytest.mark.parametrize("command", ["sbom", "provenance"])
def test_where_nothing_was_promoted_yet_that_is_told(production, small, cloud, capsys, command):
    assert asked(small, command) == ReleaseError.exit_code
    assert "there is no good release of 'production'" in capsys.readouterr().err
