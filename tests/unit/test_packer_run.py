"""Running Packer: its versions, its output, and its record of what it made."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from splitbake.bake import ami, packer
from splitbake.bake.progress import HINTS, Output
from splitbake.errors import BuildError, CloudError, ToolError


def output_of(*lines: str, hidden: tuple[str, ...] = ()) -> tuple[Output, list[str], str]:
    said: list[str] = []
    log = io.StringIO()
    output = Output(log, said.append, hidden)
    for line in lines:
        output.take(f"1700000000,,ui,{line}\n")
    return output, said, log.getvalue()


@pytest.mark.parametrize(
    ("numbers", "compat"), [((1, 6, 6), "1.6"), ((1, 7, 0), "latest"), ((1, 16, 0), "latest"), ((2, 0, 0), "latest")]
)
def test_the_compat_follows_the_version(numbers: tuple[int, int, int], compat: str) -> None:
    assert packer.detect(numbers) == compat


def fake_packer(folder: Path, script: str) -> None:
    program = folder / "packer"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


def test_the_version_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_packer(tmp_path, "echo 'Packer v1.16.0'; echo; echo 'Your version of Packer is out of date!'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert packer.version() == (1, 16, 0)
    assert packer.installed_compat() == "latest"


@pytest.mark.parametrize(
    ("script", "message"), [("echo usage: packer dict", "not HashiCorp's"), ("echo Packer v1.5.4", "too old")]
)
def test_another_program_or_an_old_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    fake_packer(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(ToolError, match=message):
        packer.version()


def test_a_missing_packer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="not on PATH"):
        packer.version()


def test_people_get_steps_and_the_log_gets_everything() -> None:
    _, said, log = output_of(
        "say,==> faces.amazon-ebs.ami: Launching a source AWS instance...",
        'message,    faces.amazon-ebs.ami: Adding tag: "a": "b%!(PACKER_COMMA) c"',
        "say,==> faces.amazon-ebs.ami: Provisioning with shell script: packer/scripts/30-models.sh",
        "message,    faces.amazon-ebs.ami: splitbake: placed: models/a.onnx (12 bytes)",
    )
    assert said == ["starting the builder", "running 30-models.sh", "models/a.onnx (12 bytes)"]
    assert 'Adding tag: "a": "b, c"' in log


def test_the_last_lines_are_those_of_the_step_that_failed() -> None:
    output, said, _ = output_of(
        "say,==> x: Launching a source AWS instance...",
        "say,==> x: Creating AMI tags",
        "say,==> x: Provisioning with shell script: packer/../my setup.sh",
        "error,==> x: no such luck",
        "error,==> x: Provisioning step had errors: Running the cleanup provisioner%!(PACKER_COMMA) if present...",
        "say,==> x: Cleaning up any extra volumes...",
        "error,Build 'x' errored after 2 seconds: Script exited with non-zero exit status: 3",
    )
    assert [line.partition(" errored")[0] for line in output.tail] == ["no such luck", "Build 'x'"]
    assert said == ["starting the builder", "running my setup.sh"]


def test_who_wants_to_know_is_told_when_the_builder_answers() -> None:
    """Only what Packer says before the first script is believed: a script may say the same of another instance."""
    running: list[str] = []
    output = Output(io.StringIO(), lambda _: None, runs=running.append)
    packer_says = (
        "==> x.amazon-ebs.ami: Launching a spot AWS instance...",
        "    x.amazon-ebs.ami: Instance ID: i-0123456789abcdef0",
        "==> x.amazon-ebs.ami: Using ssh communicator to connect: 172.31.0.3",
        "==> x.amazon-ebs.ami: Waiting for SSH to become available...",
    )
    for line in packer_says:
        output.take(f"1700000000,,ui,say,{line}\n")
    assert running == []
    output.take("1700000000,,ui,say,==> x.amazon-ebs.ami: Connected to SSH!\n")
    assert running == ["i-0123456789abcdef0"]
    output.take("1700000000,,ui,say,==> x.amazon-ebs.ami: Provisioning with shell script: setup.sh\n")
    for line in ("Instance ID: i-0fedcba9876543210", "Connected to SSH!"):
        output.take(f"1700000000,,ui,error,==> x.amazon-ebs.ami: {line}\n")
    assert running == ["i-0123456789abcdef0"]


def test_the_builder_of_packer_1_6_insists_on_imdsv2_and_it_is_said(cloud: Any) -> None:
    ec2, said = cloud.client("ec2"), []
    instance = ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    ami._require_tokens(cloud, said.append, instance)
    options = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)
    assert said == [f"{instance}: answers IMDSv2 only (set through the API)"]
    with pytest.raises(CloudError, match="let the builder i-0123456789abcdef0 insist on IMDSv2"):
        ami._require_tokens(cloud, said.append, "i-0123456789abcdef0")


def test_lines_of_other_kinds_are_left_out() -> None:
    output, said, _ = output_of()
    for line in ("", "1700000000,x.file.y,artifact,0,id,File"):
        output.take(line)
    assert (said, output.log.getvalue(), list(output.tail)) == ([], "", [])


def test_a_crash_is_kept_but_no_secret_in_it() -> None:
    output, said, _ = output_of(hidden=("key-of-the-run",))
    output.take("panic: runtime error: index out of range, key-of-the-run\n")
    assert output.log.getvalue() == "panic: runtime error: index out of range, [hidden]\n"
    assert list(output.tail) == ["runtime error: index out of range, [hidden]"]
    assert said == []


def test_secrets_and_signed_addresses_never_reach_log_or_people() -> None:
    output, said, log = output_of(
        r"error,==> x: got http://172.17.0.1:5000/b/k?X-Amz-Signature=abc from S3\nnext key-of-the-run",
        hidden=("key-of-the-run",),
    )
    assert "next [hidden]" in log
    assert not [word for word in ("abc", "key-of-the-run") if word in log]
    assert not any("abc" in line for line in [*said, *output.tail])


@pytest.mark.parametrize(
    "kind", ["disk-full", "not-found", "forbidden", "unreachable", "checksum", "tool", "first-boot"]
)
def test_what_our_scripts_say_becomes_the_error(kind: str) -> None:
    output, _, _ = output_of(
        "say,==> x: Provisioning with shell script: packer/scripts/30-models.sh",
        f"error,==> x: splitbake: {kind}: models/a.onnx: it went wrong",
        "error,==> x: Script exited with non-zero exit status: 1",
    )
    assert output.step == "30-models.sh"
    assert output.reason == (kind, "models/a.onnx: it went wrong")


def test_every_kind_that_our_scripts_can_say_has_a_hint() -> None:
    scripts = Path(packer.__file__).parents[1] / "generate" / "scripts"
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(scripts.glob("*.sh")))
    kinds = set(re.findall(r"\bfail ([a-z-]+) [\"']", text)) | set(re.findall(r"splitbake: ([a-z-]+): .*>&2", text))
    kinds |= set(re.findall(r"FetchError\(\"([a-z-]+)\"", (scripts / "fetch.py").read_text(encoding="utf-8")))
    assert kinds == HINTS.keys()


def record(path: Path, **builds: str) -> Path:
    body = {
        "builds": [{"artifact_id": artifact, "packer_run_uuid": run} for run, artifact in builds.items()],
        "last_run_uuid": "new",
    }
    path.write_text(json.dumps(body), encoding="utf-8")
    return path


def test_the_amis_of_this_run_are_taken_from_a_record_of_many(tmp_path: Path) -> None:
    path = record(tmp_path / "r.json", old="eu-west-1:ami-old", new="eu-west-1:ami-new,us-east-1:ami-copy")
    assert packer.amis(path) == {"eu-west-1": "ami-new", "us-east-1": "ami-copy"}


def test_a_record_without_the_ami_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no readable record"):
        packer.amis(tmp_path / "missing.json")
    with pytest.raises(BuildError, match="expected one AMI of eu-west-1"):
        ami._made(record(tmp_path / "r.json", new="us-east-1:ami-1"), "eu-west-1")


def test_the_environment_hands_over_keys_and_nothing_that_changes_the_course(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PACKER_LOG", "PACKER_LOG_PATH", "PKR_VAR_run", "AWS_PROFILE"):
        monkeypatch.setenv(name, "x")
    env = packer.environment({"AWS_ACCESS_KEY_ID": "key"}, Path("/somewhere"))
    assert not {"PACKER_LOG", "PACKER_LOG_PATH", "PKR_VAR_run", "AWS_PROFILE"} & env.keys()
    assert (env["AWS_ACCESS_KEY_ID"], env["TMPDIR"], env["CHECKPOINT_DISABLE"]) == ("key", "/somewhere", "1")
