"""The runtime: what the lock knows of it, what both halves say of it, and how the image reaches it."""

from __future__ import annotations

import hashlib
import json
import platform
import runpy
import sys
import sysconfig
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake import contract, runtime
from splitbake.artifact import Half
from splitbake.generate import dockerfile, packer
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.runtime import LockedRuntime, LockedWheel

REQUIREMENTS = b"heavy==1.0\n"
NASTY = '/opt/it\'s a ${x} "run"\\time'


def wheel(name: str = "heavy", version: str = "1.0", **changes: Any) -> LockedWheel:
    file = f"{name}-{version}-cp311-cp311-manylinux_2_17_x86_64.whl"
    plain = {
        "url": f"https://example.com/a%2Bb/{file}",
        "size": 10,
        "sha256": hashlib.sha256(file.encode()).hexdigest(),
    }
    return LockedWheel.model_validate({"name": name, "version": version, **plain, **changes})


def locked(*wheels: LockedWheel, **changes: Any) -> LockedRuntime:
    values = {
        "requirements": hashlib.sha256(REQUIREMENTS).hexdigest(),
        "python": "3.11",
        "platform": runtime.PLATFORMS["x86_64"],
        "wheels": wheels or (wheel(),),
        "installer": wheel("uv", "0.13"),
    }
    return LockedRuntime.model_validate(values | changes)


def manifest(**values: Any) -> Manifest:
    wanted = {"requirements": "gpu.txt", "python": "3.11", "budget": "2 GiB"} | values
    return Manifest.model_validate(
        {
            "version": 1,
            "project": "faces",
            "state": "state",
            "models": {"files": [{"path": "models/a", "from": "s3://bucket/a"}], "budget": "1 GiB"},
            "runtime": wanted,
            "ami": {"base": "ecs-gpu-al2023"},
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


def lock(found: LockedRuntime | None) -> Lock:
    base = {
        "request": "ecs-gpu-al2023",
        "id": "ami-1",
        "name": "b",
        "owner": "1",
        "created": "2026",
        "region": "eu-west-1",
    }
    root = {"architecture": "x86_64", "root_device": "/dev/xvda", "root_size": 30 * 1024**3}
    file = {"path": "models/a", "source": "s3://bucket/a", "size": 1, "sha256": "0" * 64}
    return Lock.model_validate(
        {
            "base_ami": base | root,
            "base_image": {"request": "python:3.11-slim", "digest": f"sha256:{'1' * 64}"},
            "models": [{"path": "models/a", "source": "s3://bucket/a", "files": [file]}],
            "runtime": found and found.model_dump(),
        }
    )


@pytest.mark.parametrize(("half", "same"), [("image", False), ("ami", True)])
def test_the_image_is_tried_with_the_runtime(small: Any, half: Half, same: bool) -> None:
    """A report of the image under another runtime says nothing; the AMI with another runtime is another AMI."""
    small.manifest["runtime"] = {"requirements": "gpu.txt", "python": "3.11", "budget": "2 GiB"}
    (small.root / "gpu.txt").write_bytes(REQUIREMENTS)

    def standard(found: LockedRuntime) -> str:
        small.lock["runtime"] = found.model_dump()
        return str(small.project.standard(half))

    assert (standard(locked()) == standard(locked(wheel(version="2.0")))) == same


def test_the_abi_is_of_python_and_machine():
    assert locked().abi == "cp311-x86_64-manylinux_2_28"


def test_the_digest_is_of_what_is_installed_not_of_where_it_comes_from():
    elsewhere = wheel(url=f"https://mirror.example/{wheel().file}")
    assert locked(elsewhere).digest == locked().digest
    assert locked(wheel(sha256="f" * 64)).digest != locked().digest
    assert locked(python="3.12").digest != locked().digest


def test_the_requirements_name_each_wheel_by_address_and_hash():
    assert runtime.requirements(locked()) == f"heavy @ {wheel().url} --hash=sha256:{wheel().sha256}\n"


@pytest.mark.parametrize(
    ("wanted", "content", "found", "words"),
    [
        (manifest(), REQUIREMENTS, locked(), ""),
        (manifest(), REQUIREMENTS, None, "runtime is not locked"),
        (manifest(python="3.12"), REQUIREMENTS, locked(), "runtime.python is 3.12, locked is 3.11"),
        (manifest(), b"heavy==2.0\n", locked(), "gpu.txt has changed since the runtime was locked"),
        (manifest(), None, locked(), "runtime.requirements names gpu.txt, which cannot be read"),
        (manifest().model_copy(update={"runtime": None}), None, locked(), "runtime is still locked"),
        (manifest().model_copy(update={"runtime": None}), None, None, ""),
    ],
)
def test_a_lock_that_does_not_answer_says_why(wanted, content, found, words):
    assert list(runtime.mismatches(wanted, content, found, "x86_64")) == ([words] if words else [])


def test_hosts_of_another_machine_need_other_wheels():
    (words,) = runtime.mismatches(manifest(), REQUIREMENTS, locked(), "arm64")
    assert words == "the hosts are arm64, the runtime is locked for x86_64-manylinux_2_28"


def test_what_moved_is_told_by_wheel():
    old = locked(wheel("a"), wheel("b"), wheel("c"))
    new = locked(wheel("b", "2.0"), wheel("c"), wheel("d"), installer=wheel("uv", "0.14"))
    assert runtime.differences(old, new) == [
        "wheel gone: a",
        "wheel new: d 1.0",
        "wheel changed: b 1.0 -> 2.0",
        "installer of the runtime: uv 0.13 -> 0.14",
    ]
    assert runtime.differences(old, old) == []
    assert runtime.differences(None, old) == ["runtime: 3 wheels for cp311-x86_64-manylinux_2_28"]
    assert runtime.differences(old, None) == ["runtime: gone"]


@given(st.lists(st.sampled_from("abcdef"), unique=True), st.lists(st.sampled_from("abcdef"), unique=True))
def test_whatever_differs_has_words(before, after):
    old, new = (locked(*(wheel(name) for name in names or ["z"])) for names in (before, after))
    assert bool(runtime.differences(old, new)) == (old != new)


def test_both_halves_state_it_and_a_pair_without_it_does_not_fit():
    wanted, with_it = manifest(), lock(locked())
    need, offer = contract.need(wanted, with_it), contract.offer(wanted, with_it)
    assert contract.misfits(need, offer) == []
    other = offer.runtime.model_copy(update={"abi": "cp312-x", "root": "/opt/else"})
    assert contract.misfits(need, offer.model_copy(update={"runtime": other})) == [
        "the image is for the runtime cp311-x86_64-manylinux_2_28, the AMI has cp312-x",
        "the image looks for the runtime in /opt/dl-runtime, the AMI has it in /opt/else",
    ]
    bare = offer.model_copy(update={"runtime": None})
    assert contract.misfits(need, bare) == ["the image needs the runtime cp311-x86_64-manylinux_2_28, the AMI has none"]
    assert contract.misfits(need.model_copy(update={"runtime": None}), offer) == []


def test_other_versions_of_the_same_packages_fit():
    need = contract.need(manifest(), lock(locked()))
    assert contract.misfits(need, contract.offer(manifest(), lock(locked(wheel(version="2.0"))))) == []


def test_the_texts_of_the_contract_have_a_line_for_it():
    assert "runtime\tcp311-x86_64-manylinux_2_28\n" in contract.offer_text(manifest(), lock(locked()))
    assert "runtime\tcp311-x86_64-manylinux_2_28\t/opt/dl-runtime\n" in contract.need_text(manifest(), lock(locked()))
    without = manifest().model_copy(update={"runtime": None})
    assert "runtime" not in contract.offer_text(without, lock(None)) + contract.need_text(without, lock(None))


def reach(root: str) -> list[str]:
    """Return what the Dockerfile runs, where the runtime is locked for this very Python."""
    here = locked(python="{}.{}".format(*sys.version_info), platform=f"{platform.machine()}-manylinux_2_17")
    text = dockerfile.render(manifest(root=root), lock(here))[dockerfile.DOCKERFILE]
    (line,) = [line for line in text.splitlines() if line.startswith("RUN [")]
    return json.loads(line.removeprefix("RUN "))


@pytest.mark.parametrize("root", ["/opt/dl-runtime", NASTY])
def test_the_image_reaches_it_by_a_pth_file_whatever_its_name(tmp_path, monkeypatch, root):
    _, _, program, *arguments = reach(root)
    script = tmp_path / "reach.py"
    script.write_text(program, encoding="utf-8")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    runpy.run_path(str(script))
    line = (tmp_path / "splitbake-runtime.pth").read_text(encoding="utf-8")
    added: list[str] = []
    monkeypatch.setitem(sys.modules, "site", SimpleNamespace(addsitedir=added.append))
    exec(line)  # noqa: S102 - what Python itself does with such a line
    assert (added, line.count("\n")) == ([root], 1)


def test_the_bake_installs_it_on_a_volume_of_its_own():
    texts = packer.render(manifest(root=NASTY.replace("$", "")), lock(locked()), "1.6")
    script = texts["packer/scripts/40-runtime.sh"]
    assert "python=3.11" in script
    assert f"digest={locked().digest}" in script
    assert "@runtime" not in script
    main = texts[packer.MAIN]
    assert main.count("launch_block_device_mappings") == 3
    assert main.index("30-models.sh") < main.index("40-runtime.sh") < main.index("60-host.sh")
    without = manifest().model_copy(update={"runtime": None})
    assert "packer/scripts/40-runtime.sh" not in packer.render(without, lock(None), "1.6")
