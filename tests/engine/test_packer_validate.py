"""What is generated, judged by the real Packer."""

from __future__ import annotations

import json
import shutil
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from splitbake.bake import packer as tool
from splitbake.generate import entrypoint, hcl, packer
from splitbake.generate import source as source_block
from splitbake.lock import Lock
from splitbake.manifest import Manifest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("packer") is None, reason="Packer is not installed"),
]

NASTY = "a ${var.run} $${y} %{if} %%{ \"q\" 'p' \\ back {{ timestamp }} {{`x`}} é 🎬 end$"


def manifest_of(*, ami: dict[str, Any] | None = None, **builder: Any) -> Manifest:
    manifest = Manifest.model_validate(
        {
            "version": 1,
            "project": "faces",
            "state": "state",
            "models": {"files": [{"path": "models/a.onnx", "from": "s3://bucket/a.onnx"}], "budget": "1 GiB"},
            "ami": {"base": "ecs-gpu-al2023", "provision": ["setup.sh"]},
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
    # Not validated: the writer may not rely on what the manifest's own checks let through.
    changed = manifest.ami.builder.model_copy(update=builder)
    return manifest.model_copy(update={"ami": manifest.ami.model_copy(update={"builder": changed} | (ami or {}))})


LOCK = Lock.model_validate(
    {
        "base_ami": {
            "request": "ecs-gpu-al2023",
            "id": "ami-0123456789abcdef0",
            "name": "base",
            "owner": "591542846629",
            "created": "2026-08-20T00:00:00.000Z",
            "architecture": "x86_64",
            "region": "eu-west-1",
            "root_device": "/dev/xvda",
            "root_size": 30 * 1024**3,
        },
        "base_image": {"request": "python:3.11-slim", "digest": "sha256:" + "1" * 64},
        "models": [],
    }
)


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = tool.environment({"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"})
    return subprocess.run(["packer", *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def written(folder: Path, manifest: Manifest) -> Path:
    for path, text in packer.render(manifest, LOCK, "1.6").items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    (folder / "setup.sh").write_text("#!/bin/sh\n", encoding="utf-8")
    return folder / packer.MAIN


@pytest.mark.parametrize(
    "builder",
    [
        {},
        {"subnet": "subnet-0a1b2c3d", "profile": "builder", "connect": "private-ip"},
        {"connect": "session-manager", "profile": "builder", "spot": True},
        {"subnet": NASTY, "profile": NASTY, "instance_type": NASTY},
    ],
    ids=["plain", "private", "session manager", "nasty"],
)
def test_packer_validates_all_of_it(tmp_path: Path, builder: dict[str, str]) -> None:
    template = written(tmp_path, manifest_of(**builder))
    done = run("validate", str(template), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("key", [None, "alias/models", NASTY])
def test_packer_validates_encryption(tmp_path: Path, key: str | None) -> None:
    template = written(tmp_path, manifest_of(ami={"encrypt": True, "kms_key": key}))
    done = run("validate", str(template), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_validation_would_notice_a_name_that_packer_does_not_know(tmp_path: Path) -> None:
    template = written(tmp_path, manifest_of())
    template.write_text(template.read_text(encoding="utf-8").replace("ssh_timeout", "ssh_patience"), encoding="utf-8")
    assert run("validate", str(template), cwd=tmp_path).returncode == 1


def test_it_is_formatted_as_packer_fmt_does(tmp_path: Path) -> None:
    for compat in ("1.6", "latest"):
        for path, text in packer.render(manifest_of(subnet="subnet-0a1b2c3d"), LOCK, compat).items():
            if path.endswith(".hcl"):
                (tmp_path / f"{compat}-{Path(path).name}").write_text(text, encoding="utf-8")
    done = run("fmt", "-check", "-diff", str(tmp_path), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("text", [NASTY, "{{", "}}", "${", "$", "%", "\n\t\x7f\u2028", "\\u0024{x}", "e\u0301"])
def test_packer_reads_back_exactly_the_text(tmp_path: Path, text: str) -> None:
    """But for one thing: whatever is not in Unicode's composed form is brought into it."""
    target = tmp_path / "out"
    source = hcl.Block("source", ("file", "x"), {"content": source_block.text(text), "target": str(target)})
    (tmp_path / "x.pkr.hcl").write_text(
        hcl.render(source, hcl.Block("build", (), {"sources": ["source.file.x"]})), encoding="utf-8"
    )
    done = run("build", "x.pkr.hcl", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert target.read_bytes().decode() == unicodedata.normalize("NFC", text)


def test_python_composes_the_name_as_packer_does(tmp_path: Path) -> None:
    fingerprint = "sha256:" + "ab" * 32
    names = {"run": "1234", "fingerprint": fingerprint}
    main = packer.render(manifest_of(), LOCK, "1.6")[packer.MAIN].partition("source ")[0]
    source = hcl.Block("source", ("file", "x"), {"content": hcl.Expression("jsonencode(local.tags)"), "target": "out"})
    (tmp_path / "x.pkr.hcl").write_text(
        main + hcl.render(source, hcl.Block("build", (), {"sources": ["source.file.x"]})), encoding="utf-8"
    )
    (tmp_path / "x.pkrvars.json").write_text(json.dumps(names), encoding="utf-8")
    done = run("build", "-var-file=x.pkrvars.json", "x.pkr.hcl", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out").read_text(encoding="utf-8"))
    assert found == packer.tags(manifest_of(), fingerprint, "1234")


def test_the_scripts_are_clean_for_shellcheck(tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    written(tmp_path, manifest_of())
    entry = tmp_path / "entry.sh"
    entry.write_text(entrypoint.render(manifest_of(), LOCK)[entrypoint.SCRIPT], encoding="utf-8")
    scripts = [entry, *(tmp_path / "packer" / "scripts").glob("*.sh")]
    done = subprocess.run(["shellcheck", *map(str, scripts)], capture_output=True, text=True, check=False)
    assert (len(scripts), done.returncode, done.stdout) == (8, 0, "")
