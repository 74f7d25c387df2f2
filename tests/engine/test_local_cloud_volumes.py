"""EBS in the local cloud: volumes are block devices, snapshots hold their bytes, and nothing of either stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import PurePosixPath

import boto3
import pytest
from botocore.exceptions import ClientError, WaiterError

from splitbake.local import Cloud, down, up
from splitbake.local.disks import DiskError, Disks, folder, loops
from splitbake.local.engine import LABEL, connect
from splitbake.local.hosts import Host, Hosts

pytestmark = pytest.mark.engine

PROD, ELSEWHERE = "222222222222", "eu-west-1"
QUICK = {"Delay": 0.2, "MaxAttempts": 300}
MIB, GIB = 2**20, 2**30


class Ec2:
    """Volumes, snapshots, AMIs and instances of one test module; what a test makes is removed after it."""

    def __init__(self, cloud, client):
        self.cloud, self.client = cloud, client

    def run(self, image, **options):
        """Start an instance: its container and its volumes are there now, systemd and sshd somewhat later."""
        found = self.client.run_instances(ImageId=image, MinCount=1, MaxCount=1, **options)["Instances"][0]
        return found["InstanceId"]

    def wait(self, instance, state="instance_running"):
        self.client.get_waiter(state).wait(InstanceIds=[instance], WaiterConfig=QUICK)
        return instance

    def stop(self, instance):
        self.wait(instance)
        self.client.stop_instances(InstanceIds=[instance])
        self.wait(instance, "instance_stopped")

    def start(self, instance):
        self.client.start_instances(InstanceIds=[instance])

    def terminate(self, instance):
        self.client.terminate_instances(InstanceIds=[instance])

    def shell(self, instance, script):
        container = connect().containers.get(f"splitbake-{self.cloud.id}-{instance}")
        done = container.exec_run(["sh", "-euc", script])
        assert done.exit_code == 0, done.output.decode()
        return done.output.decode().strip()

    def image(self, instance, name, **options):
        ami = self.client.create_image(InstanceId=instance, Name=name, **options)["ImageId"]
        return self.available(ami)

    def available(self, ami):
        try:
            self.client.get_waiter("image_available").wait(ImageIds=[ami], WaiterConfig=QUICK)
        except WaiterError as problem:
            raise AssertionError(self.described(ami).get("StateReason")) from problem
        return ami

    def described(self, ami):
        return self.client.describe_images(ImageIds=[ami])["Images"][0]

    def ebs(self, ami):
        return {one["DeviceName"]: one["Ebs"] for one in self.described(ami)["BlockDeviceMappings"]}

    def volumes(self, instance):
        by_instance = [{"Name": "attachment.instance-id", "Values": [instance]}]
        found = self.client.describe_volumes(Filters=by_instance)["Volumes"]
        return {one["Attachments"][0]["Device"]: one for one in found}

    def volume(self, volume):
        return self.client.describe_volumes(VolumeIds=[volume])["Volumes"][0]

    def snapshot(self, snapshot):
        return self.client.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]

    def there(self):
        """Everything of EBS that the account has."""
        snapshots = self.client.describe_snapshots(OwnerIds=["self"])["Snapshots"]
        images = self.client.describe_images(Owners=["self"])["Images"]
        return {
            *(one["VolumeId"] for one in self.client.describe_volumes()["Volumes"]),
            *(one["SnapshotId"] for one in snapshots),
            *(one["ImageId"] for one in images),
        }

    def disks(self):
        """What really is there of it, as files and as loop devices."""
        files = {path.name.removeprefix(f"{self.cloud.id}-"): path for path in folder(self.cloud).glob("*")}
        return files, {name.removeprefix(f"{self.cloud.id}-") for _, name in loops(self.cloud.id)}

    def clean(self, before):
        live = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopped"]}]
        for group in self.client.describe_instances(Filters=live)["Reservations"]:
            for one in group["Instances"]:
                if one["InstanceId"] not in before["instances"]:
                    self.terminate(one["InstanceId"])
        for name in sorted(self.there() - before["rest"], key=lambda name: not name.startswith("ami-")):
            if name.startswith("ami-"):
                self.client.deregister_image(ImageId=name)
            elif name.startswith("snap-"):
                self.client.delete_snapshot(SnapshotId=name)
            else:
                self.client.delete_volume(VolumeId=name)

    def now(self):
        groups = self.client.describe_instances()["Reservations"]
        return {
            "instances": {one["InstanceId"] for group in groups for one in group["Instances"]},
            "rest": self.there(),
        }


@pytest.fixture(scope="module")
def shared(cloud, aws):
    return Ec2(cloud, aws("ec2"))


@pytest.fixture(scope="module")
def models(shared, base_ami):
    """An AMI with a volume of its own at /dev/sdf, whose file system has a label and a file of 30 MB."""
    before = shared.now()
    sizes = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "VolumeType": "gp3", "Throughput": 300}}]
    builder = shared.run(base_ami, BlockDeviceMappings=sizes)
    script = """
        mkfs.ext4 -q -L dl-models /dev/sdf; mount /dev/sdf /mnt
        echo weights >/mnt/a.bin; head -c 30000000 /dev/urandom >/mnt/b.bin; umount /mnt
    """
    shared.shell(builder, script)
    shared.stop(builder)
    ami = shared.image(builder, "models")
    shared.terminate(builder)
    yield ami
    shared.clean(before)


@pytest.fixture
def ec2(shared, models):
    """The account with the models AMI in it; after the test it is as before, in the books and on the disk."""
    before, disks = shared.now(), shared.disks()  # other tests may have left something in other accounts and regions
    yield shared
    shared.clean(before)
    assert shared.there() == before["rest"]
    files, devices = shared.disks()
    assert (set(files), devices) == (set(disks[0]), disks[1])


def mapping(device, **ebs):
    return {"DeviceName": device, "Ebs": ebs}


def test_a_volume_is_a_block_device_that_takes_no_space_until_it_is_written_to(ec2, base_ami):
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "of", "Value": "run"}]}]
    asked = [mapping("/dev/sdf", VolumeSize=2, VolumeType="gp3", Throughput=250), mapping("/dev/xvda", VolumeSize=40)]
    instance = ec2.run(base_ami, BlockDeviceMappings=asked, TagSpecifications=tags)
    assert ec2.shell(instance, "test -b /dev/sdf; blockdev --getsize64 /dev/sdf") == str(2 * GIB)
    volumes = ec2.volumes(instance)
    assert {device: (one["Size"], one["State"]) for device, one in volumes.items()} == {
        "/dev/xvda": (40, "in-use"),
        "/dev/sdf": (2, "in-use"),
    }
    assert all(one["Tags"] == [{"Key": "of", "Value": "run"}] for one in volumes.values())
    data = volumes["/dev/sdf"]
    assert (data["VolumeType"], data["Throughput"], data["Iops"]) == ("gp3", 250, 3000)
    files, devices = ec2.disks()
    assert data["VolumeId"] in devices
    status = files[data["VolumeId"]].stat()
    assert (status.st_size, status.st_blocks) == (2 * GIB, 0)
    ec2.shell(
        instance, "mkfs.ext4 -q /dev/sdf; mount /dev/sdf /mnt; head -c 20000000 /dev/urandom >/mnt/a; umount /mnt"
    )
    assert 20e6 < files[data["VolumeId"]].stat().st_blocks * 512 < 200e6


def test_termination_deletes_the_volumes_for_which_it_was_asked(ec2, base_ami):
    """EC2 user guide, preserving data: a data volume attached at launch by API is deleted unless it says otherwise."""
    asked = [
        mapping("/dev/sdf", VolumeSize=1, DeleteOnTermination=False),
        mapping("/dev/sdg", VolumeSize=1, DeleteOnTermination=True),
        mapping("/dev/sdh", VolumeSize=1),
    ]
    instance = ec2.run(base_ami, BlockDeviceMappings=asked)
    volumes = ec2.volumes(instance)
    ec2.shell(instance, "echo kept | dd of=/dev/sdf conv=fsync status=none")
    with pytest.raises(ClientError, match="VolumeInUse"):
        ec2.client.delete_volume(VolumeId=volumes["/dev/sdf"]["VolumeId"])
    ec2.terminate(instance)
    kept = volumes.pop("/dev/sdf")["VolumeId"]
    assert ec2.volume(kept)["State"] == "available"
    for gone in volumes.values():
        with pytest.raises(ClientError, match=r"InvalidVolume\.NotFound"):
            ec2.volume(gone["VolumeId"])
    files, devices = ec2.disks()
    assert kept in files
    assert kept not in devices
    assert not files.keys() & {one["VolumeId"] for one in volumes.values()}
    with files[kept].open("rb") as file:
        assert file.read(5) == b"kept\n"
    ec2.client.delete_volume(VolumeId=kept)
    assert kept not in ec2.disks()[0]


def test_a_volume_is_attached_to_and_detached_from_a_stopped_instance(ec2, base_ami):
    of_cloud = {"label": f"{LABEL}={ec2.cloud.id}"}
    images = len(connect().api.images(all=True, filters=of_cloud))
    instance = ec2.run(base_ami)
    zone = ec2.volumes(instance)["/dev/xvda"]["AvailabilityZone"]
    volume = ec2.client.create_volume(AvailabilityZone=zone, Size=1, VolumeType="gp3")["VolumeId"]
    assert ec2.volume(volume)["State"] == "available"
    place = {"VolumeId": volume, "InstanceId": instance, "Device": "/dev/sdf"}
    with pytest.raises(ClientError, match=r"IncorrectState.*stopped instances only"):
        ec2.client.attach_volume(**place)
    machine = ec2.shell(ec2.wait(instance), "echo kept >/root/file; cat /etc/machine-id")
    ec2.stop(instance)
    ec2.client.attach_volume(**place)
    with pytest.raises(ClientError, match="VolumeInUse"):
        ec2.client.attach_volume(**place)
    ec2.start(instance)
    assert ec2.shell(instance, "cat /root/file /etc/machine-id") == f"kept\n{machine}"
    ec2.shell(instance, "echo data | dd of=/dev/sdf conv=fsync status=none")
    (attachment,) = ec2.volume(volume)["Attachments"]
    assert (attachment["InstanceId"], attachment["Device"], attachment["State"]) == (instance, "/dev/sdf", "attached")
    ec2.stop(instance)
    ec2.start(instance)
    assert ec2.shell(instance, "head -c 4 /dev/sdf") == "data"
    ec2.stop(instance)
    ec2.client.detach_volume(VolumeId=volume)
    assert ec2.volume(volume)["State"] == "available"
    ec2.start(instance)
    assert ec2.shell(instance, "cat /root/file; test ! -e /dev/sdf") == "kept"
    ec2.terminate(instance)
    assert len(connect().api.images(all=True, filters=of_cloud)) == images
    assert ec2.volume(volume)["State"] == "available"


def test_an_image_has_a_snapshot_of_each_volume(ec2, base_ami):
    asked = [
        mapping("/dev/sdf", VolumeSize=1, VolumeType="gp3", Throughput=250, DeleteOnTermination=True),
        mapping("/dev/sdg", VolumeSize=1, DeleteOnTermination=False),
        mapping("/dev/sdh", VolumeSize=1),
    ]
    instance = ec2.run(base_ami, BlockDeviceMappings=asked)
    ec2.shell(instance, "head -c 50000000 /dev/urandom | dd of=/dev/sdf bs=1M iflag=fullblock status=none")
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "of", "Value": "bake"}]}]
    changed = [mapping("/dev/sdg", DeleteOnTermination=True), {"DeviceName": "/dev/sdh", "NoDevice": ""}]
    ec2.wait(instance)
    ami = ec2.client.create_image(
        InstanceId=instance, Name="several", TagSpecifications=tags, BlockDeviceMappings=changed
    )["ImageId"]
    pending = ec2.client.describe_snapshots(Filters=[{"Name": "description", "Values": [f"*{ami}*"]}])["Snapshots"]
    assert len(pending) == 3
    assert {one["State"] for one in pending} <= {"pending", "completed"}
    ec2.available(ami)
    found = ec2.ebs(ami)
    assert list(found) == ["/dev/xvda", "/dev/sdf", "/dev/sdg"]
    data = found["/dev/sdf"]
    assert (data["VolumeSize"], data["VolumeType"], data["Throughput"], data["Encrypted"]) == (1, "gp3", 250, False)
    assert (data["DeleteOnTermination"], found["/dev/sdg"]["DeleteOnTermination"]) == (True, True)
    sizes = {}
    for device, one in found.items():
        snapshot = ec2.snapshot(one["SnapshotId"])
        assert (snapshot["State"], snapshot["Tags"]) == ("completed", [{"Key": "of", "Value": "bake"}])
        assert snapshot["VolumeId"] == ec2.volumes(instance)[device]["VolumeId"]
        sizes[device] = snapshot["FullSnapshotSizeInBytes"]
    assert 50e6 <= sizes["/dev/sdf"] < 52e6
    assert sizes["/dev/sdg"] == 0
    with pytest.raises(ClientError, match="UnsupportedOperation"):
        ec2.client.create_image(
            InstanceId=instance, Name="more", BlockDeviceMappings=[mapping("/dev/sdz", VolumeSize=1)]
        )


def test_an_image_of_a_running_instance_has_what_was_written_and_not_yet_on_disk(ec2, models):
    instance = ec2.run(models)
    ec2.shell(instance, "mount LABEL=dl-models /mnt; echo late >/mnt/late")
    ami = ec2.image(ec2.wait(instance), "late", NoReboot=True)
    other = ec2.run(ami)
    assert ec2.shell(other, "mount -o ro,noload LABEL=dl-models /mnt; cat /mnt/late; umount /mnt") == "late"


def test_instances_of_an_image_get_volumes_of_their_own(ec2, models):
    first, second = ec2.run(models), ec2.run(models)
    ec2.shell(first, "mount LABEL=dl-models /mnt; echo changed >/mnt/a.bin; umount /mnt")
    assert ec2.shell(second, "mount -o ro LABEL=dl-models /mnt; cat /mnt/a.bin; umount /mnt") == "weights"
    assert ec2.volumes(first)["/dev/sdf"]["SnapshotId"] == ec2.ebs(models)["/dev/sdf"]["SnapshotId"]
    assert ec2.volumes(first)["/dev/sdf"]["VolumeId"] != ec2.volumes(second)["/dev/sdf"]["VolumeId"]


def test_the_call_overrides_the_template_and_the_template_the_ami(ec2, models):
    template = ec2.client.create_launch_template(
        LaunchTemplateName="overridden-volumes",
        LaunchTemplateData={
            "ImageId": models,
            "BlockDeviceMappings": [
                mapping("/dev/sdf", VolumeSize=2, DeleteOnTermination=False, VolumeInitializationRate=300),
                mapping("/dev/sdg", VolumeSize=1),
                mapping("/dev/sdh", VolumeSize=1),
            ],
            "TagSpecifications": [{"ResourceType": "volume", "Tags": [{"Key": "of", "Value": "template"}]}],
        },
    )["LaunchTemplate"]["LaunchTemplateId"]
    asked = [mapping("/dev/sdg", VolumeSize=3), {"DeviceName": "/dev/sdh", "NoDevice": ""}]
    started = ec2.client.run_instances(
        LaunchTemplate={"LaunchTemplateId": template}, MinCount=1, MaxCount=1, BlockDeviceMappings=asked
    )["Instances"][0]["InstanceId"]
    volumes = ec2.volumes(started)
    assert {device: one["Size"] for device, one in volumes.items()} == {"/dev/xvda": 30, "/dev/sdf": 2, "/dev/sdg": 3}
    models_volume = volumes["/dev/sdf"]
    assert models_volume["SnapshotId"] == ec2.ebs(models)["/dev/sdf"]["SnapshotId"]
    assert models_volume["VolumeInitializationRate"] == 300
    assert models_volume["Attachments"][0]["DeleteOnTermination"] is False
    assert {one["Tags"][0]["Value"] for one in volumes.values()} == {"template"}
    assert (
        ec2.shell(started, "blockdev --getsize64 /dev/sdf; blkid -o value -s LABEL /dev/sdf") == f"{2 * GIB}\ndl-models"
    )
    ec2.client.delete_launch_template(LaunchTemplateId=template)


def test_another_snapshot_replaces_that_of_the_ami(ec2, models, base_ami):
    zone = "us-east-1a"
    volume = ec2.client.create_volume(AvailabilityZone=zone, Size=2)["VolumeId"]
    snapshot = ec2.client.create_snapshot(VolumeId=volume)["SnapshotId"]
    ec2.client.delete_volume(VolumeId=volume)
    instance = ec2.run(models, BlockDeviceMappings=[mapping("/dev/sdf", SnapshotId=snapshot)])
    found = ec2.volumes(instance)["/dev/sdf"]
    assert (found["SnapshotId"], found["Size"]) == (snapshot, 2)
    other = ec2.run(models, BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "NoDevice": ""}])
    assert list(ec2.volumes(other)) == ["/dev/xvda"]
    assert ec2.shell(other, "test ! -e /dev/sdf; echo none") == "none"


@pytest.mark.parametrize(
    ("ebs", "refusal"),
    [
        ({}, "MissingParameter"),
        ({"SnapshotId": "snap-0123456789abcdef0"}, r"InvalidSnapshot\.NotFound"),
        ({"VolumeSize": 1, "VolumeInitializationRate": 200}, "InvalidParameterCombination.*snapshots only"),
        ({"VolumeSize": 1, "VolumeInitializationRate": 99}, "InvalidParameterValue.*between 100 and 300"),
        ({"VolumeSize": 1, "VolumeInitializationRate": 301}, "InvalidParameterValue.*between 100 and 300"),
    ],
)
def test_a_volume_that_ebs_would_not_make_is_refused_and_nothing_starts(ec2, base_ami, ebs, refusal):
    before = ec2.now()
    with pytest.raises(ClientError, match=refusal):
        ec2.client.run_instances(
            ImageId=base_ami, MinCount=1, MaxCount=1, BlockDeviceMappings=[mapping("/dev/sdf", **ebs)]
        )
    assert ec2.now() == before


def test_a_volume_is_not_smaller_than_its_snapshot(ec2, models):
    root, data = (ec2.ebs(models)[device] for device in ("/dev/xvda", "/dev/sdf"))
    with pytest.raises(ClientError, match=r"InvalidBlockDeviceMapping.*smaller than snapshot.*expect size>= 30GB"):
        ec2.run(models, BlockDeviceMappings=[mapping("/dev/xvda", VolumeSize=8)])
    with pytest.raises(ClientError, match="InvalidBlockDeviceMapping"):
        ec2.run(models, BlockDeviceMappings=[mapping("/dev/xvda", SnapshotId=data["SnapshotId"])])
    with pytest.raises(ClientError, match=r"UnsupportedOperation.*root volume"):
        ec2.client.create_volume(AvailabilityZone="us-east-1a", SnapshotId=root["SnapshotId"])
    volume = ec2.client.create_volume(AvailabilityZone="us-east-1a", SnapshotId=data["SnapshotId"], Size=2)
    assert (volume["Size"], volume["SnapshotId"]) == (2, data["SnapshotId"])


def test_a_client_token_makes_one_volume(ec2):
    asked = {"AvailabilityZone": "us-east-1a", "ClientToken": "once"}
    volume = ec2.client.create_volume(Size=1, **asked)["VolumeId"]
    assert ec2.client.create_volume(Size=1, **asked)["VolumeId"] == volume
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        ec2.client.create_volume(Size=2, **asked)


def test_a_snapshot_holds_the_bytes_of_its_moment(ec2, models):
    source = ec2.ebs(models)["/dev/sdf"]["SnapshotId"]
    volume = ec2.client.create_volume(AvailabilityZone="us-east-1a", SnapshotId=source)["VolumeId"]
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "of", "Value": "volume"}]}]
    made = ec2.client.create_snapshot(VolumeId=volume, Description="what it is", TagSpecifications=tags)
    assert made["State"] == "pending"
    ec2.client.get_waiter("snapshot_completed").wait(SnapshotIds=[made["SnapshotId"]], WaiterConfig=QUICK)
    found = ec2.snapshot(made["SnapshotId"])
    assert (found["Description"], found["VolumeId"], found["VolumeSize"]) == ("what it is", volume, 1)
    assert found["Tags"] == [{"Key": "of", "Value": "volume"}]
    files, devices = ec2.disks()
    assert volume not in devices, "nobody has it mounted"
    assert 30e6 < found["FullSnapshotSizeInBytes"] < 32e6
    subprocess.run(["cmp", str(files[made["SnapshotId"]]), str(files[source])], check=True)


def test_a_snapshot_in_use_by_an_ami_stays(ec2, models):
    """DeregisterImage: "The snapshots are not deleted" unless asked for; DeleteSnapshot: "first deregister the AMI"."""
    instance = ec2.run(models)
    kept, dropped = ec2.image(ec2.wait(instance), "kept"), ec2.image(instance, "dropped")
    for ami in (kept, dropped):
        for one in ec2.ebs(ami).values():
            with pytest.raises(ClientError, match=r"InvalidSnapshot\.InUse"):
                ec2.client.delete_snapshot(SnapshotId=one["SnapshotId"])
    snapshots = {ami: [one["SnapshotId"] for one in ec2.ebs(ami).values()] for ami in (kept, dropped)}
    images = {"label": f"splitbake.ami={dropped}"}
    assert connect().images.list(filters=images)
    answer = ec2.client.deregister_image(ImageId=dropped, DeleteAssociatedSnapshots=True)
    assert [(one["SnapshotId"], one["ReturnCode"]) for one in answer["DeleteSnapshotResults"]] == [
        (name, "success") for name in snapshots[dropped]
    ]
    assert connect().images.list(filters=images) == []
    assert not ec2.there() & set(snapshots[dropped])
    assert snapshots[dropped][1] not in ec2.disks()[0]
    answer = ec2.client.deregister_image(ImageId=kept)
    assert answer.get("DeleteSnapshotResults", []) == []
    assert connect().images.list(filters={"label": f"splitbake.ami={kept}"}), "the root snapshot is still there"
    for name in snapshots[kept]:
        assert ec2.snapshot(name)["State"] == "completed"
        ec2.client.delete_snapshot(SnapshotId=name)
    assert connect().images.list(filters={"label": f"splitbake.ami={kept}"}) == []


def test_a_copy_carries_every_snapshot_and_shares_their_bytes(ec2, cloud, aws, models):
    there = Ec2(cloud, aws("ec2", region=ELSEWHERE))
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "of", "Value": "copy"}]}]
    given = {"SourceImageId": models, "SourceRegion": cloud.region, "TagSpecifications": tags}
    copy = there.available(there.client.copy_image(Name="copied", **given)["ImageId"])
    source, copied = ec2.ebs(models), there.ebs(copy)
    assert list(copied) == list(source)
    for device, one in copied.items():
        assert one["SnapshotId"] != source[device]["SnapshotId"]
        assert one | {"SnapshotId": ""} == source[device] | {"SnapshotId": ""}
        snapshot = there.snapshot(one["SnapshotId"])
        assert (snapshot["State"], snapshot["Tags"]) == ("completed", tags[0]["Tags"])
        assert f"for SourceSnapshot {source[device]['SnapshotId']}" in snapshot["Description"]
    files, _ = ec2.disks()
    mine, theirs = (files[one["/dev/sdf"]["SnapshotId"]] for one in (source, copied))
    assert mine.samefile(theirs)
    instance = there.run(copy)
    assert there.shell(instance, "mount -o ro LABEL=dl-models /mnt; cat /mnt/a.bin; umount /mnt") == "weights"
    there.terminate(instance)
    there.client.deregister_image(ImageId=copy, DeleteAssociatedSnapshots=True)
    assert mine.exists()
    assert not theirs.exists()


def test_encryption_and_its_key_are_told_back(ec2, cloud, aws, models):
    there, kms = Ec2(cloud, aws("ec2", region=ELSEWHERE)), aws("kms", region=ELSEWHERE)
    key = kms.create_key()["KeyMetadata"]
    kms.create_alias(AliasName="alias/models", TargetKeyId=key["KeyId"])
    given = {"SourceImageId": models, "SourceRegion": cloud.region, "Encrypted": True}
    copy = there.available(there.client.copy_image(Name="encrypted", KmsKeyId="alias/models", **given)["ImageId"])
    for one in there.ebs(copy).values():
        assert one["Encrypted"] is True
        snapshot = there.snapshot(one["SnapshotId"])
        assert (snapshot["Encrypted"], snapshot["KmsKeyId"]) == (True, key["Arn"])
    instance = there.run(copy)
    volume = there.volumes(instance)["/dev/sdf"]
    assert (volume["Encrypted"], volume["KmsKeyId"]) == (True, key["Arn"])
    there.terminate(instance)
    default = there.available(there.client.copy_image(Name="default key", **given)["ImageId"])
    of_default = there.snapshot(there.ebs(default)["/dev/sdf"]["SnapshotId"])["KmsKeyId"]
    assert of_default == kms.describe_key(KeyId="alias/aws/ebs")["KeyMetadata"]["Arn"]
    lost = there.client.copy_image(Name="no such key", KmsKeyId="alias/nobody", **given)["ImageId"]
    deadline = time.monotonic() + 30
    while there.described(lost)["State"] == "pending" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert there.described(lost)["State"] == "failed"
    for ami in (copy, default, lost):
        there.client.deregister_image(ImageId=ami, DeleteAssociatedSnapshots=True)


def test_an_encrypted_volume_makes_encrypted_snapshots(ec2, base_ami):
    instance = ec2.run(base_ami, BlockDeviceMappings=[mapping("/dev/sdf", VolumeSize=1, Encrypted=True)])
    ami = ec2.image(ec2.wait(instance), "secret")
    assert {device: one["Encrypted"] for device, one in ec2.ebs(ami).items()} == {"/dev/xvda": False, "/dev/sdf": True}
    assert ec2.snapshot(ec2.ebs(ami)["/dev/sdf"]["SnapshotId"])["KmsKeyId"]


def test_a_snapshot_is_for_others_only_when_it_is_shared(ec2, cloud, aws, models, base_ami):
    """An AMI's own snapshots need no sharing to be launched; a snapshot that the caller names does."""
    prod = Ec2(cloud, aws("ec2", PROD))
    snapshot = ec2.ebs(models)["/dev/sdf"]["SnapshotId"]
    asked = [mapping("/dev/sdf", SnapshotId=snapshot)]
    ec2.client.modify_image_attribute(ImageId=models, LaunchPermission={"Add": [{"UserId": PROD}]})
    instance = prod.run(models)
    assert prod.shell(instance, "mount -o ro LABEL=dl-models /mnt; cat /mnt/a.bin; umount /mnt") == "weights"
    prod.terminate(instance)
    for image in (models, base_ami):
        with pytest.raises(ClientError, match=r"InvalidSnapshot\.NotFound"):
            prod.run(image, BlockDeviceMappings=asked)
    with pytest.raises(ClientError, match=r"InvalidSnapshot\.NotFound"):
        prod.client.create_volume(AvailabilityZone="us-east-1a", SnapshotId=snapshot)
    with pytest.raises(ClientError, match=r"InvalidRequest.*storage of this ami"):
        prod.client.copy_image(Name="no storage", SourceImageId=models, SourceRegion=cloud.region)
    root = ec2.ebs(models)["/dev/xvda"]["SnapshotId"]
    ec2.client.modify_snapshot_attribute(SnapshotId=root, CreateVolumePermission={"Add": [{"UserId": PROD}]})
    with pytest.raises(ClientError, match=r"InvalidRequest.*storage of this ami"):
        prod.client.copy_image(Name="half the storage", SourceImageId=models, SourceRegion=cloud.region)
    ec2.client.modify_snapshot_attribute(SnapshotId=snapshot, CreateVolumePermission={"Add": [{"UserId": PROD}]})
    instance = prod.run(base_ami, BlockDeviceMappings=asked)
    assert prod.shell(instance, "blkid -o value -s LABEL /dev/sdf") == "dl-models"
    prod.terminate(instance)
    with pytest.raises(ClientError, match=r"InvalidSnapshot\.NotFound"):
        prod.client.delete_snapshot(SnapshotId=snapshot)
    ec2.client.modify_image_attribute(ImageId=models, LaunchPermission={"Remove": [{"UserId": PROD}]})
    for one in (root, snapshot):
        ec2.client.modify_snapshot_attribute(SnapshotId=one, CreateVolumePermission={"Remove": [{"UserId": PROD}]})


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("create_snapshots", {"InstanceSpecification": {"InstanceId": "i-0123456789abcdef0"}}),
        ("copy_snapshot", {"SourceRegion": "us-east-1", "SourceSnapshotId": "snap-0123456789abcdef0"}),
        ("modify_volume", {"VolumeId": "vol-0123456789abcdef0", "Size": 2}),
    ],
)
def test_a_call_behind_which_nothing_would_be_real_is_refused(ec2, call, arguments):
    with pytest.raises(ClientError, match="UnsupportedOperation"):
        getattr(ec2.client, call)(**arguments)


@pytest.fixture
def apart(tmp_path):
    yield tmp_path / "state"
    down(tmp_path / "state")


@pytest.mark.parametrize("again", [up, down])
def test_a_killed_cloud_leaves_no_loop_device_file_or_docker_volume(apart, again):
    unlabelled = {one.name for one in connect().volumes.list() if LABEL not in (one.attrs["Labels"] or {})}
    cloud = up(apart)
    session = boto3.Session(cloud.access_key, cloud.secret_key, region_name=cloud.region)
    client = session.client("ec2", endpoint_url=cloud.endpoint)
    ssm = session.client("ssm", endpoint_url=cloud.endpoint)
    name = "/aws/service/ecs/optimized-ami/amazon-linux-2023/recommended/image_id"
    ec2 = Ec2(cloud, client)
    asked = [mapping("/dev/sdf", VolumeSize=1)]
    instance = ec2.run(ssm.get_parameter(Name=name)["Parameter"]["Value"], BlockDeviceMappings=asked)
    ec2.shell(instance, "mkfs.ext4 -q /dev/sdf; mount /dev/sdf /mnt")
    snapshot = client.create_snapshot(VolumeId=ec2.volumes(instance)["/dev/sdf"]["VolumeId"])["SnapshotId"]
    host = Host("ami", cloud.instance_image, "environment", ((PurePosixPath("/opt/models"), snapshot),))
    Hosts(cloud, connect(), Disks(cloud, connect())).enter(host)
    assert len(list(loops(cloud.id))) == 2
    assert len(connect().volumes.list(filters={"label": [f"{LABEL}={cloud.id}", "splitbake.host"]})) == 1
    for process in cloud.processes:
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(process.alive for process in cloud.processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    again(apart)
    assert {one.name for one in connect().volumes.list() if LABEL not in (one.attrs["Labels"] or {})} <= unlabelled
    assert list(loops(cloud.id)) == []
    assert list(apart.glob("volumes/*")) == []
    assert connect().containers.list(all=True, filters={"label": f"{LABEL}={cloud.id}"}) == []
    assert connect().volumes.list(filters={"label": f"{LABEL}={cloud.id}"}) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted")
def test_a_full_disk_is_told_and_leaves_no_half_disk(cloud: Cloud, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    try:
        disks = Disks(replace(cloud, directory=small), connect())
        disks.create("vol-1", 1)
        with (folder(replace(cloud, directory=small)) / f"{cloud.id}-vol-1").open("r+b") as file:
            file.write(os.urandom(5 * MIB))
        with pytest.raises(DiskError, match="No space left on device"):
            disks.copy("vol-1", "snap-1", 1)
        assert not disks.has("snap-1")
        assert [path.name for path in (small / "volumes").iterdir()] == [f"{cloud.id}-vol-1"]
    finally:
        subprocess.run(["umount", str(small)], check=True)
