"""Checks of several instances that were booted from one model AMI: what shows only after the boot.

On their own, against instances that you can log in to; the first is looked at in full, with the others it is compared::

    SPLITBAKE_EXPECTED=expected.json pytest path/to/boot.py --ssh-config=config

``expected.json`` has: ``root`` of the models; ``files``: the paths below it; ``instances``: of each one ``host`` (for
testinfra, with root's view: ``ssh://name?sudo=true``), ``id``, ``asked`` (when RunInstances was called, seconds since
1970) and ``seconds`` from then until it answered; ``prewarm``: the unit that reads the models at boot, or null;
``gpu``: whether containers must have one; where there is one, it is looked at in any case.

The first check reads the models: nothing else may do so before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from splitbake.units import counted, format_size
from splitbake.verify import probe
from splitbake.verify.plugin import Contents

pytest_plugins = ["splitbake.verify.plugin"]

Saw = Callable[[str], None]
Measured = Callable[[str, float], None]

#: Seconds that a unit which is starting when we look may still take.
_PATIENCE = 120
_MEGA = 1e6
#: Below this, a file says more of seeking than of reading.
_WORTH = 1_000_000
#: What every instance has.
_ALWAYS = {"machine id", "SSH host key ed25519"}
_SHOW_TIMES = "systemctl show --property=ActiveState,ExecMainStartTimestampMonotonic,ExecMainExitTimestampMonotonic %s"
#: is-system-running ends with 0 only when all is well; what counts is the status of the last command.
_SHOW_UNIT = """
systemctl show --property=LoadState,UnitFileState,ActiveState,ActiveEnterTimestampMonotonic %s
systemctl is-system-running
cat /proc/uptime"""


@pytest.fixture(scope="session")
def hosts(request: pytest.FixtureRequest, expected: dict[str, Any]) -> dict[str, Any]:
    """All instances: id -> testinfra's host."""
    import testinfra

    config = request.config.getoption("ssh_config")
    return {one["id"]: testinfra.get_host(one["host"], ssh_config=config) for one in expected["instances"]}


@pytest.fixture(scope="session")
def first(hosts: dict[str, Any]) -> Any:
    """The instance that is looked at in full; as a parameter, testinfra's ``host`` would change the checks' order."""
    return next(iter(hosts.values()))


def test_first_read(contents: Contents, first: Any, expected: dict[str, Any], saw: Saw, measured: Measured) -> None:
    """Each model is read once, front to end; how fast is told, not judged."""
    prewarm = _prewarm(first, expected["prewarm"])
    files = {path: found for path, found in contents(first, expected["root"]).items() if path in expected["files"]}
    read = {path: found for path, found in files.items() if found.get("seconds")}
    if not read:
        pytest.skip("there is no model to read")
    size, seconds = (sum(found[what] for found in read.values()) for what in ("size", "seconds"))
    measured("first read of all models, MB/s", round(size / seconds / _MEGA, 1))
    for path, found in read.items():
        if found["size"] >= _WORTH:
            measured(f"first read of {path}, MB/s", round(found["size"] / found["seconds"] / _MEGA, 1))
    cache = "" if all(found["direct"] for found in read.values()) else ", through the page cache"
    saw(f"{format_size(size)} at {format_size(size / seconds)}/s{cache}; {prewarm}")


def test_time_until_ready(hosts: dict[str, Any], expected: dict[str, Any], saw: Saw, measured: Measured) -> None:
    """Docker and the ECS agent come up where the AMI enables them; how long that takes from RunInstances is told."""
    for number, instance in enumerate(expected["instances"], start=1):
        host, name = hosts[instance["id"]], instance["id"]
        measured(f"instance {number}: RunInstances to SSH, s", instance["seconds"])
        words = [f"ssh {instance['seconds']:.1f} s"]
        for unit in ("docker", "ecs"):
            state, since = _unit(host, unit)
            if state == "active":
                seconds = round(time.time() - since - instance["asked"], 1)
                measured(f"instance {number}: RunInstances to {unit} active, s", seconds)
                words.append(f"{unit} {seconds:.1f} s")
            elif state != "absent":
                # Without a role of a cluster the agent gives up; Docker needs nobody.
                assert unit == "ecs", f"docker is {state} on {name}: {_log(host, unit)}"
                words.append(f"ecs is {state}")
        saw(f"{name}: {', '.join(words)}")


def test_identities_differ(hosts: dict[str, Any], saw: Saw) -> None:
    """Nothing by which an instance is known was baked in."""
    if len(hosts) == 1:
        pytest.skip("verify.instances is 1: there is nothing to compare with")
    found = [probe.ask(host, "identity") for host in hosts.values()]
    names = sorted({what for one in found for what in one})
    values = {what: [one[what] for one in found if one.get(what)] for what in names}
    shared = [what for what in names if len(set(values[what])) < len(values[what])]
    assert not shared, f"{' and '.join(hosts)} have the same {', '.join(shared)}"
    compared = [what for what in names if len(values[what]) == len(hosts)]
    assert set(compared) >= _ALWAYS, f"only {', '.join(compared)} could be compared"
    absent = [what for what in names if what not in compared]
    saw(", ".join(compared) + (f"; not on all of them: {', '.join(absent)}" if absent else ""))


def test_models_in_a_container(first: Any, expected: dict[str, Any], saw: Saw) -> None:
    """A container that mounts the models read-only, as a job does, can read them as any user and write as none."""
    found = probe.ask(first, "container", expected["root"], min(expected["files"]))
    if "without" in found:
        pytest.skip(found["without"])
    assert found["problem"] is None, found["problem"]
    saw(f"Docker {found['engine']}: read by any user, written by none")


def test_gpu_driver_is_one(first: Any, expected: dict[str, Any], saw: Saw) -> None:
    """Kernel module, its file, package and library of the NVIDIA driver have one version, and there is a GPU."""
    found = _gpus(first, expected)
    assert found["GPUs"], f"nvidia-smi finds none of {counted(len(found['devices']), 'GPU')}"
    versions = found["versions"]
    told = ", ".join(f"{what} {version or 'not found'}" for what, version in versions.items())
    assert versions["loaded module"], f"the kernel has not loaded the NVIDIA module: {told}"
    assert versions["user-space library"], f"programs find no NVIDIA library: {told}"
    assert len(set(filter(None, versions.values()))) == 1, f"the versions differ: {told}"
    saw(f"{', '.join(found['GPUs'])}; driver {versions['loaded module']}")


def test_gpu_in_a_container(first: Any, expected: dict[str, Any], saw: Saw) -> None:
    """``docker run --gpus all`` shows the GPU to a container: without it a job would see none."""
    _gpus(first, expected)
    found = probe.ask(first, "container", expected["root"], min(expected["files"]), "gpu")
    if "without" in found:
        assert not expected["gpu"], f"{found['without']}, and verify.gpu wants a GPU in a container"
        pytest.skip(found["without"])
    assert found["problem"] is None, found["problem"]
    saw("nvidia-smi -L lists it")


def _gpus(host: Any, expected: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of the host's GPUs; where it has none, that is a finding only if one is wanted."""
    found: dict[str, Any] = probe.ask(host, "gpu")
    if not found["devices"] and not found["GPUs"]:
        assert not expected["gpu"], "there is no GPU, and verify.gpu wants one"
        pytest.skip("this instance has no GPU")
    return found


def _prewarm(host: Any, unit: str | None) -> str:
    """Say what the unit that reads the models at boot has done by now."""
    if unit is None:
        return "nothing had read them before"
    values = dict(line.split("=", 1) for line in host.check_output(_SHOW_TIMES, unit).splitlines())
    began, ended = (int(values[f"ExecMain{what}TimestampMonotonic"] or 0) for what in ("Start", "Exit"))
    if not began:
        return f"{unit} had not begun ({values['ActiveState']})"
    return f"{unit} had read them, in {(ended - began) / 1e6:.1f} s" if ended else f"while {unit} read them as well"


def _unit(host: Any, name: str) -> tuple[str, float]:
    """Return the state of a unit, once it has one, and since when (seconds since 1970, by this machine's clock)."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        shown = host.check_output(_SHOW_UNIT, f"{name}.service").splitlines()
        values = dict(line.split("=", 1) for line in shown[:-2])
        system, uptime = shown[-2], float(shown[-1].split()[0])
        if values["LoadState"] != "loaded" or values["UnitFileState"] not in {"enabled", "enabled-runtime"}:
            return "absent", 0.0
        settled = values["ActiveState"] in {"active", "failed"} or system not in {"initializing", "starting"}
        if settled or time.monotonic() > deadline:
            # Both are times since this host's start: no clock is compared with another one.
            return values["ActiveState"], uptime - int(values["ActiveEnterTimestampMonotonic"]) / 1e6
        time.sleep(0.5)


def _log(host: Any, unit: str) -> str:
    return str(host.run("journalctl --no-pager --lines=1 --output=cat --unit %s.service", unit).stdout.strip())
