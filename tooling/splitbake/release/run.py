"""Running a planned release: the record first, then step by step, each verified before the next."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from splitbake import artifact as artifacts
from splitbake.cloud import Cloud
from splitbake.errors import PatchError, ReleaseError, SplitbakeError
from splitbake.project import Project
from splitbake.release import record as records
from splitbake.release.live import Live
from splitbake.release.plan import ReleasePlan
from splitbake.release.record import Record
from splitbake.release.steps import Output, Step, TextStep, resolve, shown
from splitbake.state import Store
from splitbake.ui import Say
from splitbake.units import format_seconds


def run(plan: ReleasePlan, project: Project, cloud: Cloud, say: Say) -> Record:
    """Do what ``plan`` says and return its record, which is ``good``.

    The record is in the state before anything changes and after every step, so what was there before is known
    even where this process is killed. A failed release puts patched text back. What was done by API stays: the
    host may be new while the image is old, and the next release goes on from what is live.

    Raises:
        GuardError: the credentials have changed since planning.
        ReleaseError: a step failed; the record is ``failed`` and names it.
    """
    cloud.guard()
    journal = Journal(project.store(cloud), _draft(plan))
    records.create(journal.store, journal.record)
    live = Live(cloud)
    for index, step in enumerate(plan.steps):
        say(step.title)
        started = time.monotonic()
        try:
            journal.outputs |= step.apply(live, journal.outputs)
            step.verify(live, journal.outputs)
            seconds = time.monotonic() - started
            journal.note(index, step, status="done", seconds=round(seconds, 1))
        except BaseException as problem:  # an interrupt, too, must leave whole files and a true record
            _fail(plan, journal, index, problem)
            raise
        say(f"done in {format_seconds(seconds)}")
    versions = resolve(plan.versions, journal.outputs)
    journal.save(status="good", finished=artifacts.now(), versions=versions)
    return journal.record


@dataclass
class Journal:
    """The record of a release on its way, and the outputs of the steps done so far."""

    store: Store
    record: Record
    outputs: dict[Output, str] = field(default_factory=dict)

    def note(self, index: int, step: Step, **progress: Any) -> None:
        """Write down how step number ``index`` went; later steps get the outputs that it gave."""
        written = list(self.record.steps)
        written[index] = records.write_step(step, self.outputs, **progress)
        self.save(steps=tuple(written))

    def save(self, **changes: Any) -> None:
        """Change the record and write it."""
        self.record = self.record.model_copy(update=changes)
        records.update(self.store, self.record)


def _draft(plan: ReleasePlan) -> Record:
    return Record(
        id=plan.id,
        status="started",
        environment=plan.environment,
        account=plan.identity.account,
        region=plan.identity.region,
        endpoint=plan.identity.endpoint,
        who=plan.identity.arn,
        started=artifacts.now(),
        ami=plan.pair.ami,
        image=plan.pair.image,
        steps=tuple(records.write_step(step, {}) for step in plan.steps),
        versions=shown(plan.versions, {}),
        diff=plan.diff,
    )


def _fail(plan: ReleasePlan, journal: Journal, index: int, problem: BaseException) -> None:
    """Put patched text back, write the record, and tell how to go on.

    Raises:
        ReleaseError: in the place of ``problem``, where that is an error that we know; others pass.
    """
    step = plan.steps[index]
    text = _restore([one for one in plan.steps[:index] if isinstance(one, TextStep)])
    reason = problem.message if isinstance(problem, SplitbakeError) else f"{type(problem).__name__} {problem}".strip()
    done = ", ".join(one.target for one in plan.steps[:index] if one.calls) or "nothing"
    message = (
        f"release {plan.id} stopped at step {index + 1} of {len(plan.steps)}, {step.title}: {reason}. "
        f"Changed by API before it: {done}.{text}"
    )
    journal.note(index, step, status="failed")
    journal.save(status="failed", finished=artifacts.now(), failure=message)
    if isinstance(problem, SplitbakeError):
        again = f"splitbake release goes on from what is live; record {journal.record.key} has what was there before"
        raise ReleaseError(message, hint=f"{problem.hint}; {again}" if problem.hint else again) from problem


def _restore(texts: list[TextStep]) -> str:
    """Put back the text of these steps; return what became of it, for the message."""
    try:
        for step in texts:
            step.restore()
    except PatchError as problem:
        return f" Terraform text could not be put back: {problem.message}"
    return " Terraform text is as it was." if texts else ""
