"""The hygiene list: it cleans what it checks, on a real file system."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from splitbake.generate import hygiene


def below(root: Path, text: str) -> str:
    """Move every pattern of the cleanup lines below ``root``."""
    return "\n".join(re.sub(r"^(remove|empty) ", rf"\1 {root}", line) for line in text.splitlines())


def functions() -> str:
    script = Path(hygiene.__file__).parent / "scripts" / "90-cleanup.sh"
    return script.read_text(encoding="utf-8").partition("# Daemons")[0]


def cleaned(root: Path) -> subprocess.CompletedProcess[str]:
    script = root.parent / "cleanup.sh"
    script.write_text(functions() + below(root, hygiene.cleanup()), encoding="utf-8")
    return subprocess.run(["sh", str(script)], capture_output=True, text=True, check=False)


def fill(root: Path) -> list[tuple[hygiene.Rule, Path]]:
    """Make a file for each pattern of each rule."""
    made = []
    for rule in hygiene.RULES:
        for pattern in rule.paths:
            path = root / pattern.lstrip("/").replace("*", "some")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("left over", encoding="utf-8")
            made.append((rule, path))
    return made


def test_every_pattern_is_removed_or_emptied(tmp_path: Path) -> None:
    root = tmp_path / "root"
    made = fill(root)
    kept = root / "var/lib/ecs/ecs.config"
    kept.write_text("ECS_ENABLE_GPU_SUPPORT=true", encoding="utf-8")
    done = cleaned(root)
    assert (done.returncode, done.stderr) == (0, "")
    for rule, path in made:
        assert path.exists() == rule.emptied, rule.name
        assert not path.exists() or path.stat().st_size == 0
    assert kept.read_text(encoding="utf-8") == "ECS_ENABLE_GPU_SUPPORT=true"


def test_cleaning_a_machine_that_has_nothing_of_it_is_fine(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    assert cleaned(tmp_path / "root").returncode == 0
    assert list((tmp_path / "root").iterdir()) == []


def test_what_cannot_be_removed_stops_the_bake(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc/ssh").mkdir(parents=True)
    (root / "etc/ssh/ssh_host_rsa_key").write_text("key", encoding="utf-8")
    fake = tmp_path / "rm"
    fake.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    fake.chmod(0o755)
    script = tmp_path / "cleanup.sh"
    script.write_text(f"PATH={tmp_path}:$PATH\n" + functions() + below(root, hygiene.cleanup()), encoding="utf-8")
    done = subprocess.run(["sh", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ssh_host_rsa_key cannot be removed" in done.stderr


@pytest.mark.parametrize("rule", hygiene.RULES, ids=lambda rule: rule.name)
def test_patterns_hold_nothing_that_a_shell_would_expand_but_stars(rule: hygiene.Rule) -> None:
    assert all(re.fullmatch(r"/[\w./*-]+", pattern) for pattern in rule.paths)


def test_the_gpu_setting_of_the_ecs_agent_is_on_no_list() -> None:
    patterns = [pattern for rule in hygiene.RULES for pattern in rule.paths]
    assert not {"/var/lib/ecs", "/var/lib/ecs/*", "/var/lib/ecs/ecs.config"} & set(patterns)
