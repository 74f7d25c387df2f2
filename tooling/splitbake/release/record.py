"""A release written down: who, when, what, and what was there before. Never environment values or user data."""

from __future__ import annotations

import datetime
import re
import secrets
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from splitbake.artifact import Artifact
from splitbake.errors import StateError
from splitbake.release.steps import ApiCall, Outputs, Step, shown
from splitbake.spec import Account, Name, Region, Spec, Text
from splitbake.state import Store

#: How an id begins: UTC to the second.
_MOMENT: Final = "%Y%m%dT%H%M%SZ"
_DATED: Final = re.compile(r"(\d{8}T\d{6}Z)-")


class CallRecord(Spec):
    """An AWS call, as far as it may be read."""

    service: Text
    operation: Text
    parameters: dict[str, Any]


class StepRecord(Spec):
    """One step. A ``started`` or ``failed`` one may have taken effect."""

    phase: Text
    target: Text
    title: Text
    status: Literal["planned", "started", "done", "failed"] = "planned"
    seconds: float = 0.0
    before: dict[str, Any]
    after: dict[str, Any]
    calls: tuple[CallRecord, ...] = Field(strict=False)
    undo: tuple[CallRecord, ...] = Field(strict=False, description="the calls that take it back")


class Record(Spec):
    """One release of one environment."""

    id: Text
    status: Literal["started", "good", "failed"]
    environment: Name
    account: Account
    region: Region
    endpoint: str | None
    who: Text = Field(description="the ARN that STS gave")
    started: Text = Field(description="ISO 8601, UTC")
    finished: str | None = None
    ami: Artifact
    image: Artifact
    promoted_from: Text | None = Field(default=None, description="key of the other environment's record of this pair")
    steps: tuple[StepRecord, ...] = Field(strict=False)
    versions: dict[str, str] = Field(description="launch template id: its version with this AMI")
    diff: str = Field(description="the change of Terraform text: a unified diff of the changed lines alone")
    failure: str | None = None

    @property
    def key(self) -> str:
        """Where the state keeps it."""
        return f"{_folder(self.environment)}{self.id}.json"


def write_step(step: Step, outputs: Outputs, **progress: Any) -> StepRecord:
    """Return ``step`` as the record holds it, with the ``outputs`` known so far; ``progress``: status, seconds."""
    return StepRecord(
        phase=step.phase.name,
        target=step.target,
        title=step.title,
        before=shown(step.before, outputs),
        after=shown(step.after, outputs),
        calls=tuple(_write_call(call, outputs) for call in step.calls),
        undo=tuple(_write_call(call, outputs) for call in step.undo),
        **progress,
    )


def _write_call(call: ApiCall, outputs: Outputs) -> CallRecord:
    return CallRecord(service=call.service, operation=call.operation, parameters=shown(dict(call.changed), outputs))


def new_id(store: Store, environment: str) -> str:
    """Return the id of a new release: the moment, and chance for two at once.

    It sorts after every release that the state knows, also where an earlier planner's clock was ahead of ours.
    """
    moment = datetime.datetime.now(datetime.UTC).strftime(_MOMENT)
    known = (_DATED.match(key.removeprefix(_folder(environment))) for key in store.keys(_folder(environment)))
    newest = max((found[1] for found in known if found), default="")
    if moment <= newest:
        later = datetime.datetime.strptime(newest, _MOMENT) + datetime.timedelta(seconds=1)
        moment = later.strftime(_MOMENT)
    return f"{moment}-{secrets.token_hex(3)}"


def _folder(environment: str) -> str:
    return f"records/{environment}/"


def lease_name(environment: str) -> str:
    """Return the name of the lease that a release of ``environment`` holds from its record to its end."""
    return f"release/{environment}"


def create(store: Store, record: Record) -> None:
    """Write a new record.

    Raises:
        StateError: there is one of this id.
    """
    text = record.model_dump_json(indent=2).encode()
    if store.create(record.key, text):
        return
    there = store.get(record.key)
    if there is None or there.value != text:  # else it is ours: the answer to its writing got lost
        raise StateError(f"there is a record {record.key} already", hint="run the release again: it gets a new id")


def update(store: Store, record: Record) -> None:
    """Write a record that was created before."""
    store.put(record.key, record.model_dump_json(indent=2).encode())


def read(store: Store, key: str) -> Record | None:
    """Return the record that stands under ``key``, None where there is none.

    Raises:
        StateError: something else stands there.
    """
    stored = store.get(key)
    try:
        return None if stored is None else Record.model_validate_json(stored.value)
    except ValidationError as problem:
        raise StateError(
            f"{key} in the state is damaged, or of another version of splitbake: {problem.errors()[0]['msg']}",
            hint="remove it, then release both halves again: that writes a new record",
        ) from problem


def last_good(store: Store, environment: str) -> Record | None:
    """Return the newest release of ``environment`` that came to its end, None where there is none."""
    newest_first = reversed(store.keys(_folder(environment)))
    found = (read(store, key) for key in newest_first)
    return next((record for record in found if record and record.status == "good"), None)
