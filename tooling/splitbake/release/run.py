"""Running a planned release: the record first, then step by step, each verified before the next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from splitbake import artifact as artifacts
from splitbake.cloud import Cloud
from splitbake.errors import InterruptError, PatchError, ReleaseError, SplitbakeError
from splitbake.lease import Lease, held
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

    The record is in the state before anything changes and around every step, so what was there before is known
    even where this process is killed. A failed release puts patched text back. What was done by API stays: the
    host may be new while the image is old, and the next release goes on from what is live.

    From its record to its end it holds the environment's lease: of two releases one acts, and a plan that was made
    before or while another one acted is not carried out.

    Raises:
        GuardError: the credentials have changed since planning.
        HeldError: another release of the environment acts.
        ReleaseError: another one acted since planning, or a step failed; then the record is ``failed`` and names it.
        InterruptError: the same, by Ctrl-C or a signal.
    """
    cloud.guard()
    store = project.store(cloud)
    with _alone(plan, store) as lease:
        journal = Journal(store, _draft(plan))
        records.create(store, journal.record)
        _do(plan, journal, Live(cloud), lease, say)
    return journal.record


@contextmanager
def _alone(plan: ReleasePlan, store: Store) -> Iterator[Lease]:
    """Hold the lease of the plan's environment, where nobody held it since the plan was begun."""
    name = records.lease_name(plan.environment)
    with held(store, name, who=plan.identity.arn, doing=f"release {plan.id}") as lease:
        if lease.previous != plan.previous:
            raise ReleaseError(
                f"what was planned is no longer what is live: another release of {plan.environment} was at work, by "
                f"{lease.previous or 'somebody whose lease was removed'}",
                hint="nothing was changed; run splitbake release again, it plans anew",
            )
        yield lease


def _do(plan: ReleasePlan, journal: Journal, live: Live, lease: Lease, say: Say) -> None:
    for index, step in enumerate(plan.steps):
        try:
            say(step.title)
            started = time.monotonic()
            lease.require()
            journal.note(index, step, status="started")
            journal.outputs |= step.apply(live, journal.outputs)
            step.verify(live, journal.outputs)
            seconds = time.monotonic() - started
            journal.note(index, step, status="done", seconds=round(seconds, 1))
            say(f"done in {format_seconds(seconds)}")
        except BaseException as problem:  # an interrupt, too, must leave whole files and a true record
            _fail(plan, journal, index, problem)
            raise
    versions = resolve(plan.versions, journal.outputs)
    try:
        journal.save(status="good", finished=artifacts.now(), versions=versions)
    except SplitbakeError as problem:
        message = f"release {plan.id} is done, but its record could not be completed: {problem.message}"
        raise ReleaseError(message, hint=problem.hint) from problem


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
        promoted_from=plan.pair.promoted_from,
        steps=tuple(records.write_step(step, {}) for step in plan.steps),
        versions=shown(plan.versions, {}),
        diff=plan.diff(context=0),  # lines around it may be somebody's secrets
    )


def _fail(plan: ReleasePlan, journal: Journal, index: int, problem: BaseException) -> None:
    """Put patched text back, write the record, and tell how to go on.

    Raises:
        ReleaseError, InterruptError: in the place of ``problem``, where that is an error that we know; others pass.
    """
    step = plan.steps[index]
    if isinstance(problem, KeyboardInterrupt):
        reason = "interrupted"
    else:
        reason = problem.message if isinstance(problem, SplitbakeError) else f"{type(problem).__name__} {problem}"
    changed = [one.target for one in plan.steps[:index] if one.calls]
    if step.calls and step.target not in changed:
        changed.append(f"perhaps {step.target}")
    text = _restore([one for one in plan.steps[: index + 1] if isinstance(one, TextStep)])
    message = (
        f"release {plan.id} stopped at step {index + 1} of {len(plan.steps)}, {step.title}: {reason}. "
        f"Changed by API: {', '.join(dict.fromkeys(changed)) or 'nothing'}.{text}"
    )
    message += _write_down(journal, index, step, message)
    again = f"splitbake release goes on from what is live; record {journal.record.key} has what was there before"
    if isinstance(problem, SplitbakeError):
        raise ReleaseError(message, hint=f"{problem.hint}; {again}" if problem.hint else again) from problem
    if isinstance(problem, KeyboardInterrupt):
        raise InterruptError(message, hint=again) from problem


def _restore(texts: list[TextStep]) -> str:
    """Put back the text of these steps; return what became of it, for the message."""
    try:
        restored = [step.restore() for step in texts]
    except (PatchError, OSError) as problem:
        return f" Terraform text could not be put back: {problem}."
    return " Terraform text is as it was." if any(restored) else ""


def _write_down(journal: Journal, index: int, step: Step, message: str) -> str:
    """Write the failure into the record; return what became of that, for the message."""
    try:
        journal.note(index, step, status="failed")
        journal.save(status="failed", finished=artifacts.now(), failure=message)
    except SplitbakeError as problem:
        return f" The record could not be completed: {problem.message}."
    return ""
