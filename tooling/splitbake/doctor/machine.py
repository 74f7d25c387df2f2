"""Find out what kind of machine this is."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
from pathlib import Path

from splitbake.doctor.model import Ask, Machine
from splitbake.doctor.probes import ask as run


def look(ask: Ask = run) -> Machine:
    """Collect the facts about this machine."""
    release = os_release()
    apt = is_debian_like(release) and shutil.which("apt-get") is not None
    root = os.geteuid() == 0
    return Machine(
        codename=codename(release) if apt else "",
        apt=apt,
        prefix=() if root else sudo(ask),
        systemd=Path("/run/systemd/system").is_dir(),  # the test of sd_booted(3)
        user="" if root else getpass.getuser(),
        docker_host=os.environ.get("DOCKER_HOST", ""),
    )


def os_release() -> dict[str, str]:
    """Return the fields of os-release; none on a system that has no such file."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def is_debian_like(release: dict[str, str]) -> bool:
    """Tell whether this is Debian, Ubuntu or one of their descendants."""
    family = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    return bool(family & {"debian", "ubuntu"})


def codename(release: dict[str, str]) -> str:
    """Return the code name of the Debian or Ubuntu release; descendants name the one they are made from."""
    return release.get("UBUNTU_CODENAME") or release.get("VERSION_CODENAME", "")


def sudo(ask: Ask) -> tuple[str, ...] | None:
    """Return the prefix that runs a command as root without a question, or None."""
    return ("sudo", "-n") if ask(("sudo", "-n", "true")).code == 0 else None
