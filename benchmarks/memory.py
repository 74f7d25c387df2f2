"""How much memory commands take."""

from __future__ import annotations

from benchmarks.harness import Duel, Stage, bench
from benchmarks.project import built

_MB = 1000 * 1000


@bench("peak-rss", "MB", at_most=200)
def peak_rss(stage: Stage) -> Duel:
    """The largest resident set of any process that a command starts and waits for, splitbake itself among them.

    Of locking (every model hashed anew), planning and building the image. The Docker client and buildx count, the
    Docker engine does not: it is nobody's child, and one for all.
    """
    project = stage.use(built)
    commands = (("lock",), ("plan", "--json"), ("build", "image", "--force"))

    def peak() -> float:
        project.forget()
        return max(project.splitbake(*command).peak for command in commands) / _MB

    return Duel(peak)
