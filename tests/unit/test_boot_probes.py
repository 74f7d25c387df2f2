"""The programs that run on an instance: each is run here, by a Python of its own, as an instance runs it."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from splitbake.verify import probe
from splitbake.verify.probes import container, gpu, identity, inventory

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


def package(root: Path, name: str, files: dict[str, bytes], *, hashed: bool = True) -> None:
    """Install a package as uv does: each file, and in its RECORD what the file must be."""
    info = f"{name}-1.0.dist-info"
    lines = []
    for path, content in {**files, f"{info}/METADATA": b"x", f"{info}/direct_url.json": b"{}"}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        lines.append([path, f"sha256={digest}" if hashed else "", str(len(content)) if hashed else ""])
    with (root / info / "RECORD").open("w", encoding="utf-8", newline="") as record:
        csv.writer(record).writerows([*lines, [], [f"{info}/RECORD", "", ""]])
    (root / info / "direct_url.json").unlink()  # as the bake does


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A runtime of three packages, two of which have a file in common, and one says nothing of its files."""
    root = tmp_path / "a runtime"
    package(root, "heavy", {"heavy/a, b.so": b"h" * 3_000_000, "tests/x.py": b"heavy", "heavy/empty": b""})
    package(root, "other", {"other.py": b"o", "tests/x.py": b"of other"})
    package(root, "plain", {"plain.py": b"p"}, hashed=False)
    (root / ".splitbake").mkdir()
    (root / ".splitbake/runtime").write_text("sha256:1\n", encoding="ascii")
    return root


def test_a_runtime_as_it_was_installed_is_what_its_records_say(packages: Path) -> None:
    found = run("runtime", str(packages))
    assert found == {
        "packages": {"heavy": "1.0", "other": "1.0", "plain": "1.0"},
        "files": 12,
        "count": 0,
        "wrong": [],
    }
    assert run("runtime", str(packages), "content") == found


@pytest.mark.parametrize(
    ("spoil", "sizes", "content"),
    [
        ("rm 'heavy/a, b.so'", "heavy/a, b.so is missing", "heavy/a, b.so is missing"),
        ("echo import >sitecustomize.py", "sitecustomize.py is in no RECORD", "sitecustomize.py is in no RECORD"),
        ("ln -s /etc heavy/data", "heavy/data is in no RECORD", "heavy/data is in no RECORD"),
        ("ln -sf other.py plain.py", "plain.py is no regular file", "plain.py is no regular file"),
        ("printf oo >other.py", "other.py has 2 bytes", "other.py has 2 bytes"),
        ("printf p >other.py", "", "other.py has other content"),
        ("printf abcde >tests/x.py", "", "tests/x.py has other content"),
        ("printf heavy >tests/x.py", "", ""),
        ("rm plain-1.0.dist-info/RECORD", "plain-1.0.dist-info/METADATA is in no RECORD", ""),
        ("mkdir gone-1.0.dist-info", "gone-1.0.dist-info/RECORD is missing", "gone-1.0.dist-info/RECORD is missing"),
    ],
)
def test_what_is_not_as_a_record_says_is_named(packages: Path, spoil: str, sizes: str, content: str) -> None:
    subprocess.run(["sh", "-c", spoil], cwd=packages, check=True)
    first = run("runtime", str(packages))
    assert first["wrong"][:1] == ([sizes] if sizes else [])
    again = run("runtime", str(packages), "content")
    assert again["wrong"][:1] == ([content or sizes] if content or sizes else [])
    assert again["count"] == len(again["wrong"])


def test_of_many_wrong_files_some_are_named_and_all_are_counted(packages: Path) -> None:
    for number in range(40):
        (packages / f"{number:02}.pyc").touch()
    found = run("runtime", str(packages))
    assert (found["count"], len(found["wrong"])) == (40, 5)


def test_a_runtime_is_in_the_inventory_by_its_digest_and_packages(packages: Path) -> None:
    assert inventory.runtime(str(packages)) == ("sha256:1", {"heavy": "1.0", "other": "1.0", "plain": "1.0"})


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


@pytest.mark.parametrize(
    ("container", "expected"), [(False, ["0000:00:1e.0", "0000:00:1f.0"]), (True, [])], ids=["machine", "container"]
)
def test_a_gpu_is_found_on_the_bus_whether_its_driver_works_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: bool, expected: list[str]
) -> None:
    """A container sees the bus of the machine that it runs on: GPUs of the local cloud's host are not its own."""
    cards = {"1e.0": ("0x10de", "0x030200"), "1f.0": ("0x10de", "0x030000"), "20.0": ("0x10de", "0x040300")}
    for name, (vendor, kind) in (cards | {"03.0": ("0x1d0f", "0x030000")}).items():
        folder = tmp_path / "devices" / f"0000:00:{name}"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n", encoding="ascii")
        (folder / "class").write_text(f"{kind}\n", encoding="ascii")
    tool(tmp_path / "bin", "systemd-detect-virt", "docker" if container else "none", status=0 if container else 1)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(gpu, "_BUS", tmp_path / "devices")
    assert gpu.devices() == expected


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


DOCKER = """#!/bin/sh
case $1 in
    version) echo 25.0.8 ;;
    import) cat >/dev/null ;;
    run) exit 139 ;;
esac
"""


def test_an_nvidia_smi_that_crashes_without_a_word_is_a_problem(tmp_path: Path) -> None:
    tool(tmp_path, "docker", "")
    (tmp_path / "docker").write_text(DOCKER, encoding="utf-8")
    found = run("container", "/opt", "x", "gpu", path=f"{tmp_path}:/usr/bin:/bin")
    assert found["problem"] == "nvidia-smi ended with 139: it said nothing"


def test_any_path_can_be_mounted() -> None:
    assert container.mount('/opt/a, "b"') == 'type=bind,"source=/opt/a, ""b""",target=/models,readonly'
