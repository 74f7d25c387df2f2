"""``packer/`` as text: what it says, for which Packer, and that nothing in it is unknown to a current one."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import hcl2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from splitbake.errors import ManifestError
from splitbake.generate import hcl, hygiene, packer, source
from splitbake.lock import Lock
from splitbake.manifest import Manifest

GIB = 1024**3
NAMES = json.loads((Path(__file__).parents[1] / "data" / "packer-names.json").read_text(encoding="utf-8"))

#: Of provisioner "shell-local", which the list of names does not have (documentation of Packer 1.6 and 1.14).
SHELL_LOCAL = {
    "command",
    "environment_vars",
    "execute_command",
    "inline",
    "inline_shebang",
    "only_on",
    "script",
    "scripts",
}


def manifest_with(models: dict[str, Any] | None = None, **ami: Any) -> Manifest:
    return Manifest.model_validate(
        {
            "version": 1,
            "project": "faces",
            "state": "state",
            "models": {"files": [{"path": "models/a.onnx", "from": "s3://bucket/a.onnx"}], "budget": "1 GiB"}
            | (models or {}),
            "ami": {"base": "ecs-gpu-al2023"} | ami,
            "image": {
                "base": "python:3.11-slim",
                "include": ["run.py"],
                "mounts": {"models": "/models"},
                "command": ["python", "run.py"],
                "repository": "faces",
                "budget": "500 MB",
            },
            "environments": {"dev": {"account": "123456789012", "region": "eu-west-1"}},
        }
    )


def lock_with(size: int = 10, **base: Any) -> Lock:
    file = {"path": "models/a.onnx", "source": "s3://bucket/a.onnx", "size": size, "sha256": "0" * 64}
    return Lock.model_validate(
        {
            "base_ami": {
                "request": "ecs-gpu-al2023",
                "id": "ami-0123456789abcdef0",
                "name": "al2023-ami-ecs-gpu",
                "owner": "591542846629",
                "created": "2026-08-20T00:00:00.000Z",
                "architecture": "x86_64",
                "region": "eu-west-1",
                "root_device": "/dev/xvda",
                "root_size": 30 * GIB,
            }
            | base,
            "base_image": {"request": "python:3.11-slim", "digest": "sha256:" + "1" * 64},
            "models": [{"path": "models/a.onnx", "source": "s3://bucket/a.onnx", "files": [file]}],
        }
    )


def source_of(text: str) -> dict[str, Any]:
    source: dict[str, Any] = hcl2.loads(text)["source"][0]['"amazon-ebs"']['"ami"']
    return source


def test_rendering_twice_gives_the_same_bytes() -> None:
    assert packer.render(manifest_with(), lock_with(), "1.6") == packer.render(manifest_with(), lock_with(), "1.6")


def test_only_latest_has_plugins_and_metadata_options() -> None:
    old, new = (packer.render(manifest_with(), lock_with(), compat) for compat in ("1.6", "latest"))
    assert packer.VERSIONS not in old
    assert "required_plugins" in new[packer.VERSIONS]
    assert "metadata_options" not in old[packer.MAIN]
    assert source_of(new[packer.MAIN])["metadata_options"][0]["http_tokens"] == '"required"'


@pytest.mark.parametrize("compat", ["1.6", "latest"])
@pytest.mark.parametrize(
    "ami",
    [
        {},
        {"builder": {"subnet": "subnet-0a1b2c3d", "profile": "builder", "connect": "private-ip"}},
        {"builder": {"subnet": "subnet-0a1b2c3d", "profile": "builder", "connect": "session-manager", "spot": True}},
        {"encrypt": True, "kms_key": "alias/models"},
    ],
    ids=["plain", "private", "session manager", "encrypted"],
)
def test_every_name_is_known_to_a_current_packer(compat: Any, ami: dict[str, Any]) -> None:
    manifest = manifest_with(provision=["setup.sh"], **ami)
    parsed = hcl2.loads(packer.render(manifest, lock_with(), compat)[packer.MAIN])
    source = {name: value for name, value in parsed["source"][0]['"amazon-ebs"']['"ami"'].items() if name[:2] != "__"}
    assert source.keys() <= set(NAMES["source.amazon-ebs"])
    nested = {
        "launch_block_device_mappings": "BlockDevice",
        "aws_polling": "AWSPollingConfig",
        "metadata_options": "MetadataOptions",
    }
    for name, spec in nested.items():
        for block in source.get(name, []):
            assert {key for key in block if key[:2] != "__"} <= NAMES["blocks"][spec].keys()
    steps = list(parsed["build"][0]["provisioner"])
    assert len(steps) == 9
    for step in steps:
        ((kind, body),) = [(key, value) for key, value in step.items() if key[:2] != "__"]
        known = SHELL_LOCAL if kind == '"shell-local"' else NAMES[f"provisioner.{kind.strip(chr(34))}"]
        assert {key for key in body if key[:2] != "__"} <= set(known)


def test_scripts_of_the_user_run_after_settling_and_before_the_models() -> None:
    text = packer.render(manifest_with(provision=["ami/one.sh", "ami/two.sh"]), lock_with(), "1.6")[packer.MAIN]
    order = ["10-settle.sh", "/../ami/one.sh", "/../ami/two.sh", packer.REMOTE_INPUTS, "20-volumes.sh", "30-models.sh"]
    order += ["50-preload.sh", "60-host.sh", "80-gate.sh", "90-cleanup.sh"]
    places = [text.index(f'{name}"') for name in order]
    assert places == sorted(places)


def test_no_address_of_a_model_stands_in_the_text() -> None:
    assert not any(
        "s3://" in text or "bucket" in text for text in packer.render(manifest_with(), lock_with(), "latest").values()
    )


def test_every_placeholder_of_the_scripts_is_filled() -> None:
    texts = packer.render(manifest_with(models={"root": "/opt/it's"}), lock_with(), "1.6")
    assert "root='/opt/it'\"'\"'s'" in texts["packer/scripts/30-models.sh"]
    assert hygiene.cleanup() in texts["packer/scripts/90-cleanup.sh"]
    assert not [path for path, text in texts.items() for name in ("@root@", "@mode@", "@hygiene@") if name in text]


@given(size=st.integers(0, 200 * GIB), base=st.integers(1, 100))
def test_the_volume_has_room_for_base_and_models(size: int, base: int) -> None:
    volume = source.root_size(manifest_with({"placement": "root"}), lock_with(size, root_size=base * GIB))
    assert base * GIB + size * 1.2 <= volume * GIB < base * GIB + size * 1.2 + GIB
    assert source.root_size(manifest_with(), lock_with(size, root_size=base * GIB)) == base


def test_a_volume_of_ones_own_is_rounded_up_and_never_below_the_base() -> None:
    assert source.root_size(manifest_with(volume={"size": "100 GB"}), lock_with()) == math.ceil(100e9 / GIB)
    with pytest.raises(ManifestError, match=r"needs 30 GiB"):
        source.root_size(manifest_with(volume={"size": "29 GiB"}), lock_with())


@pytest.mark.parametrize(("throughput", "iops"), [("125 MiB/s", 3000), ("750 MiB/s", 3000), ("1000 MiB/s", 4000)])
def test_gp3_always_has_iops_and_throughput(throughput: str, iops: int) -> None:
    text = packer.render(manifest_with(volume={"throughput": throughput}), lock_with(), "1.6")[packer.MAIN]
    volumes = source_of(text)["launch_block_device_mappings"]
    assert [volume["device_name"] for volume in volumes] == ['"/dev/xvda"', '"/dev/sdf"']
    for volume in volumes:
        assert (volume["iops"], volume["throughput"]) == (iops, int(throughput.split(maxsplit=1)[0]))
        assert volume["delete_on_termination"] is True


def test_every_volume_is_encrypted_or_none() -> None:
    text = packer.render(manifest_with(encrypt=True, kms_key="alias/models"), lock_with(), "1.6")[packer.MAIN]
    volumes = source_of(text)["launch_block_device_mappings"]
    assert [(volume["encrypted"], volume["kms_key_id"]) for volume in volumes] == [(True, '"alias/models"')] * 2
    plain = packer.render(manifest_with(), lock_with(), "1.6")[packer.MAIN]
    assert "encrypted" not in plain


def test_a_spot_builder_has_no_instance_type_of_its_own() -> None:
    text = packer.render(manifest_with(builder={"spot": True}), lock_with(), "1.6")[packer.MAIN]
    found = source_of(text)
    assert (found["spot_price"], found["spot_instance_types"]) == ('"auto"', ['"m6i.xlarge"'])
    assert "instance_type" not in found


@pytest.mark.parametrize(
    ("compat", "spot", "tagged"),
    [
        ("1.6", False, set()),
        ("latest", False, set()),
        ("1.6", True, {"spot_tags"}),
        ("latest", True, {"spot_tags", "fleet_tags"}),
    ],
)
def test_whatever_a_builder_consists_of_is_tagged(compat: Any, spot: bool, tagged: set[str]) -> None:
    """For a spot instance Packer makes a launch template and a fleet, each with tags of its own."""
    found = source_of(packer.render(manifest_with(builder={"spot": spot}), lock_with(), compat)[packer.MAIN])
    tags = {name: value for name, value in found.items() if name.endswith("tags")}
    assert tags.keys() == {"run_tags", "run_volume_tags", "tags", "snapshot_tags"} | tagged
    assert set(tags.values()) == {"${local.tags}"}


def test_session_manager_opens_no_address() -> None:
    builder = {"connect": "session-manager", "profile": "builder", "subnet": "subnet-0a1b2c3d"}
    found = source_of(packer.render(manifest_with(builder=builder), lock_with(), "1.6")[packer.MAIN])
    assert (found["ssh_interface"], found["pause_before_ssm"]) == ('"session_manager"', '"30s"')
    assert "associate_public_ip_address" not in found


@given(size=st.integers(0, 400 * GIB))
def test_packer_waits_longer_for_bigger_volumes(size: int) -> None:
    hours = source.wait_seconds(manifest_with(), lock_with(size)) / 3600
    assert hours >= 4 * size / (300 * GIB)


def as_go_template(text: str) -> str:
    """Return what a Go template says that holds texts between backquotes and nothing else."""
    plain = re.split(r"{{`([^`]*)`}}", text)
    assert not any("{{" in part for part in plain[::2]), "a call begins"
    return "".join(plain)


@given(st.text(st.sampled_from("{}`ab"), max_size=12))
def test_packer_takes_a_text_as_it_is(text: str) -> None:
    assert as_go_template(source.text(text)) == text


@settings(deadline=None, max_examples=30)
@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30))
@example('"\n}\nbuild {')
@example("${var.run} %{ if true } {{ build `ID` }} \\")
def test_no_value_of_the_manifest_breaks_out(text: str) -> None:
    manifest = manifest_with()
    builder = manifest.ami.builder.model_copy(update={"instance_type": text, "profile": text, "subnet": text})
    ami = manifest.ami.model_copy(update={"builder": builder, "provision": (text,)})
    lock = lock_with()
    lock = lock.model_copy(update={"base_ami": lock.base_ami.model_copy(update={"root_device": text})})
    rendered = packer.render(manifest.model_copy(update={"ami": ami}), lock, "1.6")[packer.MAIN]
    parsed, written = hcl2.loads(rendered), hcl.quote(source.text(text))
    assert {"variable", "locals", "source", "build"} == {key for key in parsed if key[:2] != "__"}
    profile = next(block['"profile"'] for block in parsed["variable"] if '"profile"' in block)
    found = source_of(rendered)
    assert found["instance_type"] == found["subnet_id"] == profile["default"] == written
    assert found["launch_block_device_mappings"][0]["device_name"] == written
    theirs = parsed["build"][0]["provisioner"][1]['"shell"']
    assert theirs["script"] == f'"${{path.root}}/../{written[1:]}'


def test_tags_in_python_are_those_in_hcl() -> None:
    marks = packer.tags(manifest_with(), "sha256:" + "ab" * 32, "run1")
    assert marks["Name"] == "faces-abababababab-run1"
    (block,) = hcl2.loads(packer.render(manifest_with(), lock_with(), "1.6")[packer.MAIN])["locals"]
    assert {key.strip('"') for key in block["tags"]} == marks.keys()
