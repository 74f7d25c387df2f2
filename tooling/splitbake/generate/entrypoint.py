"""The entry check of the image: a script without any value in it, and beside it what this image needs, as data."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePosixPath
from typing import Final

from splitbake import contract
from splitbake.generate.mark import MARK
from splitbake.lock import Lock
from splitbake.manifest import Manifest

SCRIPT: Final = "dockerfiles/entry.sh"
NEEDS: Final = "dockerfiles/needs"

#: Their names below ``contract.IN_IMAGE`` of an image -> where they are generated, and the mode they get there.
IN_IMAGE: Final = {
    PurePosixPath(contract.ENTRY).name: (SCRIPT, 0o755),
    PurePosixPath(contract.NEEDS).name: (NEEDS, 0o644),
}


def render(manifest: Manifest, lock: Lock) -> dict[str, str]:
    """Return the two files: path below the project's folder -> text."""
    script = files("splitbake.generate").joinpath("scripts", PurePosixPath(SCRIPT).name).read_text(encoding="utf-8")
    return {SCRIPT: script.replace("# @mark@", MARK), NEEDS: f"{MARK}\n{contract.need_text(manifest, lock)}"}
