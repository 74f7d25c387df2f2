"""Files of a hundred bytes that stand for a model which git-lfs or git-annex has not fetched.

They are text and pass for a model everywhere but in the program that loads it, so they are never locked.
"""

from __future__ import annotations

from splitbake.errors import SourceError

#: Bytes. The specification of git-lfs lets no pointer be larger; those of git-annex are a path.
LARGEST = 1024

#: How each kind begins (git-lfs: docs/spec.md; git-annex: "pointer file" in its internals) -> what to do.
_KINDS = {
    b"version https://git-lfs.github.com/spec/": ("git-lfs", "git lfs pull"),
    b"version https://hawser.github.com/spec/": ("git-lfs", "git lfs pull"),
    b"/annex/objects/": ("git-annex", "git annex get"),
}


def refuse(source: str, content: bytes) -> None:
    """Raise SourceError if ``content``, the whole of a small file or its beginning, is such a pointer."""
    for beginning, (tool, fetch) in _KINDS.items():
        if content.startswith(beginning):
            raise SourceError(
                f"{source} is a pointer of {tool}, not the model that it stands for",
                hint=f"fetch the model ({fetch}), and upload that if it is to come from elsewhere",
            )
