"""How long it takes until splitbake does anything at all."""

from __future__ import annotations

from benchmarks import process
from benchmarks.harness import Duel, Stage, bench


@bench("help", "s", at_most=3, of_theirs=True)
def show_help(stage: Stage) -> Duel:
    """``splitbake --help`` against importing click, by the same interpreter.

    Ours is the slower one of the two ways to call it, the script and ``python -m splitbake``.
    """
    env = process.environment()

    def seconds(*argv: str) -> float:
        return process.run(argv, cwd=stage.folder, env=env).seconds

    return Duel(
        ours=lambda: max(seconds(process.SPLITBAKE, "--help"), seconds(process.PYTHON, "-m", "splitbake", "--help")),
        theirs=lambda: seconds(process.PYTHON, "-c", "import click"),
    )
