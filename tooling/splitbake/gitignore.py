"""Which files git ignores, told by git itself: nested ``.gitignore``, ``info/exclude`` and the user's own rules count.

Rules and index are asked one after the other (``check-ignore --no-index``, ``ls-files``), and the second only where the
first has found anything. Together, ``check-ignore`` compares each path with the whole index, which takes seconds for
20,000 files, and takes ``[a].py`` for a pattern there: it calls it tracked where ``a.py`` is.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from splitbake.errors import BuildError, ToolError

#: Exit code of ``check-ignore`` where no path is ignored.
_NONE = 1
#: What git sets for the hooks that it runs, and what would be true there for another folder than the hook's.
_OF_HOOKS = ("GIT_DIR", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_WORK_TREE")


def ignored(root: Path, paths: Iterable[str]) -> set[str]:
    """Return those of ``paths`` (below ``root``, in no folder that is a link) that git ignores; never a tracked one.

    Raises:
        BuildError: ``root`` does not lie in a git repository, or git cannot read it.
        ToolError: there is no git.
    """
    found = _names(root, ["check-ignore", "--no-index", "-z", "--stdin"], paths)
    return found and found - _names(root, ["ls-files", "--cached", "--recurse-submodules", "-z"])


def _names(root: Path, arguments: Sequence[str], given: Iterable[str] = ()) -> set[str]:
    """Return the paths that git answers with; ``./`` before what is given keeps a ``:`` from being git's own syntax."""
    environment = {name: value for name, value in os.environ.items() if name not in _OF_HOOKS}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=environment | {"LC_ALL": "C"},
            input=b"".join(os.fsencode(f"./{path}\0") for path in given),
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as problem:
        raise ToolError("git is not there, and image.gitignore asks it", hint="install git") from problem
    told = os.fsdecode(done.stderr).strip()
    if "not a git repository" in told:
        raise BuildError(
            f"image.gitignore is set, but {root} does not lie in a git repository",
            hint="build in a checkout, or remove image.gitignore and name in image.exclude what is not to travel",
        )
    if done.returncode not in (0, _NONE):
        raise BuildError(f"git cannot say what it ignores in {root}: {told}", hint="try git status there")
    return {name.removeprefix("./") for name in os.fsdecode(done.stdout).split("\0")[:-1]}
