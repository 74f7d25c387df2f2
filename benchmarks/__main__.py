"""``python -m benchmarks [NAME …]``: run all benchmarks, or those named, and write build/bench/results.json."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benchmarks import harness

#: Each registers its benchmarks when it is imported; a new group is a module and its line here.
GROUPS = ("startup", "planning", "memory", "fetching", "baking", "imaging", "pushing", "bento")
FOLDER = Path("build/bench")


def main(names: Sequence[str]) -> int:
    """Run the benchmarks ``names``, all where there are none, and return 0, also where a bound is missed."""
    for group in GROUPS:
        importlib.import_module(f"benchmarks.{group}")
    unknown = [name for name in names if name not in harness.BENCHES]
    if unknown:
        sys.stderr.write(f"no benchmark {', '.join(unknown)}; there are: {', '.join(harness.BENCHES)}\n")
        return 64
    signal.signal(signal.SIGTERM, _interrupt)
    wanted = [bench for name, bench in harness.BENCHES.items() if name in names or not names]
    results: list[harness.Result] = []
    harness.write(FOLDER / "results.json", results)  # whatever happens: no figures of another time
    with harness.Stage(FOLDER.resolve()) as stage:
        for result in harness.run(wanted, stage):
            results.append(result)
            harness.write(FOLDER / "results.json", results)
    sys.stdout.write(f"{harness.table(results)}\n")
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Clean up as after Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
