"""Checks of a model AMI, on an instance of it or on its builder just before the snapshot.

On their own, against any machine that you can log in to (root's view is needed: ``sudo=true``)::

    SPLITBAKE_EXPECTED=expected.json pytest path/to/ami.py --hosts='ssh://ec2-user@address?sudo=true'

``expected.json`` has: ``root``, ``mode`` and ``budget`` (bytes) of the models; ``files``: path below the root ->
``size`` and ``sha256``; ``contract``: path below the root -> text of the file that entry checks of images read;
``inventory``: what ``/etc/splitbake/ami.json`` must say; ``public_key``: the one key that may log in; ``volumes``,
``ecs``, ``prewarm``, ``preload`` and ``runtime``: see ``generate.host.expectation``; ``moment``: ``instance``
(default), booted from the AMI, or ``builder``, where nothing is cleaned up yet and the volumes are still written to.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from splitbake import hygiene
from splitbake.generate import host as on_host
from splitbake.units import counted, format_size
from splitbake.verify import probe
from splitbake.verify.plugin import Contents, expectation

pytest_plugins = ["splitbake.verify.plugin"]

Saw = Callable[[str], None]

#: Files of the first boot may seem this much older than it: clocks are set while it goes on.
_SLACK = 2.0
#: What must be free on a disk that jobs will write to: EKS asks the same of its own AMIs.
_FREE = 1024**3
_UNIT_STATES = {"enabled", "enabled-runtime"}
#: Seconds that reading the models at boot may go on after they were all read once by these checks.
_PREWARM_PATIENCE = 300


def moment() -> str:
    """Return when the checks look: at a ``builder`` before the snapshot, or at an ``instance`` after its boot."""
    return str(expectation().get("moment", "instance"))


#: What only a boot from the AMI can show.
after_boot = pytest.mark.skipif("moment() == 'builder'", reason="the builder is not cleaned up yet")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One check for each model file, volume and preloaded image, one for each rule of hygiene."""
    cases: dict[str, Callable[[], list[str]]] = {
        "model": lambda: sorted(expectation()["files"]),
        "volume": lambda: [volume["label"] for volume in expectation()["volumes"]],
        "preloaded": lambda: list(expectation()["preload"]),
        "rule": lambda: [name for name in _RULES if name not in _LOOKED_AT_BELOW],
    }
    for name in cases.keys() & set(metafunc.fixturenames):
        metafunc.parametrize(name, cases[name]())


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


def test_model_file(contents: Contents, host: Any, expected: dict[str, Any], saw: Saw, model: str) -> None:
    """The file is there with the locked content, owner and mode."""
    wanted, found = expected["files"][model], contents(host, expected["root"]).get(model)
    assert found is not None, "is missing"
    assert found["kind"] == "-", f"is no regular file: ls would say {found['kind']}"
    assert found["size"] == wanted["size"], f"has {found['size']} bytes, locked are {wanted['size']}"
    assert found["mode"] == expected["mode"], f"has mode {found['mode']}, wanted is {expected['mode']}"
    assert found["owner"] == [0, 0], f"belongs to {':'.join(map(str, found['owner']))}, not to root"
    assert found["sha256"] == wanted["sha256"], f"has sha256 {found['sha256']}, locked is {wanted['sha256']}"
    saw(f"{format_size(found['size'])}, {found['mode']}, sha256 {found['sha256'][:12]}")


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
    assert host.run("runuser -u nobody -- head -c 1 %s", first).rc == 0, f"an ordinary user cannot read {first}"
    writable = host.check_output("runuser -u nobody -- find %s -writable -printf '%%p\\n' 2>&1", root).splitlines()
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


def test_runtime(host: Any, expected: dict[str, Any], saw: Saw) -> None:
    """The locked packages are below the runtime's root, each file as its wheel has it, and nothing else is.

    What a wheel says of its files is in its RECORD. On an instance they are read, on the builder only counted.
    """
    wanted = expected["runtime"]
    if wanted is None:
        pytest.skip("no runtime is wanted")
    root, budget = wanted["root"], wanted["budget"]
    noted = host.run("cat %s/.splitbake/runtime", root)
    assert noted.rc == 0, f"there is no runtime in {root}"
    assert noted.stdout.strip() == wanted["digest"], f"the runtime in {root} is not the locked one"
    found = probe.ask(host, "runtime", root, *(["content"] if moment() == "instance" else []))
    installed = {str(canonicalize_name(name)): version for name, version in found["packages"].items()}
    locked = {str(canonicalize_name(name)): version for name, version in wanted["packages"].items()}
    assert installed == locked, f"differs from the lock in {', '.join(sorted(_differing(installed, locked)))}"
    wrong = found["wrong"]
    assert not wrong, f"{counted(found['count'], 'file')} not as RECORD says: {', '.join(wrong)}"
    writable = host.check_output("runuser -u nobody -- find %s -writable -printf '%%p\n' 2>&1", root).splitlines()
    assert not writable, f"an ordinary user can write {', '.join(writable[:3])}"
    size = int(host.check_output("du -s --apparent-size --block-size=1 %s", root).split()[0])
    assert size <= budget, f"{format_size(size)}, the budget is {format_size(budget)}"
    told = f"{counted(len(locked), 'package')}, {counted(found['files'], 'file')}"
    saw(f"{told}, {format_size(size)} of {format_size(budget)}")


def _differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


@after_boot
def test_hygiene(host: Any, saw: Saw, boot_time: float, rule: str) -> None:
    """Nothing of the builder is left."""
    wanted = _RULES[rule]
    # The patterns are ours and meant for the shell. Without arguments, testinfra takes the % signs as they are.
    found = host.run(f"sh -c 'stat -c \"%W %Y %s %n\" {' '.join(wanted.paths)} 2>/dev/null'").stdout.splitlines()
    parts = [line.split(" ", 3) for line in found]
    files = [(_age(int(born), int(modified), wanted), int(size), name) for born, modified, size, name in parts]
    if wanted.emptied:
        files = [one for one in files if one[1] > 0]
    left = [name for since, _, name in files if not wanted.reborn or since + 1 < boot_time - _SLACK]
    assert not left, f"left from the build: {', '.join(left[:5])}"
    saw(f"{counted(len(files), 'file')}, all of this boot" if files else "nothing there")


def _age(born: int, modified: int, rule: hygiene.Rule) -> int:
    """Return the moment from which a file may have what is in it.

    A daemon appends to what it finds, so a new last change says nothing of the first line, and a copy is made anew
    without a change. A file that the bake only empties is as old as ever; and where a file system does not know when
    a file was made, it says 0.
    """
    return modified if rule.emptied or not born else min(born, modified)


@after_boot
def test_machine_id_is_its_own(host: Any, saw: Saw, boot_time: float) -> None:
    """The machine id was made at this boot, because the AMI had an empty one."""
    modified, size = host.check_output("stat -c '%Y %s' /etc/machine-id").split()
    assert int(size) > 0, "/etc/machine-id is empty even after the boot"
    assert int(modified) + 1 >= boot_time - _SLACK, "/etc/machine-id is older than this boot: all instances share it"
    saw("made at this boot")


@after_boot
def test_only_the_boot_key_may_log_in(host: Any, expected: dict[str, Any], saw: Saw) -> None:
    """No key of the builder or of a person is in any authorized_keys."""
    blob = expected["public_key"].split()[1]
    files = " ".join(_RULES["authorized keys"].paths)
    # Not cat: a file may end without the end of a line, and two keys would look like one.
    lines = host.run(f"sh -c 'grep -hs ^ {files}'").stdout.splitlines()
    keys = [line for line in lines if line.strip() and not line.startswith("#")]
    others = [line for line in keys if blob not in line.split()]
    assert not others, f"{len(others)} other keys may log in: {', '.join(line.split()[-1] for line in others[:5])}"
    saw(f"{counted(len(keys), 'key')}, the boot's own")


def test_disk_has_room(host: Any, saw: Saw) -> None:
    """Jobs can write."""
    free = int(host.check_output("df -Pk / | tail -n 1").split()[3]) * 1024
    assert free >= _FREE, f"only {format_size(free)} are free on /"
    saw(f"{format_size(free)} free on /")


def test_volume(host: Any, expected: dict[str, Any], saw: Saw, volume: str) -> None:
    """The volume is mounted by its label at its place; on an instance read-only, without its journal."""
    (wanted,) = (one for one in expected["volumes"] if one["label"] == volume)
    unit, where = wanted["unit"], wanted["where"]
    mount = host.run("findmnt --noheadings --raw --output FSTYPE,OPTIONS --mountpoint %s", where)
    assert mount.rc == 0, f"nothing is mounted at {where}: {_log(host, unit)}"
    kind, options = mount.stdout.split()
    source = host.check_output("findmnt --noheadings --output SOURCE --mountpoint %s", where).strip()
    label = host.run("blkid -p -s LABEL -o value %s", source).stdout.strip()
    assert (kind, label) == ("ext4", volume), f"{where} is {kind} with the label {label!r} from {source}"
    state = host.run("systemctl is-enabled %s", unit).stdout.strip()
    assert state in _UNIT_STATES, f"{unit} is {state}: it would not be mounted at boot"
    if moment() == "instance":
        given = set(options.split(","))
        assert "ro" in given, f"{where} is mounted {options}: jobs could change it"
        # Kernels call the same option by one name or the other.
        assert given & {"noload", "norecovery"}, f"{where} is mounted {options}: its journal would be replayed"
    saw(f"{volume} from {source} at {where}: {options}")


def test_jobs_need_the_volumes(host: Any, expected: dict[str, Any], saw: Saw) -> None:
    """Docker and the ECS agent start only where all volumes are mounted: a host without models must not take jobs."""
    wanted = {volume["unit"] for volume in expected["volumes"]}
    if not wanted:
        pytest.skip("everything lies on the root volume")
    there = [unit for unit in on_host.NEED_VOLUMES if _has(host, unit)]
    for unit in there:
        for relation in ("Requires", "After"):
            # systemd quotes names as a shell would.
            known = shlex.split(host.check_output("systemctl show --property=%s --value %s", relation, unit))
            missing = sorted(wanted - set(known))
            assert not missing, f"{unit} has no {relation} on {', '.join(missing)}"
    saw(f"{' and '.join(there)} need {', '.join(sorted(wanted))}" if there else "there is neither Docker nor ECS")


def test_services_of_the_base_are_there(host: Any, saw: Saw) -> None:
    """Docker and the ECS agent start at boot where those of the base did: provisioning can remove them."""
    before = [line.split()[1:] for line in _base_notes(host) if line.startswith("unit ")]
    if not before:
        saw("this base has neither Docker nor ECS")
        return
    for unit, state in before:
        now = host.run("systemctl is-enabled %s", unit).stdout.strip() or "gone"
        assert now in _UNIT_STATES or now == state, f"{unit} is {now}, in the base AMI it was {state}"
    saw(", ".join(f"{unit} {state}" for unit, state in before))


def test_preloaded_image(host: Any, saw: Saw, preloaded: str) -> None:
    """Docker has the image of this digest."""
    listed = host.run("docker image ls --digests --format '{{.Digest}} {{.Repository}} {{.Size}}'")
    assert listed.rc == 0, f"Docker does not answer: {listed.stderr.strip()}"
    known = listed.stdout.splitlines()
    found = [line.split(" ", 1)[1] for line in known if line.startswith(f"{preloaded} ")]
    assert found, f"Docker knows {counted(len(known), 'image')}, none of that digest"
    saw(found[0])


def test_ecs_agent(host: Any, expected: dict[str, Any], saw: Saw) -> None:
    """Where there is an ECS agent it is enabled, joins no cluster by itself, and keeps GPU and image cleaning."""
    if not _has(host, "ecs.service"):
        saw("there is no ECS agent")
        return
    state = host.run("systemctl is-enabled ecs.service").stdout.strip()
    assert state in _UNIT_STATES, f"ecs.service is {state}: no instance would join a cluster"
    settings = _ecs_settings(host)
    pull, wanted = settings.get(on_host.ECS_PULL), expected["ecs"]["pull"]
    assert pull == wanted, f"{on_host.ECS_PULL} is {pull}, wanted is {wanted}"
    assert not settings.get("ECS_CLUSTER"), f"every instance would join the cluster {settings['ECS_CLUSTER']}"
    off = settings.get("ECS_DISABLE_IMAGE_CLEANUP", "false")
    assert off == "false", f"ECS_DISABLE_IMAGE_CLEANUP is {off}: images would fill the disk"
    had_gpu = "ecs-gpu" in _base_notes(host)
    gpu = settings.get("ECS_ENABLE_GPU_SUPPORT", "false")
    assert gpu == "true" or not had_gpu, f"ECS_ENABLE_GPU_SUPPORT is {gpu}, the base AMI had it on"
    saw(f"enabled, image pull behaviour {pull}, GPU support {'on' if gpu == 'true' else 'off'}")


def test_drivers_are_those_of_the_base(host: Any, saw: Saw) -> None:
    """On a base with an NVIDIA driver, driver and kernel are as they were: one is built for the other."""
    before = {line.removeprefix("package ") for line in _base_notes(host) if line.startswith("package ")}
    if not any("nvidia" in package for package in before):
        saw("this base has no NVIDIA driver")
        return
    now = set(host.check_output("sh -c %s", on_host.DRIVER_PACKAGES).splitlines())
    kernels = {package for package in now - before if package.startswith(("kernel", "linux-image"))}
    moved = sorted((before - now) | kernels)
    assert not moved, f"changed in the bake: {', '.join(moved[:5])}"
    saw(f"{counted(len(before), 'package')} of kernel and driver unchanged")


def test_prewarm(host: Any, expected: dict[str, Any], saw: Saw) -> None:
    """The unit that reads the models at boot is enabled; on an instance it comes to a good end."""
    unit = expected["prewarm"]
    if unit is None:
        pytest.skip("models.prewarm is none")
    enabled = host.run("systemctl is-enabled %s", unit).stdout.strip()
    assert enabled in _UNIT_STATES, f"{unit} is {enabled}"
    if moment() == "builder":
        saw("enabled")
        return
    deadline = time.monotonic() + _PREWARM_PATIENCE
    while (state := host.run("systemctl is-active %s", unit).stdout.strip()) == "activating":
        assert time.monotonic() < deadline, f"{unit} is still reading"
        time.sleep(1)
    assert state == "active", f"{unit} is {state}: {_log(host, unit)}"
    saw(_log(host, unit))


def _has(host: Any, unit: str) -> bool:
    return bool(host.run("systemctl cat %s", unit).rc == 0)


def _log(host: Any, unit: str) -> str:
    """Return what a unit, or systemd about it, said last."""
    lines = host.run("journalctl --no-pager --output=cat --unit %s", unit).stdout.splitlines()
    return next((line for line in reversed(lines) if line.startswith("read ")), lines[-1] if lines else "no log")


def _base_notes(host: Any) -> list[str]:
    """Return what the builder was like before anything changed it."""
    return list(host.check_output("cat %s", on_host.BASE_NOTES).splitlines())


def _ecs_settings(host: Any) -> dict[str, str]:
    """Return what the agent is started with: the user's file is read after the AMI's."""
    text = host.run("sh -c %s", f"cat {on_host.ECS_BASE_CONFIG} {on_host.ECS_CONFIG} 2>/dev/null").stdout
    pairs = (line.partition("=") for line in map(str.strip, text.splitlines()) if line and not line.startswith("#"))
    return {name: value.strip("\"'") for name, _, value in pairs}
