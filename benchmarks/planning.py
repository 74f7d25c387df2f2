"""How long it takes to see that nothing has changed, and to look at everything for the first time."""

from __future__ import annotations

import json
import os
from pathlib import Path

from benchmarks import process
from benchmarks.harness import Duel, Stage, bench
from benchmarks.project import Built, built, code_files, model_files

_REPOSITORY = Path(__file__).parents[1]


@bench("plan-nochange", "s", at_most=1.2)
def plan_nochange(stage: Stage) -> Duel:
    """``splitbake plan --json`` where nothing is to be done: scan, state on S3, EC2 and ECR asked, in a fresh process.

    The state and the AWS API are those of the local cloud; see ``project.built`` for what is in it.
    """
    project = stage.use(built)

    def seconds() -> float:
        finished = project.splitbake("plan", "--json")
        plan = json.loads(finished.output)
        actions = plan["ami"]["action"], plan["image"]["action"]
        if actions != ("reuse", "reuse"):
            raise RuntimeError(f"the plan should find nothing to do: {finished.output}")
        return finished.seconds

    return Duel(seconds)


@bench("plan-scan", "s", at_most=3, of_theirs=True)
def plan_scan(stage: Stage) -> Duel:
    """The scan in such a plan, against ``git status`` on the same tree.

    Ours is timed inside a fresh process, from loading what is remembered to the last digest, without the start of
    Python; git's process is timed as a whole, which starts in two milliseconds. Both stat every file and read none.
    """
    project = stage.use(built)
    return Duel(
        ours=lambda: float(_scan(project).output),
        theirs=lambda: process.run(("git", "status", "--porcelain"), cwd=project.folder, env=project.env).seconds,
    )


@bench("plan-cold", "s", at_most=1, of_theirs=True)
def plan_cold(stage: Stage) -> Duel:
    """The scan with nothing remembered, against ``sha256sum`` over the same files, code and models.

    Both are fresh processes, timed as a whole, and read from the page cache.
    """
    project = stage.use(built)
    listed = project.folder / "build/files"
    files = [*code_files(project.folder), *model_files(project.folder)]
    listed.write_bytes(b"\0".join(os.fsencode(file) for file in files))

    def ours() -> float:
        project.forget()
        return _scan(project).seconds

    def theirs() -> float:
        argv = ("xargs", "-0", "sha256sum")
        return process.run(argv, cwd=project.folder, env=project.env, stdin=listed).seconds

    return Duel(ours, theirs)


def _scan(project: Built) -> process.Finished:
    argv = (process.PYTHON, "-m", "benchmarks.scan", str(project.folder))
    return process.run(argv, cwd=_REPOSITORY, env=project.env)
