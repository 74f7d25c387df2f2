"""The file scan of a plan, alone and timed from inside: ``python -m benchmarks.scan PROJECT`` prints its seconds."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from splitbake import context, resolve
from splitbake.project import Project


def scan(project: Project) -> None:
    """Do what a plan does to learn what each file of the project holds: code, and models that lie in it."""
    resolve.changed_models(project)
    context.collect(project)


if __name__ == "__main__":
    project = Project(Path(sys.argv[1], "splitbake.yaml"))
    project.lock  # noqa: B018 - manifest and lock are read before the clock starts
    started = time.perf_counter()
    scan(project)
    sys.stdout.write(f"{time.perf_counter() - started}\n")
