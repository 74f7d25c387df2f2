"""The log of a build in CloudWatch Logs, written in the name of the project's role."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.logs.models import logs_backends

from splitbake.local.codebuild_builds import Build, Context, Failure
from splitbake.local.codebuild_role import Role

_MASK = "***"


class Log:
    """Takes the lines of one build; what is secret is masked, as CodeBuild does."""

    def __init__(self, build: Build, role: Role) -> None:
        """Make group and stream, unless the project wants no such log.

        Raises:
            Failure: the role may not.
        """
        config: Mapping[str, str] = build.settings.get("logsConfig", {}).get("cloudWatchLogs", {})
        self._backend: Any = logs_backends[build.account][build.region]
        self._secrets: list[str] = []
        self.group = config.get("groupName") or f"/aws/codebuild/{build.project}"
        self.stream = "/".join(filter(None, [config.get("streamName"), build.uuid]))
        self.enabled = config.get("status", "ENABLED") == "ENABLED"
        if self.enabled:
            self._open(build, role)

    def hide(self, values: Iterable[str]) -> None:
        """Mask these values from now on, each line of them."""
        lines = {line for value in values for line in value.splitlines() if line.strip()}
        self._secrets = sorted({*self._secrets, *lines}, key=len, reverse=True)

    def write(self, lines: list[tuple[int, str]]) -> None:
        """Write lines with their times; into a log that somebody deleted meanwhile nothing is written."""
        events = [{"timestamp": moment, "message": self._masked(text) + "\n"} for moment, text in lines]
        if events and self.enabled:
            with suppress(JsonRESTError):
                self._backend.put_log_events(self.group, self.stream, events)

    def say(self, text: str) -> None:
        """Write a line of CodeBuild's own."""
        self.write(
            [(int(time.time() * 1000), f"[Container] {time.strftime('%Y/%m/%d %H:%M:%S', time.gmtime())} {text}")]
        )

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text

    def _open(self, build: Build, role: Role) -> None:
        group = f"{build.arn.partition(':codebuild:')[0]}:logs:{build.region}:{build.account}:log-group:{self.group}"
        stream = f"{group}:log-stream:{self.stream}"
        refused = role.refusal("logs:CreateLogStream", stream) or role.refusal("logs:PutLogEvents", stream)
        if self.group not in self._backend.groups:
            refused = refused or role.refusal("logs:CreateLogGroup", group, f"{group}:*")
        if refused:
            text = (
                f"Service role {build.settings['serviceRole']} does not allow AWS CodeBuild to create Amazon "
                f"CloudWatch Logs log streams for build {build.arn}. Error message: {refused}"
            )
            raise Failure(Context("ACCESS_DENIED", text))
        self._backend.ensure_log_group(self.group)
        self._backend.ensure_log_stream(self.group, self.stream)
