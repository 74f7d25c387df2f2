"""The programs that run on an instance: each is run here, by a Python of its own, as an instance runs it."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from splitbake.verify import probe
from splitbake.verify.probes import container, identity

PROBES = sorted(path.stem for path in Path(container.__file__).parent.glob("*.py") if path.stem != "__init__")
BLOCK = 4 << 20


def run(name: str, *arguments: str, path: str = os.environ["PATH"]) -> Any:
    argv = [sys.executable, "-I", "-c", probe.source(name), *arguments]
    done = subprocess.run(argv, env={"PATH": path}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_for_the_python_of_al2023_and_imports_nothing_of_ours(name: str) -> None:
    tree = ast.parse(probe.source(name), feature_version=(3, 9))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert {str(module).partition(".")[0] for module in modules} <= sys.stdlib_module_names


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_contents_are_read_to_their_end(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "ä 'x'.bin").write_bytes(content)
    (tmp_path / "deep" / "ä 'x'.bin").chmod(0o640)
    (found,) = run("contents", str(tmp_path)).items()
    assert found[0] == "deep/ä 'x'.bin"
    assert found[1]["sha256"] == hashlib.sha256(content).hexdigest()
    assert (found[1]["size"], found[1]["mode"], found[1]["kind"]) == (size, "0640", "-")
    assert found[1]["owner"] == [os.getuid(), os.getgid()]
    assert found[1]["seconds"] > 0


def test_what_is_no_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    assert run("contents", str(tmp_path)) == {"link": {"kind": "l"}, "pipe": {"kind": "p"}}


def test_an_empty_folder_and_none_hold_nothing(tmp_path: Path) -> None:
    assert run("contents", str(tmp_path)) == {}
    assert run("contents", str(tmp_path / "none")) == {}


def test_an_identity_tells_no_secret_and_no_absent_thing() -> None:
    found = run("identity")
    assert {"machine id", "instance id", "cloud-init instance", "random seed", "ECS agent"} <= found.keys()
    seed = Path("/var/lib/systemd/random-seed")
    if os.access(seed, os.R_OK) and seed.stat().st_size:
        assert found["random seed"] == hashlib.sha256(seed.read_bytes()).hexdigest()
    else:
        assert found["random seed"] is None


def test_the_agents_arn_is_found_in_its_database() -> None:
    arn = b"arn:aws-cn:ecs:cn-north-1:123456789012:container-instance/models/0123456789abcdef"
    assert identity._ARN.findall(b"\x00\x10" + arn + b'"\x00 task arn:aws:ecs:us-east-1:1:task/x') == [arn]


def tool(folder: Path, name: str, text: str, status: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\ncat <<'EOF'\n{text}\nEOF\nexit {status}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def test_every_version_of_the_driver_is_told(tmp_path: Path) -> None:
    library = tmp_path / "libnvidia-ml.so.570.133.20"
    library.write_bytes(b"")
    (tmp_path / "libnvidia-ml.so.1").symlink_to(library)
    bin_ = tmp_path / "bin"
    tool(bin_, "nvidia-smi", "NVIDIA L4\nNVIDIA L4")
    tool(bin_, "modinfo", "570.133.20")
    tool(bin_, "ldconfig", f"\tlibnvidia-ml.so.1 (libc6,x86-64) => {tmp_path}/libnvidia-ml.so.1")
    tool(bin_, "rpm", "570.124.06")
    found = run("gpu", path=f"{bin_}:/usr/bin:/bin")
    assert found["GPUs"] == ["NVIDIA L4", "NVIDIA L4"]
    versions = found["versions"]
    assert versions["module on disk"] == versions["user-space library"] == "570.133.20"
    assert versions["package"] == "570.124.06"


def test_a_package_of_debian_has_an_epoch_and_a_release(tmp_path: Path) -> None:
    tool(tmp_path, "rpm", "package nvidia-driver is not installed", status=1)
    tool(tmp_path, "dpkg-query", "1:570.133.20-1~bpo12+1")
    assert run("gpu", path=f"{tmp_path}:/usr/bin:/bin")["versions"]["package"] == "570.133.20"


def test_without_a_driver_there_is_no_version(tmp_path: Path) -> None:
    for name in ("nvidia-smi", "rpm", "dpkg-query", "modinfo", "ldconfig"):
        tool(tmp_path, name, "no devices were found", status=9)
    found = run("gpu", path=f"{tmp_path}:/usr/bin:/bin")
    assert found["GPUs"] == []
    assert found["versions"]["package"] is found["versions"]["user-space library"] is None


def test_without_docker_a_container_cannot_be_tried(tmp_path: Path) -> None:
    assert run("container", "/opt", "x", path=str(tmp_path)) == {"without": "this host has no Docker"}


def test_an_engine_that_does_not_answer_is_a_problem(tmp_path: Path) -> None:
    tool(tmp_path, "docker", "", status=1)
    assert "Docker does not answer" in run("container", "/opt", "x", path=f"{tmp_path}:/usr/bin:/bin")["problem"]


def test_any_path_can_be_mounted() -> None:
    assert container.mount('/opt/a, "b"') == 'type=bind,"source=/opt/a, ""b""",target=/models,readonly'
