"""EC2 in the local cloud: instances are real, and behave as the calls that splitbake and Packer make expect."""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from splitbake.local.engine import LABEL, connect

pytestmark = pytest.mark.engine

QUICK = {"Delay": 0.2, "MaxAttempts": 300}


class Ec2:
    """Instances of one test; all are terminated after it."""

    def __init__(self, cloud, client, ami):
        self.cloud, self.client, self.ami = cloud, client, ami
        self.started: list[str] = []

    def run(self, image=None, **options):
        found = self.client.run_instances(ImageId=image or self.ami, MinCount=1, MaxCount=1, **options)["Instances"][0]
        self.started.append(found["InstanceId"])
        return found["InstanceId"]

    def wait(self, instance, state="instance_running"):
        self.client.get_waiter(state).wait(InstanceIds=[instance], WaiterConfig=QUICK)
        return self.describe(instance)

    def describe(self, instance):
        return self.client.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]

    def container(self, instance):
        return connect().containers.get(f"splitbake-{self.cloud.id}-{instance}")

    def shell(self, instance, script):
        done = self.container(instance).exec_run(["sh", "-c", script])
        assert done.exit_code == 0, done.output
        return done.output.decode().strip()

    def image(self, instance, name, **options):
        ami = self.client.create_image(InstanceId=instance, Name=name, **options)["ImageId"]
        self.client.get_waiter("image_available").wait(ImageIds=[ami], WaiterConfig=QUICK)
        return ami


@pytest.fixture
def ec2(cloud, aws, base_ami):
    machines = Ec2(cloud, aws("ec2"), base_ami)
    yield machines
    if machines.started:
        machines.client.terminate_instances(InstanceIds=machines.started)


def ssh(key, address, command):
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    return subprocess.run(
        ["ssh", *options, "-o", "BatchMode=yes", "-i", str(key), f"ec2-user@{address}", command],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.strip()  # fmt: skip


def test_the_key_pair_opens_the_instance_as_ec2_user_with_sudo(ec2, tmp_path):
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text(ec2.client.create_key_pair(KeyName="login")["KeyMaterial"])
    instance = ec2.run(KeyName="login")
    assert ec2.describe(instance)["State"]["Name"] in ("pending", "running")
    found = ec2.wait(instance)
    assert found["PublicIpAddress"] == found["PrivateIpAddress"]
    assert ssh(key, found["PublicIpAddress"], "id -un; sudo -n id -un; sudo systemctl is-system-running --wait") == (
        "ec2-user\nroot\nrunning"
    )
    assert ec2.container(instance).ports == {}
    ec2.client.delete_key_pair(KeyName="login")


def test_a_key_pair_that_does_not_exist_is_refused(ec2):
    with pytest.raises(ClientError, match=r"InvalidKeyPair\.NotFound"):
        ec2.run(KeyName="nobody")


def test_each_instance_of_an_ami_gets_its_own_identity(ec2):
    first = ec2.run()
    ec2.wait(first)
    read = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub"
    one = ec2.shell(first, read).split()
    ec2.shell(first, ": >/etc/machine-id")  # whoever makes an AMI has to: an id that is there stays, as on AWS
    second = ec2.run(ami := ec2.image(first, "identity"))
    ec2.wait(second)
    other = ec2.shell(second, read).split()
    assert len(one[0]) == 32
    assert one[0] != other[0]
    assert one[2] != other[2]
    ec2.client.deregister_image(ImageId=ami)


def test_stop_keeps_the_files_and_terminate_leaves_nothing(ec2):
    instance = ec2.run()
    ec2.wait(instance)
    ec2.shell(instance, "echo kept >/root/file")
    ec2.client.stop_instances(InstanceIds=[instance])
    assert ec2.wait(instance, "instance_stopped")["State"]["Name"] == "stopped"
    with pytest.raises(ClientError, match="IncorrectState"):
        ec2.client.reboot_instances(InstanceIds=[instance])
    ec2.client.start_instances(InstanceIds=[instance])
    found = ec2.wait(instance)
    assert ec2.shell(instance, "cat /root/file") == "kept"
    inside = ec2.shell(instance, "ip -4 -o addr show eth0").split()[3].partition("/")[0]
    assert found["PublicIpAddress"] == inside
    ec2.client.reboot_instances(InstanceIds=[instance])
    ec2.wait(instance)
    ec2.client.terminate_instances(InstanceIds=[instance])
    assert ec2.describe(instance)["State"]["Name"] == "terminated"
    assert connect().containers.list(all=True, filters={"label": f"splitbake.instance={instance}"}) == []


def test_a_reboot_is_not_taken_for_an_end(ec2):
    instance = ec2.run()
    ec2.wait(instance)
    with ThreadPoolExecutor(1) as pool:
        reboot = pool.submit(ec2.client.reboot_instances, InstanceIds=[instance])
        seen = set()
        while not reboot.done():
            seen.add(ec2.describe(instance)["State"]["Name"])
    assert seen <= {"running", "pending"}
    assert ec2.wait(instance)["State"]["Name"] == "running"
    ec2.client.terminate_instances(InstanceIds=[instance])
    with pytest.raises(ClientError, match="IncorrectInstanceState"):
        ec2.client.reboot_instances(InstanceIds=[instance])


def test_an_instance_whose_container_was_removed_is_terminated(ec2):
    instance = ec2.run()
    ec2.wait(instance)
    ec2.container(instance).remove(force=True)
    assert ec2.describe(instance)["State"]["Name"] == "terminated"


@pytest.mark.parametrize(("behaviour", "state"), [("stop", "stopped"), ("terminate", "terminated")])
def test_an_instance_that_shuts_itself_down_is_seen(ec2, behaviour, state):
    instance = ec2.run(InstanceInitiatedShutdownBehavior=behaviour)
    ec2.wait(instance)
    ec2.container(instance).kill()
    assert ec2.describe(instance)["State"]["Name"] == state


def test_an_ami_without_an_image_does_not_exist(ec2):
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        ec2.run("ami-0123456789abcdef0")
    instance = ec2.run()
    ec2.wait(instance)
    ami = ec2.image(instance, "short-lived")
    ec2.client.deregister_image(ImageId=ami, DeleteAssociatedSnapshots=True)
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        ec2.run(ami)
    assert connect().images.list(filters={"label": f"splitbake.ami={ami}"}) == []


def test_a_disabled_ami_cannot_be_launched_until_it_is_enabled(ec2):
    instance = ec2.run()
    ec2.wait(instance)
    ami = ec2.image(instance, "switched")
    ec2.client.disable_image(ImageId=ami)
    with pytest.raises(ClientError, match=r"InvalidAMIID\.Unavailable"):
        ec2.run(ami)
    ec2.client.enable_image(ImageId=ami)
    ec2.run(ami)
    ec2.client.deregister_image(ImageId=ami)


def test_an_image_survives_the_end_of_its_instance(ec2):
    instance = ec2.run()
    ec2.wait(instance)
    ec2.shell(instance, "head -c 30000000 /dev/urandom >/root/model")
    tags = [
        {"ResourceType": "image", "Tags": [{"Key": "of", "Value": "image"}]},
        {"ResourceType": "snapshot", "Tags": [{"Key": "of", "Value": "snapshot"}]},
    ]
    ami = ec2.client.create_image(InstanceId=instance, Name="survivor", TagSpecifications=tags)["ImageId"]
    ec2.client.terminate_instances(InstanceIds=[instance])
    ec2.client.get_waiter("image_available").wait(ImageIds=[ami], WaiterConfig=QUICK)
    image = ec2.client.describe_images(ImageIds=[ami])["Images"][0]
    assert image["Tags"] == [{"Key": "of", "Value": "image"}]
    assert image["RootDeviceType"] == "ebs"
    volume = image["BlockDeviceMappings"][0]["Ebs"]
    snapshot = ec2.client.describe_snapshots(SnapshotIds=[volume["SnapshotId"]])["Snapshots"][0]
    assert snapshot["Tags"] == [{"Key": "of", "Value": "snapshot"}]
    base = connect().images.get(ec2.cloud.instance_image).attrs["Size"]
    assert snapshot["FullSnapshotSizeInBytes"] > base + 30e6
    other = ec2.run()
    ec2.wait(other)
    with pytest.raises(ClientError, match=r"InvalidAMIName\.Duplicate"):
        ec2.client.create_image(InstanceId=other, Name="survivor")
    ec2.client.deregister_image(ImageId=ami)


def test_a_client_token_makes_one_instance(ec2):
    first = ec2.run(ClientToken="once")
    assert ec2.run(ClientToken="once") == first
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        ec2.run(ClientToken="once", InstanceType="m6i.xlarge")


def test_a_dry_run_starts_nothing(ec2):
    of_cloud = {"label": f"{LABEL}={ec2.cloud.id}"}
    before = len(connect().containers.list(all=True, filters=of_cloud))
    with pytest.raises(ClientError, match="DryRunOperation"):
        ec2.run(DryRun=True)
    assert len(connect().containers.list(all=True, filters=of_cloud)) == before


def test_instances_start_side_by_side(ec2):
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(lambda _: ec2.run(), range(4)))
    addresses = {ec2.wait(instance)["PublicIpAddress"] for instance in started}
    assert len(addresses) == 4


def test_the_recommended_ecs_ami_is_json_as_on_aws(ec2, aws):
    name = "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended"
    value = json.loads(aws("ssm").get_parameter(Name=name)["Parameter"]["Value"])
    assert value["image_id"] == ec2.ami
    image = ec2.client.describe_images(ImageIds=[ec2.ami])["Images"][0]
    assert image["Name"] == value["image_name"]
    assert image["RootDeviceName"] == "/dev/xvda"
    found = ec2.client.describe_images(
        Owners=["amazon"], Filters=[{"Name": "name", "Values": ["al2023-ami-ecs-gpu-*"]}]
    )
    assert ec2.ami in {one["ImageId"] for one in found["Images"]}


def test_curl_on_an_instance_reads_presigned_urls(ec2, aws):
    from botocore.config import Config

    s3 = aws("s3")
    s3.create_bucket(Bucket="presigned")
    s3.put_object(Bucket="presigned", Key="a b/ü+.txt", Body=b"content")
    instance = ec2.run()
    ec2.wait(instance)
    new = s3.meta.config.merge(Config(signature_version="s3v4"))
    import boto3

    session = boto3.Session(ec2.cloud.access_key, ec2.cloud.secret_key, region_name=ec2.cloud.region)
    for client in (s3, session.client("s3", endpoint_url=ec2.cloud.endpoint, config=new)):
        url = client.generate_presigned_url("get_object", Params={"Bucket": "presigned", "Key": "a b/ü+.txt"})
        assert ec2.shell(instance, f"curl -sSf '{url}'") == "content"
    late = s3.generate_presigned_url("get_object", Params={"Bucket": "presigned", "Key": "a b/ü+.txt"}, ExpiresIn=1)
    time.sleep(2)
    assert ec2.shell(instance, f"curl -sS -o /dev/null -w '%{{http_code}}' '{late}'") == "403"
