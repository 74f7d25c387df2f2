"""Print the GPUs, as the bus and as the driver know them, and every version of the NVIDIA driver that must agree.

A version is null where its part is missing.
The kernel module is chosen at boot, so a bake on an instance without a GPU proves nothing about it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

_PACKAGES = (
    ("rpm", "-q", "--queryformat", "%{VERSION}\n", "nvidia-driver"),
    ("dpkg-query", "--show", "--showformat", "${Version}\n", "nvidia-driver"),
)
#: As the PCI bus knows them: the vendor, and the class of all that draws or computes (03).
_NVIDIA, _DISPLAY = "0x10de", "0x03"
_BUS = Path("/sys/bus/pci/devices")


def said(*argv: str) -> str | None:
    """Return what a program says; None where it is missing or fails."""
    if shutil.which(argv[0]) is None:
        return None
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None


def devices() -> list[str]:
    """Return the addresses of the NVIDIA GPUs on the PCI bus: they are there whether any driver works or none."""
    if said("systemd-detect-virt", "--container") is not None:
        return []  # what a container sees here is of the machine that it runs on
    found = []
    for device in sorted(_BUS.glob("*")):
        vendor, kind = ((device / name).read_text(encoding="ascii").strip() for name in ("vendor", "class"))
        if vendor == _NVIDIA and kind.startswith(_DISPLAY):
            found.append(device.name)
    return found


def library() -> str | None:
    """Return the version in the name of the library by which programs ask the driver."""
    found = re.search(r"libnvidia-ml\.so\.1 .*=> (\S+)", said("ldconfig", "-p") or "")
    version = re.search(r"libnvidia-ml\.so\.(\d+\.[\d.]+)$", str(Path(found[1]).resolve())) if found else None
    return version[1] if version else None


def package() -> str | None:
    """Return the driver's version as the package manager knows it, without epoch and release."""
    text = next(filter(None, (said(*ask) for ask in _PACKAGES)), None)
    return re.sub(r"^\d+:|-.*$", "", text) if text else None


def main() -> None:
    """Print this host's GPUs and driver versions."""
    loaded = Path("/sys/module/nvidia/version")
    found = {
        "devices": devices(),
        "GPUs": (said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "").splitlines(),
        "versions": {
            "loaded module": loaded.read_text(encoding="ascii").strip() if loaded.is_file() else None,
            "module on disk": said("modinfo", "--field", "version", "nvidia"),
            "package": package(),
            "user-space library": library(),
        },
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
