"""Following one job: its lines, its result, and its end when we stop following."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from splitbake import smoke as smokes
from splitbake.cloud import Cloud
from splitbake.errors import ReleaseError
from splitbake.manifest import Environment
from splitbake.project import Project
from splitbake.release.live import Live


class Batch:
    """Answers DescribeJobs with one status after another; the last one stays."""

    def __init__(self, *jobs: dict) -> None:
        self.jobs, self.terminated = list(jobs), []

    def describe_jobs(self, jobs):
        job = self.jobs.pop(0) if len(self.jobs) > 1 else self.jobs[0]
        if isinstance(job, BaseException):
            raise job
        return {"jobs": [{"jobId": jobs[0], **job}]}

    def terminate_job(self, jobId, reason):  # noqa: N803
        self.terminated.append(jobId)


class Logs:
    """Streams of lines, one line an answer."""

    def __init__(self, **streams: list[str]) -> None:
        self.streams = streams

    def get_log_events(self, logGroupName, logStreamName, startFromHead, nextToken="0"):  # noqa: N803
        assert logGroupName == "/aws/batch/job"
        assert startFromHead
        index = int(nextToken)
        lines = self.streams[logStreamName][index : index + 1]
        return {"events": [{"message": line} for line in lines], "nextForwardToken": str(index + len(lines))}


def live(batch: Batch, logs: Logs) -> Live:
    environment = Environment(account="123456789012", region="us-east-1")
    return Live(Cloud("prod", environment, {"batch": batch, "logs": logs}), pause=0)


def job(status: str, stream: str = "") -> dict:
    return {"status": status, "container": {"logStreamName": stream} if stream else {}}


def follow(batch: Batch, logs: Logs, end: float = float("inf")):
    said: list[str] = []
    ended, log = smokes._follow(live(batch, logs), "j1", end, said.append)
    return ended["status"], log, said


def test_every_line_is_told_once_in_order_and_late_ones_too():
    batch = Batch(job("RUNNABLE"), job("RUNNING", "a"), job("SUCCEEDED", "a"))
    status, log, said = follow(batch, Logs(a=["one", "two", "three", '{"faces": 1}']))
    assert (status, log) == ("SUCCEEDED", ["one", "two", "three", '{"faces": 1}'])
    assert said == ["RUNNABLE", "RUNNING", "one", "SUCCEEDED", "two", "three", '{"faces": 1}']


def test_a_second_attempt_has_a_stream_of_its_own():
    batch = Batch(job("RUNNING", "a"), job("RUNNABLE", "a"), job("SUCCEEDED", "b"))
    _, log, _ = follow(batch, Logs(a=["mismatch"], b=["again", "{}"]))
    assert log == ["mismatch", "again", "{}"]


@pytest.mark.parametrize(
    ("log", "result"),
    [([], None), (["text"], None), (["[1]"], None), (['{"faces": 1}', "bye"], None), (["x", '{"a": 1}'], {"a": 1})],
)
def test_the_result_is_a_last_line_that_is_an_object(log, result):
    assert smokes._result(log) == result


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), ReleaseError("x")])
def test_a_job_that_is_no_longer_followed_is_terminated(problem):
    batch = Batch(problem)
    with pytest.raises(type(problem)), smokes._terminating(live(batch, Logs()), "j1"):
        follow(batch, Logs())
    assert batch.terminated == ["j1"]


def test_a_job_that_cannot_be_ended_is_told(monkeypatch):
    batch = Batch(job("RUNNING"))

    def refuse(jobId, reason):  # noqa: N803
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "TerminateJob")

    monkeypatch.setattr(batch, "terminate_job", refuse)
    told = pytest.raises(ReleaseError, match="interrupted; and job j1 may run on")
    with told as caught, smokes._terminating(live(batch, Logs()), "j1"):
        raise KeyboardInterrupt
    assert "j1" in caught.value.hint


def test_a_job_that_cannot_be_read_yet_is_waited_for(monkeypatch):
    batch = Batch(job("SUCCEEDED", "a"))
    answers = [{"jobs": []}]
    described = batch.describe_jobs
    monkeypatch.setattr(batch, "describe_jobs", lambda jobs: answers.pop() if answers else described(jobs))
    assert follow(batch, Logs(a=["{}"]))[2][:2] == ["SUBMITTED", "SUCCEEDED"]


def test_a_job_that_no_host_takes_says_where_to_look():
    with pytest.raises(ReleaseError, match="job j1 is RUNNABLE and has not ended in time") as caught:
        follow(Batch(job("RUNNABLE")), Logs(), end=0)
    assert "hosts" in caught.value.hint


def test_an_environment_without_a_smoke_job_is_told(tmp_path):
    environment = Environment(account="123456789012", region="us-east-1")
    with pytest.raises(ReleaseError, match="environment 'prod' has no smoke job"):
        smokes.smoke(Project(tmp_path / "splitbake.yaml"), Cloud("prod", environment), print)


@pytest.mark.parametrize(("code", "hint"), [(78, "compute environment"), (1, "repair the image")])
def test_a_job_that_its_host_could_not_serve_hints_at_the_host(code, hint):
    result = smokes.JobResult(
        id="j1",
        definition="faces:1",
        image="faces",
        status="FAILED",
        exit_code=code,
        seconds=1.0,
        log=("one line",),
        result=None,
    )
    assert hint in smokes._failure(result, {}).hint
