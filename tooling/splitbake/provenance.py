"""How an image was made, as a statement in the form of in-toto 1 with SLSA provenance 1: plain JSON, not signed.

It says what went in, by digest, and which tools were at work; nothing of the machine that it was made on, and no value
of any variable. Sources: the in-toto attestation framework 1.0 (statement, resource descriptor), SLSA 1.0 (provenance).
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from splitbake import artifact as artifacts
from splitbake import catalog
from splitbake.artifact import Dependencies
from splitbake.generate import dockerfile
from splitbake.inputs import Inputs
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.oci import purl
from splitbake.sources import base_image

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
#: What kind of build it was; docs/sbom.md says what the parameters of each mean.
CODE: Final = "urn:splitbake:build:code:1"
DEPENDENCIES: Final = "urn:splitbake:build:dependencies:1"
#: Begins the name of who built: splitbake itself, or a kind of image builder.
_BUILDER: Final = "urn:splitbake:builder:"

_CLEAN: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_UV: Final = re.compile(r"^uv==(\S+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was made.

    Attributes:
        manifest: what was asked for.
        lock: what that stands for.
        repository: URI of its repository.
        digest: ``sha256:…`` of its manifest.
        started: when its build began, ISO 8601 in UTC.
    """

    manifest: Manifest
    lock: Lock
    repository: str
    digest: str
    started: str


def of_code(made: Subject, inputs: Inputs, below: Dependencies, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return how a code image was made.

    Args:
        made: the image.
        inputs: all that it was made from; the state has them beside this statement.
        below: the dependencies image that it lies on.
        labels: of the image: its revision and source are said again here.
    """
    revision = labels.get("org.opencontainers.image.revision", "")
    source = labels.get("org.opencontainers.image.source", "")
    name = catalog.inputs_place("image", inputs.fingerprint)
    materials = [
        _material("dependencies image", purl.of(below.location, below.digest), below.digest),
        _base(made),
        {"name": name, **_digest(inputs.fingerprint), "mediaType": "application/json"},
    ]
    if source and _CLEAN.fullmatch(revision):
        materials.append({"name": "source", "uri": f"git+{source}", "digest": {"gitCommit": revision}})
    parameters = {"fingerprint": inputs.fingerprint, "revision": revision, "source": source}
    return _statement(made, (CODE, "splitbake"), parameters, materials, {})


def of_dependencies(made: Subject, key: str, context: Mapping[str, bytes], tools: Mapping[str, str]) -> dict[str, Any]:
    """Return how a dependencies image was made.

    Args:
        made: the image.
        key: by which it is found again.
        context: what the builder got: name -> content.
        tools: those of the builder, with their versions.
    """
    files = [
        {"name": name, "digest": {"sha256": hashlib.sha256(content).hexdigest()}}
        for name, content in sorted(context.items())
    ]
    uv = _UV.search(context.get(dockerfile.UV, b"").decode())
    versions = {**tools, **({"uv": uv[1]} if uv else {})}
    kind = (DEPENDENCIES, made.manifest.image.builder)
    return _statement(made, kind, {"key": key}, [_base(made), *files], versions)


def _statement(
    made: Subject,
    kind: tuple[str, str],
    parameters: Mapping[str, str],
    materials: Sequence[Mapping[str, Any]],
    tools: Mapping[str, str],
) -> dict[str, Any]:
    """Write the statement; ``kind``: of the build, and who built."""
    build, builder = kind
    asked = {"project": made.manifest.project, **parameters}
    versions = {"splitbake": version("splitbake"), "python": platform.python_version(), **tools}
    return {
        "_type": STATEMENT,
        "subject": [{"name": made.repository, **_digest(made.digest)}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": build,
                "externalParameters": {name: value for name, value in asked.items() if value},
                "resolvedDependencies": [*materials],
            },
            "runDetails": {
                "builder": {"id": f"{_BUILDER}{builder}", "version": versions},
                "metadata": {"startedOn": _moment(made.started), "finishedOn": _moment(artifacts.now())},
            },
        },
    }


def _base(made: Subject) -> dict[str, Any]:
    name, digest = made.manifest.image.base, made.lock.base_image.digest
    base = base_image.parse(name)
    # Of one in the account's own registry only the account knows the host.
    return _material("base image", name if base.in_ecr else purl.of(f"{base.host}/{base.repository}", digest), digest)


def _material(name: str, uri: str, digest: str) -> dict[str, Any]:
    return {"name": name, "uri": uri, **_digest(digest)}


def _digest(digest: str) -> dict[str, Any]:
    return {"digest": {"sha256": digest.removeprefix("sha256:")}}


def _moment(iso: str) -> str:
    return iso.replace("+00:00", "Z")
