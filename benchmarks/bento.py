"""The same change by BentoML: ``bentoml build``, ``bentoml containerize`` and ``docker push`` of the same project.

BentoML is installed into a virtual environment of its own, once. Its image has more in it than ours, for it installs a
compiler and itself; all of that is there before the clock starts, and comes from the cache of BuildKit afterwards. Its
base image is the project's own, which the local cloud provides, with the CA bundle of this machine where it has one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import docker, process, service
from benchmarks.docker import Docker
from benchmarks.harness import Duel, Stage, bench
from benchmarks.project import cloud
from benchmarks.service import FOLDERS, REQUIREMENTS, Service

VERSION = "1.4.39"

_REPOSITORY = "plain/bento"
_SERVICE = """\
import bentoml


@bentoml.service
class Analysis:
    @bentoml.api
    def analyse(self, frames: int) -> int:
        import run

        return run.EDIT + frames
"""
_BENTO = """\
service: "service:Analysis"
include: ["*.py", {folders}]
python:
  packages: [{packages}]
  lock_packages: false
docker:
  base_image: {base}
"""
_PINNED = re.compile(r"^([\w.-]+==[^\s\\]+)", re.MULTILINE)


@dataclass(frozen=True)
class Bento:
    """BentoML's program, and the project for it."""

    project: Service
    engine: Docker
    program: Path
    home: Path

    def seconds(self) -> float:
        """Bring the project as it is now to the registry, and return the seconds."""
        env = {**self.engine.env, "BENTOML_HOME": str(self.home), "BENTOML_DO_NOT_TRACK": "True"}
        env["PATH"] = f"{self.program.parent}:{env['PATH']}"

        def bentoml(*arguments: str) -> process.Finished:
            return process.run((str(self.program), *arguments), cwd=self.project.folder, env=env)

        built = bentoml("build", "--output", "tag")
        tag = built.output.split("__tag__:")[-1].strip()
        options = docker.network("--opt=network=")
        made = bentoml("containerize", tag, f"--image-tag={self.engine.name(_REPOSITORY)}", *options)
        return built.seconds + made.seconds + self.engine.push(_REPOSITORY)


@bench("image-bentoml", "s", at_most=0.5, of_theirs=True)
def image_bentoml(stage: Stage) -> Duel:
    """One changed line to pushed: ``splitbake build image``, against BentoML on the same files."""
    bento = stage.use(_bento)
    project = bento.project

    def ours() -> float:
        project.edit()
        return project.build()

    def theirs() -> float:
        project.edit()
        return bento.seconds()

    return Duel(ours, theirs)


@contextmanager
def _bento(stage: Stage) -> Iterator[Bento]:
    """Make the project with what BentoML needs beside it; both sides have all of its files."""
    engine, home = stage.use(docker.engine), stage.folder / "bentoml-home"
    program = _installed(stage.folder / f"bentoml-{VERSION}")
    try:
        with service.made(stage.folder / "bento", stage.use(cloud)) as project:
            base = _base(engine, project.folder / "build/base")
            pinned = _PINNED.findall((project.folder / REQUIREMENTS).read_text(encoding="utf-8"))
            folders = ", ".join(f'"{name}/"' for name in FOLDERS)
            text = _BENTO.format(folders=folders, packages=", ".join(pinned), base=base)
            (project.folder / "bentofile.yaml").write_text(text, encoding="utf-8")
            (project.folder / "service.py").write_text(_SERVICE, encoding="utf-8")
            yield Bento(project, engine, program, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _installed(folder: Path) -> Path:
    """Return the program in a virtual environment, which is kept: it takes a minute to make."""
    done = folder / "done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        env = process.environment()
        process.run((process.PYTHON, "-m", "venv", str(folder)), cwd=folder.parent, env=env)
        pip = (str(folder / "bin/python"), "-m", "pip", "install", "--quiet")
        process.run((*pip, f"bentoml=={VERSION}", "uv"), cwd=folder.parent, env=env)
        done.touch()
    return folder / "bin/bentoml"


def _base(engine: Docker, folder: Path) -> str:
    """Return the name of BentoML's base image: it knows no build secrets, so a CA bundle has to be in there."""
    if not docker.bundle():
        return engine.base
    folder.mkdir(parents=True)
    shutil.copyfile(docker.bundle()[0], folder / "ca.crt")
    known = " ".join(f"{name}=/etc/ca.crt" for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"))
    recipe = folder / "Dockerfile"
    recipe.write_text(f"FROM {engine.base}\nCOPY ca.crt /etc/ca.crt\nENV {known}\n", encoding="utf-8")
    engine.build(folder, recipe, "plain/base")
    engine.push("plain/base")
    return engine.name("plain/base")
