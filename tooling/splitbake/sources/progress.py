"""How far a long reading has come, in bytes and files."""

from __future__ import annotations

import sys
import threading
import time

from splitbake.ui import Say
from splitbake.units import counted, format_size

#: Seconds between two lines: on a terminal one replaces the other, in a log they all stay.
_ON_TERMINAL, _IN_LOG = 0.2, 15.0


class Progress:
    """Counts what several threads read, and tells it now and then."""

    def __init__(self, say: Say, *, files: int, size: int) -> None:
        """Begin to count.

        Args:
            say: takes each line.
            files: how many will be read.
            size: their bytes, as far as they are known.
        """
        self._say = say
        self._files, self._size = files, size
        self._done, self._read = 0, 0
        self._pause = _ON_TERMINAL if sys.stderr.isatty() else _IN_LOG
        self._next = 0.0
        self._lock = threading.Lock()

    def add(self, size: int, what: str) -> None:
        """Count ``size`` bytes, none at its beginning, of the file ``what``."""
        with self._lock:
            self._read += size
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + self._pause
                self._say(self._line(what))

    def end(self) -> None:
        """Count a file that has been read."""
        with self._lock:
            self._done += 1

    def _line(self, what: str) -> str:
        total = max(self._size, self._read)
        return (
            f"{format_size(self._read)} of {format_size(total)}, {self._done} of {counted(self._files, 'file')}: {what}"
        )
