"""One build in the books of CodeBuild: its phases, its status, and what BatchGetBuilds tells of it.

It ends once: who comes first decides how, the last command, StopBuild, the time-out, or the death of its container.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Any, Final

from moto.core.utils import utcnow

#: What a build tells of the project that it was started with.
_SETTINGS: Final = (
    *("source", "sourceVersion", "artifacts", "cache", "environment", "serviceRole", "vpcConfig"),
    *("timeoutInMinutes", "queuedTimeoutInMinutes", "encryptionKey"),
)


@dataclass(frozen=True)
class Context:
    """Why a phase ended as it did: ``statusCode`` and ``message``."""

    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class Failure(Exception):  # noqa: N818
    """A build cannot go on.

    Attributes:
        context: of the phase that it is in.
        status: ``FAILED``, or ``FAULT`` where the build itself is not to blame.
    """

    context: Context
    status: str = "FAILED"


@dataclass
class Build:
    """A build of one project.

    Attributes:
        account, region: whose build it is.
        number: of the project's builds.
        uuid: its name after the project's.
        project: name of the project.
        settings: the project as it is for this build, in CodeBuild's names.
    """

    account: str
    region: str
    number: int
    uuid: str
    project: str
    settings: Mapping[str, Any]
    started: datetime = field(default_factory=utcnow)
    ended: datetime | None = None
    status: str = "IN_PROGRESS"
    logs: Mapping[str, str] = field(default_factory=dict)
    exported: dict[str, str] = field(default_factory=dict)
    _phases: list[dict[str, Any]] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._open("SUBMITTED")
        self.enter("QUEUED")

    @property
    def id(self) -> str:
        """Its id, ``project:uuid``."""
        return f"{self.project}:{self.uuid}"

    @property
    def arn(self) -> str:
        """Its ARN."""
        return str(self.settings["arn"]).partition(":project/")[0] + f":build/{self.id}"

    @property
    def complete(self) -> bool:
        """Whether it has ended."""
        return self.ended is not None

    @property
    def phase(self) -> str:
        """The phase that it is in."""
        return str(self._phases[-1]["phaseType"])

    def enter(self, phase: str) -> None:
        """Go on to ``phase``; the one before it succeeded unless it was left otherwise."""
        with self._lock:
            if not self.complete:
                self._close("SUCCEEDED", Context())
                self._open(phase)

    def leave(self, status: str, context: Context) -> None:
        """End the phase that it is in."""
        with self._lock:
            if not self.complete:
                self._close(status, context)

    def finish(self, status: str, context: Context | None = None) -> bool:
        """End the build; return whether that is news. With a context, it breaks off the phase that it is in."""
        with self._lock:
            if self.complete:
                return False
            self._close("SUCCEEDED" if context is None else status, context or Context())
            self._open("COMPLETED")
            self.status, self.ended = status, utcnow()
            return True

    def describe(self) -> dict[str, Any]:
        """Return what BatchGetBuilds tells of it at this moment."""
        with self._lock:
            settings = copy.deepcopy(dict(self.settings))
            told = {
                "id": self.id,
                "arn": self.arn,
                "buildNumber": self.number,
                "startTime": self.started,
                "endTime": self.ended,
                "currentPhase": self.phase,
                "buildStatus": self.status,
                "projectName": self.project,
                "phases": copy.deepcopy(self._phases),
                "logs": self._told_logs(),
                "buildComplete": self.complete,
                "initiator": "root",
                "exportedEnvironmentVariables": [
                    {"name": name, "value": value} for name, value in self.exported.items()
                ],
            }
        told |= {name: settings[name] for name in _SETTINGS if settings.get(name) is not None}
        return {name: value for name, value in told.items() if value is not None}

    def _told_logs(self) -> dict[str, Any]:
        """Return where the log is; before the container is there, AWS has a link to nowhere only."""
        group, stream = self.logs.get("group", "null"), self.logs.get("stream", "null")
        where = f"https://console.aws.amazon.com/cloudwatch/home?region={self.region}"
        named = {"groupName": group, "streamName": stream} if self.logs else {}
        arn = f"{str(self.settings['arn']).partition(':codebuild:')[0]}:logs:{self.region}:{self.account}"
        return named | {
            "deepLink": f"{where}#logsV2:log-groups/log-group/{group}/log-events/{stream}",
            "cloudWatchLogsArn": f"{arn}:log-group:{group}:log-stream:{stream}",
        }

    def _open(self, phase: str) -> None:
        self._phases.append({"phaseType": phase, "startTime": utcnow()})

    def _close(self, status: str, context: Context) -> None:
        """Note how the last phase ended, unless that is known already."""
        last, now = self._phases[-1], utcnow()
        if "endTime" not in last:
            seconds = int((now - last["startTime"]).total_seconds())
            last |= {"phaseStatus": status, "endTime": now, "durationInSeconds": seconds}
            if context.code:
                last["contexts"] = [{"statusCode": context.code, "message": context.message}]
