"""Where kinds are registered: a new target kind, image builder or model source is one new file and one line here.

The lines are names, not imports: the module of a kind is loaded when that kind is asked for, so the manifest can
check what it names without this lower layer importing the layers above it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

#: Key of a release item in the manifest -> the class that is both its schema and its behaviour.
TARGETS: Final[Mapping[str, str]] = {
    "terraform": "splitbake.release.targets.terraform:Terraform",
    "launch_template": "splitbake.release.targets.launch_template:LaunchTemplate",
    "batch_compute_environment": "splitbake.release.targets.batch_compute_environment:BatchComputeEnvironment",
    "batch_job_definition": "splitbake.release.targets.batch_job_definition:BatchJobDefinition",
}

#: URI scheme of ``models.files[].from`` -> how it is resolved and fetched; "" is a path in the project.
MODEL_SOURCES: Final[Mapping[str, str]] = {
    "": "splitbake.sources.file:FileSource",
    "s3": "splitbake.sources.s3:S3Source",
    "https": "splitbake.sources.https:HttpsSource",
    "hf": "splitbake.sources.hub:HubSource",
}

#: ``image.builder`` -> what builds and pushes the dependencies image.
IMAGE_BUILDERS: Final[Mapping[str, str]] = {
    "docker": "splitbake.bake.docker:DockerBuilder",
    "podman": "splitbake.bake.podman:PodmanBuilder",
    "codebuild": "splitbake.bake.codebuild:CodeBuildBuilder",
}


def scheme(uri: str) -> str:
    """Return the part before ``://``, empty for a path in the project."""
    return uri.partition("://")[0] if "://" in uri else ""


def load(kinds: Mapping[str, str], kind: str) -> Any:
    """Return the object registered as ``kind``; KeyError where it is none of ``kinds``."""
    module, _, attribute = kinds[kind].partition(":")
    return getattr(importlib.import_module(module), attribute)
