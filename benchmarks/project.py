"""A large project: much code in a git repository, large models beside it; and all of it built in a local cloud."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import process
from benchmarks.harness import Stage

CODE_FILES = 20_000
FILES_A_FOLDER = 20  # Python's own library has 15
LINES_A_FILE = 60
MODELS = 8
MODEL_BYTES = 250_000_000  # each

_REPOSITORY = Path(__file__).parents[1]
_BLOCK = 1_000_000

_MANIFEST = """\
version: 1
project: benchmark
state: s3://benchmark-state/splitbake
models:
  files:
    - {path: models/, from: weights/}
  budget: 8 GB
ami:
  base: ecs-gpu-al2023
image:
  base: ecr://docker-hub/library/python:3.11-slim
  include: [lib/, run.py]
  mounts: {models: /workspace/models}
  command: [python, run.py]
  repository: benchmark/code
  budget: 1 GB
environments:
  local: {account: "123456789012", region: us-east-1, endpoint: custom}
"""


@dataclass(frozen=True)
class Built:
    """A project whose halves are built and verified, and the way to the cloud that they are in."""

    folder: Path
    env: Mapping[str, str]

    def splitbake(self, *arguments: str) -> process.Finished:
        """Run a command in the project."""
        return process.run((process.SPLITBAKE, *arguments), cwd=self.folder, env=self.env)

    def forget(self) -> None:
        """Drop what splitbake remembers of files, so that it reads them anew."""
        shutil.rmtree(self.folder / "build/cache", ignore_errors=True)


def code_files(folder: Path) -> list[Path]:
    """Return every file of code."""
    return [folder / "run.py", *sorted(folder.glob("lib/*/*.py"))]


def model_files(folder: Path) -> list[Path]:
    """Return every model."""
    return sorted(folder.glob("weights/*.bin"))


@contextmanager
def large(stage: Stage) -> Iterator[Path]:
    """Write the project and commit it (the models are ignored, as everywhere)."""
    folder = stage.folder / "project"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        (folder / "weights").mkdir(parents=True)
        (folder / "splitbake.yaml").write_text(_MANIFEST, encoding="utf-8")
        (folder / ".gitignore").write_text("build/\nweights/\n", encoding="utf-8")
        _write_code(folder)
        for number in range(MODELS):
            _write_model(folder / f"weights/model-{number}.bin", number)
        commit(folder)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def cloud(stage: Stage) -> Iterator[Mapping[str, str]]:
    """Run a local cloud of our own; yields the environment of its callers."""
    with running(stage.folder / "cloud") as env:
        yield env


@contextmanager
def running(folder: Path, extra: Mapping[str, str] | None = None) -> Iterator[Mapping[str, str]]:
    """Run a local cloud that keeps its state in ``folder``; yields the environment of its callers.

    ``extra``: variables for whoever starts it, and for its callers.
    """
    env = process.environment({**(extra or {}), "SPLITBAKE_LOCAL_DIR": str(folder)})

    def local(*arguments: str) -> str:
        return process.run((process.SPLITBAKE, "local", *arguments), cwd=folder.parent, env=env).output

    local("down")  # whatever a killed call has left
    try:
        local("up")
        yield {**env, **json.loads(local("env", "--json"))}
    finally:
        local("down")


@contextmanager
def built(stage: Stage) -> Iterator[Built]:
    """Lock the project, and see to it that both halves are there and verified.

    The image is built, pushed and verified for real. The AMI is not baked: it is a copy of the base that EC2's API
    makes in the local cloud, recorded as built and verified. Whoever plans cannot tell, and does all the same work.
    """
    project = Built(stage.use(large), stage.use(cloud))
    _seed("bucket", project)
    project.splitbake("lock")
    project.splitbake("build", "image")
    # Verifying keeps a copy of the models, which is to go with everything else.
    at_home = {**project.env, "XDG_CACHE_HOME": str(project.folder / "build/home")}
    replace(project, env=at_home).splitbake("verify", "image")
    _seed("ami", project)
    yield project


def _seed(what: str, project: Built) -> None:
    argv = (process.PYTHON, "-m", "benchmarks.seed", what, str(project.folder))
    process.run(argv, cwd=_REPOSITORY, env=project.env)


def _write_code(folder: Path) -> None:
    (folder / "run.py").write_text("import lib.p0.m0\n", encoding="utf-8")
    for number in range(CODE_FILES - 1):
        path = folder / f"lib/p{number // FILES_A_FOLDER}/m{number % FILES_A_FOLDER}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"VALUE_{line} = {number * LINES_A_FILE + line}\n" for line in range(LINES_A_FILE))
        path.write_text("".join(lines), encoding="utf-8")


def _write_model(path: Path, number: int) -> None:
    with path.open("wb") as file:
        for block in range(MODEL_BYTES // _BLOCK):
            file.write(f"{number} {block}".encode().ljust(_BLOCK, b"."))


def commit(folder: Path) -> None:
    """Commit everything in ``folder``, which becomes a repository if it is none."""
    if not (folder / ".git").exists():
        git("init", "--quiet", cwd=folder)
    git("add", "--all", cwd=folder)
    git("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost", "commit", "-qm", "All of it", cwd=folder)


def git(*arguments: str, cwd: Path) -> None:
    """Run git with no settings of anybody."""
    env = process.environment({"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"})
    process.run(("git", *arguments), cwd=cwd, env=env)
