"""An AWS that throttles: every so many calls one is answered 503 Service Unavailable, and nothing was done.

How many is in a file of the cloud's folder, so it changes while the cloud runs. An empty 503 is the one answer that
clients of all protocols take for a passing trouble of the service (as botocore's parsers do), and try again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitbake.local.state import write_private

FILE = "throttle"


def every(directory: Path) -> int:
    """Return which of the calls to the cloud of ``directory`` fail: every so many; 0 is none."""
    try:
        return int((directory / FILE).read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0


def set_every(directory: Path, number: int) -> None:
    """Let one in ``number`` calls fail from now on; 0 is none."""
    write_private(directory / FILE, str(number))


@dataclass
class Throttle:
    """A WSGI application in front of another one. It counts calls anew when the number changes.

    Attributes:
        app: what answers the other calls.
        directory: the folder of the cloud.
    """

    app: Callable[..., Iterable[bytes]]
    directory: Path
    _number: int = 0
    _calls: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Pass a call on, or let it fail."""
        if self._fails():
            start_response("503 Service Unavailable", [("Connection", "close")])
            return []
        return self.app(environ, start_response)

    def _fails(self) -> bool:
        with self._counting:  # the server has a thread for each call
            number = every(self.directory)
            if number != self._number:
                self._number, self._calls = number, 0
            self._calls += 1
            return number > 0 and self._calls % number == 0
