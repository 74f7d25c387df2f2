"""What every test starts from."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Undo what ``nohup`` and a background job of a shell hand down: ignored signals, which tests send to programs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
