"""The dependencies image: base, installed requirements and nothing of the code; made once, and found again by its key.

Its key is the digest of everything that it is made from, and its tag ``deps-<key>``. The state remembers its digest,
and an image on top of it names that, so what the tag points to one day does not matter.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from splitbake import artifact as artifacts
from splitbake import contract, ecr, files, lease, provenance, registry, requirements
from splitbake.artifact import Dependencies
from splitbake.bake import found
from splitbake.bake.builders import ImageBuilder, Order
from splitbake.bake.weights import OverBudgetError
from splitbake.cloud import Cloud
from splitbake.errors import BuildError, CloudError, ToolError
from splitbake.fingerprint import meaning
from splitbake.generate import dockerfile
from splitbake.manifest.image import Ecr, Image
from splitbake.project import Project
from splitbake.provenance import Subject
from splitbake.sources import base_image
from splitbake.ui import Say

#: Below the project's folder: everything that the builder said, of the latest build.
LOG: Final = "build/logs/image.log"
#: Where a CA bundle for the build is looked for, in this order.
CA_VARIABLES: Final = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
#: ``host`` lets the build use the machine's own network, for an engine without NAT.
NETWORK_VARIABLE: Final = "SPLITBAKE_BUILD_NETWORK"
#: Stands in every key: change it with the meaning of anything in it.
_SCHEME: Final = "splitbake-dependencies-1"
_KEY_LENGTH: Final = 16
#: How the repository of a cache must be.
_REWRITTEN: Final = Ecr(immutable=False)
#: So many requirements an error names.
_SHOWN: Final = 5


@dataclass(frozen=True)
class Wanted:
    """What a dependencies image is made from, as it was read: files that are saved in between change nothing.

    Attributes:
        key: of all of it.
        texts: what the builder gets: name -> content.
    """

    key: str
    texts: Mapping[str, bytes]

    @property
    def requirements(self) -> str | None:
        """SHA-256 of the requirements, None where there are none."""
        content = self.texts.get(dockerfile.REQUIREMENTS)
        return None if content is None else hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Room:
    """What the budgets leave for a dependencies image.

    Attributes:
        size: bytes uncompressed.
        compressed: bytes in the registry; None: any.
    """

    size: int
    compressed: int | None


def read(project: Project) -> Wanted:
    """Read what the project wants now.

    Raises:
        BuildError: the requirements file cannot be read.
    """
    context, file = _context(project), dockerfile.text(project.manifest, project.lock)
    texts = {name: hashlib.sha256(text).hexdigest() for name, text in context.items()}
    texts[dockerfile.NAME] = "\n".join(meaning(file))
    content = [_SCHEME, contract.platform(project.lock), texts]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_KEY_LENGTH]
    return Wanted(key, {**context, dockerfile.NAME: file.encode()})


def ensure(project: Project, cloud: Cloud, uri: str, wanted: Wanted, *, room: Room, say: Say) -> Dependencies:
    """Return the dependencies image in the repository ``uri``; it is made where it is not there yet.

    One that is there already may take more than the ``room``.

    Raises:
        OverBudgetError: it takes more; nothing was pushed.
        BuildError: it could not be built or pushed.
        ToolError: the builder cannot work on this machine.
        CloudError, StateError: ECR or the state cannot be asked.
    """
    catalog = project.catalog(cloud)
    if there := _there(project, cloud, uri, wanted.key):
        return there
    name = catalog.lease("build", "image", f"deps-{wanted.key}")
    doing = "building the dependencies of the image"
    with lease.held(catalog.store, name, who=cloud.guard().arn, doing=doing, wait=say) as held:
        if there := _there(project, cloud, uri, wanted.key):
            return there
        made = found.dependencies(project, cloud, uri, wanted.key, say)
        made = made or _make(project, cloud, uri, wanted, room=room, say=say)
        held.require()
        catalog.keep_dependencies(made)
        return made


def _there(project: Project, cloud: Cloud, uri: str, key: str) -> Dependencies | None:
    known = project.catalog(cloud).dependencies(key)
    if known is None or known.location != uri:
        return None
    image = ecr.find_image(cloud, project.manifest.image.repository, digest=known.digest)
    return known if image and image.status == "ACTIVE" else None


def _make(project: Project, cloud: Cloud, uri: str, wanted: Wanted, *, room: Room, say: Say) -> Dependencies:
    builder: ImageBuilder = registry.load(registry.IMAGE_BUILDERS, project.manifest.image.builder)()
    builder.health()
    say(f"building the dependencies: deps-{wanted.key} is not in the repository yet")
    began = artifacts.now()
    with tempfile.TemporaryDirectory(prefix="splitbake-image-") as scratch:
        # BuildKit keeps what it was sent under the name of the folder, and takes a file of the same name, size, mode
        # and time for the same file: under one name it would build an old content.
        context = Path(scratch) / f"dependencies-{wanted.key}"
        for name, content in wanted.texts.items():
            files.replace(context / name, content, BuildError)
        try:
            made = builder.make(_order(project, cloud, context, uri, wanted.key, room=room, say=say), say)
        except OverBudgetError:
            raise
        except BuildError:
            # Where tags are immutable a second push of one is refused: somebody with another state was quicker.
            with suppress(CloudError):
                if there := found.dependencies(project, cloud, uri, wanted.key, say):
                    return there
            raise
    subject = Subject(manifest=project.manifest, lock=project.lock, repository=uri, digest=made.digest, started=began)
    statement = provenance.of_dependencies(subject, wanted.key, wanted.texts, made.tools)
    project.catalog(cloud).keep_provenance(made.digest, statement)
    return Dependencies(
        key=wanted.key,
        digest=made.digest,
        location=uri,
        size=made.size,
        heaviest=made.heaviest,
        created=artifacts.now(),
    )


def _context(project: Project) -> Mapping[str, bytes]:
    """Return what the Dockerfile copies: name -> content."""
    image = project.manifest.image
    if image.requirements is None:
        return {}
    path = project.root / image.context / image.requirements
    try:
        content = {dockerfile.REQUIREMENTS: path.read_bytes()}
    except OSError as problem:
        raise BuildError(
            f"cannot read {path}: {problem.strerror}", hint="restore the file, or correct image.requirements"
        ) from problem
    if loose := requirements.unhashed(content[dockerfile.REQUIREMENTS].decode(errors="replace")):
        raise BuildError(
            f"{path} has no hash for: {', '.join(loose[:_SHOWN])}{' …' if len(loose) > _SHOWN else ''}",
            hint="compile it with hashes: uv pip compile --generate-hashes, or pip-compile --generate-hashes",
        )
    return content | {name: text.encode() for name, text in dockerfile.installers(image).items()}


def _order(project: Project, cloud: Cloud, context: Path, uri: str, key: str, *, room: Room, say: Say) -> Order:
    log = project.root / LOG
    files.replace(log, "", BuildError)
    credentials = ecr.credentials(cloud)
    in_ecr = base_image.parse(project.manifest.image.base).in_ecr
    return Order(
        context=context,
        platform=contract.platform(project.lock),
        repository=uri,
        tag=f"{ecr.DEPENDENCIES_TAG}{key}",
        arguments={"REGISTRY": credentials.host} if in_ecr else {},
        secrets=_secrets(project.manifest.image),
        network=_network(),
        credentials=credentials,
        budget=room.size,
        compressed_budget=room.compressed,
        log=log,
        project=project,
        cloud=cloud,
        cache=_cache(project, cloud, say),
    )


def _cache(project: Project, cloud: Cloud, say: Say) -> str | None:
    """Return the name of the image in which layers are kept for other machines; its repository is made if need be.

    Each project and architecture has one of its own: a cache that is written replaces what was there.
    """
    if project.manifest.image.cache is None:
        return None
    uri = ecr.ensure_repository(cloud, project.manifest.image.cache, _REWRITTEN, say)
    return f"{uri}:{project.manifest.project}-{contract.platform(project.lock).rpartition('/')[2]}"


def _secrets(image: Image) -> dict[str, str]:
    """Return what this machine has of ``image.secrets``, and its CA bundle. CodeBuild has its own secrets."""
    names = () if image.builder == "codebuild" else image.secrets
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise ToolError(
            f"{', '.join(missing)} of image.secrets is not set", hint="set it where the image is built, or remove it"
        )
    bundle = _ca()
    return {name: os.environ[name] for name in names} | ({dockerfile.CA: bundle} if bundle else {})


def _ca() -> str | None:
    chosen = next((name for name in CA_VARIABLES if os.environ.get(name)), None)
    if chosen is None:
        return None
    try:
        return Path(os.environ[chosen]).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as problem:
        raise ToolError(
            f"{chosen} names {os.environ[chosen]}, which cannot be read: {problem}", hint=f"correct or unset {chosen}"
        ) from problem


def _network() -> str | None:
    network = os.environ.get(NETWORK_VARIABLE) or None
    if network not in (None, "host"):
        raise ToolError(f"{NETWORK_VARIABLE} is {network!r}", hint="set it to host, or unset it")
    return network
