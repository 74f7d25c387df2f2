"""The base image: how it is named, and which digest that name stands for today.

Two forms: a reference as Docker takes it (``python:3.11-slim``), or ``ecr://repository:tag`` in the account's own
registry, whose host differs by account, region and machine and is therefore no part of any committed text.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass

from splitbake import dockercli, ecr, spec
from splitbake.cloud import Cloud
from splitbake.errors import SourceError, ToolError

SCHEME = "ecr://"

_REFERENCE = re.compile(f"(?:(?P<host>{spec.IMAGE_HOST})/)?(?P<name>{spec.IMAGE_NAME})(?::(?P<tag>{spec.IMAGE_TAG}))?")
_DEADLINE = 60


@dataclass(frozen=True)
class BaseImage:
    """A base image's name, taken apart.

    Attributes:
        host: the registry; empty for the account's own (``ecr://``).
        repository: below the host.
        tag: never empty.
    """

    host: str
    repository: str
    tag: str

    @property
    def in_ecr(self) -> bool:
        """Whether it lies in the account's own registry."""
        return not self.host


def parse(reference: str) -> BaseImage:
    """Take ``image.base`` apart; what Docker assumes (docker.io, library/, latest) is written out.

    Raises:
        SourceError: it is not the name of an image.
    """
    in_ecr = reference.startswith(SCHEME)
    found = _REFERENCE.fullmatch(reference.removeprefix(SCHEME))
    if found is None or (in_ecr and found["host"]):
        raise SourceError(
            f"image.base {reference!r} is not the name of an image",
            hint="write name:tag, registry/name:tag, or ecr://repository:tag; the lock adds the digest",
        )
    tag = found["tag"] or "latest"
    if in_ecr:
        return BaseImage("", found["name"], tag)
    host = found["host"] or "docker.io"
    official = host == "docker.io" and "/" not in found["name"]
    return BaseImage(host, f"library/{found['name']}" if official else found["name"], tag)


def resolve_base(cloud: Cloud, reference: str) -> str:
    """Return the digest ``sha256:…`` that ``reference`` stands for today (of the index, where it has platforms).

    Raises:
        SourceError: there is no such image, or its registry cannot be reached.
        CloudError: ECR could not be asked.
        ToolError: there is no Docker client with buildx to ask another registry.
    """
    base = parse(reference)
    return _ask_ecr(cloud, base) if base.in_ecr else _ask_registry(f"{base.host}/{base.repository}:{base.tag}")


def _ask_ecr(cloud: Cloud, base: BaseImage) -> str:
    found = ecr.find_image(cloud, base.repository, tag=base.tag)
    if found is None:
        raise SourceError(
            f"the base image {base.repository}:{base.tag} is not in the registry of environment {cloud.name!r}",
            hint="push it there; a pull-through cache has it after the first docker pull through it",
        )
    return found.digest


def _ask_registry(name: str) -> str:
    """Hash the raw manifest: its digest is the SHA-256 of its bytes, whatever a tool prints beside it."""
    try:
        done = subprocess.run(
            ["docker", "buildx", "imagetools", "inspect", "--raw", name],
            capture_output=True,
            timeout=_DEADLINE,
            check=False,
        )
    except FileNotFoundError:
        raise ToolError(f"no Docker client to ask for the base image {name}", hint="splitbake doctor --fix") from None
    except subprocess.TimeoutExpired:
        raise SourceError(
            f"the registry of the base image {name} did not answer in {_DEADLINE} s", hint="check network and proxy"
        ) from None
    if done.returncode != 0:
        output = done.stderr.decode(errors="replace").strip()
        raise SourceError(f"the base image {name} cannot be looked up: {output}", hint=dockercli.hint_for(output))
    return f"sha256:{hashlib.sha256(done.stdout).hexdigest()}"
