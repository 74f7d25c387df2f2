"""One real job on what is released: submitted, followed, its log read."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from splitbake import contract
from splitbake.cloud import Cloud, aws_errors, error_code
from splitbake.errors import CloudError, ReleaseError, SplitbakeError
from splitbake.manifest import Smoke
from splitbake.project import Project
from splitbake.release.live import Live
from splitbake.release.targets.batch_job_definition import read as read_definition
from splitbake.ui import Say

_ENDED = {"SUCCEEDED", "FAILED"}
#: Where AWS Batch writes a job's lines unless its definition says otherwise (Batch user guide).
_LOG_GROUP = "/aws/batch/job"
#: Seconds for the last lines to arrive in CloudWatch Logs after a job has ended.
_LOG_LAG = 5.0
_REPAIR = "repair the image or the models, build, verify, release, and try again"
_WRONG_HOST = (
    "the host is not of the released AMI: does the queue's compute environment boot it? it must be a target as well "
    "(batch_compute_environment), or its hosts keep the version of the launch template that they have"
)
#: How many lines of the log a failure shows.
_LAST = 15


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Attributes:
        id: the job's.
        definition: the revision that it ran, ``name:revision``.
        image: the image of that revision.
        status: ``SUCCEEDED`` (any other end is an error).
        exit_code: of the container; None where it never started.
        seconds: from submitting to the end.
        log: its lines.
        result: the last line, where that is a JSON object.
    """

    id: str
    definition: str
    image: str
    status: str
    exit_code: int | None
    seconds: float
    log: tuple[str, ...]
    result: dict[str, Any] | None

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return dataclasses.asdict(self)


def smoke(project: Project, cloud: Cloud, say: Say) -> JobResult:
    """Run the environment's smoke job on the latest revision of its definition.

    Raises:
        GuardError: the credentials are not the environment's.
        ReleaseError: there is no queue or definition, the job failed, or did not end in time (it is terminated
            then, and on an interrupt).
        CloudError: AWS cannot be asked.
    """
    spec = cloud.environment.smoke
    if spec is None:
        raise ReleaseError(
            f"environment {cloud.name!r} has no smoke job", hint="describe one below smoke in the environment"
        )
    cloud.guard()
    live = Live(cloud, pause=1.0)
    _require_queue(live, spec.queue)
    revision = read_definition(live, spec.job_definition)
    image = _image(revision)
    definition = f"{revision['jobDefinitionName']}:{revision['revision']}"
    started = time.monotonic()
    job_id = _submit(live, spec, definition, f"{project.manifest.project}-smoke")
    with _terminating(live, job_id):
        say(f"job {job_id} of {definition} on queue {spec.queue}")
        job, log = _follow(live, job_id, started + spec.within, say)
    container = job.get("container", {})
    result = JobResult(
        id=job_id,
        definition=definition,
        image=image,
        status=job["status"],
        exit_code=container.get("exitCode"),
        seconds=round(time.monotonic() - started, 1),
        log=tuple(log),
        result=_result(log),
    )
    if result.status != "SUCCEEDED":
        raise _failure(result, job)
    return result


def _require_queue(live: Live, name: str) -> None:
    found = live.call("batch", "DescribeJobQueues", f"read job queue {name}", jobQueues=[name])["jobQueues"]
    if not found:
        raise ReleaseError(
            f"there is no Batch job queue {name!r} in environment {live.where}",
            hint="create it, or correct smoke.queue in the manifest",
        )
    if found[0]["state"] != "ENABLED":
        raise ReleaseError(f"job queue {name!r} is {found[0]['state']}", hint="enable it, or name another one")


def _image(revision: Mapping[str, Any]) -> str:
    """Return the image that a revision runs.

    Raises:
        ReleaseError: it is not of one container.
    """
    container = revision.get("containerProperties")
    if container is None:
        raise ReleaseError(
            f"job definition {revision['jobDefinitionName']!r} (revision {revision['revision']}) has no container",
            hint="name a job definition of type container in smoke.job_definition",
        )
    return str(container["image"])


def _submit(live: Live, spec: Smoke, definition: str, name: str) -> str:
    """Submit by explicit revision: a bare name may mean another one a moment later."""
    urls = {variable: _presign(live.cloud, uri, spec.within) for variable, uri in spec.presign.items()}
    environment = [{"name": key, "value": value} for key, value in {**spec.environment, **urls}.items()]
    answer = live.call(
        "batch",
        "SubmitJob",
        f"submit a job to queue {spec.queue}",
        jobName=name,
        jobQueue=spec.queue,
        jobDefinition=definition,
        containerOverrides={"environment": environment},
    )
    return str(answer["jobId"])


def _presign(cloud: Cloud, uri: str, within: int) -> str:
    """Return a URL with which the job can read ``uri`` for as long as it may take.

    Raises:
        ReleaseError: there is no such object.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client = cloud.client("s3")
    try:
        with aws_errors(f"find {uri}"):
            client.head_object(Bucket=bucket, Key=key)
    except CloudError as problem:
        if error_code(problem) not in {"404", "NoSuchKey", "NoSuchBucket"}:
            raise
        raise ReleaseError(f"{uri} does not exist", hint="upload it, or correct smoke.presign") from problem
    return str(client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=within))


@contextmanager
def _terminating(live: Live, job_id: str) -> Iterator[None]:
    """End the job where following it ends early: on a timeout, an error, an interrupt.

    Raises:
        ReleaseError: it could not be ended, so it may run on.
    """
    try:
        yield
    except BaseException as problem:
        reason = "the smoke test gave up on it"
        try:
            live.call("batch", "TerminateJob", f"terminate job {job_id}", jobId=job_id, reason=reason)
        except CloudError as lost:
            why = problem.message if isinstance(problem, SplitbakeError) else "interrupted"
            raise ReleaseError(
                f"{why}; and job {job_id} may run on: {lost.message}", hint=f"terminate job {job_id} by hand"
            ) from problem
        raise


def _follow(live: Live, job_id: str, end: float, say: Say) -> tuple[dict[str, Any], list[str]]:
    """Return the job as it ended, and its lines; both are told as they come."""
    log = _Log(live)
    status = ""
    while True:
        job = _describe(live, job_id)
        if job["status"] != status:
            status = job["status"]
            say(status)
        for line in log.read(job):
            say(line)
        if status in _ENDED:
            for line in log.rest(job):
                say(line)
            return job, log.lines
        if time.monotonic() > end:
            raise ReleaseError(
                f"job {job_id} is {status} and has not ended in time: {job.get('statusReason', 'no reason given')}",
                hint="raise smoke.within" if log.lines else "does the queue's compute environment get hosts up?",
            )
        time.sleep(live.pause)


def _describe(live: Live, job_id: str) -> dict[str, Any]:
    found = live.call("batch", "DescribeJobs", f"follow job {job_id}", jobs=[job_id])["jobs"]
    job: dict[str, Any] = (
        found[0] if found else {"jobId": job_id, "status": "SUBMITTED"}
    )  # not to be read everywhere yet
    return job


class _Log:
    """The lines of a job; each attempt has a stream of its own."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._stream = ""
        self._token: dict[str, str] = {}
        self.lines: list[str] = []

    def read(self, job: dict[str, Any]) -> list[str]:
        """Return the lines that came since the last call."""
        container = job.get("container", {})
        stream = container.get("logStreamName", "")
        if not stream:
            return []
        if stream != self._stream:
            self._stream, self._token = stream, {}
        options = container.get("logConfiguration", {}).get("options", {})
        try:
            answer = self._live.call(
                "logs",
                "GetLogEvents",
                f"read the log of job {job['jobId']}",
                logGroupName=options.get("awslogs-group", _LOG_GROUP),
                logStreamName=stream,
                startFromHead=True,
                **self._token,
            )
        except CloudError as problem:
            if error_code(problem) == "ResourceNotFoundException":
                return []  # the stream comes with the first line
            raise
        self._token = {"nextToken": answer["nextForwardToken"]}
        new = [event["message"] for event in answer["events"]]
        self.lines += new
        return new

    def rest(self, job: dict[str, Any]) -> Iterator[str]:
        """Yield what is still to come from a job that has ended: lines arrive some seconds late.

        A quiet moment after a result is the end; without a result there is no telling, so the time is used up.
        """
        end = time.monotonic() + _LOG_LAG
        while time.monotonic() < end:
            new = self.read(job)
            yield from new
            if not new and _result(self.lines) is not None:
                return
            time.sleep(self._live.pause)


def _result(log: list[str]) -> dict[str, Any] | None:
    try:
        last = json.loads(log[-1]) if log else None
    except ValueError:
        return None
    return last if isinstance(last, dict) else None


def _failure(result: JobResult, job: dict[str, Any]) -> ReleaseError:
    container = job.get("container", {})
    reason = container.get("reason") or job.get("statusReason") or "no reason given"
    code = "it never started" if result.exit_code is None else f"exit code {result.exit_code}"
    log = "\n".join(f"  {line}" for line in result.log[-_LAST:]) or "  (no line)"
    return ReleaseError(
        f"job {result.id} of {result.definition} {result.status}: {reason} ({code}); its last lines:\n{log}",
        hint=_WRONG_HOST if result.exit_code == contract.REFUSED else _REPAIR,
    )
