"""The AMI half against the local cloud: a real Packer, real machines, real first boots."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from splitbake import contract, fingerprint, health
from splitbake.artifact import Artifact, Report
from splitbake.bake import ami
from splitbake.cloud import Cloud
from splitbake.errors import BuildError, CloudError, SourceError, VerifyError
from splitbake.generate import packer
from splitbake.lock import Lock
from splitbake.project import Project
from splitbake.sources import base_ami as bases
from splitbake.ui import silent
from splitbake.verify import ami as verification
from splitbake.verify.boot import booted

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("packer") is None, reason="Packer is not installed"),
]

BUCKET = "bake-models"
#: Every character here once broke a shell, a template or a table somewhere.
NASTY = "ä $(touch x) `id` 'q' \"p\" {{ y }} ${z} %{if} & ;"
CONTENT = {"models/small.bin": b"small" * 100_000, f"models/{NASTY}.bin": b"nasty", "models/empty.bin": b""}
PROVISION = """\
#!/bin/bash
test "$(id -un)" = root
mkdir -p /var/lib/ecs/data /root/.aws
touch /var/lib/ecs/data/agent.db /root/.aws/credentials /root/.bash_history
echo ssh-ed25519 AAAA somebody >>/root/.ssh/authorized_keys
"""


@dataclass(frozen=True)
class Bench:
    """A project whose models lie in the local cloud's S3, and ways to spoil it."""

    root: Path
    aws: Callable[[str], Any]

    @property
    def project(self) -> Project:
        return Project(self.root / "splitbake.yaml")

    @property
    def cloud(self) -> Cloud:
        return self.project.cloud()

    @property
    def fingerprint(self) -> str:
        return fingerprint.inputs(self.project, "ami").fingerprint

    def bake(self, say: Callable[[str], None] = silent) -> Artifact:
        return ami.bake(self.project, self.cloud, fingerprint=self.fingerprint, say=say)

    def verify(self, artifact: Artifact) -> Report:
        return verification.verify(self.project, self.cloud, artifact, junit=None, say=silent)

    def lock_with(self, path: str, **changes: Any) -> None:
        """Change one locked file, and generate anew."""
        body = json.loads((self.root / "splitbake.lock").read_text(encoding="utf-8"))
        for entry in body["models"]:
            for file in entry["files"]:
                file.update(changes if file["path"] == path else {})
        (self.root / "splitbake.lock").write_text(Lock.model_validate(body).to_text(), encoding="utf-8")
        self.generate()

    def generate(self) -> None:
        project = self.project
        for path, text in packer.render(project.manifest, project.lock, "1.6").items():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")


def manifest_text(root: str, placement: str = "volume") -> str:
    files = [{"path": path, "from": f"s3://{BUCKET}/{path}"} for path in CONTENT]
    return json.dumps(
        {
            "version": 1,
            "project": "bake-test",
            "state": "state",
            "models": {
                "root": root,
                "placement": placement,
                "files": [*files, {"path": "local/notes.txt", "from": "notes.txt"}],
                "budget": "10 MB",
            },
            "ami": {"base": "ecs-gpu-al2023", "provision": ["ami/pre $x.sh"]},
            "image": {
                "base": "python:3.11-slim",
                "include": ["run.py"],
                "mounts": {"models": "/models"},
                "command": ["python", "run.py"],
                "repository": "bake-test",
                "budget": "500 MB",
            },
            "environments": {"local": {"account": "123456789012", "region": "us-east-1", "endpoint": "custom"}},
        }
    )


@pytest.fixture(scope="module", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder of our own for temporary files, so that what is left in it is ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("t")))
        yield


@pytest.fixture(scope="module")
def filled(cloud: Any, aws: Callable[[str], Any]) -> None:
    """The models in S3."""
    aws("s3").create_bucket(Bucket=BUCKET)
    for path, body in CONTENT.items():
        aws("s3").put_object(Bucket=BUCKET, Key=path, Body=body)


def bench_in(root: Path, aws: Callable[[str], Any], models: str = "/opt/dl-models", placement: str = "volume") -> Bench:
    (root / "ami").mkdir(parents=True)
    (root / "ami" / "pre $x.sh").write_text(PROVISION, encoding="utf-8")
    (root / "notes.txt").write_text("from this machine", encoding="utf-8")
    (root / "splitbake.yaml").write_text(manifest_text(models, placement), encoding="utf-8")
    bench = Bench(root, aws)
    entries = []
    for path, body in {**CONTENT, "local/notes.txt": (root / "notes.txt").read_bytes()}.items():
        source = "notes.txt" if path.startswith("local/") else f"s3://{BUCKET}/{path}"
        file = {"path": path, "source": source, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        entries.append({"path": path, "source": source, "files": [file]})
    lock = {
        "base_ami": bases.resolve(bench.cloud, bench.project.manifest).model_dump(),
        "base_image": {"request": "python:3.11-slim", "digest": "sha256:" + "1" * 64},
        "models": entries,
    }
    (root / "splitbake.lock").write_text(Lock.model_validate(lock).to_text(), encoding="utf-8")
    bench.generate()
    return bench


@pytest.fixture
def bench(tmp_path: Path, filled: None, aws: Callable[[str], Any]) -> Bench:
    return bench_in(tmp_path / "project", aws)


@pytest.fixture(scope="module")
def baked(
    tmp_path_factory: pytest.TempPathFactory, filled: None, aws: Callable[[str], Any]
) -> tuple[Bench, Artifact, list[str]]:
    """One good bake with awkward names everywhere."""
    bench = bench_in(tmp_path_factory.mktemp("baked") / "project", aws, models="/opt/dl models/it's $(x)")
    said: list[str] = []
    return bench, bench.bake(said.append), said


def leavings(aws: Callable[[str], Any]) -> dict[str, set[str]]:
    """Everything that a bake or a verification could leave behind, here and in the cloud."""
    ec2 = aws("ec2")
    found = ec2.describe_instances()["Reservations"]
    instances = [one for group in found for one in group["Instances"]]
    volumes = ec2.describe_volumes()["Volumes"]
    return {
        "instances": {one["InstanceId"] for one in instances if one["State"]["Name"] != "terminated"},
        "volumes": {one["VolumeId"] for one in volumes},
        "keys": {one["KeyName"] for one in ec2.describe_key_pairs()["KeyPairs"]},
        "groups": {one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]},
        "images": {one["ImageId"] for one in ec2.describe_images(Owners=["self"])["Images"]},
        "snapshots": {one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]},
        "folders": {path.name for path in Path(tempfile.gettempdir()).iterdir()},
    }


@pytest.fixture
def nothing_left(filled: None, aws: Callable[[str], Any]) -> Iterator[None]:
    before = leavings(aws)
    yield
    assert leavings(aws) == before


def test_the_ami_is_there_with_tags_on_it_and_its_snapshot(baked: Any, aws: Callable[[str], Any]) -> None:
    bench, artifact, _ = baked
    assert not health.problem(bench.cloud, artifact, repository="")
    (image,) = aws("ec2").describe_images(ImageIds=[artifact.id])["Images"]
    snapshots = aws("ec2").describe_snapshots(SnapshotIds=list(artifact.snapshots))["Snapshots"]
    assert len(snapshots) == len(artifact.snapshots) == 2, "of the root volume and that of the models"
    for thing in (image, *snapshots):
        tags = {tag["Key"]: tag["Value"] for tag in thing["Tags"]}
        assert tags["splitbake:fingerprint"] == artifact.fingerprint == bench.fingerprint
        assert tags["splitbake:project"] == "bake-test"
        assert tags["splitbake:contract"] == "1"
        assert tags["Name"] == image["Name"] == f"bake-test-{bench.fingerprint[7:19]}-{tags['splitbake:run']}"
    assert artifact.size == sum(map(len, CONTENT.values())) + len("from this machine")
    assert artifact.offers == contract.offer(bench.project.manifest, bench.project.lock)


def test_a_baked_ami_passes_every_check(baked: Any) -> None:
    bench, artifact, _ = baked
    report = bench.verify(artifact)
    assert [(check.name, check.saw) for check in report.checks if not check.passed] == []
    assert {f"model file: {path}" for path in (*CONTENT, "local/notes.txt")} <= {one.name for one in report.checks}
    assert len(report.checks) > 20


def test_progress_and_log_tell_the_steps_and_no_secret(baked: Any) -> None:
    bench, _, said = baked
    log = (bench.root / "build" / "logs" / "packer.log").read_text(encoding="utf-8")
    assert "running 30-models.sh" in said
    assert any(re.fullmatch(r"i-\w+: answers IMDSv2 only \(set through the API\)", line) for line in said)
    assert any(re.fullmatch(r"0\.5 of 0\.5 MB, \d+ MB/s, 4 of 4 files", line) for line in said)
    for secret in ("X-Amz-Signature", "Signature=", os.environ["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in log + "".join(said)


@pytest.mark.usefixtures("nothing_left")
def test_a_wrong_checksum_stops_the_bake(bench: Bench) -> None:
    bench.lock_with("models/small.bin", sha256="f" * 64)
    with pytest.raises(
        BuildError, match=r"30-models.sh: models/small.bin has 500000 bytes with sha256 .* locked"
    ) as error:
        bench.bake()
    assert "splitbake lock" in error.value.hint


@pytest.mark.usefixtures("nothing_left")
def test_a_model_that_is_gone_stops_the_bake(bench: Bench) -> None:
    bench.lock_with("models/small.bin", source=f"s3://{BUCKET}/models/gone.bin")
    with pytest.raises(BuildError, match=r"models/small.bin: its source answers 404"):
        bench.bake()


@pytest.mark.usefixtures("nothing_left")
def test_models_that_do_not_fit_the_disk_stop_the_bake(bench: Bench) -> None:
    body = json.loads((bench.root / "splitbake.yaml").read_text(encoding="utf-8"))
    body["models"]["placement"], body["ami"]["volume"] = "root", {"size": "30 GiB"}
    (bench.root / "splitbake.yaml").write_text(json.dumps(body), encoding="utf-8")
    bench.lock_with("models/small.bin", size=10**15)
    with pytest.raises(BuildError, match=r"the models need \d+ MiB below /opt/dl-models, free are") as error:
        bench.bake()
    assert "ami.volume.size" in error.value.hint


@pytest.mark.usefixtures("nothing_left")
def test_a_failing_script_of_the_user_is_named(bench: Bench) -> None:
    (bench.root / "ami" / "pre $x.sh").write_text("#!/bin/sh\necho no such luck >&2\nexit 3\n", encoding="utf-8")
    with pytest.raises(BuildError, match=r"failed in pre \$x.sh:(?s:.*)no such luck(?s:.*)packer.log"):
        bench.bake()


@pytest.mark.usefixtures("nothing_left")
def test_a_local_model_that_is_gone_stops_before_anything_is_made(bench: Bench) -> None:
    (bench.root / "notes.txt").unlink()
    with pytest.raises(SourceError, match=r"notes.txt"):
        bench.bake()


@pytest.mark.usefixtures("nothing_left")
def test_generated_files_out_of_date_are_refused(bench: Bench) -> None:
    main = bench.root / packer.MAIN
    main.write_text(main.read_text(encoding="utf-8").replace("m6i.xlarge", "p5.48xlarge"), encoding="utf-8")
    with pytest.raises(BuildError, match=r"packer/main.pkr.hcl is not what manifest and lock say"):
        bench.bake()


def keeper_of(process: int) -> bool:
    """Whether ``process`` is a child of ours."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1] == str(os.getpid())


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("moment", ["logged in to the builder", "stopping the builder"])
def test_a_killed_packer_leaves_nothing(bench: Bench, moment: str) -> None:
    def kill(line: str) -> None:
        if line.startswith(moment):
            for stat in Path("/proc").glob("[0-9]*/stat"):
                with suppress(FileNotFoundError, ProcessLookupError):  # others come and go
                    number, _, fields = stat.read_text().partition(" (packer) ")
                    if fields and keeper_of(int(fields.split()[1])):
                        os.kill(int(number), signal.SIGKILL)

    with pytest.raises(BuildError, match="SIGKILL"):
        bench.bake(kill)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("moment", ["starting the builder", "running 30-models.sh", "creating the AMI"])
def test_ctrl_c_leaves_nothing(bench: Bench, moment: str) -> None:
    def interrupt(line: str) -> None:
        if line.startswith(moment):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.bake(interrupt)


def test_an_ami_that_is_gone_or_never_was_cannot_be_used(bench: Bench, baked: Any) -> None:
    _, artifact, _ = baked
    never = artifact.model_copy(update={"id": "ami-0123456789abcdef0"})
    assert "is gone" in health.problem(bench.cloud, never, repository="")
    theirs = artifact.model_copy(update={"id": bench.project.lock.base_ami.id})
    assert "belongs to account" in health.problem(bench.cloud, theirs, repository="")


def tampered(bench: Bench, artifact: Artifact, *commands: str) -> Artifact:
    """Make another AMI out of one, by hand, as somebody with a console would."""
    ec2 = bench.cloud.client("ec2")
    with booted(
        bench.cloud,
        artifact.id,
        builder=bench.project.manifest.ami.builder,
        instance_type="m6i.large",
        within=120,
        tags={},
        say=silent,
    ) as (instance,):
        for command in commands:
            argv = ["ssh", "-F", str(instance.ssh_config), "instance", "sudo", "sh", "-c", f"'{command}'"]
            subprocess.run(argv, check=True, capture_output=True)
        image = ec2.create_image(InstanceId=instance.instance, Name=f"tampered-{instance.instance}")["ImageId"]
        ec2.get_waiter("image_available").wait(ImageIds=[image], WaiterConfig={"Delay": 1})
    return artifact.model_copy(update={"id": image})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, filled: None, aws: Callable[[str], Any]) -> tuple[Bench, Artifact]:
    """Another good bake, with models that can be changed; it leaves nothing but the AMI and its snapshot."""
    bench = bench_in(tmp_path_factory.mktemp("plain") / "project", aws, placement="root")
    before = leavings(aws)
    artifact = bench.bake()
    after = leavings(aws)
    assert after.pop("images") - before.pop("images") == {artifact.id}
    assert after.pop("snapshots") - before.pop("snapshots") == set(artifact.snapshots)
    assert after == before
    return bench, artifact


def test_verification_finds_what_somebody_changed(plain: tuple[Bench, Artifact]) -> None:
    bench, artifact = plain
    other = tampered(
        bench,
        artifact,
        "echo x >/opt/dl-models/models/extra.csv",
        "chmod 0777 /opt/dl-models/local/notes.txt",
        "echo tampered >/opt/dl-models/models/small.bin",
        "rm /opt/dl-models/models/empty.bin",
        "mkdir -p /root/.aws && touch /root/.aws/credentials /root/.bash_history",
        "echo ssh-ed25519 BBBB intruder >>/home/ec2-user/.ssh/authorized_keys",
        "echo {} >/etc/splitbake/ami.json",
        "sed -i s/500000/9/ /opt/dl-models/.splitbake/contract && touch /opt/dl-models/.splitbake/x",
        "touch -d @1000000000 /var/tmp/old",
    )
    report = bench.verify(other)
    failed = {check.name: check.saw for check in report.checks if not check.passed}
    assert "intruder" in failed.pop("only the boot key may log in")
    assert "the same ECS agent, machine id" in failed.pop("identities differ")
    assert "read 1 MB in 4 files" in failed.pop("prewarm"), "it misses the file that is gone"
    of_the_machine = {  # on which it was changed, and which nobody cleaned
        "hygiene: ECS agent identity",
        "hygiene: container engine identity",
        "hygiene: first-boot state",
        "hygiene: machine id of D-Bus",
        "machine id is its own",
    }
    assert of_the_machine <= failed.keys()
    assert {name: saw for name, saw in failed.items() if name not in of_the_machine} == {
        "model file: local/notes.txt": "has mode 0777, wanted is 0755",
        "model file: models/small.bin": "has 9 bytes, locked are 500000",
        "model file: models/empty.bin": "is missing",
        "nothing but the models": "2 more below /opt/dl-models: .splitbake/x, models/extra.csv",
        "contract": "/opt/dl-models/.splitbake/contract is not what the lock says",
        "models read only for others": "an ordinary user can write /opt/dl-models/local/notes.txt",
        "inventory": "/etc/splitbake/ami.json is not what the lock says",
        "hygiene: credentials": "left from the build: /root/.aws",
        "hygiene: shell history": "left from the build: /root/.bash_history",
        "hygiene: build leftovers": "left from the build: /var/tmp/old",
    }


@pytest.mark.usefixtures("nothing_left")
def test_an_instance_that_does_not_answer_is_terminated(plain: tuple[Bench, Artifact]) -> None:
    bench, artifact = plain
    builder = bench.project.manifest.ami.builder.model_copy(update={"ssh_user": "nobody-here"})
    with (
        pytest.raises(VerifyError, match=r"in the time of verify\.within"),
        booted(bench.cloud, artifact.id, builder=builder, instance_type="m6i.large", within=8, tags={}, say=silent),
    ):
        pytest.fail("it must not be entered")


@pytest.mark.usefixtures("nothing_left")
def test_an_ami_that_does_not_exist_cannot_be_booted(bench: Bench) -> None:
    builder = bench.project.manifest.ami.builder
    with (
        pytest.raises(CloudError, match="start an instance of ami-0123456789abcdef0"),
        booted(
            bench.cloud,
            "ami-0123456789abcdef0",
            builder=builder,
            instance_type="m6i.large",
            within=3,
            tags={},
            say=silent,
        ),
    ):
        pytest.fail("it must not be entered")


@pytest.mark.usefixtures("nothing_left")
def test_ctrl_c_while_looking_terminates_the_instance(plain: tuple[Bench, Artifact]) -> None:
    bench, artifact = plain

    def interrupt(line: str) -> None:
        if line.startswith("✔"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verification.verify(bench.project, bench.cloud, artifact, junit=None, say=interrupt)


def test_the_check_module_works_on_its_own(plain: tuple[Bench, Artifact], tmp_path: Path) -> None:
    bench, artifact = plain
    module = Path(verification.__file__).parent / "checks" / "ami.py"
    with booted(
        bench.cloud,
        artifact.id,
        builder=bench.project.manifest.ami.builder,
        instance_type="m6i.large",
        within=120,
        tags={},
        say=silent,
    ) as (instance,):
        expected = verification.expectation(
            bench.project.manifest, bench.project.lock, bench.fingerprint, instance.public_key
        )
        (tmp_path / "expected.json").write_text(json.dumps(expected), encoding="utf-8")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                str(module),
                "--hosts=ssh://instance?sudo=true",
                f"--ssh-config={instance.ssh_config}",
            ],
            env=os.environ | {"SPLITBAKE_EXPECTED": str(tmp_path / "expected.json")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("ami-0123456789abcdef0", "there is no AMI ami-0123456789abcdef0 in us-east-1"),
        ({"ssm": "/no/such/parameter"}, "there is no SSM parameter /no/such/parameter"),
        ({"name": "no-such-*", "owner": "self"}, "no AMI of self in us-east-1 is named 'no-such-\\*'"),
    ],
)
def test_a_base_that_does_not_exist_is_said(bench: Bench, base: Any, message: str) -> None:
    body = json.loads(manifest_text("/opt/dl-models"))
    body["ami"]["base"] = base
    (bench.root / "splitbake.yaml").write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(SourceError, match=message):
        bases.resolve(bench.cloud, bench.project.manifest)


def test_every_way_to_name_a_base_finds_it(bench: Bench, baked: Any, aws: Callable[[str], Any]) -> None:
    _, artifact, _ = baked
    aws("ssm").put_parameter(Name="/test/plain", Value=artifact.id, Type="String", Overwrite=True)
    aws("ssm").put_parameter(
        Name="/test/json", Value=json.dumps({"image_id": artifact.id}), Type="String", Overwrite=True
    )
    (image,) = aws("ec2").describe_images(ImageIds=[artifact.id])["Images"]
    body = json.loads(manifest_text("/opt/dl-models"))
    wishes = [artifact.id, {"ssm": "/test/plain"}, {"ssm": "/test/json"}, {"name": image["Name"], "owner": "self"}]
    for wish in wishes:
        body["ami"]["base"] = wish
        (bench.root / "splitbake.yaml").write_text(json.dumps(body), encoding="utf-8")
        found = bases.resolve(bench.cloud, bench.project.manifest)
        assert (found.id, found.region) == (artifact.id, "us-east-1")
        assert found.root_size >= 30 * 1024**3
