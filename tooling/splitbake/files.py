"""Writing files: a full disk is told with the file's name, and leaves the old content or none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from splitbake.errors import SplitbakeError


@contextmanager
def writing(path: Path, kind: type[SplitbakeError]) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` into an error of ``kind``: the system's own names no file."""
    try:
        yield
    except OSError as problem:
        raise kind(
            f"cannot write {path}: {problem.strerror or problem}",
            hint="is the disk full, or the folder read-only?",
        ) from problem


def replace(path: Path, content: str | bytes, kind: type[SplitbakeError], *, mode: int = 0o644) -> None:
    """Write ``content`` to ``path``, all of it or nothing; makes the folder.

    Raises:
        SplitbakeError: of ``kind``; what was there before is untouched.
    """
    with writing(path, kind):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            partial = Path(file.name)
            try:
                file.write(content if isinstance(content, bytes) else content.encode())
                file.flush()
                partial.chmod(mode)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
