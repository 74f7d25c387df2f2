"""How an image was made, as a statement: judged by in-toto's own library, and what must not stand in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from splitbake import fingerprint, provenance
from splitbake.artifact import Dependencies
from splitbake.catalog import Catalog
from splitbake.cli import cli, options, run
from splitbake.errors import StateError
from splitbake.provenance import Subject

URI, DIGEST = "registry.test/faces", "sha256:" + "d" * 64
BELOW = Dependencies(key="0123", digest="sha256:" + "e" * 64, location=URI, size=1, created="2026-01-01T00:00:00+00:00")
REVISION = "f" * 40
LABELS = {
    "org.opencontainers.image.revision": REVISION,
    "org.opencontainers.image.source": "https://git.test/team/faces.git",
}


def subject(project: Any, digest: str = DIGEST) -> Subject:
    values = {"manifest": project.manifest, "lock": project.lock, "started": "2026-01-01T00:00:00+00:00"}
    return Subject(repository=URI, digest=digest, **values)


def code(small: Any, labels: dict[str, str] = LABELS) -> dict[str, Any]:
    project = small.project
    return provenance.of_code(subject(project), fingerprint.inputs(project, "image"), BELOW, labels)


def dependencies(small: Any) -> dict[str, Any]:
    context = {
        "Dockerfile": b"FROM base\n",
        "requirements.txt": b"numpy\n",
        "uv.txt": b"# made\nuv==0.13.8 \\\n    --hash=x\n",
    }
    tools = {"docker": "29.1", "docker engine": "20.10"}
    return provenance.of_dependencies(subject(small.project, BELOW.digest), BELOW.key, context, tools)


def materials(statement: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each for each in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}


@pytest.mark.parametrize("made", [code, dependencies])
def test_in_toto_and_slsa_know_every_field(small, made):
    """An unknown field, or one of another type, is an error of the parser."""
    statement = made(small)
    parsed = json_format.ParseDict(statement, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    predicate = json_format.ParseDict(statement["predicate"], provenance_pb2.Provenance())
    assert predicate.run_details.metadata.started_on.seconds == 1767225600
    assert predicate.run_details.builder.version["splitbake"]
    assert (statement["_type"], statement["predicateType"]) == (provenance.STATEMENT, provenance.PREDICATE)


def test_a_code_image_says_what_went_into_it(small):
    statement = code(small)
    inputs = fingerprint.inputs(small.project, "image")
    assert statement["subject"] == [{"name": URI, "digest": {"sha256": "d" * 64}}]
    found = materials(statement)
    assert found["dependencies image"]["digest"] == {"sha256": "e" * 64}
    assert found["base image"]["digest"] == {"sha256": "c" * 64}
    assert found["base image"]["uri"].startswith("pkg:oci/python@sha256%3Acccc")
    listed = found[f"inputs/image/{inputs.fingerprint.replace(':', '-')}.json"]
    assert listed["digest"] == {"sha256": inputs.fingerprint.removeprefix("sha256:")}
    assert found["source"] == {
        "name": "source",
        "uri": "git+https://git.test/team/faces.git",
        "digest": {"gitCommit": REVISION},
    }
    definition = statement["predicate"]["buildDefinition"]
    assert definition["buildType"] == provenance.CODE
    assert definition["externalParameters"]["revision"] == REVISION


@pytest.mark.parametrize("revision", [f"{REVISION}-dirty", ""])
def test_what_is_not_exactly_a_commit_is_no_material(small, revision):
    labels = {**LABELS, "org.opencontainers.image.revision": revision}
    assert "source" not in materials(code(small, labels))
    asked = code(small, labels)["predicate"]["buildDefinition"]["externalParameters"]
    assert asked.get("revision", "") == revision


def test_the_dependencies_say_who_built_and_with_what(small):
    statement = dependencies(small)
    assert {*materials(statement)} == {"base image", "Dockerfile", "requirements.txt", "uv.txt"}
    builder = statement["predicate"]["runDetails"]["builder"]
    assert builder["id"] == "urn:splitbake:builder:docker"
    assert builder["version"]["uv"] == "0.13.8"
    assert builder["version"]["docker engine"] == "20.10"


@pytest.mark.parametrize("made", [code, dependencies])
def test_nothing_of_the_machine_is_in_it(small, monkeypatch, made):
    monkeypatch.setenv("UV_INDEX_URL", "https://someone:secret@index.test")
    text = json.dumps(made(small))
    assert str(small.root) not in text
    assert "index.test" not in text


# What the state remembers.


def catalog(small: Any, cloud: Any) -> Catalog:
    found: Catalog = small.project.catalog(cloud)
    return found


def test_what_was_said_first_stays(small, cloud):
    state = catalog(small, cloud)
    assert state.provenance(DIGEST) is None
    first = code(small)
    state.keep_provenance(DIGEST, first)
    state.keep_provenance(DIGEST, code(small, {}))
    assert state.provenance(DIGEST) == first


def test_a_promoted_image_has_that_of_its_origin(small, cloud):
    origin = Catalog(small.project.store(cloud), "210987654321", "eu-west-2")
    origin.keep_provenance(DIGEST, code(small))
    found = catalog(small, cloud).provenance(DIGEST)
    assert found
    assert found == origin.provenance(DIGEST)


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"subject": []}'])
def test_what_is_damaged_is_told(small, cloud, value):
    state = catalog(small, cloud)
    state.store.put(state.provenance_place(DIGEST), value)
    with pytest.raises(StateError, match="in the state is damaged"):
        state.provenance(DIGEST)


def test_what_is_about_another_image_is_told(small, cloud):
    state = catalog(small, cloud)
    state.keep_provenance(BELOW.digest, code(small))
    with pytest.raises(StateError, match=f"it is about {DIGEST}"):
        state.provenance(BELOW.digest)


def called(small: Any, *argv: str) -> int:
    return run(cli, prog_name="splitbake", argv=["provenance", *argv, f"--manifest={small.root / 'splitbake.yaml'}"])


def test_the_command(small, cloud, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(options, "current_image", lambda _project, _cloud: f"{URI}@{DIGEST}")
    assert called(small, "--json") == 1
    assert "does not say how" in json.loads(capsys.readouterr().out)["error"]["message"]
    catalog(small, cloud).keep_provenance(DIGEST, code(small))
    assert called(small) == 0
    assert json.loads(capsys.readouterr().out)["subject"][0]["name"] == URI
    target = tmp_path / "deep/image.intoto.json"
    assert called(small, "--image", f"{URI}@{DIGEST}", "--output", str(target)) == 0
    assert str(target) in capsys.readouterr().out
    assert json.loads(target.read_text())["_type"] == provenance.STATEMENT
    assert called(small, "--output", str(target), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"image": f"{URI}@{DIGEST}", "output": str(target)}
