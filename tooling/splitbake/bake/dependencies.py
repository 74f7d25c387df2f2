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
from pathlib import Path
from typing import Final

from splitbake import artifact as artifacts
from splitbake import contract, ecr, files, lease, provenance, registry, requirements
from splitbake.artifact import Dependencies
from splitbake.bake import found
from splitbake.bake.builders import ImageBuilder, Order
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


def key(project: Project) -> str:
    """Return the key of the dependencies that the project wants now.

    Raises:
        BuildError: the requirements file cannot be read.
    """
    texts = {name: hashlib.sha256(text).hexdigest() for name, text in _context(project).items()}
    texts[dockerfile.NAME] = "\n".join(meaning(dockerfile.text(project.manifest, project.lock)))
    content = [_SCHEME, contract.platform(project.lock), texts]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_KEY_LENGTH]


def ensure(project: Project, cloud: Cloud, uri: str, say: Say) -> Dependencies:
    """Return the dependencies image in the repository ``uri``; it is made where it is not there yet.

    Raises:
        BuildError: it could not be built or pushed, or breaks the budget; then nothing was pushed.
        ToolError: the builder cannot work on this machine.
        CloudError, StateError: ECR or the state cannot be asked.
    """
    wanted, catalog = key(project), project.catalog(cloud)
    if there := _there(project, cloud, uri, wanted):
        return there
    name = catalog.lease("build", "image", f"deps-{wanted}")
    doing = "building the dependencies of the image"
    with lease.held(catalog.store, name, who=cloud.guard().arn, doing=doing, wait=say) as held:
        if there := _there(project, cloud, uri, wanted):
            return there
        made = found.dependencies(project, cloud, uri, wanted, say) or _make(project, cloud, uri, wanted, say)
        held.require()
        catalog.keep_dependencies(made)
        return made


def _there(project: Project, cloud: Cloud, uri: str, wanted: str) -> Dependencies | None:
    known = project.catalog(cloud).dependencies(wanted)
    if known is None or known.location != uri:
        return None
    image = ecr.find_image(cloud, project.manifest.image.repository, digest=known.digest)
    return known if image and image.status == "ACTIVE" else None


def _make(project: Project, cloud: Cloud, uri: str, wanted: str, say: Say) -> Dependencies:
    builder: ImageBuilder = registry.load(registry.IMAGE_BUILDERS, project.manifest.image.builder)()
    builder.health()
    say(f"building the dependencies: deps-{wanted} is not in the repository yet")
    began = artifacts.now()
    texts = {**_context(project), dockerfile.NAME: dockerfile.text(project.manifest, project.lock).encode()}
    with tempfile.TemporaryDirectory(prefix="splitbake-image-") as scratch:
        # BuildKit keeps what it was sent under the name of the folder, and takes a file of the same name, size, mode
        # and time for the same file: under one name it would build an old content.
        context = Path(scratch) / f"dependencies-{wanted}"
        for name, content in texts.items():
            files.replace(context / name, content, BuildError)
        try:
            made = builder.make(_order(project, cloud, context, uri, wanted, say=say), say)
        except BuildError:
            # Where tags are immutable a second push of one is refused: somebody with another state was quicker.
            with suppress(CloudError):
                if there := found.dependencies(project, cloud, uri, wanted, say):
                    return there
            raise
    subject = Subject(manifest=project.manifest, lock=project.lock, repository=uri, digest=made.digest, started=began)
    statement = provenance.of_dependencies(subject, wanted, texts, made.tools)
    project.catalog(cloud).keep_provenance(made.digest, statement)
    return Dependencies(
        key=wanted,
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


def _order(project: Project, cloud: Cloud, context: Path, uri: str, wanted: str, *, say: Say) -> Order:
    log = project.root / LOG
    files.replace(log, "", BuildError)
    credentials = ecr.credentials(cloud)
    in_ecr = base_image.parse(project.manifest.image.base).in_ecr
    return Order(
        context=context,
        platform=contract.platform(project.lock),
        repository=uri,
        tag=f"{ecr.DEPENDENCIES_TAG}{wanted}",
        arguments={"REGISTRY": credentials.host} if in_ecr else {},
        secrets=_secrets(project.manifest.image),
        network=_network(),
        credentials=credentials,
        budget=project.manifest.image.budget,
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
    """Return what this machine has of ``image.secrets``, and its CA bundle. CodeBuild may have some of its own."""
    elsewhere = image.codebuild.secrets if image.codebuild and image.builder == "codebuild" else {}
    names = [name for name in image.secrets if name not in elsewhere]
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
