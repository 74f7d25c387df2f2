"""The name of the base image is checked when the manifest is read, and once more where it is taken apart."""

from __future__ import annotations

import json

import pytest

from splitbake import manifest
from splitbake.errors import ManifestError, SourceError
from splitbake.sources.base_image import parse

MANIFEST = {
    "version": 1,
    "project": "video-analysis",
    "state": ".splitbake/state",
    "models": {"files": [{"path": "models/a", "from": "weights/a"}], "budget": "3 GiB"},
    "ami": {"base": "ecs-gpu-al2023"},
    "image": {
        "base": "",
        "include": ["run.py"],
        "mounts": {"models": "/workspace/models"},
        "command": ["python", "run.py"],
        "repository": "processor",
        "budget": "500 MB",
    },
    "environments": {"dev": {"account": "123456789012", "region": "eu-west-1"}},
}


def load(tmp_path, base: str) -> str:
    path = tmp_path / "splitbake.yaml"
    path.write_text(json.dumps({**MANIFEST, "image": {**MANIFEST["image"], "base": base}}, indent=1))
    return manifest.load(path).image.base


@pytest.mark.parametrize(
    "base",
    [
        "python",
        "python:3.11-slim",
        "nvidia/cuda:12.4.1-base-ubuntu22.04",
        "a__b/c-d/e.f",
        "public.ecr.aws/docker/library/python:3",
        "localhost/py:1",
        "localhost:5000/py",
        "127.0.0.1:5000/a/b:_x",
        "ecr://docker-hub/library/python:3.11",
        f"x:{'y' * 128}",
    ],
)
def test_names_of_images_are_taken_and_can_be_taken_apart(tmp_path, base):
    assert load(tmp_path, base) == base
    assert parse(base)


@pytest.mark.parametrize(
    "base",
    [
        "Python",
        "python:",
        "python:3.11 AS x",
        "a b",
        "x\\",
        "x/",
        "/x",
        "a//b",
        "-x",
        "a___b",
        "x@sha256:" + "0" * 64,
        "python:3.11@sha256:" + "0" * 64,
        "ecr://host.example:5000/x:1",
        "ecr://",
        "https://host/x",
        f"x:{'y' * 129}",
        "x:ü",
    ],
)
def test_what_is_no_name_of_an_image_is_refused_with_its_place(tmp_path, base):
    with pytest.raises(ManifestError, match=r"splitbake\.yaml:\d+:\d+: expected the name of an image") as caught:
        load(tmp_path, base)
    assert "digest, which the lock adds" in caught.value.message
    with pytest.raises(SourceError, match="not the name of an image"):
        parse(base)
