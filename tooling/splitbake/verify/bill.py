"""The bill of materials of an image, made while it is verified: nothing waits for it that builds or releases.

It takes its time once for the same dependencies. Where it cannot be made, that is told in the report as a check that
was skipped, with the reason: of an image that was found good it says nothing bad.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from splitbake import sbom, units
from splitbake.artifact import Artifact, Check, Report
from splitbake.cloud import Cloud
from splitbake.errors import InterruptError, SplitbakeError
from splitbake.project import Project
from splitbake.ui import Say

#: The check's name.
NAME = "bill of materials"


class Bill:
    """What becomes of it; complete when ``beside`` has ended."""

    def __init__(self) -> None:
        self._check: Check | None = None
        self._bug: Exception | None = None

    def noted(self, report: Report) -> Report:
        """Return ``report`` with what became of the bill."""
        if self._bug:
            raise self._bug
        return report.model_copy(update={"checks": (*report.checks, self._check)}) if self._check else report

    def make(self, of: Callable[[], sbom.Bill]) -> None:
        """Make it, and remember how that ended."""
        started = time.monotonic()
        skipped = False
        try:
            made = of()
            saw = f"{units.counted(made.sbom.packages, 'package')} by {made.sbom.tool}, {made.place}"
        except SplitbakeError as problem:
            skipped, saw = True, f"not made: {problem.message}"
        except Exception as problem:  # noqa: BLE001 - it is raised where it is seen
            self._bug = problem
            return
        seconds = round(time.monotonic() - started, 3)
        self._check = Check(name=NAME, passed=True, skipped=skipped, saw=saw, seconds=seconds)


@contextmanager
def beside(project: Project, cloud: Cloud, artifact: Artifact, say: Say) -> Iterator[Bill]:
    """Make the bill of ``artifact`` while the block runs; wait for it then, or end it where the block fails."""
    bill, unwanted = Bill(), threading.Event()

    def wanted() -> None:
        if unwanted.is_set():
            raise InterruptError("nobody waits for it any more")

    def work() -> None:
        bill.make(lambda: sbom.of(project, cloud, artifact.uri, say, fresh=True, wanted=wanted))

    # A daemon: who interrupts twice does not wait for a layer that is on its way.
    thread = threading.Thread(target=work, name=NAME, daemon=True)
    thread.start()
    try:
        yield bill
        if thread.is_alive():
            say("waiting for the bill of materials")
        thread.join()
    finally:
        unwanted.set()
        thread.join()
