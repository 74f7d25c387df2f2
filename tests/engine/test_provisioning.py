"""The scripts of a bake on a real builder of the local cloud, and what instances of its AMI are like.

Packer itself, and how models are fetched, are in test_ami_bake.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import time
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from splitbake import contract, hygiene
from splitbake.artifact import Artifact, Report, now
from splitbake.generate import host, packer, volumes
from splitbake.local.engine import connect
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.ui import silent
from splitbake.verify import ami as verification
from splitbake.verify import suite

pytestmark = pytest.mark.engine

QUICK = {"Delay": 0.2, "MaxAttempts": 600}
FINGERPRINT = "sha256:" + "ab" * 32
MODELS = {"models/large.onnx": b"\0\1\2\3" * (20 << 20), "models/it's $(x).bin": b"x", "empty": b""}
MODELS |= {f"small/{number}": bytes([number]) * 10_000 for number in range(30)}


@dataclass(frozen=True)
class Machine:
    """An instance, looked at from outside as its root."""

    id: str
    container: Any

    def run(self, script: str, *arguments: str) -> tuple[int, str]:
        done = self.container.exec_run(["sh", "-c", script, "test", *arguments])
        return done.exit_code, done.output.decode().strip()

    def check(self, script: str, *arguments: str) -> str:
        status, output = self.run(script, *arguments)
        assert status == 0, output
        return output

    def await_boot(self) -> None:
        """Wait until systemd has started what it can; before it listens, nobody can tell it to wait."""
        while self.run("systemctl is-system-running --wait")[1] not in {"running", "degraded"}:
            time.sleep(0.5)

    def put(self, folder: str, files: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode, entry.mtime = len(content), 0o755, int(time.time())
                tar.addfile(entry, io.BytesIO(content))
        self.check('mkdir -p "$1"', folder)
        # Through a shell inside: what Docker copies in from outside would miss what is mounted there.
        packed = subprocess.run(
            ["docker", "exec", "-i", self.container.name, "tar", "-x", "-C", folder],
            input=buffer.getvalue(),
            check=False,
            capture_output=True,
        )
        assert packed.returncode == 0, packed.stderr


class Ec2:
    """Starts instances and ends them again."""

    def __init__(self, cloud: Any, client: Any, base: str) -> None:
        self.cloud, self.client, self.base = cloud, client, base
        self.started: list[str] = []

    def start(self, image: str, *mappings: dict[str, Any]) -> Machine:
        found = self.client.run_instances(ImageId=image, MinCount=1, MaxCount=1, BlockDeviceMappings=list(mappings))
        instance = found["Instances"][0]["InstanceId"]
        self.started.append(instance)
        self.client.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig=QUICK)
        return Machine(instance, connect().containers.get(f"splitbake-{self.cloud.id}-{instance}"))

    def image(self, machine: Machine, name: str) -> str:
        """Stop a machine and make an AMI of it, as Packer does."""
        self.client.stop_instances(InstanceIds=[machine.id])
        self.client.get_waiter("instance_stopped").wait(InstanceIds=[machine.id], WaiterConfig=QUICK)
        ami = self.client.create_image(InstanceId=machine.id, Name=name)["ImageId"]
        self.client.get_waiter("image_available").wait(ImageIds=[ami], WaiterConfig=QUICK)
        return str(ami)

    def end(self) -> None:
        if self.started:
            self.client.terminate_instances(InstanceIds=self.started)


def volume(device: str, gib: int) -> dict[str, Any]:
    return {"DeviceName": device, "Ebs": {"VolumeSize": gib, "DeleteOnTermination": True}}


@pytest.fixture(scope="module")
def ec2(cloud: Any, aws: Any, base_ami: str) -> Iterator[Ec2]:
    machines = Ec2(cloud, aws("ec2"), base_ami)
    yield machines
    machines.end()


@pytest.fixture(scope="module")
def manifest(sidecar: Sidecar) -> Manifest:
    return Manifest.model_validate(
        {
            "version": 1,
            "project": "faces",
            "state": "state",
            "models": {
                "root": "/opt/dl models/it's $(x) 100%",
                "files": [{"path": "models/", "from": "s3://bucket/models/"}],
                "budget": "1 GiB",
            },
            "ami": {"base": "ecs-gpu-al2023", "preload": [f"ecr://sidecar@{sidecar.digest}"]},
            "image": {
                "base": "python:3.11-slim",
                "include": ["run.py"],
                "mounts": {"models": "/models"},
                "command": ["python", "run.py"],
                "repository": "faces",
                "budget": "500 MB",
            },
            "environments": {"dev": {"account": "123456789012", "region": "us-east-1"}},
        }
    )


@pytest.fixture(scope="module")
def lock() -> Lock:
    files = [
        {"path": path, "source": f"s3://bucket/{path}", "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        for path, body in MODELS.items()
    ]
    return Lock.model_validate(
        {
            "base_ami": {
                "request": "ecs-gpu-al2023",
                "id": "ami-0123456789abcdef0",
                "name": "base",
                "owner": "123456789012",
                "created": "2026-08-20T00:00:00.000Z",
                "architecture": "x86_64",
                "region": "us-east-1",
                "root_device": "/dev/xvda",
                "root_size": 30 * 1024**3,
            },
            "base_image": {"request": "python:3.11-slim", "digest": "sha256:" + "1" * 64},
            "models": [{"path": "models/", "source": "s3://bucket/models/", "files": files}],
        }
    )


#: The package database of a GPU base, which Debian has not.
PACKAGES = "kernel6.1-6.1.150-174.273.amzn2023.x86_64\nkmod-nvidia-open-dkms-570.172.08\nnvidia-driver-570.172.08\n"
RPM = "#!/bin/sh\n[ $1 = -qa ] && cat /usr/local/share/packages\n"
#: What people's provisioning leaves behind, and what a GPU base looks like.
BEFORE = """
mkdir -p /var/lib/ecs/data /root/.aws /root/.ssh /var/lib/amazon/ssm/i-0123 /var/lib/cloud/scripts/per-boot /etc/ecs
printf 'ECS_ENABLE_GPU_SUPPORT=true\\n' >/var/lib/ecs/ecs.config
printf 'ECS_RESERVED_MEMORY=256\\nECS_IMAGE_PULL_BEHAVIOR=always' >/etc/ecs/ecs.config
touch /root/.aws/credentials /root/.bash_history /root/.ssh/known_hosts /var/lib/amazon/ssm/i-0123/state
touch /var/lib/cloud/scripts/per-boot/theirs /var/tmp/.theirs
systemctl restart ecs
"""


@dataclass(frozen=True)
class Sidecar:
    """An image of one small file in the account's registry; the login is as Docker keeps it."""

    repository: str
    digest: str
    login: str


@pytest.fixture(scope="module")
def sidecar(cloud: Any, aws: Any) -> Iterator[Sidecar]:
    ecr, engine = aws("ecr"), connect()
    repository = ecr.create_repository(repositoryName="sidecar")["repository"]["repositoryUri"]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("hello"))
    engine.api.import_image_from_data(packed.getvalue(), repository=repository, tag="1")
    login = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = b64decode(login).decode().partition(":")
    engine.images.push(repository, "1", auth_config={"username": user, "password": password})
    engine.images.remove(f"{repository}:1")
    (image,) = ecr.describe_images(repositoryName="sidecar")["imageDetails"]
    yield Sidecar(repository, image["imageDigest"], login)
    ecr.delete_repository(repositoryName="sidecar", force=True)


@dataclass(frozen=True)
class Baked:
    """What a whole bake made, and what was seen on the way."""

    ami: str
    builder: Machine
    said: dict[str, str]
    gate: Report
    seen: dict[str, str]


def look(machine: Machine, manifest: Manifest, lock: Lock, moment: str) -> Report:
    """Run the checks of an AMI on a machine."""
    expected = verification.expectation(manifest, lock, FINGERPRINT, "ssh-ed25519 AAAA nobody")
    artifact = Artifact(
        half="ami", id="ami-0", location="us-east-1", fingerprint=FINGERPRINT, created=now(), seconds=0, size=0
    )
    return suite.run(
        "ami",
        artifact=artifact,
        standard="sha256:" + "0" * 64,
        hosts=f"docker://{machine.container.name}",
        expected={**expected, "moment": moment},
        junit=None,
        say=silent,
    )


def findings(report: Report) -> dict[str, str]:
    return {check.name: check.saw for check in report.checks if not check.passed}


@pytest.fixture(scope="module")
def baked(ec2: Ec2, manifest: Manifest, lock: Lock, sidecar: Sidecar) -> Baked:
    """A bake with the real scripts; the models are put where 30-models.sh would put them."""
    (planned,) = volumes.planned(manifest, lock)
    builder = ec2.start(ec2.base, volume(planned.device, planned.size_gib))
    scripts = {path.rpartition("/")[2]: text for path, text in packer.scripts(manifest, lock).items()}
    said, seen = {}, {}

    def run(name: str) -> None:
        builder.put("/tmp", {name: scripts[name].encode()})  # noqa: S108 - as Packer does
        said[name] = builder.check(f"sh /tmp/{name} 2>&1")

    builder.put("/usr/local", {"bin/rpm": RPM.encode(), "share/packages": PACKAGES.encode()})
    run("10-settle.sh")
    seen["ecs"] = builder.run("systemctl is-active ecs; systemctl is-enabled ecs")[1]
    builder.check(BEFORE)
    builder.check("systemctl stop ecs")
    registry = sidecar.repository.removesuffix("/sidecar")
    logins = json.dumps({"auths": {registry: {"auth": sidecar.login}}})
    images = host.preload_list(manifest.ami.preload, registry)
    left = {"preload.tsv": images.encode(), "docker/config.json": logins.encode()}
    builder.put("/var/tmp/splitbake", left)  # noqa: S108 - what is there after 30-models.sh
    run("20-volumes.sh")
    root = manifest.models.root
    offer = contract.offer_text(manifest, lock).encode()
    builder.put(root, {**MODELS, f"{contract.FOLDER}/{contract.OFFER_FILE}": offer})
    builder.put("/etc/splitbake", {"ami.json": json.dumps(packer.inventory(manifest, lock, FINGERPRINT)).encode()})
    builder.check('chown -R root:root "$1" && chmod -R "$2" "$1"', root, manifest.models.mode)
    run("50-preload.sh")
    seen["logins"] = builder.run("ls -A /var/tmp/splitbake/docker")[1]
    run("60-host.sh")
    gate = look(builder, manifest, lock, "builder")
    run("90-cleanup.sh")
    seen["mounts"] = builder.run('findmnt --mountpoint "$1"', root)[1]
    builder.check("mkdir -p /var/lib/amazon/ssm/i-0123 && touch /var/lib/amazon/ssm/i-0123/again /tmp/again")
    builder.check("echo again >/var/log/messages")
    return Baked(ec2.image(builder, "provisioned"), builder, said, gate, seen)


def test_a_bake_says_what_it_did_and_leaves_no_login(baked: Baked, sidecar: Sidecar) -> None:
    assert "is dl-models, mounted at" in baked.said["20-volumes.sh"]
    assert f"preloading: {sidecar.repository}@{sidecar.digest}" in baked.said["50-preload.sh"]
    assert baked.seen["logins"].endswith("No such file or directory")
    assert not any(sidecar.login in text for text in baked.said.values())


def test_the_agent_is_stopped_first_and_stays_enabled(baked: Baked) -> None:
    assert baked.seen["ecs"].split() == ["inactive", "enabled"]


def test_the_gate_passes_on_the_living_builder(baked: Baked) -> None:
    assert findings(baked.gate) == {}
    names = {check.name for check in baked.gate.checks}
    assert {"volume: dl-models", "jobs need the volumes", "prewarm", "ecs agent"} <= names
    assert not any(name.startswith(("hygiene", "machine id")) for name in names)


def test_the_volume_is_unmounted_before_the_snapshot(baked: Baked) -> None:
    assert baked.seen["mounts"] == ""


@pytest.fixture(scope="module")
def booted(ec2: Ec2, baked: Baked) -> Machine:
    machine = ec2.start(baked.ami)
    machine.await_boot()
    return machine


def test_an_instance_of_the_ami_passes_every_check(booted: Machine, manifest: Manifest, lock: Lock) -> None:
    booted.run("rm -rf /home/*/.ssh/authorized_keys /root/.ssh/authorized_keys")  # nobody logs in here
    report = look(booted, manifest, lock, "instance")
    assert findings(report) == {}
    saw = {check.name: check.saw for check in report.checks}
    assert saw["prewarm"].startswith("read 84 MB in 33 files")
    assert saw["ecs agent"] == "enabled, image pull behaviour once, GPU support on"
    assert saw["drivers are those of the base"] == "3 packages of kernel and driver unchanged"
    assert {f"hygiene: {rule.name}" for rule in hygiene.RULES} - saw.keys() == {
        "hygiene: authorized keys",
        "hygiene: machine id",
    }


def test_what_was_written_after_the_cleanup_went_when_the_builder_went_down(booted: Machine) -> None:
    found = booted.run("grep --count again /var/log/messages; ls /var/lib/amazon/ssm/i-0123 /tmp/again")[1]
    assert found.count("No such file") >= 2
    assert "0" in found.splitlines()
    assert booted.run("ls /run/splitbake-cleanup /run/systemd/system/splitbake-cleanup.service")[0] != 0
    assert booted.run("ls /var/tmp/.theirs")[0] != 0
    assert booted.check("ls /var/lib/cloud/scripts/per-boot") == "theirs", "what provisioning put there stays"


def test_settings_of_the_agent_are_kept_and_added(booted: Machine) -> None:
    assert booted.check("cat /etc/ecs/ecs.config").split() == [
        "ECS_RESERVED_MEMORY=256",
        "ECS_IMAGE_PULL_BEHAVIOR=once",
    ]
    assert booted.check("systemctl is-active docker ecs").split() == ["active", "active"]


def test_nobody_can_write_to_the_models(booted: Machine, manifest: Manifest) -> None:
    status, output = booted.run('touch "$1/x"', manifest.models.root)
    assert status != 0
    assert "Read-only file system" in output


def test_a_host_without_its_models_takes_no_jobs_and_can_be_reached(ec2: Ec2, baked: Baked, manifest: Manifest) -> None:
    machine = ec2.start(baked.ami, {"DeviceName": volumes.MODELS_DEVICE, "NoDevice": ""})
    machine.await_boot()
    states = dict(
        zip(("docker", "ecs", "ssh"), machine.run("systemctl is-active docker ecs ssh")[1].split(), strict=True)
    )
    assert states == {"docker": "inactive", "ecs": "inactive", "ssh": "active"}
    # Where systemd knows disks as units of their own, a mount without its disk was never tried: it did not fail.
    unit = host.mount_unit(manifest.models.root, "models.root")
    assert machine.run('systemctl is-active -- "$1"', unit)[1] in {"failed", "inactive"}
    status, said = machine.run("systemctl start docker")
    assert status != 0, "it starts where somebody asks for it"
    assert said.startswith("A dependency job for docker.service failed.")


def test_the_checks_find_what_somebody_changed(booted: Machine, manifest: Manifest, lock: Lock) -> None:
    booted.check('mount -o remount,rw "$1"', manifest.models.root)
    booted.check("rm -r /etc/systemd/system/ecs.service.d && systemctl daemon-reload")
    booted.check(f"systemctl --quiet disable {host.PREWARM} && systemctl stop {host.PREWARM}")
    booted.check("systemctl --quiet disable docker")
    booted.check("echo ECS_CLUSTER=production >>/etc/ecs/ecs.config")
    booted.check("sed -i s/nvidia-driver-570/nvidia-driver-580/ /usr/local/share/packages")
    booted.check("docker image rm --force $(docker image ls --quiet)")
    (image,) = manifest.ami.preload
    found = findings(look(booted, manifest, lock, "instance"))
    assert found.pop("volume: dl-models").endswith("is mounted rw,relatime,norecovery: jobs could change it")
    assert found.pop("jobs need the volumes").startswith("ecs.service has no Requires on opt-dl")
    assert found == {
        "ecs agent": "every instance would join the cluster production",
        "services of the base are there": "docker.service is disabled, in the base AMI it was enabled",
        "drivers are those of the base": "changed in the bake: nvidia-driver-570.172.08",
        f"preloaded image: {image.rpartition('@')[2]}": "Docker knows 0 images, none of that digest",
        "prewarm": f"{host.PREWARM} is disabled",
    }


# Volumes alone


def make_volumes(machine: Machine, *planned: volumes.Volume) -> tuple[int, str]:
    text = (Path(volumes.__file__).parent / "scripts" / "20-volumes.sh").read_text(encoding="utf-8")
    values = {
        "# @make-volumes@": volumes.calls(planned, "make"),
        "'@bytes-per-inode@'": str(volumes.BYTES_PER_INODE),
        "wait_seconds=60": "wait_seconds=1",
    }
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    machine.put("/tmp", {"volumes.sh": text.encode()})  # noqa: S108 - of the machine
    return machine.run("sh /tmp/volumes.sh 2>&1")


@pytest.fixture(scope="module")
def two_volumes(ec2: Ec2) -> Machine:
    """A machine with the two volumes that an AMI can have beside its root."""
    return ec2.start(ec2.base, volume("/dev/sdf", 1), volume("/dev/xvdg", 2))


FIRST = volumes.Volume("/dev/sdf", "dl-models", "/opt/first", 1)
SECOND = volumes.Volume("/dev/sdg", "dl-runtime", "/opt/second", 2)


@pytest.fixture(scope="module")
def made(two_volumes: Machine) -> Machine:
    status, said = make_volumes(two_volumes, FIRST, SECOND)
    assert status == 0, said
    assert "/dev/xvdg (/dev/sdg), 2 GiB, is dl-runtime, mounted at /opt/second" in said
    return two_volumes


def test_each_volume_has_its_label_and_no_work_is_left_for_the_kernel(made: Machine) -> None:
    for device, one in (("/dev/sdf", FIRST), ("/dev/xvdg", SECOND)):
        assert made.check(f"blkid -p -s LABEL -o value {device}") == one.label
        groups = made.check(f"dumpe2fs {device} 2>/dev/null | grep '^Group [0-9]'").splitlines()
        assert len(groups) == one.size_gib * 8
        assert all("ITABLE_ZEROED" in group for group in groups), "mkfs left tables to be written later"
        assert made.check(f"ls -A {one.where}") == ""
        inodes = int(made.check(f"df --output=itotal {one.where} | tail -n 1"))
        assert inodes == one.size_gib * 1024**3 // volumes.BYTES_PER_INODE


def test_20_000_small_files_fit_and_the_file_system_stays_whole(made: Machine) -> None:
    files = {f"models/{number:05}": 10_000 for number in range(20_000)}
    assert volumes.fitting(files) == FIRST.size_gib
    write = "head -c 200000000 /dev/zero | split -b 10000 -a 5 -d - models/ && find models -type f | wc -l"
    assert made.check(f"cd {FIRST.where} && mkdir models && {write}") == "20000"
    script = (Path(volumes.__file__).parent / "scripts" / "90-cleanup.sh").read_text(encoding="utf-8")
    functions = script.partition("\nlast=no\n")[0] + "\n" + volumes.calls([FIRST], "close")
    made.put("/tmp", {"close.sh": functions.encode()})  # noqa: S108 - of the machine
    holding = made.check(f"cd {FIRST.where} && (sleep 1000 >/dev/null 2>&1 & echo $!)")
    status, said = made.run("sh /tmp/close.sh 2>&1")
    assert status == 1
    assert f"splitbake: volume: {FIRST.where} is still in use" in said
    made.check(f"kill {holding}; while kill -0 {holding} 2>/dev/null; do sleep 0.1; done; sh /tmp/close.sh")
    assert "clean" in made.check("e2fsck -f -n /dev/sdf 2>&1 && tune2fs -l /dev/sdf | grep 'Filesystem state'")
    made.check(f"mount -o ro,noload /dev/sdf {FIRST.where} && umount {FIRST.where}")


def test_what_is_not_blank_is_never_formatted(made: Machine) -> None:
    status, said = make_volumes(made, SECOND)
    assert status == 1
    assert "splitbake: volume: /dev/xvdg is in use or has content" in said
    assert "TYPE=ext4" in said
    assert made.check("blkid -p -s LABEL -o value /dev/xvdg") == "dl-runtime"


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        (volumes.Volume("/dev/sdf", "x", "/opt/x", 7), "/dev/sdf has 1073741824 bytes, wanted are 7 GiB"),
        (volumes.Volume("/dev/sdk", "x", "/opt/x", 7), "/dev/sdk is not there, and no other blank disk has 7 GiB"),
    ],
)
def test_a_volume_that_is_not_as_planned_stops_the_bake(made: Machine, wish: volumes.Volume, problem: str) -> None:
    status, said = make_volumes(made, wish)
    assert (status, said.splitlines()[-1]) == (1, f"splitbake: volume: {problem}")


def test_a_folder_with_content_is_not_hidden_by_a_volume(ec2: Ec2) -> None:
    machine = ec2.start(ec2.base, volume("/dev/sdf", 1))
    machine.put("/opt/first", {"theirs": b"x"})
    assert make_volumes(machine, FIRST) == (
        1,
        "splitbake: volume: /opt/first has content already, which the volume would hide",
    )


@pytest.mark.skipif(shutil.which("systemd-escape") is None, reason="systemd-escape is not installed")
def test_names_of_mount_units_are_those_of_systemd_escape(manifest: Manifest) -> None:
    paths = [
        "/opt/dl-models",
        manifest.models.root,
        "/.a/.b",
        "/ä ö/_:x",
        '/a"b/%/\\x',
        "/" + "".join(map(chr, range(33, 47))),
    ]
    argv = ["systemd-escape", "--path", "--suffix=mount", *paths]
    names = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert [host.mount_unit(path, "models.root") for path in paths] == names
