"""Rules of the local cloud's volumes that need no engine: mappings, mount units, and files that are disks."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from types import SimpleNamespace

import docker
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from moto.ec2.exceptions import EC2ClientError

from splitbake.errors import LocalCloudError
from splitbake.local import disks as disks_module
from splitbake.local.block_devices import check, check_rates, merged, overlaid
from splitbake.local.disks import DiskError, Disks, sweep
from splitbake.local.hosts import mount_units
from splitbake.local.state import Cloud

MIB = 2**20

ROOT = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": "snap-r", "VolumeSize": 30, "Encrypted": False}}
DATA = {
    "DeviceName": "/dev/sdf",
    "Ebs": {
        "SnapshotId": "snap-a",
        "VolumeSize": 2,
        "Encrypted": True,
        "VolumeType": "gp3",
        "DeleteOnTermination": True,
    },
}


def test_what_is_not_said_about_a_device_stays_as_the_ami_says():
    found = merged([ROOT, DATA], [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 5}}])
    assert found == {"/dev/xvda": ROOT["Ebs"], "/dev/sdf": DATA["Ebs"] | {"VolumeSize": 5}}
    assert DATA["Ebs"]["VolumeSize"] == 2


def test_another_snapshot_brings_its_own_size_and_encryption():
    found = merged([ROOT, DATA], [{"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-b"}}])
    assert found["/dev/sdf"] == {"SnapshotId": "snap-b", "VolumeType": "gp3", "DeleteOnTermination": True}


def test_a_device_can_be_left_out_and_an_instance_store_volume_is_none():
    asked = [{"DeviceName": "/dev/sdf", "NoDevice": ""}, {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}]
    assert list(merged([ROOT, DATA], asked)) == ["/dev/xvda"]


def test_the_mapping_of_a_call_is_taken_whole():
    template = [{"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-a"}}, {"DeviceName": "/dev/sdg", "Ebs": {}}]
    call = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1}}]
    assert overlaid(template, call) == [call[0], template[1]]


@given(st.lists(st.sampled_from("abcdef"), unique=True), st.lists(st.sampled_from("abcdef"), unique=True))
def test_every_device_that_nobody_left_out_is_there_once(of_ami, left_out):
    ami = [{"DeviceName": name, "Ebs": {"VolumeSize": 1}} for name in of_ami]
    asked = [{"DeviceName": name, "NoDevice": ""} for name in left_out]
    assert list(merged(ami, asked)) == [name for name in of_ami if name not in left_out]


@given(st.integers(-10, 1000))
def test_a_rate_is_between_100_and_300(rate):
    mappings = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeInitializationRate": rate}}]
    if 100 <= rate <= 300:
        check_rates(mappings)
    else:
        with pytest.raises(EC2ClientError, match="/dev/sdf is not between 100 and 300"):
            check_rates(mappings)


@given(st.integers(1, 100), st.integers(1, 100))
def test_a_volume_is_at_least_as_big_as_its_snapshot(size, of_snapshot):
    ebs = {"SnapshotId": "snap-a", "VolumeSize": size}
    if size >= of_snapshot:
        check("/dev/sdf", ebs, lambda _: of_snapshot)
    else:
        with pytest.raises(EC2ClientError, match=f"expect size>= {of_snapshot}GB"):
            check("/dev/sdf", ebs, lambda _: of_snapshot)


MOUNT = "[Mount]\nWhat=/dev/disk/by-label/dl-models\nWhere = /opt/dl-models\nOptions=ro,noload\n"
REQUIRES = "[Unit]\nRequiresMountsFor=/data /opt/dl-models/models\n"


@pytest.mark.parametrize(
    ("files", "demanded"),
    [
        ({"docker.service.d/a.conf": REQUIRES}, True),
        ({"ecs.service.d/a.conf": REQUIRES}, True),
        ({"multi-user.target.wants/opt.mount": ""}, False),
        ({"local-fs.target.requires/opt.mount": "", "ecs.service.d/a.conf": REQUIRES}, True),
    ],
)
def test_a_mount_unit_counts_where_it_is_pulled_in(files, demanded):
    (unit,) = mount_units({"opt.mount": MOUNT} | files)
    assert (unit.label, unit.where, unit.demanded) == ("dl-models", PurePosixPath("/opt/dl-models"), demanded)


@pytest.mark.parametrize(
    "files",
    [
        {"opt.mount": MOUNT},
        {"opt.mount": MOUNT, "cron.service.d/a.conf": REQUIRES},
        {"opt.mount": MOUNT, "multi-user.target.wants/other.mount": ""},
        {"opt.mount": "[Mount]\nWhat=tmpfs\nWhere=/opt\n", "multi-user.target.wants/opt.mount": ""},
        {"opt.mount": "", "multi-user.target.wants/opt.mount": ""},
        {"opt.service": MOUNT, "docker.service.d/a.conf": REQUIRES},
    ],
)
def test_other_units_mount_nothing(files):
    assert mount_units(files) == ()


@pytest.fixture
def cloud(tmp_path):
    names = ("endpoint", "registry", "network", "gateway", "access_key", "instance_image", "python_image")
    return Cloud(id="c0ffee00", directory=tmp_path, region="r", account="a", **dict.fromkeys(names, ""))


@pytest.fixture
def disks(cloud):
    return Disks(cloud, client=None)


def test_a_disk_has_its_size_and_takes_no_space(disks, tmp_path):
    disks.create("vol-1", 3)
    (path,) = (tmp_path / "volumes").iterdir()
    assert (path.name, path.stat().st_size, disks.used("vol-1")) == ("c0ffee00-vol-1", 3 * 2**30, 0)
    assert disks.has("vol-1")
    disks.remove("vol-1")
    disks.remove("vol-1")
    assert not disks.has("vol-1")


def test_a_copy_grows_and_keeps_its_holes(disks, tmp_path):
    disks.create("vol-1", 1)
    content = os.urandom(MIB)
    with (tmp_path / "volumes" / "c0ffee00-vol-1").open("r+b") as file:
        file.seek(512 * MIB)
        file.write(content)
    disks.copy("vol-1", "snap-1", 2)
    with (tmp_path / "volumes" / "c0ffee00-snap-1").open("rb") as file:
        assert file.seek(0, os.SEEK_END) == 2 * 2**30
        file.seek(512 * MIB)
        assert file.read(2 * MIB) == content + bytes(MIB)
    assert MIB <= disks.used("snap-1") < 2 * MIB


def test_a_linked_disk_stays_until_both_are_removed(disks):
    disks.create("snap-1", 1)
    disks.link("snap-1", "snap-2")
    disks.remove("snap-1")
    assert (disks.has("snap-1"), disks.has("snap-2")) == (False, True)


def test_a_disk_that_cannot_be_copied_is_not_there_at_all(disks, tmp_path):
    with pytest.raises(DiskError, match="No such file"):
        disks.copy("vol-none", "snap-1", 1)
    disks.create("vol-1", 1)
    with pytest.raises(DiskError, match="No such file"):
        disks.link("vol-none", "snap-1")
    assert [path.name for path in (tmp_path / "volumes").iterdir()] == ["c0ffee00-vol-1"]


class Lender:
    """An engine whose one container answers every command alike."""

    def __init__(self, exit_code, out=b"", err=b""):
        self.containers = SimpleNamespace(get=lambda name: self)
        self.answer = SimpleNamespace(exit_code=exit_code, output=(out, err))
        self.ran = []

    def start(self):
        self.ran.append(["start"])

    def exec_run(self, command, **_):
        self.ran.append(command)
        return self.answer

    def remove(self, **_):
        self.ran.append(["remove"])


def test_no_free_loop_device_is_told(cloud):
    client = Lender(1, err=b"losetup: cannot find an unused loop device\n")
    with pytest.raises(DiskError, match=r"losetup: losetup: cannot find an unused loop device$"):
        Disks(cloud, client).device("vol-1")


def test_what_docker_refuses_is_told(cloud):
    def refuse(name):
        raise docker.errors.APIError("500", explanation="no space left on device")

    with pytest.raises(DiskError, match="losetup: no space left on device"):
        Disks(cloud, SimpleNamespace(containers=SimpleNamespace(get=refuse))).device("vol-1")


def test_a_docker_that_does_not_answer_is_told(cloud):
    def hang(name):
        raise requests.exceptions.ReadTimeout("read timed out")

    with pytest.raises(DiskError, match="blkid: read timed out"):
        Disks(cloud, SimpleNamespace(containers=SimpleNamespace(get=hang))).file_system("vol-1")


def test_only_a_disk_with_a_loop_device_has_something_to_write_out(cloud, monkeypatch):
    client = Lender(0)
    monkeypatch.setattr(disks_module, "loops", lambda _: iter([("/dev/loop7", "c0ffee00-vol-1")]))
    Disks(cloud, client).flush("vol-2")
    assert client.ran == []
    Disks(cloud, client).flush("vol-1")
    assert client.ran == [["start"], ["blockdev", "--flushbufs", "/dev/loop7"]]


def test_a_volume_without_a_file_system_has_neither_type_nor_label(cloud):
    assert Disks(cloud, Lender(2)).file_system("vol-1") == ("", "")
    found = Disks(cloud, Lender(0, out=b"DEVNAME=/volumes/x\nLABEL=a=b\nTYPE=ext4\n")).file_system("vol-1")
    assert found == ("ext4", "a=b")


def test_a_loop_device_that_stays_is_an_error_and_its_file_is_kept(cloud, disks, monkeypatch):
    disks.create("vol-1", 1)
    monkeypatch.setattr(disks_module, "loops", lambda _: iter([("/dev/loop99", "c0ffee00-vol-1")]))
    monkeypatch.setattr(disks_module, "_UNMOUNT_SECONDS", 0.1)
    client = Lender(0)
    with pytest.raises(LocalCloudError, match=r"/dev/loop99.*something still uses them") as problem:
        sweep(client, cloud)
    assert "losetup --detach /dev/loop99" in problem.value.hint
    assert ["losetup", "--detach", "/dev/loop99"] in client.ran
    assert disks.has("vol-1")


def test_a_sweep_without_loop_devices_needs_no_engine(cloud, disks, tmp_path):
    disks.create("vol-1", 1)
    assert sweep(None, cloud) == ["disk vol-1"]
    assert not (tmp_path / "volumes").exists()
    assert sweep(None, cloud) == []
