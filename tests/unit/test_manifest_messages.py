"""Every wrong manifest gets all of its problems, each where it stands and in words that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitbake import manifest
from splitbake.errors import ManifestError

VALID = """\
version: 1
project: video-analysis
state: .splitbake/state
models:
  files:
    - {path: models/a.onnx, from: "s3://bucket/models/a.onnx"}
    - {path: checkpoints/x/, from: "s3://bucket/checkpoints/x/"}
  budget: 3 GiB
ami:
  base: ecs-gpu-al2023
image:
  base: python:3.11-slim
  include: ["*.py", lib/]
  mounts: {models: /workspace/models}
  command: [python, run.py]
  repository: team/processor
  budget: 500 MB
verify: {imports: [lib]}
environments:
  dev:
    account: "123456789012"
    region: eu-west-1
    release:
      - {launch_template: gpu}
"""


def problems(tmp_path: Path, text: str) -> list[str]:
    """Return the problems of a manifest with this text, each as line:column: message."""
    path = tmp_path / "splitbake.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        manifest.load(path)
    return [line.strip().removeprefix(f"{path}:") for line in caught.value.message.splitlines()[1:]]


def test_the_valid_manifest_is_valid(tmp_path):
    path = tmp_path / "splitbake.yaml"
    path.write_text(VALID, encoding="utf-8")
    loaded = manifest.load(path)
    assert loaded.models.budget == 3 * 1024**3
    assert loaded.models.files[1].is_folder
    assert loaded.verify.within == 300
    assert loaded.ami.volume.throughput == 125 * 1024**2


@pytest.mark.parametrize(
    "mounts",
    [
        "{checkpoints/x: /w/x, checkpoints: /w}",
        "{models: /w, checkpoints: /ww}",
        "{checkpoints/x/: /w/a, checkpoints/x: /w}",
    ],
)
def test_mounts_that_a_container_can_start_with(tmp_path, mounts):
    path = tmp_path / "splitbake.yaml"
    path.write_text(VALID.replace("{models: /workspace/models}", mounts), encoding="utf-8")
    assert manifest.load(path).image.mounts


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("version: 1", "version: 2", "1:10: expected 1, found 2"),
        ("version: 1", 'version: "1"', "1:10: expected 1, found '1'; write it without quotes"),
        ("version: 1\n", "", "1:1: 'version' is missing (of this format)"),
        (
            "project: video-analysis",
            "project: Video",
            "2:10: expected 2 to 63 lower-case letters, digits and ._-, for example video-analysis, found 'Video'",
        ),
        ("state: .splitbake/state", "stat: x", "3:1: unknown key 'stat'; did you mean 'state'?"),
        ("state: .splitbake/state", "state: ''", "3:8: expected some text, found ''"),
        ("state: .splitbake/state", "state:", "3:7: expected text, found nothing"),
        (
            "state: .splitbake/state",
            "state: gs://b/x",
            "3:8: expected a folder or s3://bucket/prefix, found 'gs://b/x'",
        ),
        ("state: .splitbake/state", "state: 3.10", '3:8: expected text, found 3.10; write it in quotes: "3.10"'),
        ("3 GiB", "3", "8:11: expected a number with a unit, for example 500 MB or 3 GiB, found 3"),
        (
            "3 GiB",
            "3 gib",
            "8:11: expected a number with a unit, for example 500 MB or 3 GiB, found '3 gib'; did you mean '3 GiB'?",
        ),
        ("models/a.onnx, from", "../a.onnx, from", "6:14: expected a path below the folder it belongs to"),
        ('"s3://bucket/models/a.onnx"', '"s3://bucket"', "6:35: expected s3://bucket/key, for example"),
        ('"s3://bucket/models/a.onnx"', '"s4://bucket/a"', "6:35: expected s3://, https://, hf:// or a path"),
        ('"s3://bucket/models/a.onnx"', "https://me:pw@host/a", "6:35: a password cannot stand in the manifest"),
        ('"s3://bucket/models/a.onnx"', "a/../b", "6:35: expected a path below the project's folder"),
        ('"s3://bucket/models/a.onnx"', '"s3://bucket/models/"', "6:29: path and from must both end with /"),
        ('from: "s3://bucket/models/a.onnx"', "form: x", "6:29: unknown key 'form'; did you mean 'from'?"),
        (
            "base: ecs-gpu-al2023",
            "base: ecs-gpu-al2032",
            (
                "10:9: expected ecs-gpu-al2023, ecs-al2023, ecs-al2023-arm64, an AMI id (ami-…), {ssm: …} or "
                "{name: …, owner: …}, found 'ecs-gpu-al2032'; did you mean 'ecs-gpu-al2023'?"
            ),
        ),
        ("base: ecs-gpu-al2023", "base: {nam: x, owner: self}", "10:10: unknown key 'nam'; did you mean 'name'?"),
        ("base: ecs-gpu-al2023", "base: {smm: /x}", "10:10: unknown key 'smm'; did you mean 'ssm'?"),
        ("base: ecs-gpu-al2023", "base: {name: x}", "10:3: 'owner' is missing (an account, self or amazon)"),
        ("base: ecs-gpu-al2023", "base: [x]", "10:9: expected text, found a list"),
        (
            "base: ecs-gpu-al2023",
            "base: ecs-gpu-al2023\n  volume: {throughput: 5 MiB/s}",
            "11:24: expected 125 MiB/s to 1000 MiB/s, as a gp3 volume has, found '5 MiB/s'",
        ),
        (
            "base: ecs-gpu-al2023",
            "base: ecs-gpu-al2023\n  builder: {subnet: subnet-x}",
            "11:21: expected a subnet id, for example subnet-0a1b2c3d, found 'subnet-x'",
        ),
        (
            "command: [python, run.py]",
            "command: python run.py",
            "15:12: expected a list such as [python, run.py], found 'python run.py'",
        ),
        ("command: [python, run.py]", "command: []", "15:12: expected at least one entry, found an empty list"),
        ("command: [python, run.py]", "command: [3]", '15:13: expected text, found 3; write it in quotes: "3"'),
        ("project: video-analysis", "project: xy\ncontract: 0", "3:11: expected 1 or more, found 0"),
        (
            "models/a.onnx,",
            ".splitbake/a,",
            "6:14: expected a path outside of .splitbake, which is splitbake's own, found '.splitbake/a'",
        ),
        (
            "{models: /workspace/models}",
            "{models: /opt/splitbake/host}",
            "14:20: expected a path beside /opt/splitbake, which is splitbake's own, found '/opt/splitbake/host'",
        ),
        (
            "  mounts:",
            "  workdir: /opt\n  mounts:",
            "14:12: expected a path beside /opt/splitbake, which is splitbake's own, found '/opt'",
        ),
        (
            "  mounts:",
            "  needs: [models/a.onnx, models/b.onnx]\n  mounts:",
            "14:26: 'models/b.onnx' is needed, but no entry of models.files provides it",
        ),
        (
            "  mounts:",
            "  needs: [models]\n  mounts:",
            "14:11: 'models' is needed, but no entry of models.files provides it; a folder is written models/",
        ),
        (
            "  mounts:",
            "  needs: [checkpoints/x/weights.bin]\n  mounts:",
            "14:11: 'checkpoints/x/weights.bin' is needed, but no folder of image.mounts shows it",
        ),
        (
            "  mounts:",
            "  needs: [models/, models/]\n  mounts:",
            "14:20: 'models/' stands here already",
        ),
        ("  mounts:", "  needs: []\n  mounts:", "14:10: expected at least one entry, found an empty list"),
        (
            "{models: /workspace/models}",
            "models",
            "14:11: expected a mapping such as {models: /workspace/models}, found 'models'",
        ),
        (
            "{models: /workspace/models}",
            "{modles: /w}",
            "14:12: 'modles' is mounted, but no entry of models.files lies in it",
        ),
        (
            "{models: /workspace/models}",
            "{models: /w, checkpoints: /w}",
            "14:24: another folder is mounted at /w already",
        ),
        (
            "{models: /workspace/models}",
            "{models: /w, checkpoints/x: /w/x}",
            "14:24: /w/x lies in what is mounted read-only at /w, which has no folder models/x/ for it",
        ),
        (
            "image:",
            "  builder: {connect: session-manager}\nimage:",
            "11:13: the builder needs a role for Systems Manager: give profile, or permissions_boundary",
        ),
        (
            "image:",
            "  builder: {profile: a, permissions_boundary: 'arn:aws:iam::123456789012:policy/b'}\nimage:",
            "11:25: a temporary role is made where there is no profile; name one",
        ),
        (
            "image:",
            "  builder: {permissions_boundary: boundary}\nimage:",
            "11:35: expected the ARN of an IAM policy",
        ),
        ("image:", "  kms_key: alias/a\nimage:", "11:3: it encrypts nothing without encrypt: true"),
        (
            "image:",
            "  encrypt: true\n  share: ['210987654321']\nimage:",
            "12:3: what the account's default key encrypts cannot be shared; give kms_key",
        ),
        (
            "image:",
            (
                "  encrypt: true\n  kms_key: a\n  share: ['210987654321']\n"
                "  copies: [{region: eu-west-2, kms_key: b}, {region: eu-west-3}]\nimage:"
            ),
            "14:45: what the account's default key encrypts cannot be shared; give kms_key",
        ),
        (
            "image:",
            "  ecs: {pull: prefer-cached}\nimage:",
            "11:9: prefer-cached ends the agent's cleaning of images; it is for preload only",
        ),
        ("image:", "  preload: ['a/b:latest']\nimage:", "11:13: expected an image by digest, for example ecr://"),
        (
            "image:",
            "  copies: [{region: eu-west-2}, {region: eu-west-2}]\nimage:",
            "11:11: a region can be listed once; listed again: eu-west-2",
        ),
        ("image:", "  deprecate: 0 days\nimage:", "11:14: expected 1 or more"),
        ("image:", "  deprecate: 3 h\nimage:", "11:14: expected a number with a unit, for example 180 days"),
        (
            "image:",
            "  volume: {initialize: 400 MiB/s}\nimage:",
            "11:24: expected 100 MiB/s to 300 MiB/s, as EC2 offers",
        ),
        (
            "  budget: 3 GiB\nami:",
            "  budget: 3 GiB\n  placement: root\nami:\n  volume: {initialize: 300 MiB/s}",
            "11:12: it is for a models volume, and models.placement is root",
        ),
        ("verify: {", "verify: {instances: 5, ", "18:21: expected 4 or less"),
        ("{models: /workspace/models}", "{/models: /w}", "14:12: expected a path below the folder it belongs to"),
        ("  budget: 500 MB", "  budget: 500 MB\n  uid: 0", "18:8: expected 1 or more, found 0"),
        ("  budget: 500 MB", "  budget: 500 MB\n  uid: 010001", "18:8: expected a whole number, found '010001'"),
        (
            "  budget: 500 MB",
            "  budget: 500 MB\n  builder: dokcer",
            "18:12: expected one of docker, podman, codebuild, found 'dokcer'; did you mean 'docker'?",
        ),
        (
            "  budget: 500 MB",
            "  budget: 500 MB\n  builder: codebuild",
            "18:3: codebuild needs to know its role; add codebuild: {role: …}",
        ),
        (
            "  budget: 500 MB",
            "  budget: 500 MB\n  secrets: [A, TOKEN]\n  builder: codebuild\n  codebuild: {role: r, secrets: {A: a}}",
            "18:16: 'TOKEN' must be in AWS Secrets Manager for builder: codebuild; add image.codebuild.secrets, TOKEN",
        ),
        (
            "  budget: 500 MB",
            "  budget: 500 MB\n  secrets: [A]\n  codebuild: {role: r, secrets: {A: a, B: b}}",
            "19:40: 'B' is no entry of image.secrets, so nobody reads it",
        ),
        (
            "team/processor",
            "registry/Team",
            "16:15: expected an ECR repository, in lower case and without registry, for example team/processor",
        ),
        ("imports: [lib]", 'imports: ["lib; import os"]', "18:20: expected the name of a Python module"),
        (
            "verify: {imports: [lib]}",
            "verify: yes",
            "18:9: expected a mapping with the keys instance_type, instances, gpu, imports, run, within, found 'yes'",
        ),
        ("  dev:", "  Dev:", "20:3: expected 2 to 63 lower-case letters"),
        (
            '"123456789012"',
            "123456789012",
            '21:14: expected text, found 123456789012; write it in quotes: "123456789012"',
        ),
        (
            '"123456789012"',
            '"1234"',
            "21:14: expected the 12 digits of an AWS account, for example 123456789012, found '1234'",
        ),
        (
            "region: eu-west-1",
            "region: eu-west-1\n    endpoint: custm",
            "23:15: expected 'aws' or 'custom', found 'custm'; did you mean 'custom'?",
        ),
        (
            "{launch_template: gpu}",
            "{lauch_template: gpu}",
            "24:10: unknown key 'lauch_template'; did you mean 'launch_template'?",
        ),
        (
            "{launch_template: gpu}",
            "{elastic: gpu}",
            "24:9: expected a mapping with one of the keys terraform, launch_template",
        ),
        ("{launch_template: gpu}", "gpu", "24:9: expected a mapping with one of the keys terraform, launch_template"),
        ("{launch_template: gpu}", "{launch_template: 3}", '24:27: expected text, found 3; write it in quotes: "3"'),
        (
            "{launch_template: gpu}",
            "{launch_template: gpu, foo: 1}",
            "24:32: unknown key 'foo'; expected one of launch_template",
        ),
        ("{launch_template: gpu}", "{terraform: x.tf}", "24:9: 'attribute' is missing"),
    ],
)
def test_each_mistake_is_told_at_its_place(tmp_path, old, new, expected):
    assert old in VALID
    found = problems(tmp_path, VALID.replace(old, new, 1))
    assert any(line.startswith(expected) for line in found), found


def test_what_only_follows_from_another_problem_is_not_told(tmp_path):
    """Entries that are all wrong do not make the list empty, and a misspelt key is not missing as well."""
    text = VALID.replace("command: [python, run.py]", "command: [1, 2]").replace("state:", "stat:")
    found = problems(tmp_path, text)
    assert [line.partition(": ")[0] for line in found] == ["3:1", "15:13", "15:16"]


def test_secrets_of_another_builder_need_no_secrets_manager(tmp_path):
    path = tmp_path / "splitbake.yaml"
    path.write_text(VALID.replace("500 MB", "500 MB\n  secrets: [A]\n  codebuild: {role: r}"), encoding="utf-8")
    assert manifest.load(path).image.secrets == ("A",)


def test_every_problem_is_told_at_once_in_the_order_of_the_file(tmp_path):
    text = VALID.replace("version: 1", "version: 2").replace("3 GiB", "3").replace("eu-west-1", "Ireland")
    text = text.replace('"s3://bucket/models/a.onnx"', '"s3://bucket/models/"').replace("500 MB", "500")
    found = problems(tmp_path, text)
    lines = [int(line.partition(":")[0]) for line in found]
    assert lines == [1, 6, 8, 17, 22]


def test_one_path_wanted_by_two_entries_is_told_at_the_second(tmp_path):
    found = problems(
        tmp_path, VALID.replace("path: checkpoints/x/", "path: models/a.onnx").replace('checkpoints/x/"', 'x"')
    )
    assert found == ["7:8: an earlier entry has the path 'models/a.onnx' already"]


def test_a_folder_has_no_checksum_of_its_own(tmp_path):
    digest = "0" * 64
    found = problems(tmp_path, VALID.replace('checkpoints/x/"}', f'checkpoints/x/", sha256: "{digest}"}}'))
    assert found == ["7:66: sha256 belongs to one file; the digests of a folder's files are in the lock"]


RUNTIME = "runtime: {requirements: gpu.txt, python: '3.11', budget: 8 GiB}\n"


def with_roots(models: str | None = None, runtime: str | None = None, placement: str = "volume") -> str:
    text = VALID.replace("ami:\n", RUNTIME + "ami:\n", 1).replace(
        "  budget: 3", f"  placement: {placement}\n  budget: 3"
    )
    text = text.replace("  files:", f"  root: {models}\n  files:") if models else text
    return text.replace("budget: 8 GiB", f"budget: 8 GiB, root: {runtime}") if runtime else text


@pytest.mark.parametrize("placement", ["volume", "root"])
@pytest.mark.parametrize(
    ("root", "why"),
    [
        ("var/tmp/m", "the bake clears /var/tmp/* before the snapshot"),
        ("var/tmp", "the bake clears /var/tmp/* before the snapshot"),
        ("var/tmp/.m/n", "the bake clears /var/tmp/* before the snapshot"),
        ("tmp/m", "the bake clears /tmp/* before the snapshot"),
        ("root/.cache/huggingface", "the bake clears /root/.cache/huggingface before the snapshot"),
        ("root/.cache", "the bake clears /root/.cache/huggingface before the snapshot"),
        ("home/m/.aws/x", "the bake clears /home/*/.aws before the snapshot"),
        ("home/m", "the bake clears /home/*/.*_history before the snapshot"),
        ("var/log/m.gz/n", "the bake clears /var/log/*.gz before the snapshot"),
        ("etc", "the bake clears /etc/ssh/ssh_host_* before the snapshot"),
        ("var/lib/amazon/ssm/m", "the bake clears /var/lib/amazon/ssm/* before the snapshot"),
        ("run/m", "/run is made anew at each boot"),
        ("var/run/m", "/var/run is made anew at each boot"),
        ("dev/shm", "/dev is made anew at each boot"),
        ("proc", "/proc is made anew at each boot"),
        ("sys/m", "/sys is made anew at each boot"),
    ],
)
def test_what_no_instance_would_have_is_no_place_for_models_or_runtime(tmp_path, placement, root, why):
    found = problems(tmp_path, with_roots(models=f"/{root}", placement=placement))
    assert found == [f"5:3: {why}; choose a folder apart from it, for example /opt/dl-models"]
    found = problems(tmp_path, with_roots(runtime=f"/{root}", placement=placement))
    assert found == [f"10:65: {why}; choose a folder apart from it, for example /opt/dl-runtime"]


@pytest.mark.parametrize(
    "root", ["/srv/m", "/var/lib/m", "/opt/tmp/m", "/homes/m", "/root/m", "/runs", "/var/log/m.gzip"]
)
def test_where_models_and_runtime_stay(tmp_path, root):
    path = tmp_path / "splitbake.yaml"
    path.write_text(with_roots(models=f"{root}/one", runtime=f"{root}/other"), encoding="utf-8")
    assert manifest.load(path).models.root == f"{root}/one"


@pytest.mark.parametrize(
    ("models", "runtime", "place"),
    [
        ("/opt/dl", "/opt/dl", "11:65"),
        ("/opt/dl", "/opt/dl/rt", "11:65"),
        ("/opt/dl/m", "/opt/dl", "11:65"),
        (None, "/opt/dl-models/rt", "10:65"),
        ("/opt/dl-runtime", None, "11:10"),
    ],
)
def test_models_and_runtime_each_have_a_folder_of_their_own(tmp_path, models, runtime, place):
    (found,) = problems(tmp_path, with_roots(models, runtime))
    inner, outer = runtime or "/opt/dl-runtime", models or "/opt/dl-models"
    assert found == f"{place}: {inner} and models.root, {outer}, lie in each other; give each a folder of its own"


def test_without_a_runtime_its_folder_is_free(tmp_path):
    path = tmp_path / "splitbake.yaml"
    path.write_text(VALID.replace("  files:", "  root: /opt/dl-runtime\n  files:"), encoding="utf-8")
    assert manifest.load(path).runtime is None


def test_a_script_whose_name_packer_would_change_is_refused(tmp_path):
    """HCL normalises every string; an e with an accent of its own then names another file."""
    composed = "ami/n\u00e9.sh"
    text = VALID.replace("image:", f"  provision: [ami/one.sh, {composed}]\nimage:", 1)
    assert problems(tmp_path, text.replace("\u00e9", "e\u0301")) == [
        "11:27: Packer would look for its composed form (NFC), which is another file; rename the file and write it so"
    ]
    path = tmp_path / "splitbake.yaml"
    path.write_text(text, encoding="utf-8")
    assert manifest.load(path).ami.provision[1] == composed
