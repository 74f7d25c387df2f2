"""API calls as they were made, one JSON object a line: what the local cloud records and the evaluator judges."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call.

    Attributes:
        time: when it was answered, ISO 8601 in UTC.
        service: as IAM names it, ``ec2``.
        operation: of its API, ``RunInstances``; empty where it is none that is known.
        principal: ARN of who called: a role's session, or the root of an account.
        account: the one that answered.
        region: of the credential scope; S3 and IAM calls have one as well.
        parameters: as the API model names them, without secrets and long texts.
        actions: the IAM actions that it takes, with the resource of each.
        status: of HTTP; 0 as long as there is no answer.
        error: why it was not answered, where it was refused here.
    """

    time: str = ""
    service: str
    operation: str
    principal: str
    account: str
    region: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    actions: tuple[tuple[str, str], ...] = ()
    status: int = 0
    error: str = ""

    @property
    def name(self) -> str:
        """``ec2:RunInstances``."""
        return f"{self.service}:{self.operation}"

    @property
    def role(self) -> str:
        """The name of the role that called, empty where none did."""
        _, found, rest = self.principal.partition(":assumed-role/")
        return rest.partition("/")[0] if found else ""

    def line(self) -> str:
        """Return the call as JSON on one line."""
        return json.dumps(asdict(self), ensure_ascii=False, default=str)

    @classmethod
    def of(cls, line: str) -> Call:
        """Read what ``line`` wrote."""
        values = json.loads(line)
        return cls(**values | {"actions": tuple((action, resource) for action, resource in values["actions"])})


def read(*files: Path, since: datetime | None = None) -> Iterator[Call]:
    """Yield the calls of ``files``, in that order, from ``since`` on; a file that is not there has none."""
    earliest = since.astimezone(UTC).isoformat(timespec="milliseconds") if since else ""
    for path in files:
        try:
            lines = path.open(encoding="utf-8")
        except FileNotFoundError:
            continue
        with lines:
            for line in lines:
                # The last line may be on its way still.
                if line.endswith("\n") and (call := Call.of(line)).time >= earliest:
                    yield call
