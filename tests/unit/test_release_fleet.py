"""Reading a compute environment: every AMI source is found, and the AMIs of the hosts that really run."""

from __future__ import annotations

import boto3
import pytest
from botocore.stub import Stubber

from splitbake.cloud import Cloud
from splitbake.errors import ReleaseError
from splitbake.manifest import Environment
from splitbake.release import fleet as fleets
from splitbake.release.live import Live

ARN = "arn:aws:batch:us-east-1:123456789012:compute-environment/gpu"
CLUSTER = "arn:aws:ecs:us-east-1:123456789012:cluster/gpu_Batch"
OVERRIDE = {"launchTemplateId": "lt-2", "version": "7", "targetInstanceTypes": ["p5.48xlarge"]}


class Site:
    """Stubbed clients; an unexpected call is an error."""

    def __init__(self, *services: str) -> None:
        self.clients = {service: boto3.client(service, region_name="us-east-1") for service in services}
        self.stubs = {service: Stubber(client) for service, client in self.clients.items()}
        for stub in self.stubs.values():
            stub.activate()
        environment = Environment(account="123456789012", region="us-east-1")
        self.live = Live(Cloud("prod", environment, dict(self.clients)), pause=0)

    def answer(self, service: str, method: str, response: dict, **expected) -> None:
        self.stubs[service].add_response(method, response, expected or None)

    def environment(self, **resources) -> None:
        described = {
            "computeEnvironmentName": "gpu",
            "computeEnvironmentArn": ARN,
            "ecsClusterArn": CLUSTER,
            "status": "VALID",
            "computeResources": {"type": "EC2", "maxvCpus": 4, "subnets": [], **resources},
        }
        self.answer("batch", "describe_compute_environments", {"computeEnvironments": [described]})

    def template(self, version: str, identifier: str, data: dict) -> None:
        answer = {"LaunchTemplateVersions": [{"LaunchTemplateId": identifier, "LaunchTemplateData": data}]}
        expected = {"LaunchTemplateId": identifier, "Versions": [version]}
        self.answer("ec2", "describe_launch_template_versions", answer, **expected)


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


def test_every_other_ami_source_and_running_job_is_found():
    site = Site("batch", "ec2")
    site.environment(
        imageId="ami-1",
        ec2Configuration=[{"imageType": "ECS_AL2"}, {"imageType": "ECS_AL2_NVIDIA", "imageIdOverride": "ami-2"}],
        launchTemplate={"launchTemplateId": "lt-1", "overrides": [OVERRIDE, {**OVERRIDE, "launchTemplateId": "lt-3"}]},
    )
    site.template("$Default", "lt-1", {"ImageId": "ami-3"})
    site.template("7", "lt-2", {"ImageId": "ami-4"})
    site.template("7", "lt-3", {"KeyName": "no AMI"})
    queue = {"jobQueueArn": "q", "state": "ENABLED", "priority": 1}
    queues = [
        {**queue, "jobQueueName": "own", "computeEnvironmentOrder": [{"order": 1, "computeEnvironment": ARN}]},
        {**queue, "jobQueueName": "other", "computeEnvironmentOrder": [{"order": 1, "computeEnvironment": "x"}]},
    ]
    site.answer("batch", "describe_job_queues", {"jobQueues": queues})
    jobs = {"jobSummaryList": [{"jobId": "1", "jobName": "a"}, {"jobId": "2", "jobName": "b"}]}
    site.answer("batch", "list_jobs", jobs, jobQueue="own", jobStatus="RUNNING")

    fleet = fleets.read(site.live, "gpu")
    assert fleet.template_id == "lt-1"
    assert fleet.other_sources == (
        "imageId",
        "ec2Configuration.imageIdOverride (ECS_AL2_NVIDIA)",
        "launchTemplate.overrides (p5.48xlarge)",
    )
    assert fleet.running_jobs == 2


def test_a_missing_environment_is_told():
    site = Site("batch")
    site.answer("batch", "describe_compute_environments", {"computeEnvironments": []})
    with pytest.raises(ReleaseError, match=r"no Batch compute environment 'gpu' in environment 'prod' \(region us"):
        fleets.read(site.live, "gpu")


def test_the_amis_of_active_hosts_are_told_and_draining_ones_left_out():
    site = Site("batch", "ecs", "ec2")
    site.environment()
    site.answer("ecs", "list_container_instances", {"containerInstanceArns": ["a", "b"]}, cluster=CLUSTER)
    hosts = [{"ec2InstanceId": "i-1", "status": "ACTIVE"}, {"ec2InstanceId": "i-2", "status": "DRAINING"}]
    site.answer("ecs", "describe_container_instances", {"containerInstances": hosts})
    instances = {"Reservations": [{"Instances": [{"InstanceId": "i-1", "ImageId": "ami-9"}]}]}
    site.answer("ec2", "describe_instances", instances, InstanceIds=["i-1"])
    assert fleets.running_amis(site.live, "gpu") == {"ami-9"}


def test_no_host_is_no_ami():
    site = Site("batch", "ecs")
    site.environment()
    site.answer("ecs", "list_container_instances", {"containerInstanceArns": []})
    assert fleets.running_amis(site.live, "gpu") == set()
