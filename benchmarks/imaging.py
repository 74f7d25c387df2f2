"""How long it takes until a change of the code is in the registry, against Dockerfiles written by hand.

Both sides change one line of the same files, and push to the same registry. Ours ends when the image is recorded as
well, and with everything checked; theirs is ``docker build && docker push``, with nothing checked and nothing noted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import docker, service
from benchmarks.docker import Docker
from benchmarks.harness import Duel, Run, Stage, bench
from benchmarks.project import cloud
from benchmarks.service import FOLDERS, INCLUDE, Service

#: What the all-in-one image carries: models as in MISSION's table, and what nobody needs in it.
MODELS = {"yolo.pt": 150_000_000, "imdb.pth.tar": 50_000_000, "llava.safetensors": 1_500_000_000}
JUNK = {f"result/{number}.csv": 100_000_000 for number in range(10)}
#: Bytes that must be free for it: the project, and each turn's image in the engine, in its cache and in the registry.
_ROOM = 30_000_000_000
_BLOCK = 1_000_000

_INSTALL = """\
FROM {base} AS dependencies
COPY requirements.txt /build/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=ca \\
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \\
    python3 -m pip install --disable-pip-version-check --no-input --progress-bar off --root-user-action=ignore \\
    --only-binary :all: --require-hashes --target /opt/python --requirement /build/requirements.txt

FROM {base}
ENV PYTHONUNBUFFERED=1 PYTHONPATH=/opt/python
WORKDIR /app
COPY --from=dependencies /opt/python /opt/python
"""
_START = """\
USER 10001:10001
CMD ["python", "run.py"]
"""


@bench("image-change", "s", at_most=1, of_theirs=True, or_more=1.2)
def image_change(stage: Stage) -> Duel:
    """One changed line: ``splitbake build image``, against the best Dockerfile that a person writes.

    It has the same base, the same requirements and the same files, dependencies first and the code last, in the same
    layers, and sends nothing else to the engine. Its cache is warm: all that is done is the last COPY and the push.
    """
    engine, project = stage.use(docker.engine), stage.use(service.service)
    copies = [f"COPY {name} {name}/\n" for name in FOLDERS]
    recipe = _recipe(project, "ideal", [_INSTALL.format(base=engine.base), *copies, "COPY *.py ./\n", _START])
    wanted = ["*", "!requirements.txt", *(f"!{pattern.rstrip('/')}" for pattern in INCLUDE), "**/__pycache__"]
    Path(f"{recipe}.dockerignore").write_text("\n".join(wanted), encoding="utf-8")
    return Duel(ours=_ours(project), theirs=_theirs(project, engine, recipe))


@bench("image-change-naive", "s", at_most=1 / 50, of_theirs=True)
def image_change_naive(stage: Stage) -> Duel:
    """The same, against ``COPY . .`` of a project that holds 1.7 GB of models and 1 GB that nobody needs.

    Its requirements are installed before that, once. Of theirs one run takes minutes.
    """
    engine, project = stage.use(docker.engine), stage.use(_with_everything)
    recipe = _recipe(project, "naive", [_INSTALL.format(base=engine.base), "COPY . .\n", _START])
    return Duel(ours=_ours(project), theirs=_theirs(project, engine, recipe))


@contextmanager
def _with_everything(stage: Stage) -> Iterator[Service]:
    """The project with large models and much else in its folder; neither is in its image."""
    folder = stage.folder / "naive"
    shutil.rmtree(folder, ignore_errors=True)
    if (free := shutil.disk_usage(stage.folder).free) < _ROOM:
        raise RuntimeError(f"it needs {_ROOM / 1e9:.0f} GB of disk, {free / 1e9:.0f} GB are free: make room")
    project = Service(folder, stage.use(cloud))
    try:
        service.write(folder)
        (folder / ".gitignore").write_text("build/\nweights/\nresult/\n", encoding="utf-8")
        for name, size in MODELS.items():
            # Weights do not become smaller by compression.
            _fill(folder / "weights" / name, size, lambda _: os.urandom(_BLOCK))
        for name, size in JUNK.items():
            _fill(folder / name, size, _table)
        service.build(project)
        yield project
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ours(project: Service) -> Run:
    def run() -> float:
        project.edit()
        return project.build()

    return run


def _theirs(project: Service, engine: Docker, recipe: Path) -> Run:
    repository = f"plain/{recipe.stem.lower()}"

    def run() -> float:
        project.edit()
        return engine.build(project.folder, recipe, repository) + engine.push(repository)

    return run


def _recipe(project: Service, name: str, parts: Iterable[str]) -> Path:
    """Write a Dockerfile where neither side takes it for code."""
    path = project.folder / "build/recipes" / f"{name}.Dockerfile"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(parts), encoding="utf-8")
    return path


def _fill(path: Path, size: int, block: Callable[[int], bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK):
            file.write(block(start)[: size - start])


def _table(start: int) -> bytes:
    """Return rows of a table: digits that compress as such tables do."""
    digits = os.urandom(_BLOCK // 2).hex()
    return b"".join(f"{start + at},{digits[at : at + 12]}\n".encode() for at in range(0, _BLOCK, 20))[:_BLOCK]
