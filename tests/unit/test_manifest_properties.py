"""What holds for every manifest, not only for those that somebody thought of."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from splitbake import manifest
from splitbake.errors import ManifestError
from splitbake.manifest import schema

VALID: dict[str, Any] = {
    "version": 1,
    "project": "video-analysis",
    "state": "s3://bucket/state",
    "models": {
        "root": "/opt/dl-models",
        "files": [{"path": "models/a.onnx", "from": "s3://bucket/a", "sha256": "0" * 64}],
        "budget": "3 GiB",
        "mode": "0555",
    },
    "ami": {
        "base": {"name": "base-*", "owner": "self"},
        "builder": {"instance_type": "m6i.xlarge", "connect": "private-ip"},
        "volume": {"size": "40 GiB", "throughput": "250 MiB/s"},
        "provision": ["scripts/driver.sh"],
    },
    "image": {
        "base": "python:3.11-slim",
        "builder": "docker",
        "context": ".",
        "include": ["*.py"],
        "exclude": ["**/*.csv"],
        "requirements": "requirements.txt",
        "mounts": {"models": "/workspace/models"},
        "command": ["python", "run.py"],
        "uid": 1000,
        "repository": "team/processor",
        "budget": "500 MB",
    },
    "verify": {"imports": ["numpy"], "run": ["true"], "within": "90 s"},
    "environments": {
        "dev": {
            "account": "123456789012",
            "region": "eu-west-1",
            "endpoint": "custom",
            "release": [{"launch_template": "gpu"}, {"batch_job_definition": "analysis"}],
            "smoke": {"queue": "q", "job_definition": "d", "environment": {"A": ""}, "presign": {"B": "s3://bucket/b"}},
        }
    },
}

SCHEMA = jsonschema.Draft202012Validator(schema.json_schema())

#: Every mapping of the manifest whose keys are fixed.
MAPPINGS = [
    (),
    ("models",),
    ("models", "files", 0),
    ("ami",),
    ("ami", "base"),
    ("ami", "builder"),
    ("ami", "volume"),
    ("image",),
    ("verify",),
    ("environments", "dev"),
    ("environments", "dev", "release", 0),
    ("environments", "dev", "release", 1),
    ("environments", "dev", "smoke"),
]

PLACES = [
    *MAPPINGS,
    ("models", "files"),
    ("image", "mounts"),
    ("image", "command"),
    ("environments",),
    ("project",),
    ("models", "budget"),
    ("verify", "within"),
    ("ami", "volume", "size"),
]

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def load(text: str) -> manifest.Manifest:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "splitbake.yaml")
        path.write_text(text, encoding="utf-8", newline="")
        return manifest.load(path)


def at(data: Any, place: tuple[str | int, ...]) -> Any:
    for part in place:
        data = data[part]
    return data


def test_the_example_is_valid_for_model_and_schema():
    SCHEMA.validate(VALID)
    load(yaml.safe_dump(VALID, sort_keys=False))


@given(st.text(max_size=200))
def test_any_text_is_a_manifest_or_a_manifest_error(text):
    try:
        load(text)
    except ManifestError as error:
        told = error.message
    else:
        told = "valid"
    assert told


@given(place=st.sampled_from(PLACES), value=anything)
@example(place=("image", "mounts"), value={"": 1, "\x1e": ""})  # a name that some programs take for the end of a line
@settings(max_examples=300)
def test_any_value_anywhere_is_accepted_or_told_at_a_line_of_the_file(place, value):
    data = copy.deepcopy(VALID)
    if place:
        at(data, place[:-1])[place[-1]] = value
    else:
        data = value
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    try:
        load(text)
    except ManifestError as error:
        first, *problems = error.message.splitlines()
        assert problems or first
        for problem in problems:
            line = problem.partition("splitbake.yaml:")[2].partition(":")[0]
            assert 1 <= int(line) <= len(text.split("\n")) + 1


@given(place=st.sampled_from(MAPPINGS), key=st.from_regex(r"[a-z_]{1,12}", fullmatch=True), last=st.booleans())
@example(place=("ami", "base"), key="ss", last=False)  # close to a key of another form of base
@example(place=(), key="no", last=False)  # which PyYAML writes in quotes
def test_an_unknown_key_is_told_exactly_once_where_it_stands(place, key, last):
    data = copy.deepcopy(VALID)
    mapping = at(data, place)
    known = set(at(manifest.Manifest.model_json_schema(), ())["properties"]) if not place else set(mapping)
    if key in known or key in {"name", "owner", "ssm"} or _valid_there(place, key):
        return
    items = list(mapping.items())
    mapping.clear()
    mapping.update([*items, (key, "x")] if last else [(key, "x"), *items])
    text = yaml.safe_dump(data, sort_keys=False)
    try:
        load(text)
    except ManifestError as error:
        told = error.message.splitlines()[1:]
    else:
        raise AssertionError("an unknown key was accepted")
    assert len(told) == 1, told
    line, column = map(int, told[0].partition("splitbake.yaml:")[2].split(":")[:2])
    assert text.splitlines()[line - 1][column - 1 :].startswith((f"{key}:", f"'{key}':"))
    assert f"unknown key {key!r}" in told[0]


def _valid_there(place: tuple[str | int, ...], key: str) -> bool:
    """Return whether the schema allows ``key`` in the mapping at ``place``."""
    data = copy.deepcopy(VALID)
    at(data, place)[key] = object()
    errors = SCHEMA.iter_errors(data)
    return not any("Additional properties" in json.dumps(_messages(error)) for error in errors)


def _messages(error: jsonschema.ValidationError) -> list[Any]:
    return [error.message.split(" (")[0], *[_messages(inner) for inner in error.context or ()]]
