"""Batch jobs as real containers: their attempts, retries, logs and ends.

A job waits in RUNNABLE until its queue has an enabled, valid compute environment, as on AWS, then its container runs
at once: nothing boots before it.
"""

from __future__ import annotations

import logging
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from threading import Timer
from typing import Any

from moto.batch.exceptions import ClientException
from moto.batch.models import Job
from moto.batch.responses import BatchResponse
from moto.batch.utils import JobStatus

from splitbake.local.batch import Environments
from splitbake.local.containers import Containers, JobFailedError, JobSpec
from splitbake.local.hooks import Hook, around
from splitbake.local.hosts import Host

log = logging.getLogger("splitbake.local.jobs")

LOG_GROUP = "/aws/batch/job"
EXITED = "Essential container in task exited"
TIMED_OUT = "Job attempt duration exceeded timeout"

#: Seconds between two looks at whether a compute environment can take a waiting job.
_POLL = 0.2

#: The retry strategy of the SubmitJob call that is answered now.
_RETRY: ContextVar[dict[str, Any] | None] = ContextVar("retry strategy", default=None)


@dataclass
class Attempt:
    """How one attempt of a job ended; ``reason`` is Batch's text for what happened to the container."""

    started: datetime
    exit_code: int | None = None
    reason: str = ""
    status_reason: str = EXITED
    timed_out: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether the container ran and left with 0."""
        return self.exit_code == 0 and not self.timed_out


@dataclass
class Run:
    """What runs for a job now."""

    container: Any = None
    retry: dict[str, Any] = field(default_factory=dict)
    attempt: Attempt | None = None


def install(environments: Environments, containers: Containers) -> None:
    """Hook the running of jobs."""
    runner = Runner(environments, containers)
    around(Job, "start", runner.start)
    around(Job, "run", runner.run)
    around(Job, "terminate", runner.terminate)
    around(Job, "_container_details", runner.details)
    around(BatchResponse, "submitjob", runner.submit)


class Runner:
    """Runs each job in the thread that moto gives it."""

    def __init__(self, environments: Environments, containers: Containers) -> None:
        self._environments = environments
        self._containers = containers
        self._runs: dict[str, Run] = {}

    def submit(self, proceed: Hook, response: Any) -> str:
        """SubmitJob: keep the retry strategy, which moto drops, for the jobs that it starts."""
        token = _RETRY.set(response._get_param("retryStrategy"))
        try:
            answer: str = proceed()
        finally:
            _RETRY.reset(token)
        return answer

    def start(self, proceed: Hook, job: Any) -> None:
        """Let a job begin, in the thread of SubmitJob; an array has one for each of its children."""
        self._of(job.job_id).retry = _RETRY.get() or {}
        proceed()

    def run(self, proceed: Hook, job: Any) -> None:
        """Take a job from SUBMITTED to its end."""
        try:
            self._run(job)
        except Exception:  # the top of a thread: whatever it was, the job must end, or it would stay RUNNING for ever
            log.exception("job %s: the local cloud failed to run it", job.job_id)
            self._finish(job, Attempt(datetime.now(), status_reason="The local cloud failed; its server.log says why"))

    def terminate(self, proceed: Hook, job: Any, reason: str) -> None:
        """TerminateJob: the container is killed, the given reason stays."""
        proceed(reason)
        if (container := self._of(job.job_id).container) is not None:
            self._containers.kill(container)

    def details(self, proceed: Hook, job: Any) -> dict[str, Any]:
        """Describe the container of a job, with how it ended."""
        spec = JobSpec.of(job)
        details = {
            "image": spec.image,
            "command": spec.command,
            "environment": [{"name": name, "value": value} for name, value in spec.environment.items()],
            "volumes": spec.volumes,
            "mountPoints": spec.mount_points,
            "resourceRequirements": spec.requirements,
            "privileged": False,
        }
        attempt = self._of(job.job_id).attempt
        known = {
            "logStreamName": job.log_stream_name,
            "exitCode": attempt.exit_code if attempt else None,
            "reason": attempt.reason if attempt else None,
        }
        return details | {name: value for name, value in known.items() if value not in (None, "")}

    def _of(self, job_id: str) -> Run:
        return self._runs.setdefault(job_id, Run())

    def _run(self, job: Any) -> None:
        job.status = JobStatus.PENDING
        if job.depends_on and not job._wait_for_dependencies():
            return
        run = self._of(job.job_id)
        last = Attempt(datetime.now())
        for number in range(1, self._attempts(job) + 1):
            job.status = JobStatus.RUNNABLE
            host = self._await_host(job)
            if host is None:
                last.status_reason = job.job_stopped_reason
                break
            job.status = JobStatus.STARTING
            run.attempt = last = self._attempt(job, run, host, number)
            job.attempts.append(_described(job, last))
            if last.succeeded or last.timed_out or job.stop or not self._again(job, last):
                break
        self._finish(job, last)

    def _await_host(self, job: Any) -> Host | None:
        """Wait for an environment that can run the job; None when the job was terminated meanwhile."""
        said = ""
        while not job.stop:
            enabled = [one for one in job.job_queue.environments if one.state == "ENABLED"]
            for environment in enabled if job.job_queue.state == "ENABLED" else []:
                if self._environments.status(job.backend, environment)[0] == "VALID":
                    try:
                        return self._environments.host(job.backend, environment)
                    except ClientException as problem:
                        if problem.message != said:
                            log.info("job %s waits for a host of %s: %s", job.job_id, environment.name, problem.message)
                        said = problem.message
            time.sleep(_POLL)
        return None

    def _attempt(self, job: Any, run: Run, host: Host, number: int) -> Attempt:
        """Run the container once, following its output into CloudWatch Logs."""
        attempt = Attempt(datetime.now())
        try:
            run.container, notes = self._containers.create(job.job_id, JobSpec.of(job), host, number)
            job.log_stream_name = f"{job.job_definition.name}/default/{uuid.uuid4().hex}"
            job._log_backend.ensure_log_group(LOG_GROUP)
            job._log_backend.ensure_log_stream(LOG_GROUP, job.log_stream_name)
            self._write(job, [(int(time.time() * 1000), note) for note in notes])
            self._containers.start(run.container)
        except JobFailedError as problem:
            attempt.reason, attempt.status_reason = str(problem), "Task failed to start"
            self._remove(run)
            return attempt
        attempt.started = job.job_started_at = datetime.now()
        job.status = JobStatus.RUNNING
        timer = self._timer(job, run.container, attempt)
        try:
            if job.stop:
                self._containers.kill(run.container)
            for lines in self._containers.follow(run.container):
                self._write(job, lines)
            attempt.exit_code, attempt.reason = self._containers.outcome(run.container)
        finally:
            timer.cancel()
            self._remove(run)
        if job.stop:
            attempt.status_reason = job.job_stopped_reason
        return attempt

    def _timer(self, job: Any, container: Any, attempt: Attempt) -> Timer:
        def expire() -> None:
            attempt.timed_out, attempt.status_reason = True, TIMED_OUT
            self._containers.kill(container)

        seconds = job._get_attempt_duration()
        timer = Timer(seconds or 0, expire)
        timer.daemon = True
        if seconds:
            timer.start()
        return timer

    def _remove(self, run: Run) -> None:
        if run.container is not None:
            self._containers.remove(run.container)
            run.container = None

    def _strategy(self, job: Any) -> dict[str, Any]:
        return self._of(job.job_id).retry or job.job_definition.retry_strategy or {}

    def _attempts(self, job: Any) -> int:
        return int(self._strategy(job).get("attempts", 1))

    def _again(self, job: Any, attempt: Attempt) -> bool:
        """Decide by ``evaluateOnExit``: the first rule that matches; without a match the job is retried."""
        for rule in self._strategy(job).get("evaluateOnExit", []):
            exit_code = "" if attempt.exit_code is None else str(attempt.exit_code)
            values = {"onExitCode": exit_code, "onReason": attempt.reason, "onStatusReason": attempt.status_reason}
            if all(matches(rule[name], value) for name, value in values.items() if name in rule):
                return bool(rule["action"].lower() == "retry")
        return True

    def _finish(self, job: Any, attempt: Attempt) -> None:
        job.exit_code = attempt.exit_code
        job.job_stopped_reason = attempt.status_reason
        job._mark_stopped(success=attempt.succeeded and not job.stop)

    @staticmethod
    def _write(job: Any, lines: list[tuple[int, str]]) -> None:
        events = [{"timestamp": moment, "message": text} for moment, text in lines]
        if events:
            job._log_backend.put_log_events(LOG_GROUP, job.log_stream_name, events)


def matches(pattern: str, value: str) -> bool:
    """Compare as ``evaluateOnExit`` does: a ``*`` at the end stands for anything, nothing else is special."""
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern


def _described(job: Any, attempt: Attempt) -> dict[str, Any]:
    container = {"exitCode": attempt.exit_code, "reason": attempt.reason, "logStreamName": job.log_stream_name}
    return {
        "container": {name: value for name, value in container.items() if value not in (None, "")},
        "startedAt": int(attempt.started.timestamp() * 1000),
        "stoppedAt": int(time.time() * 1000),
        "statusReason": attempt.status_reason,
    }
