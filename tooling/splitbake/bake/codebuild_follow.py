"""Following a build of AWS CodeBuild to its end: status and log, whatever of them there is, and stopping it."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from splitbake import dockercli, files, units
from splitbake.artifact import Weight
from splitbake.bake import weights
from splitbake.bake.codebuild_buildspec import COMPRESSED, DIGEST, ECHOES, SIZE, WEIGHED
from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import BuildError, CloudError
from splitbake.manifest.codebuild import CodeBuild
from splitbake.signals import uninterrupted
from splitbake.ui import Say

#: Lines of the log that an error shows.
TAIL: Final = 30
#: Seconds between two looks: soon again after news, later and later without any.
_SOON, _LATER, _FACTOR = 1.0, 10.0, 1.5
#: Seconds without any answer after which the build is given up.
_PATIENCE: Final = 300.0
#: Looks at the log of a build that failed: its last lines come after the status.
_LAST_LOOKS: Final = 3
#: Begins the lines of CodeBuild itself, which tell of commands and phases what the build tells too.
_OWN: Final = "[Container] "
_RUNNING: Final = "IN_PROGRESS"
#: Phases in which nothing of ours runs yet.
_BEFORE_COMMANDS: Final = {"SUBMITTED", "QUEUED", "PROVISIONING", "DOWNLOAD_SOURCE"}
_TEMPORARY: Final = {
    *(
        "ThrottlingException",
        "Throttling",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "LimitExceededException",
    ),
    *("InternalFailure", "InternalServerError", "InternalServerException", "ServiceUnavailable"),
    *("ServiceUnavailableException", "RequestTimeout", "500", "502", "503", "504"),
    "",  # no answer at all
}
_KILLED: Final = re.compile(
    r"exit (?:status|code):? 137\b|signal: killed|cannot allocate memory|out of memory", re.IGNORECASE
)
#: What CodeBuild says of a command that failed repeats all its text, which is always the same.
_COMMAND: Final = re.compile(r"Error while executing command: .*\. Reason: ", re.DOTALL)
_WORDS: Final = {
    "FAILED": "failed",
    "FAULT": "failed by a fault of CodeBuild itself",
    "TIMED_OUT": "took too long and was ended",
    "STOPPED": "was stopped by somebody",
}


@dataclass
class Following:
    """A build that runs.

    Attributes:
        cloud: where.
        id: of the build.
        log: the file that gets its lines.
        say: gets them as well.
        tail: the last of them that the commands of the build have said.
        weighed: what it said that takes most room, kind and bytes before it.
    """

    cloud: Cloud
    id: str
    log: Path
    say: Say
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))
    weighed: list[tuple[str, int, str]] = field(default_factory=list)
    _phase: str = ""
    _token: str = ""
    _deaf: bool = False

    def wait(self, limit: float) -> Mapping[str, Any]:
        """Return the build when it has ended, well or not.

        Raises:
            BuildError: it runs for longer than ``limit`` seconds, or nothing can be heard of it any more.
            CloudError: it may not be looked at.
        """
        end, heard, pause = time.monotonic() + limit, time.monotonic(), _SOON
        while True:
            build = self._look(patient=time.monotonic() - heard < _PATIENCE)
            if build is not None:
                heard = time.monotonic()
                news = self._take_phase(build) + self._read(build)
                if build["buildStatus"] != _RUNNING:
                    self._read_rest(build)
                    return build
                pause = _SOON if news else min(pause * _FACTOR, _LATER)
            else:
                pause = _LATER
            if time.monotonic() > end:
                raise BuildError(
                    f"CodeBuild did not end build {self.id} within {units.format_seconds(limit)}",
                    hint="build again; the console of CodeBuild has what it did",
                )
            time.sleep(pause)

    def stop(self) -> str:
        """End the build; return what has to be told where it may go on, else nothing."""
        why = "nobody waited until it was stopped"
        try:
            with uninterrupted(breakable=True), aws_errors(f"stop build {self.id}"):
                self.cloud.client("codebuild").stop_build(id=self.id)
                why = ""
        except CloudError as problem:
            why = problem.message
        except KeyboardInterrupt:  # it may have come after the answer
            if not why:
                raise
        if why:
            return f"build {self.id} of CodeBuild may still run, and costs money: {why}"
        self.say(f"stopped build {self.id} of CodeBuild")
        return ""

    def heaviest(self) -> tuple[Weight, ...]:
        """Return what takes most room in the image."""

        def of(wanted: weights.Kind) -> tuple[Weight, ...]:
            return weights.heaviest(wanted, ((size, what) for kind, size, what in self.weighed if kind == wanted))

        return of("layer") + of("distribution")

    def size(self, build: Mapping[str, Any]) -> int | None:
        """Return the bytes of the image, None where the build came not so far."""
        return self._bytes(build, SIZE, "image")

    def compressed(self, build: Mapping[str, Any]) -> int | None:
        """Return the bytes that it takes compressed, None where nobody asked or the build came not so far."""
        return self._bytes(build, COMPRESSED, "compressed")

    def _bytes(self, build: Mapping[str, Any], variable: str, kind: str) -> int | None:
        told = exported(build).get(variable, "")
        if told.isdecimal():
            return int(told)
        return next((size for found, size, _ in self.weighed if found == kind), None)

    def _look(self, *, patient: bool) -> Mapping[str, Any] | None:
        """Return the build as it is now, None where CodeBuild has no time for us, or does not know it yet."""
        try:
            with aws_errors(f"look at build {self.id} of CodeBuild"):
                found: Sequence[Mapping[str, Any]] = self.cloud.client("codebuild").batch_get_builds(ids=[self.id])[
                    "builds"
                ]
        except CloudError as problem:
            if patient and error_code(problem) in _TEMPORARY:
                return None
            raise
        if not found and patient:
            return None
        if not found:
            raise BuildError(f"CodeBuild knows no build {self.id}", hint="build again")
        return found[0]

    def _take_phase(self, build: Mapping[str, Any]) -> int:
        phase = build.get("currentPhase", "")
        if phase == self._phase:
            return 0
        self._phase = phase
        self.say(f"CodeBuild: {phase}")
        return 1

    def _read(self, build: Mapping[str, Any]) -> int:
        """Take what is new in the log, and return how many lines that was; there may be no log yet, or never one."""
        where = build.get("logs") or {}
        if self._deaf or not where.get("groupName") or not where.get("streamName"):
            return 0
        count = 0
        try:
            with aws_errors(f"read the log of build {self.id}"):
                while True:
                    token = {"nextToken": self._token} if self._token else {}
                    answer = self.cloud.client("logs").get_log_events(
                        logGroupName=where["groupName"],
                        logStreamName=where["streamName"],
                        startFromHead=True,
                        **token,
                    )
                    count += self._take([event["message"] for event in answer["events"]])
                    if answer["nextForwardToken"] == self._token:
                        return count
                    self._token = answer["nextForwardToken"]
        except CloudError as problem:
            if error_code(problem) not in {"ResourceNotFoundException", *_TEMPORARY}:
                self._deaf = True  # the build goes on all the same
                self.say(f"no lines of the build will be seen: {problem.message}")
        return count

    def _read_rest(self, build: Mapping[str, Any]) -> None:
        """Wait a moment for the last lines: the reason of a failure, what is heavy in an image that was made."""
        for _ in range(_LAST_LOOKS):
            if self._deaf or (build["buildStatus"] == "SUCCEEDED" and self.weighed):
                return
            time.sleep(_SOON)
            if not self._read(build) and self.tail:
                return

    def _take(self, messages: Sequence[str]) -> int:
        lines = [line for message in messages for line in message.splitlines()]
        if lines:
            with files.writing(self.log, BuildError), self.log.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
        for line in filter(str.strip, lines):
            if found := WEIGHED.fullmatch(line):
                self.weighed.append((found["kind"], int(found["size"]), found["what"]))
            elif not line.startswith(_OWN) and line.strip() not in ECHOES:
                self.tail.append(line)
                self.say(line)
        return len(lines)


def exported(build: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that a build hands back."""
    return {one["name"]: one.get("value", "") for one in build.get("exportedEnvironmentVariables") or ()}


def digest(build: Mapping[str, Any]) -> str:
    """Return what the build has pushed, empty where it does not say."""
    found = exported(build).get(DIGEST, "")
    return found if re.fullmatch("sha256:[0-9a-f]{64}", found) else ""


def failure(build: Mapping[str, Any], name: str, tail: Sequence[str], settings: CodeBuild, log: Path) -> BuildError:
    """Return why the build did not succeed: its first phase that failed, what that said, and the last lines."""
    status, phase, said = str(build["buildStatus"]), "", ""
    for one in build.get("phases") or ():
        if one.get("phaseStatus") in _WORDS:
            phase, said = one["phaseType"], _said(one.get("contexts") or ())
            break
    where = f" in its phase {phase}" if phase else ""
    message = f"build {build['id']} of CodeBuild, for {name}, {_WORDS.get(status, status)}{where}"
    message += f": {said}" if said else ""
    lines = "\n".join(f"  {line}" for line in tail)
    hint = _hint(status, phase, f"{said}\n{lines}", settings)
    rest = f"all its lines are in {log}" if log.exists() and log.stat().st_size else "it has no log"
    return BuildError(f"{message}\nIts last lines:\n{lines}" if tail else message, hint=f"{hint}; {rest}".lstrip("; "))


def _said(contexts: Sequence[Mapping[str, str]]) -> str:
    both = [(one.get("statusCode") or "", _COMMAND.sub("", one.get("message") or "")) for one in contexts]
    return "; ".join(" ".join(": ".join(filter(None, words)).split()) for words in both if any(words))


def _hint(status: str, phase: str, said: str, settings: CodeBuild) -> str:
    if _KILLED.search(said):
        return f"it ran out of memory: raise image.codebuild.compute, which is {settings.compute}"
    limit = f"raise image.codebuild.timeout, which is {units.format_seconds(settings.timeout)}"
    hints = {
        "TIMED_OUT": "no machine was free: build again" if phase == "QUEUED" else limit,
        "FAULT": "build again",
        "STOPPED": "build again",
    }
    policy = "the role's policy and trust policy (splitbake iam codebuild prints the former)"
    if phase in _BEFORE_COMMANDS:
        vpc = ", and image.codebuild.vpc (a way out by NAT, DNS)" if settings.vpc else ""
        hints["FAILED"] = f"check {policy}{vpc}"
    return hints.get(status) or dockercli.hint_for(said)
