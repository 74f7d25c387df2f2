"""The dependencies image that the repository has already under the tag of its key, though the state does not know it.

Another runner with a state of its own was quicker, or the state was lost. Where tags are immutable it could not be
replaced; elsewhere building it again would only take time, as its key stands for all that it is made from.
"""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Final

from splitbake import artifact as artifacts
from splitbake import contract, ecr, units
from splitbake.artifact import Dependencies
from splitbake.bake import weights
from splitbake.cloud import Cloud
from splitbake.errors import BuildError
from splitbake.oci.client import Repository
from splitbake.oci.image import Image
from splitbake.oci.measure import measure
from splitbake.project import Project
from splitbake.ui import Say

#: Where requirements are installed, as a layer names it.
_SITE: Final = f"{contract.SITE.removeprefix('/')}/"
_INFO: Final = ".dist-info"


def dependencies(project: Project, cloud: Cloud, uri: str, key: str, say: Say) -> Dependencies | None:
    """Return the image ``deps-<key>`` in the repository ``uri``, None where there is none that can be pulled.

    Nobody has written down what it takes uncompressed, so it is read once from its start to its end.

    Raises:
        BuildError: it is something else.
        CloudError: ECR or the registry cannot be asked.
    """
    tag = f"{ecr.DEPENDENCIES_TAG}{key}"
    there = ecr.find_image(cloud, project.manifest.image.repository, tag=tag)
    if there is None or there.status != "ACTIVE":
        return None
    repository = Repository(uri, ecr.credentials(cloud))
    image = repository.image(there.digest)
    if image is None:
        return None
    wanted = contract.platform(project.lock)
    if image.platform != wanted:
        raise BuildError(
            f"{uri}:{tag} is an image for {image.platform}, and no dependencies for {wanted}",
            hint="somebody has pushed it under a tag that is ours: delete it, and build again",
        )
    compressed = units.format_size(image.compressed_size)
    say(f"{tag} is in the repository, and the state does not know it: measuring {compressed}")
    installed = _Installed()
    sizes = [*_sizes(repository, image, installed)]
    layers = weights.heaviest("layer", zip(sizes, weights.makers(image.config, len(sizes)), strict=True))
    return Dependencies(
        key=key,
        digest=there.digest,
        location=uri,
        size=sum(sizes),
        heaviest=(*layers, *weights.heaviest("distribution", installed.distributions())),
        created=artifacts.now(),
    )


class _Installed:
    """What is installed in the layers that are read, by the RECORD of each distribution (as ``weights``)."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._records: dict[str, str] = {}

    def see(self, path: str, size: int, read: Callable[[], bytes]) -> None:
        folder, _, name = path.removeprefix(_SITE).partition("/")
        if path.startswith(_SITE):
            self._sizes[path] = size
        if path.startswith(_SITE) and name == "RECORD" and folder.endswith(_INFO):
            self._records[folder.removesuffix(_INFO)] = read().decode(errors="replace")

    def distributions(self) -> Iterator[tuple[int, str]]:
        compiled: dict[str, int] = {}
        for path, size in self._sizes.items():
            if path.endswith(".pyc"):
                source = re.sub(r"__pycache__/([^/]+?)\.[^/]*$", r"\1.py", path)
                compiled[source] = compiled.get(source, 0) + size
        for distribution, record in self._records.items():
            named = {posixpath.normpath(f"{_SITE}{row[0]}") for row in csv.reader(record.splitlines()) if row}
            own = {path for path in named if not path.endswith(".pyc")}
            size = sum(self._sizes.get(path, 0) + compiled.get(path, 0) for path in own)
            yield size, " ".join(distribution.rsplit("-", 1))


def _sizes(repository: Repository, image: Image, installed: _Installed) -> Iterator[int]:
    for layer in image.layers:
        with repository.blob(layer.blob.digest) as file:
            try:
                found = measure(file, installed.see)
                if found.diff_id != layer.diff_id:
                    raise ValueError(f"it is {found.diff_id}, and its image wants {layer.diff_id}")
            except ValueError as problem:
                raise BuildError(
                    f"layer {layer.blob.digest} of the dependencies in {repository.uri} is damaged: {problem}",
                    hint="delete that image, and build again",
                ) from problem
        yield found.size
