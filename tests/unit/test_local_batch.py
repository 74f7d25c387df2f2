"""Batch's rules that need no engine: how often a job is tried, and what its container is told."""

from __future__ import annotations

import time
from types import SimpleNamespace

import boto3
import pytest
from moto import mock_aws
from moto.batch.models import Job
from moto.batch.responses import BatchResponse

from splitbake.local import jobs
from splitbake.local.containers import Containers
from splitbake.local.hosts import Host
from splitbake.local.state import Cloud

HOOKED = {Job: ("start", "run", "terminate", "_container_details"), BatchResponse: ("submitjob",)}
HOST = Host("ami-1", "image", "environment")


class Failing:
    """Containers that end with 1."""

    def create(self, job_id, spec, host, attempt):
        return SimpleNamespace(), []

    def start(self, container):
        return

    remove = kill = start

    def follow(self, container):
        return iter([])

    def outcome(self, container):
        return 1, ""


@pytest.fixture
def batch(monkeypatch):
    for owner, names in HOOKED.items():
        for name in names:  # what a hook replaces comes back after the test
            monkeypatch.setattr(owner, name, getattr(owner, name))
    environments = SimpleNamespace(status=lambda *_: ("VALID", ""), host=lambda *_: HOST)
    with mock_aws():
        jobs.install(environments, Failing())
        session = boto3.Session("x", "x", region_name="us-east-1")
        role = session.client("iam").create_role(RoleName="batch", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        client = session.client("batch")
        arn = client.create_compute_environment(
            computeEnvironmentName="environment", type="UNMANAGED", state="ENABLED", serviceRole=role
        )["computeEnvironmentArn"]
        order = [{"order": 1, "computeEnvironment": arn}]
        client.create_job_queue(jobQueueName="queue", state="ENABLED", priority=1, computeEnvironmentOrder=order)
        client.register_job_definition(
            jobDefinitionName="failing",
            type="container",
            retryStrategy={"attempts": 2},
            containerProperties={"image": "i", "vcpus": 1, "memory": 128, "command": ["false"]},
        )
        yield client


def attempts(batch, *job_ids):
    """How often each job was tried, once all have ended."""
    while True:
        found = batch.describe_jobs(jobs=[*job_ids])["jobs"]
        if all(one["status"] == "FAILED" for one in found):
            return [len(one["attempts"]) for one in found]
        time.sleep(0.01)


def submit(batch, **options):
    return batch.submit_job(jobName="job", jobQueue="queue", jobDefinition="failing", **options)["jobId"]


def test_submit_job_decides_how_often_its_jobs_are_tried(batch):
    thrice = {"retryStrategy": {"attempts": 3}}
    assert attempts(batch, submit(batch, **thrice)) == [3]
    parent = submit(batch, arrayProperties={"size": 2}, **thrice)
    assert attempts(batch, f"{parent}:0", f"{parent}:1") == [3, 3]
    assert attempts(batch, submit(batch)) == [2], "as the definition says"


@pytest.mark.parametrize("role", [None, "arn:aws:iam::123456789012:role/job"])
def test_every_job_is_kept_from_aws_itself_and_only_a_role_gives_a_key(role, tmp_path):
    names = ("registry", "network", "gateway", "access_key", "instance_image", "python_image")
    cloud = Cloud(
        id="c1", directory=tmp_path, region="us-east-1", account="123456789012", endpoint="http://192.0.2.1:4000",
        **dict.fromkeys(names, "x"),
    )  # fmt: skip
    spec = SimpleNamespace(
        queue="queue", array_index=None, account=cloud.account, region=cloud.region, container={"jobRoleArn": role}
    )
    told = Containers(cloud, None, None)._environment("job-1", spec, HOST, 1)
    assert told["AWS_ENDPOINT_URL"] == cloud.endpoint
    assert told["AWS_EC2_METADATA_DISABLED"] == "true"
    assert ("AWS_SECRET_ACCESS_KEY" in told, "AWS_ACCESS_KEY_ID" in told) == (bool(role), bool(role))


def test_a_line_that_docker_parted_is_whole_again():
    stamp = b"2026-01-02T03:04:05.%03d000000Z "
    texts = (b"short\n", b"aaa", b"bbb", b"c\r\n", b"end")
    parts = [stamp % number + text for number, text in enumerate(texts, start=1)]
    container = SimpleNamespace(logs=lambda **_: iter(parts))
    found = [line for lines in Containers.follow(container) for line in lines]
    assert [text for _, text in found] == ["short", "aaabbbc", "end"]
    assert [moment % 1000 for moment, _ in found] == [1, 2, 5]
