"""What splitbake sets up on the hosts of an AMI beside the models: units of systemd, and settings of the ECS agent.

Everything is text here; ``scripts/60-host.sh`` puts it in place, each file only where what it is for exists.
"""

from __future__ import annotations

import shlex
import string
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from splitbake.errors import ManifestError
from splitbake.generate import volumes
from splitbake.generate.mark import MARK
from splitbake.generate.volumes import Volume
from splitbake.lock import Lock
from splitbake.manifest import Manifest

SYSTEM: Final = "/etc/systemd/system"
PREWARM: Final = "dl-models-prewarm.service"
PREWARM_SCRIPT: Final = "/usr/local/lib/splitbake/prewarm"
DROP_IN: Final = "10-splitbake.conf"
#: They start no job where a volume is missing: Docker containers, and the agent that asks for them.
NEED_VOLUMES: Final = ("docker.service", "ecs.service")

#: Both files are read by ecs.service; the first is the base AMI's and stays as it is.
ECS_BASE_CONFIG: Final = "/var/lib/ecs/ecs.config"
ECS_CONFIG: Final = "/etc/ecs/ecs.config"
ECS_PULL: Final = "ECS_IMAGE_PULL_BEHAVIOR"

#: What the builder was like before anything changed it: 10-settle.sh writes it, checks compare with it.
BASE_NOTES: Final = "/etc/splitbake/base"
#: Lists kernel and NVIDIA packages with their versions, one a line. A GPU base pins them: its driver is built for them.
DRIVER_PACKAGES: Final = """\
# shellcheck disable=SC2016 # dpkg-query expands it
if command -v rpm >/dev/null; then
    rpm -qa kernel 'kernel[0-9]*' 'kmod-*' '*nvidia*'
else
    dpkg-query --show --showformat '${db:Status-Status} ${Package}-${Version}\\n' 'linux-image-*' '*nvidia*' \\
        2>/dev/null | sed -n 's/^installed //p'
fi | sort"""

#: What systemd leaves as it is in the name of a unit (systemd-escape, "string escaping for inclusion in unit names").
_LITERAL = frozenset(string.ascii_letters + string.digits + ":_.")
#: Without the ".mount" and within NAME_MAX; later versions of systemd hash what is longer, earlier ones refuse it.
_LONGEST_NAME = 240


@dataclass(frozen=True)
class HostFile:
    """One file of a host.

    Attributes:
        path: where it goes.
        text: what it says.
        needs: the unit without which it has no purpose; empty: it always goes there.
    """

    path: str
    text: str
    needs: str = ""


def host_files(manifest: Manifest, lock: Lock) -> tuple[HostFile, ...]:
    """Return every file that 60-host.sh puts on the host, beside what it changes in ``ecs.config``.

    Raises:
        ManifestError: ``models.root`` or ``runtime.root`` cannot be a mount point of systemd.
    """
    mounted = volumes.planned(manifest, lock)
    mounts = [HostFile(f"{SYSTEM}/{_unit(one)}", _mount_text(one)) for one in mounted]
    needs = "".join(f"RequiresMountsFor={quoted(one.where)}\n" for one in mounted)
    drop_ins = [
        HostFile(f"{SYSTEM}/{unit}.d/{DROP_IN}", f"{MARK}\n[Unit]\n{needs}", unit) for unit in NEED_VOLUMES if needs
    ]
    return (*mounts, *drop_ins, *_prewarm(manifest))


def enabled_units(manifest: Manifest, lock: Lock) -> tuple[str, ...]:
    """Return the units of ours that start with the host."""
    mounts = [_unit(one) for one in volumes.planned(manifest, lock)]
    return (*mounts, *([PREWARM] if manifest.models.prewarm == "read" else []))


def placeholders(manifest: Manifest, lock: Lock) -> dict[str, str]:
    """Return what the scripts of this bake say in the place of ``# @…@`` lines and quoted ``'@…@'`` values."""
    planned = volumes.planned(manifest, lock)
    puts = [_put(one) for one in host_files(manifest, lock)]
    starts = [shlex.join(["start_at_boot", unit]) for unit in enabled_units(manifest, lock)]
    return {
        "# @make-volumes@": volumes.calls(planned, "make"),
        "# @close-volumes@": volumes.calls(planned, "close"),
        "# @host-files@": "\n".join([*puts, *starts] or [": # none"]),
        "@driver-packages@": DRIVER_PACKAGES,
        "'@ecs-pull@'": shlex.quote(manifest.ami.ecs.pull),
        "'@bytes-per-inode@'": str(volumes.BYTES_PER_INODE),
    }


def preload_list(images: tuple[str, ...], registry: str) -> str:
    """Return ``preload.tsv`` of the inputs folder: a reference by digest on each line.

    Args:
        images: ``ami.preload``.
        registry: host of the account's own registry, which ``ecr://`` stands for.
    """
    return "".join(f"{reference(image, registry)}\n" for image in images)


def reference(image: str, registry: str) -> str:
    """Return ``image`` of ``ami.preload`` as Docker takes it."""
    own = image.removeprefix("ecr://")
    return image if own == image else f"{registry}/{own}"


def expectation(manifest: Manifest, lock: Lock) -> dict[str, Any]:
    """Return what ``verify/checks/ami.py`` wants of a host beside the models.

    Keys ``volumes``, ``ecs``, ``prewarm``, ``preload`` and ``runtime``.
    """
    return {
        "volumes": [
            {"device": one.device, "label": one.label, "where": one.where, "unit": _unit(one)}
            for one in volumes.planned(manifest, lock)
        ],
        "ecs": {"pull": manifest.ami.ecs.pull},
        "prewarm": PREWARM if manifest.models.prewarm == "read" else None,
        "preload": [image.rpartition("@")[2] for image in manifest.ami.preload],
        "runtime": _runtime(manifest, lock),
    }


def _runtime(manifest: Manifest, lock: Lock) -> dict[str, Any] | None:
    if manifest.runtime is None or lock.runtime is None:
        return None
    return {
        "root": manifest.runtime.root,
        "budget": manifest.runtime.budget,
        "digest": lock.runtime.digest,
        "packages": {wheel.name: wheel.version for wheel in lock.runtime.wheels},
    }


def _unit(volume: Volume) -> str:
    return mount_unit(volume.where, volumes.KEYS[volume.label])


def mount_unit(path: str, key: str) -> str:
    """Return the name that systemd insists on for the mount unit of ``path`` (``systemd-escape --path``).

    Args:
        path: a folder.
        key: what says so in the manifest.

    Raises:
        ManifestError: there is no such name, or the unit could not say that path.
    """
    # A unit's line goes on after a backslash at its end, and loses spaces there; neither can be quoted in Where=.
    if path.endswith(("\\", " ")):
        raise ManifestError(
            f"{key} {path!r} ends with a space or a backslash, which systemd cannot mount at",
            hint=f"choose another {key}, or models.placement: root",
        )
    name = "-".join(_escaped(part) for part in path.strip("/").split("/"))
    name = name if name[0] != "." else _hex(".") + name[1:]
    if len(name) > _LONGEST_NAME:
        raise ManifestError(
            f"{key} is too long: systemd would need a unit name of {len(name)} characters",
            hint=f"choose another {key}, or models.placement: root",
        )
    return f"{name}.mount"


def quoted(path: str) -> str:
    """Return ``path`` as one item of a list in a unit: specifiers, quotes and backslashes are only characters."""
    plain = path.replace("%", "%%")
    if frozenset(plain) <= _LITERAL | set("/-%@,+="):
        return plain
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _put(file: HostFile) -> str:
    """Return the call of 60-host.sh that writes ``file``; no value stands alone on a line and could end it early."""
    return f"{shlex.join(['put', file.needs or '-', file.path])} <<'END OF FILE'\n{file.text}END OF FILE"


def _escaped(part: str) -> str:
    return "".join(one if one in _LITERAL else _hex(one) for one in part)


def _hex(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def _mount_text(volume: Volume) -> str:
    # Without default dependencies it is not in the way of local-fs.target: where the volume is missing, systemd waits
    # for it (90 s), and log-in goes on meanwhile. Neither nofail nor a dependency of the boot is right for that.
    return f"""\
{MARK}
# noload: the file system was unmounted cleanly in the bake, and nothing is ever written again.
[Unit]
Description=Volume {volume.label} (read-only)
DefaultDependencies=no
After=local-fs-pre.target
Conflicts=umount.target
Before=umount.target

[Mount]
What=/dev/disk/by-label/{volume.label}
Where={volume.where.replace("%", "%%")}
Type=ext4
Options=ro,noload

[Install]
WantedBy=multi-user.target
"""


def _prewarm(manifest: Manifest) -> tuple[HostFile, ...]:
    if manifest.models.prewarm == "none":
        return ()
    script = files("splitbake.generate").joinpath("scripts", "prewarm.sh").read_text(encoding="utf-8")
    script = script.replace("# @mark@", MARK).replace("'@root@'", shlex.quote(manifest.models.root))
    # Without default dependencies multi-user.target does not wait for it; a drop-in with Before=ecs.service would.
    unit = f"""\
{MARK}
[Unit]
Description=Reads the models once: blocks of a snapshot come slowly at their first reading
DefaultDependencies=no
After=local-fs.target
Conflicts=shutdown.target
Before=shutdown.target
RequiresMountsFor={quoted(manifest.models.root)}

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=infinity
IOSchedulingClass=idle
Nice=19
ExecStart=/bin/sh {PREWARM_SCRIPT}

[Install]
WantedBy=multi-user.target
"""
    return HostFile(PREWARM_SCRIPT, script), HostFile(f"{SYSTEM}/{PREWARM}", unit)
