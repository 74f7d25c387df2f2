"""Batch in the local cloud: what a release relies on, and jobs as real containers on their AMI's files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from splitbake.local.disks import loops
from splitbake.local.engine import connect

pytestmark = pytest.mark.engine


def until(read, wanted, seconds=60):
    deadline = time.monotonic() + seconds
    while (value := read()) not in wanted:
        assert time.monotonic() < deadline, f"still {value}"
        time.sleep(0.1)
    return value


class Batch:
    """A compute environment on a launch template, and a queue on it."""

    def __init__(self, aws, prefix, ami):
        self.batch, self.ec2, self.logs, self.iam = aws("batch"), aws("ec2"), aws("logs"), aws("iam")
        self.name = prefix
        self.iam.create_instance_profile(InstanceProfileName=prefix)
        self.iam.create_role(RoleName=prefix, AssumeRolePolicyDocument="{}")
        self.iam.add_role_to_instance_profile(InstanceProfileName=prefix, RoleName=prefix)
        self.profile = self.iam.get_instance_profile(InstanceProfileName=prefix)["InstanceProfile"]["Arn"]
        self.template = self.ec2.create_launch_template(LaunchTemplateName=prefix, LaunchTemplateData={"ImageId": ami})[
            "LaunchTemplate"
        ]["LaunchTemplateId"]
        subnets = self.ec2.describe_subnets()["Subnets"]
        groups = self.ec2.describe_security_groups(GroupNames=["default"])["SecurityGroups"]
        self.batch.create_compute_environment(
            computeEnvironmentName=prefix,
            type="MANAGED",
            computeResources={
                "type": "EC2",
                "allocationStrategy": "BEST_FIT_PROGRESSIVE",
                "minvCpus": 0,
                "maxvCpus": 16,
                "instanceTypes": ["g5.xlarge"],
                "subnets": [subnets[0]["SubnetId"]],
                "securityGroupIds": [groups[0]["GroupId"]],
                "instanceRole": self.profile,
                "launchTemplate": {
                    "launchTemplateId": self.template,
                    "version": "1",
                    "overrides": [{"targetInstanceTypes": ["g5.2xlarge"], "launchTemplateId": self.template}],
                },
            },
        )
        self.batch.create_job_queue(
            jobQueueName=prefix, priority=1, computeEnvironmentOrder=[{"order": 1, "computeEnvironment": prefix}]
        )

    def environment(self):
        return self.batch.describe_compute_environments(computeEnvironments=[self.name])["computeEnvironments"][0]

    def status(self):
        return self.environment()["status"]

    def register(self, name, **container):
        needs = [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "128"}]
        return self.batch.register_job_definition(
            jobDefinitionName=name,
            type="container",
            **{key: container.pop(key) for key in ("retryStrategy", "timeout", "parameters") if key in container},
            containerProperties={"resourceRequirements": needs} | container,
        )

    def job(self, job_id):
        return self.batch.describe_jobs(jobs=[job_id])["jobs"][0]

    def submit(self, definition, **options):
        return self.batch.submit_job(jobName="job", jobQueue=self.name, jobDefinition=definition, **options)["jobId"]

    def run(self, definition, **options):
        job_id = self.submit(definition, **options)
        until(lambda: self.job(job_id)["status"], {"SUCCEEDED", "FAILED"})
        return self.job(job_id)

    def log(self, job):
        stream = job["container"]["logStreamName"]
        events = self.logs.get_log_events(logGroupName="/aws/batch/job", logStreamName=stream, startFromHead=True)
        return [event["message"] for event in events["events"]]


@pytest.fixture(scope="module")
def ami(cloud, aws, base_ami):
    """An AMI of ours with a model in it."""
    ec2 = aws("ec2")
    instance = ec2.run_instances(ImageId=base_ami, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    container = connect().containers.get(f"splitbake-{cloud.id}-{instance}")
    script = (
        "mkdir -p /opt/dl-models/models && echo weights >/opt/dl-models/models/a.bin && chmod -R 755 /opt/dl-models"
        " && mkdir /opt/beside && touch /opt/beside/file && ln -s beside /opt/link"
    )
    assert container.exec_run(["sh", "-c", script]).exit_code == 0
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    made = ec2.create_image(InstanceId=instance, Name="batch-models")["ImageId"]
    ec2.get_waiter("image_available").wait(ImageIds=[made], WaiterConfig={"Delay": 1})
    ec2.terminate_instances(InstanceIds=[instance])
    return made


@pytest.fixture(scope="module")
def batch(aws, ami):
    return Batch(aws, "jobs", ami)


UNIT = """
[Unit]
Description=Models
[Mount]
What=/dev/disk/by-label/dl-models
Where=/opt/dl-models
Type=ext4
Options=ro,noload
"""
REQUIRES = """
[Unit]
RequiresMountsFor=/opt/dl-models
"""
FILL = """
mkfs.ext4 -q -L dl-models /dev/sdf && mkdir -p /opt/dl-models && mount /dev/sdf /opt/dl-models && cd /opt/dl-models
mkdir models && echo weights >models/a.bin && ln -s models link && ln -s /etc escape && ln -s ../../etc/passwd file
mkdir -p /opt/beside && echo beside >/opt/beside/a && ln -s /opt/dl-models/models /opt/to-volume
cd / && umount /opt/dl-models
mkdir -p /etc/systemd/system/docker.service.d
"""


@pytest.fixture(scope="module")
def volume_ami(cloud, aws, base_ami):
    """An AMI whose models are on a volume of their own, without which its host takes no jobs."""
    ec2 = aws("ec2")
    sizes = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1}}]
    started = ec2.run_instances(ImageId=base_ami, MinCount=1, MaxCount=1, BlockDeviceMappings=sizes)["Instances"]
    instance = started[0]["InstanceId"]
    container = connect().containers.get(f"splitbake-{cloud.id}-{instance}")
    files = {"opt-dl\\x2dmodels.mount": UNIT, "docker.service.d/50-models.conf": REQUIRES}
    written = "".join(f"cat >'/etc/systemd/system/{name}' <<'EOF'\n{text}EOF\n" for name, text in files.items())
    done = container.exec_run(["sh", "-euc", FILL + written])
    assert done.exit_code == 0, done.output.decode()
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    made = ec2.create_image(InstanceId=instance, Name="batch-volume")["ImageId"]
    ec2.get_waiter("image_available").wait(ImageIds=[made], WaiterConfig={"Delay": 1})
    ec2.terminate_instances(InstanceIds=[instance])
    return made


@pytest.fixture(scope="module")
def on_volume(aws, volume_ami):
    return Batch(aws, "volumes", volume_ami)


def mounted(batch, image, name, path, script):
    """Register a job that runs ``script`` with the host's ``path`` at /host."""
    return batch.register(
        name, image=image, command=["sh", "-c", script],
        volumes=[{"name": "v", "host": {"sourcePath": path}}],
        mountPoints=[{"sourceVolume": "v", "containerPath": "/host"}],
    )  # fmt: skip


def held(cloud):
    """What is there of the hosts of jobs: loop devices, Docker volumes, containers."""
    client, mine = connect(), [f"splitbake.cloud={cloud.id}", "splitbake.host"]
    containers = client.containers.list(all=True, filters={"label": mine})
    return [*loops(cloud.id), *containers, *client.volumes.list(filters={"label": mine})]


def test_jobs_see_the_volume_of_their_ami_read_only_and_leave_nothing_mounted(on_volume, image, cloud):
    script = "cat /host/a.bin; touch /host/b || echo read-only; grep ' /host ' /proc/mounts; sleep 2"
    mounted(on_volume, image, "on-volume", "/opt/dl-models/models", script)
    first, second = on_volume.submit("on-volume"), on_volume.submit("on-volume")
    for job_id in (first, second):
        until(lambda job_id=job_id: on_volume.job(job_id)["status"], {"RUNNING", "SUCCEEDED"})
    assert len(list(loops(cloud.id))) == 1, "jobs on one host share what it has mounted"
    for job_id in (first, second):
        until(lambda job_id=job_id: on_volume.job(job_id)["status"], {"SUCCEEDED", "FAILED"})
        lines = on_volume.log(on_volume.job(job_id))
        assert {"weights", "read-only"} <= set(lines)
        assert [line.split()[2] for line in lines if line.startswith("/dev/loop")] == ["ext4"]
    assert held(cloud) == []


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/opt/dl-models", ["a.bin"]),
        ("/opt", ["a.bin"]),
        ("/opt/dl-models/link", ["a.bin"]),
        ("/opt/to-volume", ["a.bin"]),
        ("/opt/beside/../dl-models", ["a.bin"]),
        ("/opt/beside", []),
    ],
)
def test_a_path_leads_where_it_would_on_the_host(on_volume, image, path, told):
    mounted(on_volume, image, "paths", path, "find /host -name a.bin | xargs -r -n 1 basename")
    job = on_volume.run("paths")
    assert job["status"] == "SUCCEEDED", job
    assert on_volume.log(job) == told


@pytest.mark.parametrize("path", ["/opt/dl-models/escape", "/opt/dl-models/nothing"])
def test_a_link_on_a_volume_leads_to_no_path_of_this_machine(on_volume, image, path, cloud):
    mounted(on_volume, image, "escape", path, "ls /host; cat /host/hostname")
    job = on_volume.run("escape")
    seen = on_volume.log(job) if "logStreamName" in job["container"] else []
    if path.endswith("escape"):
        assert "sudoers.d" in seen, "it is the AMI's own /etc"
        assert Path("/etc/hostname").read_text().strip() not in seen
    else:
        assert job["attempts"][0]["container"]["reason"].startswith("CannotCreateContainerError"), job
    assert held(cloud) == []


def test_the_launch_template_decides_which_snapshot_is_mounted(aws, on_volume, volume_ami, image, cloud):
    ec2, name = aws("ec2"), "overridden"
    source = ec2.describe_images(ImageIds=[volume_ami])["Images"][0]["BlockDeviceMappings"][1]["Ebs"]["SnapshotId"]
    started = ec2.run_instances(ImageId=volume_ami, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    container = connect().containers.get(f"splitbake-{cloud.id}-{started}")
    script = "mount /dev/sdf /mnt && echo newer >/mnt/models/a.bin && umount /mnt"
    done = container.exec_run(["sh", "-c", script])
    assert done.exit_code == 0, done.output.decode()
    by_instance = [
        {"Name": "attachment.instance-id", "Values": [started]},
        {"Name": "attachment.device", "Values": ["/dev/sdf"]},
    ]
    volume = ec2.describe_volumes(Filters=by_instance)["Volumes"][0]["VolumeId"]
    newer = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    ec2.terminate_instances(InstanceIds=[started])
    batch = Batch(aws, name, volume_ami)
    mappings = {
        "2": {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": newer}},
        "3": {"DeviceName": "/dev/sdf", "NoDevice": ""},
        "4": {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": source}},
    }
    mounted(batch, image, name, "/opt/dl-models/models", "cat /host/a.bin")
    for version, mapping in mappings.items():
        data = {"ImageId": volume_ami, "BlockDeviceMappings": [mapping]}
        ec2.create_launch_template_version(LaunchTemplateId=batch.template, LaunchTemplateData=data)
        new = {"launchTemplate": {"launchTemplateId": batch.template, "version": version}}
        batch.batch.update_compute_environment(computeEnvironment=name, computeResources=new)
        until(batch.status, {"VALID"})
        if version != "3":
            assert batch.log(batch.run(name)) == [{"2": "newer", "4": "weights"}[version]]
            continue
        job_id = batch.submit(name)
        time.sleep(1.5)
        assert batch.job(job_id)["status"] == "RUNNABLE", "a host without its models takes no jobs"
        assert "no volume is labelled dl-models" in cloud.log.read_text()
        batch.batch.terminate_job(jobId=job_id, reason="gave up")
        until(lambda job_id=job_id: batch.job(job_id)["status"], {"FAILED"})
    ec2.delete_snapshot(SnapshotId=newer)
    assert held(cloud) == []


@pytest.fixture(scope="module")
def image(cloud):
    return f"{cloud.registry}/docker-hub/library/python:3.11-slim"


def test_a_managed_environment_starts_no_instance(batch, aws):
    assert until(batch.status, {"VALID"}) == "VALID"
    states = [one["State"]["Name"] for r in aws("ec2").describe_instances()["Reservations"] for one in r["Instances"]]
    assert "running" not in states
    assert batch.environment()["serviceRole"].endswith("AWSServiceRoleForBatch")


def test_a_job_sees_the_files_of_its_ami_read_only(batch, image):
    batch.register(
        "mounted",
        image=image,
        command=[
            "sh",
            "-c",
            "cat /workspace/models/a.bin; touch /workspace/models/b || echo read-only; echo Ref::who $X",
        ],
        parameters={"who": "nobody"},
        environment=[{"name": "X", "value": "1"}],
        volumes=[{"name": "models", "host": {"sourcePath": "/opt/dl-models/models"}}],
        mountPoints=[{"sourceVolume": "models", "containerPath": "/workspace/models", "readOnly": True}],
    )
    job = batch.run(
        "mounted", parameters={"who": "me"}, containerOverrides={"environment": [{"name": "X", "value": "2"}]}
    )
    assert job["status"] == "SUCCEEDED", job
    assert job["container"]["exitCode"] == 0
    lines = batch.log(job)
    assert {"weights", "read-only", "me 2"} <= set(lines)


def test_a_failing_job_says_its_exit_code_and_is_retried_by_rule(batch, image):
    rules = [{"onExitCode": "78", "action": "RETRY"}, {"onExitCode": "*", "action": "EXIT"}]
    batch.register(
        "failing", image=image, command=["sh", "-c", "exit $CODE"],
        environment=[{"name": "CODE", "value": "78"}], retryStrategy={"attempts": 2, "evaluateOnExit": rules},
    )  # fmt: skip
    job = batch.run("failing")
    assert (job["status"], job["container"]["exitCode"], len(job["attempts"])) == ("FAILED", 78, 2)
    assert job["statusReason"] == "Essential container in task exited"
    other = batch.run("failing", containerOverrides={"environment": [{"name": "CODE", "value": "3"}]})
    assert (other["container"]["exitCode"], len(other["attempts"])) == (3, 1)


def test_submit_job_decides_how_often_its_jobs_are_tried(batch, image):
    batch.register("failing", image=image, command=["false"])
    assert len(batch.run("failing", retryStrategy={"attempts": 2})["attempts"]) == 2
    parent = batch.submit("failing", retryStrategy={"attempts": 2}, arrayProperties={"size": 2})
    for child in (f"{parent}:0", f"{parent}:1"):
        until(lambda child=child: batch.job(child)["status"], {"FAILED"})
        assert len(batch.job(child)["attempts"]) == 2


def test_a_job_that_takes_too_long_is_stopped(batch, image):
    batch.register("endless", image=image, command=["sleep", "600"])
    job = batch.run("endless", timeout={"attemptDurationSeconds": 1})
    assert (job["status"], job["statusReason"]) == ("FAILED", "Job attempt duration exceeded timeout")


def test_terminate_kills_the_container(batch, image, cloud):
    batch.register("endless", image=image, command=["sleep", "600"])
    job_id = batch.submit("endless")
    until(lambda: batch.job(job_id)["status"], {"RUNNING"})
    batch.batch.terminate_job(jobId=job_id, reason="enough")
    until(lambda: batch.job(job_id)["status"], {"FAILED"})
    assert batch.job(job_id)["statusReason"] == "enough"
    assert connect().containers.list(all=True, filters={"label": f"splitbake.job={job_id}"}) == []


def test_memory_is_a_limit_and_a_missing_gpu_is_told(batch, image):
    needs = [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "64"}, {"type": "GPU", "value": "1"}]
    hungry = ["python3", "-c", "x = bytearray(512 * 2**20); print(len(x))"]
    batch.register("hungry", image=image, command=hungry, resourceRequirements=needs)
    job = batch.run("hungry")
    assert (job["status"], job["container"]["exitCode"]) == ("FAILED", 137)
    assert job["container"]["reason"].startswith("OutOfMemoryError")
    if "nvidia" not in connect().info()["Runtimes"]:
        assert "no GPU" in batch.log(job)[0]


def test_an_image_that_does_not_exist_fails_the_job(batch, cloud):
    batch.register("lost", image=f"{cloud.registry}/nowhere:latest", command=["true"])
    job = batch.run("lost")
    assert job["status"] == "FAILED"
    assert job["container"]["reason"].startswith("CannotPullContainerError")


@pytest.mark.parametrize(
    "properties",
    [
        {"privileged": True},
        {"linuxParameters": {"devices": [{"hostPath": "/dev/sda"}]}},
        {"secrets": [{"name": "A", "valueFrom": "b"}]},
        {"volumes": [{"name": "v", "host": {}}]},
        {"mountPoints": [{"sourceVolume": "v", "containerPath": "/v"}]},
    ],
)
def test_definitions_that_reach_out_of_the_container_are_refused(batch, image, properties):
    with pytest.raises(ClientError, match="ClientException"):
        batch.register("unsafe", image=image, command=["true"], **properties)


def test_a_bare_name_is_the_latest_active_revision(batch, image):
    for text in ("one", "two"):
        batch.register("revised", image=image, command=["echo", text])
    assert batch.log(batch.run("revised")) == ["two"]
    batch.batch.deregister_job_definition(jobDefinition="revised:2")
    assert batch.log(batch.run("revised")) == ["one"], "deregistering makes the revision before latest active again"
    with pytest.raises(ClientError, match="not ACTIVE"):
        batch.submit("revised:2")
    assert batch.register("revised", image=image, command=["echo", "three"])["revision"] == 3


def test_a_new_revision_inherits_nothing(batch, image):
    batch.register(
        "alone", image=image, command=["true"], retryStrategy={"attempts": 3}, timeout={"attemptDurationSeconds": 60}
    )
    batch.register("alone", image=image, command=["true"])
    found = batch.batch.describe_job_definitions(jobDefinitionName="alone", status="ACTIVE")["jobDefinitions"]
    latest = max(found, key=lambda one: one["revision"])
    assert not latest.get("retryStrategy", {}).get("attempts")
    assert "timeout" not in latest


def test_an_update_replaces_the_launch_template_whole(aws, ami, base_ami):
    batch = Batch(aws, "updated", ami)
    number = batch.ec2.create_launch_template_version(
        LaunchTemplateId=batch.template, LaunchTemplateData={"ImageId": base_ami}
    )["LaunchTemplateVersion"]["VersionNumber"]
    assert "overrides" in batch.environment()["computeResources"]["launchTemplate"]
    batch.batch.update_compute_environment(
        computeEnvironment="updated",
        computeResources={
            "launchTemplate": {"launchTemplateId": batch.template, "version": str(number)},
            "updateToLatestImageVersion": True,
        },
    )
    assert batch.status() == "UPDATING"
    until(batch.status, {"VALID"})
    resources = batch.environment()["computeResources"]
    assert resources["launchTemplate"] == {"launchTemplateId": batch.template, "version": "2"}
    assert resources["maxvCpus"] == 16
    assert "updateToLatestImageVersion" not in resources


def test_a_missing_ami_makes_the_environment_invalid_and_jobs_wait(aws, base_ami, image):
    batch = Batch(aws, "broken", base_ami)
    batch.ec2.create_launch_template_version(
        LaunchTemplateId=batch.template, LaunchTemplateData={"ImageId": "ami-00000000000000000"}
    )
    new = {"launchTemplate": {"launchTemplateId": batch.template, "version": "2"}}
    batch.batch.update_compute_environment(computeEnvironment="broken", computeResources=new)
    until(batch.status, {"INVALID"})
    assert batch.environment()["statusReason"].startswith("CLIENT_ERROR - AMI cannot be described")
    batch.register("waiting", image=image, command=["true"])
    job_id = batch.submit("waiting")
    time.sleep(1)
    assert batch.job(job_id)["status"] == "RUNNABLE"
    batch.batch.terminate_job(jobId=job_id, reason="gave up")
    until(lambda: batch.job(job_id)["status"], {"FAILED"})


def test_best_fit_environments_cannot_be_updated_in_place(aws, base_ami):
    batch = Batch(aws, "best-fit", base_ami)
    new = {"allocationStrategy": "BEST_FIT", "launchTemplate": {"launchTemplateId": batch.template, "version": "1"}}
    with pytest.raises(ClientError, match="allocation strategy"):
        batch.batch.update_compute_environment(computeEnvironment="best-fit", computeResources=new)


def test_an_environment_in_use_cannot_be_deleted(batch):
    with pytest.raises(ClientError, match="must be DISABLED"):
        batch.batch.delete_compute_environment(computeEnvironment=batch.name)


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/opt/dl-models/../beside", "SUCCEEDED", ["file"]),
        ("/opt/link", "SUCCEEDED", ["file"]),
        ("/opt/dl-models:/x:ro", "SUCCEEDED", []),
        ("/etc/os-release", "FAILED", "directory"),
        ("/", "FAILED", "destination can't be '/'"),
    ],
)
def test_every_host_path_is_one_of_the_ami(batch, image, path, status, told):
    batch.register(
        "wanderer", image=image, command=["ls", "/host"],
        volumes=[{"name": "v", "host": {"sourcePath": path}}],
        mountPoints=[{"sourceVolume": "v", "containerPath": "/host"}],
    )  # fmt: skip
    job = batch.run("wanderer")
    assert job["status"] == status, job
    if status == "SUCCEEDED":
        assert batch.log(job) == told
    else:
        assert told in job["attempts"][0]["container"]["reason"]


def test_a_job_without_a_role_has_no_credentials_and_reaches_no_others(batch, image, cloud):
    batch.register("poor", image=image, command=["env"])
    batch.register("rich", image=image, command=["env"], jobRoleArn="arn:aws:iam::123456789012:role/job")
    poor, rich = (batch.log(batch.run(name)) for name in ("poor", "rich"))
    assert not [line for line in poor if "SECRET" in line or cloud.access_key in line]
    assert {f"AWS_ENDPOINT_URL={cloud.endpoint}", "AWS_EC2_METADATA_DISABLED=true"} <= set(poor)
    assert f"AWS_SECRET_ACCESS_KEY={cloud.secret_key}" in rich
    assert not [line for line in poor + rich if cloud.registry_password in line]


def test_host_paths_of_this_machine_are_never_mounted(batch, image, tmp_path):
    (tmp_path / "secret").write_text("secret")
    batch.register(
        "curious", image=image, command=["ls", "-A", "/host"],
        volumes=[{"name": "v", "host": {"sourcePath": str(tmp_path)}}],
        mountPoints=[{"sourceVolume": "v", "containerPath": "/host"}],
    )  # fmt: skip
    job = batch.run("curious")
    assert job["status"] == "SUCCEEDED"
    assert batch.log(job) == []


def test_batch_of_another_account_and_region_runs_jobs_on_a_copied_ami_with_its_own_credentials(cloud, aws, ami, image):
    prod = ("222222222222", "eu-west-1")
    home, there = aws("ec2"), aws("ec2", *prod)
    home.modify_image_attribute(ImageId=ami, LaunchPermission={"Add": [{"UserId": prod[0]}]})
    snapshot = home.describe_images(ImageIds=[ami])["Images"][0]["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    allowed = {"Add": [{"UserId": prod[0]}]}
    home.modify_snapshot_attribute(SnapshotId=snapshot, CreateVolumePermission=allowed)
    # The owner's copy in the other region would do as well; a shared one is copied from where it is shared.
    copy = there.copy_image(SourceImageId=ami, SourceRegion=cloud.region, Name="models")["ImageId"]
    there.get_waiter("image_available").wait(ImageIds=[copy], WaiterConfig={"Delay": 1})
    batch = Batch(lambda service: aws(service, *prod), "elsewhere", copy)
    until(batch.status, {"VALID"})
    assert batch.environment()["computeEnvironmentArn"].startswith(f"arn:aws:batch:{prod[1]}:{prod[0]}:")
    script = "cat /models/a.bin; echo $AWS_REGION $AWS_ACCESS_KEY_ID"
    batch.register(
        "reads",
        image=image,
        command=["sh", "-c", script],
        jobRoleArn=f"arn:aws:iam::{prod[0]}:role/elsewhere",
        volumes=[{"name": "models", "host": {"sourcePath": "/opt/dl-models/models"}}],
        mountPoints=[{"sourceVolume": "models", "containerPath": "/models", "readOnly": True}],
    )
    assert batch.log(batch.run("reads")) == ["weights", f"{prod[1]} {cloud.keys.of(prod[0]).id}"]
    there.deregister_image(ImageId=copy)
    until(batch.status, {"INVALID"})
    home.modify_image_attribute(ImageId=ami, LaunchPermission={"Remove": [{"UserId": prod[0]}]})
