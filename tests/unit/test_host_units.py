"""What hosts get beside the models: units of systemd and settings of the ECS agent, as text and as scripts that run."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake.errors import ManifestError
from splitbake.generate import host, packer
from splitbake.generate.mark import MARK
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.manifest.runtime import Runtime

SCRIPTS = Path(host.__file__).parent / "scripts"
MIB = 1024**2
DIGEST = "sha256:" + "0f" * 32


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


@pytest.fixture(scope="module")
def lock() -> Lock:
    file = {"path": "models/a.onnx", "source": "s3://bucket/a.onnx", "size": 10, "sha256": "0" * 64}
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
                "root_size": 30 * 1024**3,
            },
            "base_image": {"request": "python:3.11-slim", "digest": "sha256:" + "1" * 64},
            "models": [{"path": "models/a.onnx", "source": "s3://bucket/a.onnx", "files": [file]}],
        }
    )


def texts(manifest: Manifest, lock: Lock) -> dict[str, str]:
    return {file.path: file.text for file in host.host_files(manifest, lock)}


def unit(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def test_a_volume_is_mounted_by_label_read_only_and_not_in_the_way_of_the_boot(lock: Lock) -> None:
    found = unit(texts(manifest_with(), lock)["/etc/systemd/system/opt-dl\\x2dmodels.mount"])
    assert dict(found["Mount"]) == {
        "What": "/dev/disk/by-label/dl-models",
        "Where": "/opt/dl-models",
        "Type": "ext4",
        "Options": "ro,noload",
    }
    assert found["Unit"]["DefaultDependencies"] == "no", "else local-fs.target, and so sshd, would wait for the volume"
    assert found["Install"]["WantedBy"] == "multi-user.target"


def test_docker_and_ecs_need_the_mount_where_the_base_has_them(lock: Lock) -> None:
    needed = {file.needs: file for file in host.host_files(manifest_with(), lock) if file.needs}
    assert needed.keys() == {"docker.service", "ecs.service"}
    for name, file in needed.items():
        assert file.path == f"/etc/systemd/system/{name}.d/10-splitbake.conf"
        assert unit(file.text)["Unit"]["RequiresMountsFor"] == "/opt/dl-models"


def test_models_on_the_root_volume_need_no_mount(lock: Lock) -> None:
    manifest = manifest_with({"placement": "root"})
    assert texts(manifest, lock).keys() == {host.PREWARM_SCRIPT, f"{host.SYSTEM}/{host.PREWARM}"}
    assert host.enabled_units(manifest, lock) == (host.PREWARM,)
    assert host.expectation(manifest, lock)["volumes"] == []


def test_reading_at_boot_delays_nothing_and_can_be_left_out(lock: Lock) -> None:
    found = unit(texts(manifest_with(), lock)[f"{host.SYSTEM}/{host.PREWARM}"])
    assert "Before" not in found["Service"]
    assert "ecs" not in found["Unit"]["Before"]
    assert found["Unit"]["DefaultDependencies"] == "no", "else multi-user.target would wait for it"
    assert found["Service"]["IOSchedulingClass"] == "idle"
    without = manifest_with({"prewarm": "none", "placement": "root"})
    assert host.host_files(without, lock) == ()
    assert host.enabled_units(without, lock) == ()
    assert host.expectation(without, lock)["prewarm"] is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/opt/dl-models", r"opt-dl\x2dmodels.mount"),
        ("/models", "models.mount"),
        ("/.hidden/.x", r"\x2ehidden-.x.mount"),
        ("/a b/it's $(x)", r"a\x20b-it\x27s\x20\x24\x28x\x29.mount"),
        ("/ä/100%", r"\xc3\xa4-100\x25.mount"),
    ],
)
def test_names_of_mount_units_follow_systemd_escape(path: str, name: str) -> None:
    assert host.mount_unit(path, "models.root") == name


@pytest.mark.parametrize("path", ["/opt/x ", "/opt/x\\", "/opt/" + "ü" * 40])
@pytest.mark.parametrize("key", ["models.root", "runtime.root"])
def test_what_systemd_cannot_mount_at_is_refused_by_the_name_of_its_key(lock: Lock, key: str, path: str) -> None:
    manifest = manifest_with({"root": path} if key == "models.root" else None)
    if key == "runtime.root":
        runtime = Runtime(requirements="gpu.txt", python="3.11", budget="1 GiB", root=path)
        manifest = manifest.model_copy(update={"runtime": runtime})
    with pytest.raises(ManifestError, match=f"^{re.escape(key)} ") as error:
        host.host_files(manifest, lock)
    assert error.value.hint == f"choose another {key}, or models.placement: root"


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1))
def test_a_quoted_path_is_one_word_without_specifiers(path: str) -> None:
    quoted = host.quoted(f"/{path}")
    inner = re.sub(r"\\(.)", r"\1", quoted[1:-1]) if quoted.startswith('"') else quoted
    assert inner.replace("%%", "\0").count("%") == 0
    assert inner.replace("%%", "%") == f"/{path}"
    assert quoted.startswith('"') or not re.search(r"[\s\"'\\;#]", quoted)


def test_every_file_says_that_it_is_generated_and_ends_with_a_newline(lock: Lock) -> None:
    for path, text in texts(manifest_with(), lock).items():
        assert MARK in text.splitlines()[:2], path
        assert text.endswith("\n"), path


NASTY = '/opt/@hygiene@/it\'s $(touch x) `id` "p" {{ y }} ${z} %{if} END OF FILE'


def test_no_placeholder_is_left_and_a_value_is_never_syntax(lock: Lock, tmp_path: Path) -> None:
    manifest = manifest_with({"root": NASTY})
    found = packer.scripts(manifest, lock)
    assert {"packer/scripts/20-volumes.sh", "packer/scripts/60-host.sh"} <= found.keys()
    for path, text in found.items():
        assert not re.search(r"(?m)^\s*#? ?@[a-z-]+@$|'@[a-z-]+@'", text), path
        (tmp_path / "script.sh").write_text(text if path.endswith(".sh") else "", encoding="utf-8")
        assert subprocess.run(["sh", "-n", tmp_path / "script.sh"], check=False).returncode == 0, path
    (line,) = (one for one in found["packer/scripts/20-volumes.sh"].splitlines() if one.startswith("make "))
    assert shlex.split(line)[-1] == NASTY


def test_the_scripts_of_a_plain_manifest_please_shellcheck(lock: Lock, tmp_path: Path) -> None:
    for path, text in packer.scripts(manifest_with(preload=[f"ecr://team/sidecar@{DIGEST}"]), lock).items():
        (tmp_path / Path(path).name).write_text(text, encoding="utf-8")
    done = subprocess.run(["shellcheck", *map(str, tmp_path.glob("*.sh"))], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


def test_preloaded_images_are_named_as_docker_takes_them() -> None:
    images = (f"ecr://team/sidecar@{DIGEST}", f"public.ecr.aws/x/y:1@{DIGEST}")
    registry = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    assert host.preload_list(images, registry) == (f"{registry}/team/sidecar@{DIGEST}\npublic.ecr.aws/x/y:1@{DIGEST}\n")
    assert host.preload_list((), registry) == ""


def prewarm(root: Path, tmp_path: Path, lock: Lock, tools: str = "/bin") -> subprocess.CompletedProcess[str]:
    """Run the script that a host of ``root`` gets; programs in the folder ``tools`` come first."""
    script = tmp_path / "prewarm"
    manifest = manifest_with({"root": str(root), "placement": "root"})
    script.write_text(texts(manifest, lock)[host.PREWARM_SCRIPT], encoding="utf-8")
    env = {"PATH": f"{tools}:{os.environ['PATH']}"}
    return subprocess.run(["sh", str(script)], env=env, capture_output=True, text=True, check=False)


#: Instead of the programs that read: they note of which file which bytes came, in records that end with a zero byte.
COUNTING = {
    "cat": r"""
for file; do
    printf '%s\t0\t%s\0' "$file" "$(REAL "$file" | wc -c)" >>NOTES
done""",
    "dd": r"""
for word; do
    case $word in
    if=*) file=${word#if=} ;;
    skip=*) start=$((${word#skip=} * 1048576)) ;;
    bs=*) [ "$word" = bs=1M ] ;;
    esac
done
printf '%s\t%s\t%s\0' "$file" "$start" "$(REAL "$@" of=/dev/stdout | wc -c)" >>NOTES""",
}


@pytest.fixture
def counting(tmp_path: Path) -> Callable[[], dict[str, list[tuple[int, int]]]]:
    """Make such programs in ``tools``, and return what tells: file -> where each began to read, and how many bytes."""
    notes = tmp_path / "notes"
    (tmp_path / "tools").mkdir()
    for name, body in COUNTING.items():
        script = body.replace("REAL", str(shutil.which(name))).replace("NOTES", shlex.quote(str(notes)))
        (tmp_path / "tools" / name).write_text(f"#!/bin/sh\nset -eu{script}\n", encoding="utf-8")
        (tmp_path / "tools" / name).chmod(0o755)

    def read() -> dict[str, list[tuple[int, int]]]:
        found: dict[str, list[tuple[int, int]]] = {}
        for record in notes.read_text(encoding="utf-8").split("\0")[:-1]:
            file, start, length = record.rsplit("\t", 2)
            found.setdefault(file, []).append((int(start), int(length)))
        return found

    return read


def filled(root: Path, files: dict[str, int]) -> Path:
    (root / ".splitbake").mkdir(parents=True)
    lines = ["contract\t1", "architecture\tx86_64", *(f"file\t{size}\t{path}" for path, size in files.items())]
    (root / ".splitbake/contract").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for path, size in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        with (root / path).open("wb") as file:
            file.truncate(size)
    return root


def test_prewarming_reads_every_byte_of_what_the_contract_lists(tmp_path: Path, lock: Lock, counting: Any) -> None:
    files = {"models/a b's $(x) \\n.bin": 5, "models/large": 200 * MIB + 1, "models/exact": 128 * MIB, "empty": 0}
    files |= {"models/just small": 64 * MIB} | {f"small/{number}": 10 for number in range(300)}
    root = filled(tmp_path / "it's here", files)
    (root / "not listed").touch()
    done = prewarm(root, tmp_path, lock, str(tmp_path / "tools"))
    assert (done.stderr, done.returncode) == ("", 0)
    pieces = counting()
    assert pieces.keys() == {f"{root}/{path}" for path in files}
    for path, size in files.items():
        at = 0
        for start, length in sorted(pieces[f"{root}/{path}"]):
            assert start == at, f"{path}: nobody reads from {at} to {start}, or two do"
            at += length
        assert at == size, path
    read = sum(length for ranges in pieces.values() for _, length in ranges) / 1e6
    assert re.fullmatch(rf"read {read:.0f} MB in {len(files)} files, \d+\.\d s: \d+ MB/s\n", done.stdout)


@pytest.mark.parametrize("gone", ["small", "large"])
def test_a_model_that_cannot_be_read_fails_the_prewarming(tmp_path: Path, lock: Lock, gone: str) -> None:
    root = filled(tmp_path / "root", {"small": 5, "large": 100 * MIB, "other": 1})
    (root / gone).unlink()
    done = prewarm(root, tmp_path, lock)
    assert done.returncode != 0
    assert f"{root}/{gone}" in done.stderr
    assert "MB/s" not in done.stdout


def configured(tmp_path: Path, text: str, do: str) -> subprocess.CompletedProcess[str]:
    """Run functions of 60-host.sh on an ``ecs.config``."""
    config = tmp_path / "ecs.config"
    config.write_text(text, encoding="utf-8")
    functions = (SCRIPTS / "60-host.sh").read_text(encoding="utf-8").partition("# @host-files@")[0]
    script = functions.replace("/etc/ecs/ecs.config", str(config)) + do
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "ECS_X=once\n"),
        ("A=1\n# ECS_X=always\n", "A=1\n# ECS_X=always\nECS_X=once\n"),
        ("ECS_X=always\nA=1\n ECS_X=default", "A=1\nECS_X=once\n"),
        ("ECS_XY=1", "ECS_XY=1\nECS_X=once\n"),
    ],
)
def test_a_setting_of_ecs_is_there_once_and_the_rest_stays(tmp_path: Path, before: str, after: str) -> None:
    done = configured(tmp_path, before, "set_ecs ECS_X once")
    assert (done.stderr, done.returncode) == ("", 0)
    assert (tmp_path / "ecs.config").read_text(encoding="utf-8") == after


@pytest.mark.parametrize("line", ["ECS_CLUSTER=prod", '  ECS_CLUSTER="prod"'])
def test_a_cluster_name_stops_the_bake(tmp_path: Path, line: str) -> None:
    done = configured(tmp_path, f"A=1\n{line}\n", "refuse ECS_CLUSTER 'every instance would join it'")
    assert done.returncode == 1
    assert done.stderr == (
        f"splitbake: ecs: ECS_CLUSTER is set in {tmp_path}/ecs.config of the builder: every instance would join it\n"
    )


@pytest.mark.parametrize("line", ["# ECS_CLUSTER=prod", "ECS_CLUSTER=", 'ECS_CLUSTER=""', "MY_ECS_CLUSTER=x"])
def test_what_names_no_cluster_stops_nothing(tmp_path: Path, line: str) -> None:
    assert configured(tmp_path, f"{line}\n", "refuse ECS_CLUSTER no").returncode == 0


def test_the_packages_of_the_driver_are_asked_of_whichever_database_there_is(tmp_path: Path) -> None:
    (tmp_path / "rpm").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    (tmp_path / "rpm").chmod(0o755)
    ask = f"PATH={tmp_path}:$PATH; {host.DRIVER_PACKAGES}"
    by_rpm = subprocess.run(["sh", "-euc", ask], capture_output=True, text=True, check=True, cwd="/").stdout
    assert sorted(by_rpm.split()) == sorted(["-qa", "kernel", "kernel[0-9]*", "kmod-*", "*nvidia*"])
