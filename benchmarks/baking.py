"""What splitbake adds to a bake: the very same one by Packer alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import process
from benchmarks.harness import Duel, Stage, bench
from benchmarks.project import Built, cloud

_REPOSITORY = Path(__file__).parents[1]
_MODELS = {"a.bin": 40_000_000, "b.bin": 8_000_000}

_MANIFEST = """\
version: 1
project: bake
state: s3://bake-state/splitbake
models:
  files:
    - {path: models/, from: "s3://bake-state/models/"}
  budget: 1 GB
ami:
  base: ecs-gpu-al2023
image:
  base: ecr://docker-hub/library/python:3.11-slim
  include: [run.py]
  mounts: {models: /workspace/models}
  command: [python, run.py]
  repository: bake/code
  budget: 1 GB
environments:
  local: {account: "123456789012", region: us-east-1, endpoint: custom}
"""


@bench("bake-overhead", "s", at_most=1.05, of_theirs=True, or_more=1.5)
def bake_overhead(stage: Stage) -> Duel:
    """``splitbake build ami --force``, against ``packer build`` of the same template with the same variables.

    The gate is a step of that template, so both have it. Key pair, security group and inputs of Packer alone are made
    before its clock starts, and removed after it stops; of ours all of that counts.
    """
    project = stage.use(bakeable)
    figure = project.folder / "build/seconds"

    def ours() -> float:
        return project.splitbake("build", "ami", "--force").seconds

    def theirs() -> float:
        _plain(project, "bake", figure)
        return float(figure.read_text(encoding="utf-8"))

    return Duel(ours, theirs)


@contextmanager
def bakeable(stage: Stage) -> Iterator[Built]:
    """A small project whose models are in a bucket of the local cloud: locked and generated."""
    folder = stage.folder / "bake"
    shutil.rmtree(folder, ignore_errors=True)
    project = Built(folder, stage.use(cloud))
    try:
        (folder / "weights").mkdir(parents=True)
        (folder / "splitbake.yaml").write_text(_MANIFEST, encoding="utf-8")
        (folder / "run.py").write_text("print('hello')\n", encoding="utf-8")
        for name, size in _MODELS.items():
            (folder / "weights" / name).write_bytes(name.encode() * (size // len(name)))
        _plain(project, "fill", folder / "weights")
        project.splitbake("lock")
        project.splitbake("generate")
        yield project
    finally:
        shutil.rmtree(folder)


def _plain(project: Built, what: str, path: Path) -> None:
    argv = (process.PYTHON, "-m", "benchmarks.plain_bake", what, str(project.folder), str(path))
    process.run(argv, cwd=_REPOSITORY, env=project.env)
