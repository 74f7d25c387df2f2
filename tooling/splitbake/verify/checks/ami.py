"""Checks of an instance that was booted from a model AMI.

On their own, against any instance that you can log in to (root's view is needed: ``sudo=true``)::

    SPLITBAKE_EXPECTED=expected.json pytest path/to/ami.py --hosts='ssh://ec2-user@address?sudo=true'

``expected.json`` has: ``root``, ``mode`` and ``budget`` (bytes) of the models; ``files``: path below the root ->
``size`` and ``sha256``; ``contract``: path below the root -> text of the file that entry checks of images read;
``inventory``: what ``/etc/splitbake/ami.json`` must say; ``public_key``: the one key that may log in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from splitbake.generate import hygiene
from splitbake.units import counted, format_size
from splitbake.verify.plugin import expectation

pytest_plugins = ["splitbake.verify.plugin"]

Saw = Callable[[str], None]

#: Files of the first boot may seem this much older than it: clocks are set while it goes on.
_SLACK = 2.0
#: What must be free on a disk that jobs will write to: EKS asks the same of its own AMIs.
_FREE = 1024**3
_UNIT_STATES = {"enabled", "enabled-runtime"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One check for each model file, one for each rule of hygiene."""
    if "model" in metafunc.fixturenames:
        metafunc.parametrize("model", sorted(expectation()["files"]))
    if "rule" in metafunc.fixturenames:
        metafunc.parametrize("rule", [name for name in _RULES if name not in _LOOKED_AT_BELOW])


_RULES = {rule.name: rule for rule in hygiene.RULES}
#: Rules whose files every instance has again, so that their content tells more than their age.
_LOOKED_AT_BELOW = {"authorized keys", "machine id"}


@pytest.fixture(scope="module")
def boot_time(host: Any) -> float:
    """When process 1 started, in seconds since 1970; the kernel's own boot time is not a container's."""
    stat, uptime, clock, ticks = host.check_output(
        "cat /proc/1/stat; cut -d ' ' -f 1 /proc/uptime; date +%s.%N; getconf CLK_TCK"
    ).splitlines()
    started = int(stat.rpartition(")")[2].split()[19]) / int(ticks)
    return float(clock) - (float(uptime) - started)


def test_model_file(host: Any, expected: dict[str, Any], saw: Saw, model: str) -> None:
    """The file is there with the locked content, owner and mode."""
    path, wanted = f"{expected['root']}/{model}", expected["files"][model]
    found = host.run("stat -c '%%F|%%s|%%a|%%U:%%G' %s", path)
    assert found.rc == 0, "is missing"
    kind, size, mode, owner = found.stdout.strip().split("|")
    assert kind in {"regular file", "regular empty file"}, f"is a {kind}"
    assert int(size) == wanted["size"], f"has {size} bytes, locked are {wanted['size']}"
    assert mode.zfill(4) == expected["mode"], f"has mode {mode.zfill(4)}, wanted is {expected['mode']}"
    assert owner == "root:root", f"belongs to {owner}, not to root:root"
    digest = host.check_output("sha256sum < %s", path).split()[0]
    assert digest == wanted["sha256"], f"has sha256 {digest}, locked is {wanted['sha256']}"
    saw(f"{format_size(int(size))}, {mode.zfill(4)}, sha256 {digest[:12]}")


def test_nothing_but_the_models(host: Any, expected: dict[str, Any], saw: Saw) -> None:
    """Below the root lies what the lock names, the contract, and nothing else."""
    root, wanted = expected["root"], expected["files"].keys() | expected["contract"].keys()
    found = host.check_output("find %s -mindepth 1 ! -type d -printf '%%P\\0'", root).split("\0")
    extra = sorted(set(filter(None, found)) - wanted)
    assert not extra, f"{len(extra)} more below {root}: {', '.join(extra[:5])}"
    folders = {"/".join(path.split("/")[:depth]) for path in wanted for depth in range(1, path.count("/") + 1)}
    there = host.check_output("find %s -mindepth 1 -type d -printf '%%P\\0'", root).split("\0")
    empty = sorted(set(filter(None, there)) - folders)
    assert not empty, f"folders without a model below {root}: {', '.join(empty[:5])}"
    saw(f"{counted(len(expected['files']), 'file')} below {root}")


def test_folders_of_the_models(host: Any, expected: dict[str, Any], saw: Saw) -> None:
    """Folders have the owner and the mode of the files."""
    odd = host.check_output(
        "find %s -type d \\( ! -perm %s -o ! -user root -o ! -group root \\) -printf '%%p %%m %%u:%%g\\n'",
        expected["root"],
        expected["mode"],
    ).splitlines()
    assert not odd, f"wanted is {expected['mode']} root:root, but {', '.join(odd[:3])}"
    saw(f"{expected['mode']} root:root")


def test_models_within_budget(host: Any, expected: dict[str, Any], saw: Saw) -> None:
    """All files together keep to ``models.budget``."""
    found = host.check_output("find %s -type f -printf '%%s %%P\\n'", expected["root"]).splitlines()
    sizes = [int(size) for size, path in (line.split(" ", 1) for line in found) if path not in expected["contract"]]
    total, budget = sum(sizes), expected["budget"]
    assert total <= budget, f"{format_size(total)}, the budget is {format_size(budget)}"
    saw(f"{format_size(total)} of {format_size(budget)}")


def test_models_read_only_for_others(host: Any, expected: dict[str, Any], saw: Saw) -> None:
    """An ordinary user can read every model and write none."""
    root = expected["root"]
    first = f"{root}/{min(expected['files'])}"
    assert host.run("sudo -n -u nobody head -c 1 %s", first).rc == 0, f"an ordinary user cannot read {first}"
    writable = host.check_output("sudo -n -u nobody find %s -writable -printf '%%p\\n' 2>&1", root).splitlines()
    assert not writable, f"an ordinary user can write {', '.join(writable[:3])}"
    saw("read by nobody, written by nobody")


def test_contract(host: Any, expected: dict[str, Any], saw: Saw) -> None:
    """The file that entry checks of images read says what the lock says, to everybody."""
    ((path, wanted),) = expected["contract"].items()
    file = f"{expected['root']}/{path}"
    found = host.run("cat %s", file)
    assert found.rc == 0, f"{file} is missing"
    assert found.stdout == wanted, f"{file} is not what the lock says"
    mode, owner = host.check_output("stat -c '%%a %%U:%%G' %s", file).split()
    assert mode.zfill(4) == expected["mode"], f"{file} has mode {mode.zfill(4)}, wanted is {expected['mode']}"
    assert owner == "root:root", f"{file} belongs to {owner}, not to root:root"
    saw(f"{wanted.splitlines()[0].replace(chr(9), ' ')}, {counted(len(expected['files']), 'file')}")


def test_inventory(host: Any, expected: dict[str, Any], saw: Saw) -> None:
    """The AMI says of itself what the lock says."""
    found = host.run("cat /etc/splitbake/ami.json")
    assert found.rc == 0, "/etc/splitbake/ami.json is missing"
    assert json.loads(found.stdout) == expected["inventory"], "/etc/splitbake/ami.json is not what the lock says"
    saw(f"fingerprint {expected['inventory']['fingerprint'][:19]}")


def test_hygiene(host: Any, saw: Saw, boot_time: float, rule: str) -> None:
    """Nothing of the builder is left."""
    wanted = _RULES[rule]
    # The patterns are ours and meant for the shell. Without arguments, testinfra takes the % signs as they are.
    found = host.run(f"sh -c 'stat -c \"%Y %s %n\" {' '.join(wanted.paths)} 2>/dev/null'").stdout.splitlines()
    files = [(int(modified), int(size), name) for modified, size, name in (line.split(" ", 2) for line in found)]
    if wanted.emptied:
        files = [one for one in files if one[1] > 0]
    left = [name for modified, _, name in files if not wanted.reborn or modified + 1 < boot_time - _SLACK]
    assert not left, f"left from the build: {', '.join(left[:5])}"
    saw(f"{counted(len(files), 'file')}, all of this boot" if files else "nothing there")


def test_machine_id_is_its_own(host: Any, saw: Saw, boot_time: float) -> None:
    """The machine id was made at this boot, because the AMI had an empty one."""
    modified, size = host.check_output("stat -c '%Y %s' /etc/machine-id").split()
    assert int(size) > 0, "/etc/machine-id is empty even after the boot"
    assert int(modified) + 1 >= boot_time - _SLACK, "/etc/machine-id is older than this boot: all instances share it"
    saw("made at this boot")


def test_only_the_boot_key_may_log_in(host: Any, expected: dict[str, Any], saw: Saw) -> None:
    """No key of the builder or of a person is in any authorized_keys."""
    blob = expected["public_key"].split()[1]
    lines = host.run(
        "sh -c 'cat /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys 2>/dev/null'"
    ).stdout.splitlines()
    keys = [line for line in lines if line.strip() and not line.startswith("#")]
    others = [line for line in keys if blob not in line.split()]
    assert not others, f"{len(others)} other keys may log in: {', '.join(line.split()[-1] for line in others[:5])}"
    saw(f"{counted(len(keys), 'key')}, the boot's own")


def test_disk_has_room(host: Any, saw: Saw) -> None:
    """Jobs can write."""
    free = int(host.check_output("df -Pk / | tail -n 1").split()[3]) * 1024
    assert free >= _FREE, f"only {format_size(free)} are free on /"
    saw(f"{format_size(free)} free on /")


def test_ecs_agent_starts(host: Any, saw: Saw) -> None:
    """Where the base has an ECS agent, it is enabled."""
    if host.run("systemctl cat ecs.service").rc != 0:
        saw("this base has no ECS agent")
        return
    state = host.run("systemctl is-enabled ecs.service").stdout.strip()
    assert state in _UNIT_STATES, f"ecs.service is {state}: no instance would join a cluster"
    saw("ecs.service is enabled")
