"""Of which sources an image is made: their commit, when that was, and where it can be had. Git is asked."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from splitbake.errors import ToolError
from splitbake.oci import layer

#: Says of when an image is, in seconds since 1970 (reproducible-builds.org).
EPOCH: Final = "SOURCE_DATE_EPOCH"
#: More digits would lead beyond the year 9999.
_SECONDS: Final = re.compile(r"[0-9]{1,11}")

_DIRTY: Final = "-dirty"
#: How git reaches another machine.
_SCHEMES: Final = ("https", "http", "ssh", "git", "git+ssh", "ssh+git")
#: A name without a dot is this machine, or stands in its settings alone.
_HOST: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")


def created(root: Path) -> str:
    """Return the time of the commit, or SOURCE_DATE_EPOCH; where neither says one, a fixed time.

    Raises:
        ToolError: it is no time.
    """
    seconds = os.environ.get(EPOCH) or _git(root, "log", "-1", "--format=%ct") or str(layer.TIME)
    if not _SECONDS.fullmatch(seconds):
        raise ToolError(
            f"the image cannot be of the time {seconds!r}",
            hint=f"set {EPOCH} to seconds since 1970, or unset it for the time of the commit",
        )
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def revision(root: Path, context: Path, paths: Iterable[str]) -> str:
    """Return the commit, with ``-dirty`` where files differ from it or one of ``paths`` below ``context`` is not in it.

    Empty where git knows none.
    """
    # Without tags: the commit itself.
    found = _git(root, "describe", "--always", f"--dirty={_DIRTY}", "--abbrev=40", "--exclude=*")
    if not found or found.endswith(_DIRTY):
        return found
    tracked = _git(context, "ls-files", "--cached", "--recurse-submodules", "-z").split("\0")
    return found if {*paths} <= {*tracked} else f"{found}{_DIRTY}"


def source(root: Path) -> str:
    """Return the address of the repository that this one was cloned from; see ``address``."""
    return address(_git(root, "config", "--get", "remote.origin.url"))


def address(remote: str) -> str:
    """Return a remote as ``https://host/path``, the same for whoever cloned by https and by ssh.

    It has neither user nor password. Empty for what says something of this machine: a path, or no full name of a host.
    """
    scheme, full, rest = remote.partition("://")
    if not full:  # git's short form of ssh: user@host:path
        scheme, rest = "ssh", remote.replace(":", "/", 1)
    login, _, path = rest.partition("/")
    host, _, port = login.rpartition("@")[2].lower().partition(":")
    # A password with a slash ends up in the path.
    if scheme not in _SCHEMES or not _HOST.fullmatch(host) or (port and not port.isdecimal()) or "@" in path:
        return ""
    path = re.split(r"[?#]", path)[0].strip("/").removesuffix(".git").rstrip("/")
    if not path or not path.isprintable() or " " in path:
        return ""
    shown = f":{port}" if scheme == "https" and port not in ("", "443") else ""
    return f"https://{host}{shown}/{path}"


def _git(folder: Path, *arguments: str) -> str:
    """Return what git says of a folder; empty where it is none of git's, or git is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return ""
    return os.fsdecode(done.stdout).rstrip("\n") if done.returncode == 0 else ""
