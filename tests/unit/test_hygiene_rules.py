"""The hygiene list: it cleans what it checks, on a real file system."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from splitbake import generate, hygiene
from splitbake.generate.hygiene import cleanup

SCRIPT = (Path(generate.__file__).parent / "scripts" / "90-cleanup.sh").read_text(encoding="utf-8")


def rules_of_the_script(root: Path, *, last: bool = False) -> str:
    """Return what the cleanup script does about files, with every pattern moved below ``root``."""
    lines = cleanup().splitlines()
    moved = "\n".join(re.sub(r"^((?:late )?(?:remove|empty)) ", rf"\1 {root}", line) for line in lines)
    definitions, _, _ = SCRIPT.partition("\nlast=no\n")
    _, _, tail = SCRIPT.partition('systemctl start "${unit##*/}"\n')
    assert "rules yes" in tail, "the script has another form now"
    do = "last=yes\nrules no\n" if last else f"last=no\n{tail}"
    return definitions.replace("@hygiene@", moved) + "\n" + do


def cleaned(root: Path, before: str = "", **options: bool) -> subprocess.CompletedProcess[str]:
    script = root.parent / "cleanup.sh"
    script.write_text(before + rules_of_the_script(root, **options), encoding="utf-8")
    return subprocess.run(["sh", str(script)], capture_output=True, text=True, check=False)


def fill(root: Path) -> list[tuple[hygiene.Rule, Path]]:
    """Make a file for each pattern of each rule; hidden ones as well where it means all that a folder holds."""
    made = []
    for rule in hygiene.RULES:
        for pattern in rule.patterns:
            folder, _, last = pattern.lstrip("/").rpartition("/")
            names = ("some", ".some", "..some") if last == "*" else (last.replace("*", "some"),)
            for name in names:
                path = root / folder.replace("*", "some") / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("left over", encoding="utf-8")
                made.append((rule, path))
    return made


def test_every_pattern_is_removed_or_emptied(tmp_path: Path) -> None:
    root = tmp_path / "root"
    made = fill(root)
    kept = [root / path for path in ("var/lib/ecs/ecs.config", "var/lib/ecs/deps/execute-command/x", "etc/resolv.conf")]
    kept.append(root / "var/lib/cloud/scripts/per-boot/theirs.sh")
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("stays", encoding="utf-8")
    done = cleaned(root)
    assert (done.returncode, done.stderr) == (0, "")
    for rule, path in made:
        assert path.exists() == (rule.emptied or rule.late), rule.name
        assert not rule.emptied or path.stat().st_size == 0
    assert [path.read_text(encoding="utf-8") for path in kept] == ["stays"] * 4


def test_what_is_written_until_the_end_goes_when_the_machine_goes_down(tmp_path: Path) -> None:
    root = tmp_path / "root"
    made = fill(root)
    assert cleaned(root, last=True).returncode == 0
    assert {path.exists() for rule, path in made if rule.late} == {False}


def test_cleaning_a_machine_that_has_nothing_of_it_is_fine(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    assert cleaned(tmp_path / "root").returncode == 0
    assert list((tmp_path / "root").iterdir()) == []


def stubborn(tmp_path: Path, name: str, body: str) -> str:
    """Put a program of another kind before the real one, and return the shell line for that."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    (tools / name).chmod(0o755)
    return f"PATH={tools}:$PATH\n"


@pytest.mark.parametrize("status", [0, 1])
def test_what_cannot_be_removed_stops_the_bake_and_all_of_it_is_named(tmp_path: Path, status: int) -> None:
    root = tmp_path / "root"
    for path in ("etc/ssh/ssh_host_rsa_key", "root/.aws"):
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text("key", encoding="utf-8")
    done = cleaned(root, stubborn(tmp_path, "rm", f"exit {status}"))
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"splitbake: cleanup: cannot be removed: {root}/etc/ssh/ssh_host_rsa_key {root}/root/.aws\n"
    )


def test_what_cannot_be_emptied_stops_the_bake(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/machine-id").write_text("0123", encoding="utf-8")
    done = cleaned(root, stubborn(tmp_path, "truncate", "exit 1"))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        f"splitbake: cleanup: cannot be removed: {root}/etc/machine-id",
    )


@pytest.mark.parametrize(("path", "how"), [("var/log/messages", "emptied"), ("etc/ssh/ssh_host_rsa_key", "removed")])
def test_what_a_daemon_writes_again_stops_the_bake(tmp_path: Path, path: str, how: str) -> None:
    """The daemon is a shell function here: it writes when the last rule was applied, before the first is looked at."""
    root = tmp_path / "root"
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text("line", encoding="utf-8")
    script = tmp_path / "cleanup.sh"
    text = rules_of_the_script(root).replace("rules yes\n", f"echo again >{root}/{path}\nrules yes\n", 1)
    script.write_text(text, encoding="utf-8")
    done = subprocess.run(["sh", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"splitbake: cleanup: written again after it was removed: {root}/{path}\n",
    ), how


def test_what_is_written_once_more_is_removed_once_more(tmp_path: Path) -> None:
    root = tmp_path / "root"
    late = f"[ -e {root}/var/cache/dnf ] || install -D /dev/null {root}/var/cache/dnf/x\n"
    script = tmp_path / "cleanup.sh"
    script.write_text(rules_of_the_script(root).replace("rules yes\n", f"{late}rules yes\n", 1), encoding="utf-8")
    assert subprocess.run(["sh", str(script)], check=False).returncode == 0
    assert [*(root / "var/cache/dnf").iterdir()] == []


@pytest.mark.parametrize("rule", hygiene.RULES, ids=lambda rule: rule.name)
def test_the_check_sees_whatever_the_cleanup_takes(tmp_path: Path, rule: hygiene.Rule) -> None:
    """``verify/checks/ami.py`` hands these words to a shell."""
    made = {path for found, path in fill(tmp_path) if found == rule}
    words = " ".join(f"{tmp_path}{path}" for path in rule.paths)
    seen = subprocess.run(["sh", "-c", f"ls -d {words} 2>&1"], capture_output=True, text=True, check=False).stdout
    assert {str(path) for path in made} <= set(seen.splitlines())


@pytest.mark.parametrize("rule", hygiene.RULES, ids=lambda rule: rule.name)
def test_patterns_hold_nothing_that_a_shell_would_expand_but_stars(rule: hygiene.Rule) -> None:
    assert all(re.fullmatch(r"/[\w./*-]+", pattern) for pattern in rule.patterns)


def test_names_are_unique_as_checks_are_found_by_them() -> None:
    names = [rule.name for rule in hygiene.RULES]
    assert len(set(names)) == len(names)


def test_what_turns_the_gpu_on_and_what_provisioning_left_for_each_boot_is_on_no_list() -> None:
    patterns = {pattern for rule in hygiene.RULES for pattern in rule.patterns}
    kept = {"/var/lib/ecs", "/var/lib/ecs/*", "/var/lib/ecs/ecs.config", "/var/lib/cloud", "/var/lib/cloud/*"}
    assert not kept & patterns
    assert "cloud-init clean" not in SCRIPT, "it removes /var/lib/cloud/scripts"
