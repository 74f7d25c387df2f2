"""An instance of the local cloud from inside: its first boot, its metadata service, Docker, volumes, and its end."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from splitbake.local import netns
from splitbake.local.engine import connect, labels

pytestmark = pytest.mark.engine

QUICK = {"Delay": 0.2, "MaxAttempts": 300}
TRUST = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
TOKEN = "curl -sS -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token"
#: A program with what it needs, as an image of Docker.
TINY = (
    "{ ldd /usr/bin/cat /usr/bin/touch /usr/bin/curl | grep -o '/[^ :]*'; echo /usr/bin/curl; } | sort -u "
    "| tar --create --dereference --hard-dereference --files-from=- 2>/dev/null | docker import - tiny >/dev/null"
)


class Ec2:
    """Instances of one test; all are terminated after it, and their AMIs are deregistered."""

    def __init__(self, cloud, client, ami):
        self.cloud, self.client, self.ami = cloud, client, ami
        self.started: list[str] = []
        self.images: list[str] = []

    def run(self, image=None, **options):
        image = {} if "LaunchTemplate" in options else {"ImageId": image or self.ami}
        found = self.client.run_instances(**image, MinCount=1, MaxCount=1, **options)["Instances"][0]
        self.started.append(found["InstanceId"])
        return found["InstanceId"]

    def boot(self, image=None, **options):
        """Run an instance and wait until its first boot is over."""
        instance = self.run(image, **options)
        self.wait(instance)
        self.shell(instance, "cloud-init status --wait")
        return instance

    def wait(self, instance, state="instance_running"):
        self.client.get_waiter(state).wait(InstanceIds=[instance], WaiterConfig=QUICK)
        return self.describe(instance)

    def describe(self, instance):
        return self.client.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]

    def container(self, instance):
        return connect().containers.get(f"splitbake-{self.cloud.id}-{instance}")

    def shell(self, instance, script):
        done = self.container(instance).exec_run(["bash", "-c", script])
        assert done.exit_code == 0, done.output.decode()
        return done.output.decode().strip()

    def ask(self, instance, path, token=True):
        """Ask the metadata service; return the text, or the status where it is not 200."""
        header = f'-H "X-aws-ec2-metadata-token: $({TOKEN})"' if token else ""
        done = self.shell(instance, f"curl -sS {header} -w '\n%{{http_code}}' http://169.254.169.254/latest/{path}")
        text, _, status = done.rpartition("\n")
        return text if status == "200" else int(status)

    def until(self, instance, script, expected, within=20):
        """Wait until ``script`` says what is expected."""
        deadline = time.monotonic() + within
        while (said := self.container(instance).exec_run(["bash", "-c", script]).output.decode().strip()) != expected:
            assert time.monotonic() < deadline, f"{script} says {said!r}"
            time.sleep(0.2)

    def image(self, instance, name, **options):
        ami = self.client.create_image(InstanceId=instance, Name=name, **options)["ImageId"]
        self.images.append(ami)
        self.client.get_waiter("image_available").wait(ImageIds=[ami], WaiterConfig=QUICK)
        return ami


@pytest.fixture
def ec2(cloud, aws, base_ami):
    machines = Ec2(cloud, aws("ec2"), base_ami)
    yield machines
    if machines.started:
        machines.client.terminate_instances(InstanceIds=machines.started)
    for ami in machines.images:
        machines.client.deregister_image(ImageId=ami)


@pytest.fixture
def profile(aws):
    """An instance profile whose role may do nothing but say who it is."""
    iam = aws("iam")
    role = iam.create_role(RoleName="baker", AssumeRolePolicyDocument=json.dumps({"Statement": [TRUST]}))["Role"]
    iam.create_instance_profile(InstanceProfileName="baking")
    iam.add_role_to_instance_profile(InstanceProfileName="baking", RoleName="baker")
    yield role
    iam.remove_role_from_instance_profile(InstanceProfileName="baking", RoleName="baker")
    iam.delete_instance_profile(InstanceProfileName="baking")
    iam.delete_role(RoleName="baker")


def encoded(text):
    return base64.b64encode(text.encode()).decode()


# First boot


def test_user_data_run_once_as_root_and_cloud_init_waits_for_them(ec2):
    instance = ec2.boot(UserData="#!/bin/sh\nsleep 1\nid -un >>/root/seen\n")
    assert ec2.shell(instance, "cat /root/seen; cloud-init status") == "root\nstatus: done"
    ec2.client.reboot_instances(InstanceIds=[instance])
    ec2.wait(instance)
    ec2.client.stop_instances(InstanceIds=[instance])
    ec2.wait(instance, "instance_stopped")
    ec2.client.start_instances(InstanceIds=[instance])
    ec2.wait(instance)
    assert ec2.shell(instance, "cloud-init status --wait >/dev/null; cat /root/seen") == "root"


def test_user_data_of_a_launch_template_are_cloud_config(ec2):
    config = "#cloud-config\nwrite_files: [{path: /root/written, content: kept}]\nruncmd: [[touch, /root/ran]]\n"
    template = ec2.client.create_launch_template(
        LaunchTemplateName="first-boot", LaunchTemplateData={"ImageId": ec2.ami, "UserData": encoded(config)}
    )["LaunchTemplate"]["LaunchTemplateId"]
    instance = ec2.boot(LaunchTemplate={"LaunchTemplateId": template})
    assert ec2.shell(instance, "cat /root/written /root/ran; ls /root/ran") == "kept/root/ran"
    ec2.client.delete_launch_template(LaunchTemplateId=template)


def test_user_data_that_fail_are_an_error_of_cloud_init(ec2):
    instance = ec2.run(UserData="#!/bin/sh\nexit 3\n")
    ec2.wait(instance)
    done = ec2.container(instance).exec_run(["cloud-init", "status", "--wait", "--long"])
    assert (done.exit_code, "status: error" in done.output.decode()) == (1, True), done.output


def test_an_instance_has_its_own_identity_and_keeps_it(ec2):
    read = "cat /etc/machine-id; ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
    first = ec2.boot()
    before = ec2.shell(first, read)
    ec2.client.reboot_instances(InstanceIds=[first])
    ec2.wait(first)
    assert ec2.shell(first, read) == before, "a reboot is no first boot"
    baked = ec2.image(first, "as-it-is")
    ec2.shell(first, "cloud-init status --wait; : >/etc/machine-id; rm /etc/ssh/ssh_host_*; cloud-init clean --logs")
    cleaned = ec2.image(first, "cleaned")
    machine, host_key = ec2.shell(ec2.boot(cleaned), read).split("\n")
    assert len(machine) == 32
    assert machine not in before
    assert host_key not in before
    machine, host_key = ec2.shell(ec2.boot(baked), read).split("\n")
    assert machine in before, "as on AWS: nobody makes a new one but where the AMI has none"
    assert host_key not in before, "cloud-init makes new ones for a new instance id"


def test_an_instance_has_the_name_that_the_api_tells(ec2):
    instance = ec2.boot()
    name = ec2.describe(instance)["PrivateDnsName"]
    assert ec2.shell(instance, "hostname") == name.partition(".")[0]
    assert ec2.ask(instance, "meta-data/local-hostname") == name


def test_nobody_but_the_key_pair_may_log_in(ec2):
    instance = ec2.boot()
    assert ec2.shell(instance, "find / -xdev -name authorized_keys -size +0 2>/dev/null; true") == ""


# Metadata


def test_metadata_need_a_token_as_on_amazon_linux(ec2):
    instance = ec2.boot(InstanceType="c5.large")
    found = ec2.describe(instance)
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    assert ec2.ask(instance, "meta-data/instance-id", token=False) == 401
    assert ec2.ask(instance, "meta-data/instance-id") == instance
    document = json.loads(ec2.ask(instance, "dynamic/instance-identity/document"))
    told = {name: document[name] for name in ("accountId", "instanceId", "imageId", "instanceType", "region")}
    assert told == {
        "accountId": ec2.cloud.account,
        "instanceId": instance,
        "imageId": ec2.ami,
        "instanceType": "c5.large",
        "region": ec2.cloud.region,
    }
    assert ec2.ask(instance, "meta-data/placement/availability-zone") == found["Placement"]["AvailabilityZone"]
    assert ec2.ask(instance, "meta-data/public-ipv4") == found["PublicIpAddress"]
    assert ec2.ask(instance, "meta-data/mac") == ec2.shell(instance, "cat /sys/class/net/eth0/address")
    assert ec2.ask(instance, "user-data") == 404
    assert ec2.ask(instance, "meta-data/iam/info") == 404


def test_metadata_options_are_obeyed_at_once(ec2):
    instance = ec2.run(MetadataOptions={"HttpTokens": "optional", "InstanceMetadataTags": "enabled"})
    ec2.wait(instance)
    assert ec2.ask(instance, "meta-data/instance-id", token=False) == instance
    ec2.client.create_tags(Resources=[instance], Tags=[{"Key": "team", "Value": "models"}])
    assert ec2.ask(instance, "meta-data/tags/instance/team") == "models"
    stricter = {"HttpTokens": "required", "HttpPutResponseHopLimit": 3}
    told = ec2.client.modify_instance_metadata_options(InstanceId=instance, **stricter)["InstanceMetadataOptions"]
    assert stricter.items() <= told.items() & ec2.describe(instance)["MetadataOptions"].items()
    assert ec2.ask(instance, "meta-data/instance-id", token=False) == 401
    assert ec2.ask(instance, "meta-data/instance-id") == instance
    assert ec2.ask(instance, "meta-data/tags/instance/team") == "models", "what is not named stays"
    ec2.client.modify_instance_metadata_options(InstanceId=instance, HttpEndpoint="disabled")
    assert ec2.ask(instance, "meta-data/instance-id") == 403


def test_an_instance_without_metadata_boots_but_lets_nobody_in(ec2):
    pair = ec2.client.create_key_pair(KeyName="unheard")
    started = time.monotonic()
    instance = ec2.run(KeyName=pair["KeyName"], MetadataOptions={"HttpEndpoint": "disabled"})
    ec2.wait(instance)
    assert time.monotonic() - started < 30
    assert ec2.shell(instance, "cat /home/ec2-user/.ssh/authorized_keys") == ""
    ec2.client.delete_key_pair(KeyName="unheard")


def test_the_service_is_each_instances_own_and_not_on_this_machine(ec2):
    first, second = ec2.run(UserData="one"), ec2.run(UserData="two")
    for instance, text in ((first, "one"), (second, "two")):
        ec2.wait(instance)
        assert (ec2.ask(instance, "meta-data/instance-id"), ec2.ask(instance, "user-data")) == (instance, text)
    here = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True).stdout
    assert "169.254.169.254" not in here


def test_a_neighbour_hears_nothing_from_the_service(ec2):
    instance = ec2.run(MetadataOptions={"HttpTokens": "optional"}, UserData="secret")
    address = ec2.wait(instance)["PrivateIpAddress"]
    url = "http://169.254.169.254/latest/user-data"
    ask = f"ip route add 169.254.169.254 via {address} && curl -sSv --max-time 5 {url}"
    neighbour = connect().containers.create(
        ec2.cloud.instance_image, ["sh", "-c", ask], network=ec2.cloud.network, cap_add=["NET_ADMIN"],
        labels=labels(ec2.cloud.id),
    )  # fmt: skip
    try:
        neighbour.start()
        assert neighbour.wait()["StatusCode"] == 28, neighbour.logs()  # "Operation timed out", as at the hop limit
        assert b"Connected to 169.254.169.254" in neighbour.logs(), "it could ask"
    finally:
        neighbour.remove(force=True)
    assert ec2.shell(instance, f"curl -sS {url}; curl -sS --interface {address} {url}") == "secretsecret"


def test_the_service_comes_back_after_a_stop(ec2):
    instance = ec2.run()
    ec2.wait(instance)
    ec2.client.stop_instances(InstanceIds=[instance])
    ec2.wait(instance, "instance_stopped")
    ec2.client.start_instances(InstanceIds=[instance])
    found = ec2.wait(instance)
    assert ec2.ask(instance, "meta-data/local-ipv4") == found["PrivateIpAddress"]


def test_docker_tells_nobody_what_the_service_tells(ec2, profile):
    secret = "correct horse battery staple"
    instance = ec2.run(UserData=secret, IamInstanceProfile={"Name": "baking"})
    ec2.wait(instance)
    key = json.loads(ec2.ask(instance, "meta-data/iam/security-credentials/baker"))["SecretAccessKey"]
    told = json.dumps(ec2.container(instance).attrs)
    assert secret not in told
    assert key not in told


def test_a_user_without_rights_borrows_them_from_a_container(ec2):
    instance = ec2.run()
    ec2.wait(instance)
    pid = ec2.container(instance).attrs["State"]["Pid"]
    (listener,) = netns._borrowed(pid, [("127.0.0.1", 5000)], connect(), ec2.cloud.instance_image, labels(ec2.cloud.id))
    with listener:
        listener.settimeout(10)
        ec2.container(instance).exec_run(["curl", "-sS", "http://127.0.0.1:5000/hello"], detach=True)
        visitor, _ = listener.accept()
        with visitor:
            assert visitor.recv(100).startswith(b"GET /hello")
    with pytest.raises(OSError, match="No such file or directory"):
        netns._borrowed(2**22, [("127.0.0.1", 5000)], connect(), ec2.cloud.instance_image, labels(ec2.cloud.id))


def test_an_ami_can_ask_for_imdsv2(ec2):
    instance = ec2.run()
    ec2.wait(instance)
    ami = ec2.image(instance, "imds")
    assert "ImdsSupport" not in ec2.client.describe_images(ImageIds=[ami])["Images"][0]
    assert ec2.describe(ec2.run(ami))["MetadataOptions"]["HttpTokens"] == "optional"
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        ec2.client.modify_image_attribute(ImageId=ami, ImdsSupport={"Value": "v1.0"})
    ec2.client.modify_image_attribute(ImageId=ami, ImdsSupport={"Value": "v2.0"})
    assert ec2.client.describe_images(ImageIds=[ami])["Images"][0]["ImdsSupport"] == "v2.0"
    told = ec2.client.describe_image_attribute(ImageId=ami, Attribute="imdsSupport")
    assert told["ImdsSupport"] == {"Value": "v2.0"}
    options = ec2.describe(ec2.run(ami))["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 2)
    given = ec2.describe(ec2.run(ami, MetadataOptions={"HttpTokens": "optional"}))["MetadataOptions"]
    assert (given["HttpTokens"], given["HttpPutResponseHopLimit"]) == ("optional", 2)
    copied = ec2.client.copy_image(Name="imds-copy", SourceImageId=ami, SourceRegion=ec2.cloud.region)["ImageId"]
    ec2.client.get_waiter("image_available").wait(ImageIds=[copied], WaiterConfig=QUICK)
    ec2.images.append(copied)
    assert ec2.client.describe_images(ImageIds=[copied])["Images"][0]["ImdsSupport"] == "v2.0"
    registered = ec2.client.register_image(Name="imds-new", ImdsSupport="v2.0")["ImageId"]
    assert ec2.client.describe_images(ImageIds=[registered])["Images"][0]["ImdsSupport"] == "v2.0"


def test_only_the_owner_sets_imds_support(ec2):
    with pytest.raises(ClientError, match="AuthFailure"):
        ec2.client.modify_image_attribute(ImageId=ec2.ami, ImdsSupport={"Value": "v2.0"})


# The role


def test_boto3_on_an_instance_is_its_role(ec2, profile):
    instance = ec2.boot(IamInstanceProfile={"Name": "baking"})
    info = json.loads(ec2.ask(instance, "meta-data/iam/info"))
    assert info["InstanceProfileArn"].endswith(":instance-profile/baking")
    ec2.container(instance).put_archive("/opt", boto3())
    who = "import boto3, json; print(boto3.client('sts', region_name='us-east-1').get_caller_identity()['Arn'])"
    said = ec2.shell(instance, f'set -a; . /etc/environment; PYTHONPATH=/opt/boto3 python3 -c "{who}"')
    assert said == f"arn:aws:sts::{ec2.cloud.account}:assumed-role/baker/{instance}"


def test_credentials_of_the_role_are_temporary_and_stay_for_a_while(ec2, profile):
    instance = ec2.run(IamInstanceProfile={"Arn": profile["Arn"].replace("role/baker", "instance-profile/baking")})
    ec2.wait(instance)
    first = json.loads(ec2.ask(instance, "meta-data/iam/security-credentials/baker"))
    assert first["AccessKeyId"].startswith("ASIA")
    assert json.loads(ec2.ask(instance, "meta-data/iam/security-credentials/baker")) == first
    (association,) = ec2.client.describe_iam_instance_profile_associations(
        Filters=[{"Name": "instance-id", "Values": [instance]}]
    )["IamInstanceProfileAssociations"]
    ec2.client.disassociate_iam_instance_profile(AssociationId=association["AssociationId"])
    assert ec2.ask(instance, "meta-data/iam/security-credentials/baker") == 404


def test_a_launch_template_gives_profile_options_and_behaviour(ec2, profile):
    data = {
        "ImageId": ec2.ami,
        "IamInstanceProfile": {"Name": "baking"},
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 3},
        "InstanceInitiatedShutdownBehavior": "terminate",
    }
    template = ec2.client.create_launch_template(LaunchTemplateName="whole", LaunchTemplateData=data)
    instance = ec2.run(LaunchTemplate={"LaunchTemplateId": template["LaunchTemplate"]["LaunchTemplateId"]})
    found = ec2.wait(instance)
    assert found["MetadataOptions"]["HttpPutResponseHopLimit"] == 3
    assert found["IamInstanceProfile"]["Arn"].endswith(":instance-profile/baking")
    assert ec2.ask(instance, "meta-data/iam/security-credentials/") == "baker"
    ec2.shell(instance, "systemctl poweroff")
    assert ec2.wait(instance, "instance_terminated")["State"]["Name"] == "terminated"
    ec2.client.delete_launch_template(LaunchTemplateName="whole")


def boto3() -> bytes:
    """Return a tar of boto3 with the service models that a test needs."""
    import botocore

    site = Path(botocore.__file__).parent.parent
    wanted = [
        *(site / name for name in ("boto3", "s3transfer", "jmespath", "dateutil", "urllib3")),
        *(path for path in (site / "botocore").iterdir() if path.name != "data"),
        *(path for path in (site / "botocore" / "data").iterdir() if path.suffix or path.name == "sts"),
        site / "six.py",
    ]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in wanted:
            tar.add(
                path, f"boto3/{path.relative_to(site)}", filter=lambda one: None if "__pycache__" in one.name else one
            )
    return buffer.getvalue()


# Docker and the ECS agent


def test_docker_runs_containers_with_read_only_mounts(ec2):
    instance = ec2.boot()
    assert ec2.shell(instance, "systemctl is-enabled docker.service ecs.service") == "enabled\nenabled"
    ec2.until(instance, "systemctl is-active docker.service", "active")
    ec2.shell(instance, f"mkdir /opt/models; echo weights >/opt/models/a; {TINY}")
    run = "docker run --rm -v /opt/models:/models:ro"
    assert ec2.shell(instance, f"{run} tiny /usr/bin/cat /models/a") == "weights"
    assert "Read-only file system" in ec2.shell(instance, f"! {run} tiny /usr/bin/touch /models/b 2>&1")
    # The hop limit of this instance is 2; the container comes by way of Docker's bridge.
    assert ec2.shell(instance, f"docker run --rm tiny {TOKEN}")
    ec2.client.modify_instance_metadata_options(InstanceId=instance, HttpPutResponseHopLimit=1)
    assert "timed out" in ec2.shell(instance, f"! docker run --rm tiny {TOKEN} 2>&1")
    assert ec2.shell(instance, TOKEN), "the instance itself is near enough"
    ami = ec2.image(instance, "preloaded")
    other = ec2.boot(ami)
    ec2.until(other, "systemctl is-active docker.service", "active")
    assert ec2.shell(other, f"{run} tiny /usr/bin/cat /models/a") == "weights"


def test_docker_pulls_from_the_registry_by_its_usual_name(ec2, aws, cloud):
    import docker

    ecr = aws("ecr")
    repository = ecr.create_repository(repositoryName="preload")["repository"]["repositoryUri"]
    token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    engine: docker.DockerClient = connect()
    engine.images.get(cloud.python_image).tag(repository, "base")
    engine.images.push(repository, "base", auth_config={"username": user, "password": password})
    digest = ecr.describe_images(repositoryName="preload")["imageDetails"][0]["imageDigest"]
    instance = ec2.boot()
    ec2.until(instance, "systemctl is-active docker.service", "active")
    login = f"docker login --username {user} --password-stdin {cloud.registry}"
    ec2.shell(instance, f"echo {password} | {login} 2>/dev/null; docker pull --quiet {repository}@{digest}")
    assert ec2.shell(instance, "docker image ls --digests --format '{{.Digest}}'") == digest
    engine.images.remove(f"{repository}:base")
    ecr.delete_repository(repositoryName="preload", force=True)


def test_each_ecs_agent_registers_as_itself_and_refuses_a_baked_in_identity(ec2):
    state = "cat /var/lib/ecs/data/agent.db"
    first, second = ec2.boot(), ec2.boot()
    for instance in (first, second):
        ec2.until(instance, "systemctl is-active ecs.service", "active")
    one, other = (json.loads(ec2.shell(instance, state)) for instance in (first, second))
    assert one["containerInstanceArn"] != other["containerInstanceArn"]
    assert one["ec2InstanceID"] == first
    third = ec2.boot(ec2.image(first, "with-agent-state"))
    ec2.until(third, "systemctl show -P Result ecs.service", "exit-code")
    ec2.shell(first, "systemctl stop ecs.service; rm /var/lib/ecs/data/*")
    fourth = ec2.boot(ec2.image(first, "without-agent-state"))
    ec2.until(fourth, "systemctl is-active ecs.service", "active")
    assert json.loads(ec2.shell(fourth, state))["ec2InstanceID"] == fourth


# Block devices

MOUNT = """mkfs.ext4 -q -L dl-models /dev/sdf
udevadm trigger && udevadm settle
mkdir -p /opt/dl-models /etc/systemd/system/docker.service.d
cat >/etc/systemd/system/opt-dl\\\\x2dmodels.mount <<'EOF'
[Mount]
What=/dev/disk/by-label/dl-models
Where=/opt/dl-models
Type=ext4
Options=ro,noload
EOF
printf '[Unit]\\nRequiresMountsFor=/opt/dl-models\\n' >/etc/systemd/system/docker.service.d/models.conf
mount /dev/disk/by-label/dl-models /opt/dl-models
echo weights >/opt/dl-models/a
umount /opt/dl-models
systemctl daemon-reload
"""


def test_services_wait_for_a_volume_and_do_not_start_without_it(ec2):
    volume = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}}
    builder = ec2.boot(BlockDeviceMappings=[volume])
    ec2.shell(builder, MOUNT)
    ami = ec2.image(builder, "with-models")
    instance = ec2.boot(ami)
    ec2.until(instance, "systemctl is-active docker.service", "active")
    assert ec2.shell(instance, "cat /opt/dl-models/a; findmnt -no SOURCE,OPTIONS /opt/dl-models") == (
        "weights\n/dev/sdf ro,relatime,norecovery"
    )
    bare = ec2.boot(ami, BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "NoDevice": ""}])
    ec2.until(bare, "systemctl show -P Result 'opt-dl\\x2dmodels.mount'", "exit-code")
    states = "systemctl is-active docker.service ecs.service ssh.service"
    ec2.until(bare, f"{states}; true", "inactive\ninactive\nactive")


def test_labels_follow_what_is_on_the_devices(ec2):
    volume = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}}
    instance = ec2.boot(BlockDeviceMappings=[volume])
    assert ec2.shell(instance, "ls /dev/disk/by-label") == ""
    ec2.shell(instance, "mkfs.ext4 -q -L 'two words' /dev/sdf && udevadm trigger && udevadm settle")
    assert ec2.shell(instance, "readlink '/dev/disk/by-label/two\\x20words'") == "/dev/sdf"
    assert ec2.shell(instance, "readlink /dev/disk/by-uuid/$(blkid -p -s UUID -o value /dev/sdf)") == "/dev/sdf"
    done = ec2.container(instance).exec_run(["udevadm", "info", "/dev/sdf"])
    assert (done.exit_code, b"no udev" in done.output) == (1, True)


# The end


@pytest.mark.parametrize(("behaviour", "state"), [("terminate", "instance_terminated"), ("stop", "instance_stopped")])
def test_an_instance_ends_itself(ec2, behaviour, state):
    instance = ec2.boot(InstanceInitiatedShutdownBehavior=behaviour)
    ec2.shell(instance, "shutdown -h now")
    ec2.wait(instance, state)


def test_user_data_can_set_the_hour_of_the_end(ec2):
    instance = ec2.boot(InstanceInitiatedShutdownBehavior="terminate", UserData="#!/bin/sh\nshutdown -h +60\n")
    when = int(ec2.shell(instance, "sed -n 's/^USEC=//p' /run/systemd/shutdown/scheduled")) / 1e6
    assert 3500 < when - time.time() <= 3600
    soon = int((time.time() + 3) * 1e6)
    manager = "org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager"
    ec2.shell(instance, f"busctl call {manager} ScheduleShutdown st poweroff {soon}")
    assert ec2.describe(instance)["State"]["Name"] == "running"
    ec2.wait(instance, "instance_terminated")
