"""The JSON Schema is valid, and says yes and no where the model does."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from splitbake import manifest, registry
from splitbake.cli.schema import command
from splitbake.manifest import schema as schemas

MINIMAL: dict[str, Any] = {
    "version": 1,
    "project": "video-analysis",
    "state": ".splitbake/state",
    "models": {"files": [{"path": "models/a.onnx", "from": "models/a.onnx"}], "budget": "3 GiB"},
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


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schemas.json_schema())


def test_the_schema_is_one_of_draft_2020_12():
    found = schemas.json_schema()
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(found)


def test_the_command_prints_it():
    result = CliRunner().invoke(command)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == schemas.json_schema()


def test_defaults_in_the_schema_are_values_that_it_allows(schema):
    """An editor offers them; a size is offered as text with a unit, not as bytes."""
    defined = schema.schema["$defs"]
    properties = [item for kind in defined.values() for item in kind["properties"].values() if "default" in item]
    assert len(properties) > 10
    for item in properties:
        schema.evolve(schema={**item, "$defs": defined}).validate(item["default"])


def test_every_registered_target_is_in_the_schema(schema):
    items = schema.schema["$defs"]["Environment"]["properties"]["release"]["items"]["oneOf"]
    assert len(items) == len(registry.TARGETS)


def test_every_key_has_a_description(schema):
    defined = schema.schema["$defs"]
    bare = [
        f"{kind}.{key}"
        for kind in ("ModelFile", "Models", "BaseBySsm", "BaseByName", "Builder", "Volume", "Image", "Verify", "Smoke")
        for key, item in defined[kind]["properties"].items()
        if not item.get("description")
    ]
    assert bare == []


GOOD = [
    (("models", "budget"), "1.5 GB"),
    (("models", "files", 0, "sha256"), "0" * 64),
    (("models", "files", 0), {"path": "x/", "from": "s3://bucket/x/"}),
    (("ami", "base"), {"ssm": "/base"}),
    (("ami", "base"), {"name": "x-*", "owner": "self"}),
    (("ami", "base"), "ami-0123456789abcdef0"),
    (("ami", "volume"), {"throughput": "1000 MiB/s"}),
    (("image", "context"), "."),
    (("environments", "dev", "release"), [{"launch_template": "x"}]),
]
BAD = [
    (("version",), 2),
    (("project",), "Video"),
    (("surprise",), 1),
    (("models", "budget"), 3),
    (("models", "budget"), "3 gib"),
    (("models", "files"), []),
    (("models", "root"), "opt"),
    (("models", "root"), "/opt/../etc"),
    (("models", "files", 0, "path"), "../x"),
    (("models", "files", 0, "sha256"), "0" * 63),
    (("models", "files", 0, "source"), "x"),
    (("ami", "base"), {"name": "x"}),
    (("ami", "builder"), {"connect": "session"}),
    (("ami", "builder"), {"instance_type": "big"}),
    (("image", "builder"), "kaniko"),
    (("image", "command"), "python run.py"),
    (("image", "mounts"), {"/models": "/w"}),
    (("image", "mounts"), {}),
    (("image", "uid"), 0),
    (("environments",), {}),
    (("environments",), {"Dev": {"account": "123456789012", "region": "eu-west-1"}}),
    (("environments", "dev", "account"), 123456789012),
    (("environments", "dev", "release"), [{"nothing": "x"}]),
    (("environments", "dev", "release"), [{"launch_template": "x", "foo": 1}]),
]


def changed(place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    data = copy.deepcopy(MINIMAL)
    target: Any = data
    for part in place[:-1]:
        target = target[part]
    target[place[-1]] = value
    return data


@pytest.mark.parametrize(("place", "value"), [(("project",), "video-analysis"), *GOOD])
def test_both_say_yes(schema, place, value):
    data = changed(place, value)
    manifest.Manifest.model_validate(data)
    schema.validate(data)


@pytest.mark.parametrize(("place", "value"), BAD)
def test_both_say_no(schema, place, value):
    data = changed(place, value)
    with pytest.raises(ValidationError):
        manifest.Manifest.model_validate(data)
    assert not schema.is_valid(data)


def test_the_manifest_of_this_repository_is_valid(schema):
    import yaml

    path = Path(__file__).parents[2] / "splitbake.yaml"
    manifest.load(path)
    schema.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_committed_schema_is_current():
    committed = json.loads((Path(__file__).parents[2] / "docs/splitbake.schema.json").read_text(encoding="utf-8"))
    assert committed == schemas.json_schema(), "run: splitbake schema > docs/splitbake.schema.json"
