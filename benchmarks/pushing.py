"""How much a change sends to the registry, and that nothing is sent where nothing has changed.

The registry of a cloud of its own stands behind ``counter``: every byte that splitbake sends there counts, the headers
of its calls as well. What it is compared with is what a change has to take: the files themselves, compressed.
"""

from __future__ import annotations

import gzip
import itertools
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import process, service
from benchmarks.harness import Duel, Stage, bench
from benchmarks.project import commit, git, running
from benchmarks.service import SCRIPTS, Service

_KIB = 1024


@dataclass(frozen=True)
class Counted:
    """The project, and the figure of the counter before its registry."""

    project: Service
    figure: Path

    def sent(self) -> int:
        """Return how many bytes came to the registry so far."""
        return int(self.figure.read_text(encoding="ascii"))

    def kib(self, project: Service) -> float:
        """Build the image of ``project``, and return how many KiB came to the registry meanwhile."""
        before = self.sent()
        project.build()
        return (self.sent() - before) / _KIB


@bench("image-change-bytes", "KiB", at_most=1, of_theirs=True, or_more=16)
def image_change_bytes(stage: Stage) -> Duel:
    """What one changed line sends to the registry, against the changed file, gzipped."""
    counted = stage.use(_counted)
    project = counted.project

    def ours() -> float:
        project.edit()
        return counted.kib(project)

    return Duel(ours, theirs=lambda: _gzipped([project.folder / "run.py"]))


@bench("image-fresh-bytes", "KiB", at_most=1, of_theirs=True, or_more=32)
def image_fresh_bytes(stage: Stage) -> Duel:
    """The same from a fresh clone, where nothing of this machine helps: no cache, no home, no engine even.

    Against the files of the layer that changed, gzipped as one.
    """
    counted, numbers = stage.use(_counted), itertools.count()
    project = counted.project
    home = stage.folder / "home"

    def ours() -> float:
        project.edit()
        commit(project.folder)
        clone = stage.folder / f"clone-{next(numbers)}"
        git("clone", "--quiet", project.folder.as_uri(), str(clone), cwd=stage.folder)
        home.mkdir()
        try:
            bare = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "DOCKER_HOST": f"unix://{home}/none"}
            return counted.kib(replace(project, folder=clone, env={**project.env, **bare}))
        finally:
            shutil.rmtree(clone)
            shutil.rmtree(home)

    return Duel(ours, theirs=lambda: _gzipped(project.folder / name for name in sorted(SCRIPTS)))


@bench("image-nochange", "s", at_most=1.0)
def image_nochange(stage: Stage) -> Duel:
    """``splitbake build image`` where nothing has changed; it fails where a single byte goes to the registry."""
    counted = stage.use(_counted)

    def seconds() -> float:
        before = counted.sent()
        taken = counted.project.build(changed=False)
        if counted.sent() != before:
            raise RuntimeError(f"{counted.sent() - before} bytes went to the registry, though nothing has changed")
        return taken

    return Duel(seconds)


@contextmanager
def _counted(stage: Stage) -> Iterator[Counted]:
    """Make the project in a cloud whose registry stands behind the counter.

    The cloud starts the registry that it finds first: a script that starts both.
    """
    tools, figure = stage.folder / "counter", stage.folder / "counter/bytes"
    shutil.rmtree(tools, ignore_errors=True)
    try:
        _stand_in(tools / "docker-registry", figure)
        path = process.environment()["PATH"]
        with (
            running(stage.folder / "counted-cloud", {"PATH": f"{tools}:{path}"}) as env,
            service.made(stage.folder / "counted", {**env, "PATH": path}) as project,
        ):
            yield Counted(project, figure)
    finally:
        shutil.rmtree(tools, ignore_errors=True)


def _stand_in(script: Path, figure: Path) -> None:
    registry = shutil.which("docker-registry") or shutil.which("registry")
    if registry is None:
        raise RuntimeError("no registry is installed: splitbake doctor --fix")
    script.parent.mkdir(parents=True)
    counter = Path(__file__).with_name("counter.py")
    words = " ".join(map(shlex.quote, (process.PYTHON, str(counter), registry, str(figure))))
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    script.chmod(0o755)


def _gzipped(files: Iterable[Path]) -> float:
    content = b"".join(file.read_bytes() for file in files)
    return len(gzip.compress(content, compresslevel=6)) / _KIB
