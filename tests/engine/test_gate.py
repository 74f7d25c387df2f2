"""Both gates for real: the builder is looked at before there is an AMI, and instances after it; all of them end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from splitbake import fingerprint
from splitbake.artifact import Artifact, Report
from splitbake.bake import access, ami
from splitbake.cli import cli, run
from splitbake.cloud import Cloud
from splitbake.errors import BuildError, VerifyError
from splitbake.generate import packer
from splitbake.local.engine import connect
from splitbake.lock import Lock
from splitbake.project import Project
from splitbake.sources import base_ami as bases
from splitbake.ui import Say, silent
from splitbake.verify import ami as verification
from splitbake.verify import probe, tunnel
from splitbake.verify.boot import booted

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("packer") is None, reason="Packer is not installed"),
]

MODELS = {"models/big one.bin": os.urandom(3_000_000), "models/small.bin": b"small"}
SPOIL = "#!/bin/sh\nsystemctl --quiet disable docker\n"


def project_in(root: Path, provision: str = "#!/bin/sh\ntrue\n") -> Project:
    """A project of which models come from the folder itself, generated and locked."""
    for path, content in {**MODELS, "setup.sh": provision.encode()}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    body = {
        "version": 1,
        "project": "gate-test",
        "state": "state",
        "models": {
            "files": [{"path": path, "from": path} for path in MODELS],
            "budget": "10 MB",
            "placement": "root",
            "prewarm": "none",
        },
        "ami": {"base": "ecs-gpu-al2023", "provision": ["setup.sh"]},
        "image": {
            "base": "python:3.11-slim",
            "include": ["run.py"],
            "mounts": {"models": "/models"},
            "command": ["python", "run.py"],
            "repository": "gate-test",
            "budget": "500 MB",
        },
        "environments": {"local": {"account": "123456789012", "region": "us-east-1", "endpoint": "custom"}},
    }
    (root / "splitbake.yaml").write_text(json.dumps(body), encoding="utf-8")
    project = Project(root / "splitbake.yaml")
    named = {
        path: {"path": path, "source": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in MODELS.items()
    }
    lock = {
        "base_ami": bases.resolve(project.cloud(), project.manifest).model_dump(),
        "base_image": {"request": "python:3.11-slim", "digest": "sha256:" + "1" * 64},
        "models": [{"path": path, "source": path, "files": [file]} for path, file in named.items()],
    }
    (root / "splitbake.lock").write_text(Lock.model_validate(lock).to_text(), encoding="utf-8")
    for path, text in packer.render(project.manifest, project.lock, "1.6").items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return project


def bake(project: Project, say: Say) -> Artifact:
    inputs = fingerprint.inputs(project, "ami")
    return ami.bake(project, project.cloud(), fingerprint=inputs.fingerprint, say=say)


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory, cloud: Any) -> tuple[Project, Artifact, list[str]]:
    """One good bake that the state knows, and what was said."""
    project = project_in(tmp_path_factory.mktemp("good"))
    said: list[str] = []
    artifact = bake(project, said.append)
    project.catalog(project.cloud()).keep(artifact, instead_of=None)
    return project, artifact, said


@pytest.fixture(scope="module")
def verified(baked: Any) -> tuple[Project, Artifact, Report]:
    project, artifact, _ = baked
    return project, artifact, verification.verify(project, project.cloud(), artifact, junit=None, say=silent)


def alive(aws: Callable[[str], Any]) -> set[str]:
    found = [one for group in aws("ec2").describe_instances()["Reservations"] for one in group["Instances"]]
    return {one["InstanceId"] for one in found if one["State"]["Name"] != "terminated"}


@pytest.fixture
def nothing_left(baked: Any, aws: Callable[[str], Any]) -> Iterator[None]:
    """No instance, key pair or security group is left; of AMIs and snapshots those from before."""

    def there() -> dict[str, Any]:
        ec2 = aws("ec2")
        return {
            "instances": alive(aws),
            "keys": {one["KeyName"] for one in ec2.describe_key_pairs()["KeyPairs"]},
            "groups": {one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]},
            "images": {one["ImageId"] for one in ec2.describe_images(Owners=["self"])["Images"]},
            "snapshots": {one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]},
        }

    before = there()
    yield
    assert there() == before


def test_the_builder_is_checked_before_the_snapshot(baked: Any) -> None:
    project, artifact, said = baked
    seen = {line for line in said if line[:1] in "✔✘○"}
    assert {line.partition(" (")[0] for line in seen} >= {f"✔ model file: {path}" for path in MODELS}
    assert not any(line.startswith("✘") or "hygiene" in line for line in seen), "nothing is cleaned up yet"
    checked = next(number for number, line in enumerate(said) if line.startswith("✔ model file"))
    assert checked < said.index("waiting for the snapshot")
    assert project.catalog(project.cloud()).report(artifact) is None, "that is for instances of it"


@pytest.mark.usefixtures("nothing_left")
def test_a_finding_on_the_builder_means_that_no_ami_comes_to_exist(tmp_path: Path) -> None:
    project = project_in(tmp_path, SPOIL)
    said: list[str] = []
    with pytest.raises(BuildError, match=r"80-gate\.sh: services of the base are there \(docker\.service is ") as told:
        bake(project, said.append)
    assert "no AMI was made" in told.value.hint
    assert any(line.startswith("✘ services of the base are there") for line in said)
    assert "waiting for the snapshot" not in said


def test_two_instances_boot_and_are_not_the_same(verified: Any) -> None:
    project, _, report = verified
    assert project.manifest.verify.instances == 2
    assert [(check.name, check.saw) for check in report.checks if not check.passed] == []
    checks = {check.name: check for check in report.checks}
    assert list(checks)[:2] == ["first read", "time until ready"], "nothing may read the models before"
    told = checks["identities differ"].saw
    for what in ("machine id", "SSH host key ed25519", "instance id", "cloud-init instance", "ECS agent"):
        assert what in told.partition("; not on all of them: ")[0]
    assert "read by any user, written by none" in checks["models in a container"].saw
    assert checks["gpu driver is one"].skipped
    assert checks["gpu driver is one"].saw == "this instance has no GPU"


def test_what_was_measured_is_in_the_report(verified: Any) -> None:
    figures = verified[2].figures
    assert figures["first read of all models, MB/s"] > 0
    assert figures["first read of models/big one.bin, MB/s"] > 0
    assert "first read of models/small.bin, MB/s" not in figures, "5 bytes tell nothing of a volume"
    for what in ("SSH", "docker active", "ecs active"):
        for number in (1, 2):
            assert 0 < figures[f"instance {number}: RunInstances to {what}, s"] < 300


def test_the_inventory_lies_beside_the_ami(verified: Any, capsys: pytest.CaptureFixture[str]) -> None:
    project, artifact, _ = verified
    found = project.catalog(project.cloud()).inventory(artifact.id)
    assert found is not None
    assert found.kernel == os.uname().release
    assert {"bash", "systemd", "docker.io"} <= found.packages.keys()
    assert found.docker.split("+")[0].count(".") == 2
    assert {path: model.size for path, model in found.models.items()} == {
        path: len(content) for path, content in MODELS.items()
    }
    assert found.sizes["/opt/dl-models/models"] >= sum(map(len, MODELS.values()))
    assert found.sizes["/"] > found.sizes["/usr"] > 10_000_000
    argv = ["diff", artifact.id, artifact.id, "--exit-code", f"--manifest={project.manifest_path}"]
    assert run(cli, prog_name="splitbake", argv=argv) == 0
    assert "hold the same" in capsys.readouterr().out


BAKE_IN = """
until [ -e /var/lib/ecs/data/agent.db ]; do sleep 0.2; done
printf 'ssh_deletekeys: false\\n' >/etc/cloud/cloud.cfg.d/99-keep.cfg
rm -rf /var/lib/cloud/instances /var/lib/cloud/instance /var/lib/cloud/data
systemctl disable ecs
"""


@pytest.mark.usefixtures("nothing_left")
def test_an_identity_that_was_baked_in_is_found(verified: Any, aws: Callable[[str], Any]) -> None:
    project, artifact, _ = verified
    ec2, options = aws("ec2"), {"builder": project.manifest.ami.builder, "instance_type": "m6i.large"}
    with booted(project.cloud(), artifact.id, **options, within=120, tags={}, say=silent) as (one,):
        argv = ["ssh", "-F", str(one.ssh_config), one.host, "sudo", "sh"]
        subprocess.run(argv, input=BAKE_IN.encode(), check=True, capture_output=True)
        other = ec2.create_image(InstanceId=one.instance, Name="baked in")["ImageId"]
        ec2.get_waiter("image_available").wait(ImageIds=[other], WaiterConfig={"Delay": 1})
    try:
        again = artifact.model_copy(update={"id": other})
        report = verification.verify(project, project.cloud(), again, junit=None, say=silent)
        (check,) = (one for one in report.checks if one.name == "identities differ")
        assert not check.passed
        shared = check.saw.partition(" have the same ")[2]
        assert "machine id" in shared
        assert "SSH host key ed25519" in shared
        assert "ECS agent" in shared
        assert "instance id" not in shared
    finally:
        (image,) = ec2.describe_images(ImageIds=[other])["Images"]
        ec2.deregister_image(ImageId=other)
        for device in image["BlockDeviceMappings"]:
            ec2.delete_snapshot(SnapshotId=device["Ebs"]["SnapshotId"])


FORSAKEN = """
import sys, time
from pathlib import Path
from splitbake.project import Project
from splitbake.verify.boot import booted

project = Project(Path(sys.argv[1]))
options = {"builder": project.manifest.ami.builder, "instance_type": "m6i.large", "within": 120, "say": print}
with booted(project.cloud(), sys.argv[2], count=2, lifetime=10, tags={}, **options) as instances:
    print("run", instances[0].ssh_config.parent.name, *(one.instance for one in instances), flush=True)
    time.sleep(600)
"""


@pytest.mark.usefixtures("nothing_left")
def test_instances_whose_caller_was_killed_end_themselves(baked: Any, aws: Callable[[str], Any]) -> None:
    project, artifact, _ = baked
    argv = [sys.executable, "-c", FORSAKEN, str(project.manifest_path), artifact.id]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        words = next(line.split() for line in caller.stdout if line.startswith("run "))
        folder, ids = words[1], set(words[2:])
        caller.kill()
    try:
        assert len(ids) == 2
        assert ids <= alive(aws)
        deadline = time.monotonic() + 60
        while ids & alive(aws) and time.monotonic() < deadline:
            time.sleep(1)
        assert not ids & alive(aws)
    finally:  # what gc would find
        access.sweep(project.cloud(), folder.removeprefix("splitbake-"))
        shutil.rmtree(Path(tempfile.gettempdir()) / folder)


@pytest.mark.usefixtures("nothing_left")
def test_a_connection_that_dies_is_no_finding(baked: Any, aws: Callable[[str], Any]) -> None:
    project, artifact, _ = baked

    def end(line: str) -> None:
        if line.startswith("✔ first read"):
            for instance in alive(aws):  # at once: the checks go on meanwhile, and there are not many
                (machine,) = connect().containers.list(filters={"name": instance})
                machine.kill()

    with pytest.raises(VerifyError) as told:
        verification.verify(project, project.cloud(), artifact, junit=None, say=end)
    assert "is the machine still there?" in told.value.hint
    assert project.catalog(project.cloud()).report(artifact) is None


@pytest.mark.usefixtures("nothing_left")
def test_a_cancelled_verification_terminates_its_instances(baked: Any) -> None:
    project, _, _ = baked
    argv = [sys.executable, "-m", "splitbake", "verify", "ami", f"--manifest={project.manifest_path}"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.strip().startswith("✔ first read"):
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 130, "".join(said)


PLUGIN = f"""#!{sys.executable}
import json, os, socket, sys, threading
if sys.argv[1:] == ["--version"]:
    sys.exit(print("1.2.835.0"))
address = json.loads(os.environ[sys.argv[1]])["StreamUrl"]
connection = socket.create_connection((address, 22))
def send():
    while chunk := os.read(0, 65536):
        connection.sendall(chunk)
threading.Thread(target=send, daemon=True).start()
while chunk := connection.recv(65536):
    os.write(1, chunk)
"""


@pytest.fixture
def session_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aws: Callable[[str], Any]) -> Iterator[list[str]]:
    """What stands in for the plugin and for StartSession: the session leads to the instance's sshd."""
    program = tmp_path / "bin" / tunnel.PLUGIN
    program.parent.mkdir()
    program.write_text(PLUGIN, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    asked: list[str] = []

    class Sessions(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            wish = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(wish["Target"])
            (group,) = aws("ec2").describe_instances(InstanceIds=[wish["Target"]])["Reservations"]
            address = group["Instances"][0]["PrivateIpAddress"]
            body = json.dumps({"SessionId": "s", "StreamUrl": address, "TokenValue": "t"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Sessions)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    endpoint, real = f"http://127.0.0.1:{server.server_port}", tunnel.proxy_command
    monkeypatch.setattr(tunnel, "proxy_command", lambda instance, region, _: real(instance, region, endpoint))
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("nothing_left")
def test_instances_are_reached_without_an_open_port(
    baked: Any, session_manager: list[str], aws: Callable[[str], Any]
) -> None:
    project, artifact, _ = baked
    aws("iam").create_instance_profile(InstanceProfileName="for-systems-manager")
    wishes = {"connect": "session-manager", "profile": "for-systems-manager"}
    builder = project.manifest.ami.builder.model_copy(update=wishes)
    options = {"builder": builder, "instance_type": "m6i.large", "within": 120, "tags": {}, "say": silent}
    try:
        with booted(Cloud("local", project.cloud().environment), artifact.id, count=2, **options) as instances:
            ids = {one.instance for one in instances}
            for one in instances:
                found = probe.ask_over_ssh(one.ssh_config, one.host, "identity", within=60)
                assert found["instance id"] == one.instance
            ec2 = aws("ec2")
            groups = ec2.describe_instances(InstanceIds=sorted(ids))["Reservations"][0]["Instances"]
            named = {group["GroupId"] for instance in groups for group in instance["SecurityGroups"]}
            rules = ec2.describe_security_groups(GroupIds=sorted(named))["SecurityGroups"]
            assert [rule["IpPermissions"] for rule in rules] == [[]]
        assert set(session_manager) == ids
    finally:
        aws("iam").delete_instance_profile(InstanceProfileName="for-systems-manager")


def test_a_folder_that_ordinary_users_cannot_read_is_a_problem(tmp_path: Path) -> None:
    """Against the engine of this machine, where no job could read the models either."""
    (tmp_path / "a b, c.bin").write_bytes(b"x")
    argv = [sys.executable, "-I", "-c", probe.source("container"), str(tmp_path), "a b, c.bin"]

    def problem() -> str | None:
        answer = json.loads(subprocess.run(argv, capture_output=True, check=True, text=True).stdout)
        found: str | None = answer["problem"]
        return found

    tmp_path.chmod(0o700)
    assert "user 65534 cannot read a b, c.bin" in str(problem())
    tmp_path.chmod(0o755)
    assert problem() is None
