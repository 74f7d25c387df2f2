"""Keeps a program from outliving splitbake: ``python keeper.py PROGRAM ARGUMENT…``.

It passes on what the program says and how it ends. Its own standard input is a pipe that splitbake holds open: when
that ends, because splitbake closed it or was killed, the program is interrupted once and gets time to clean up. Packer
itself would not do that: it dies of the next line that it cannot write, and leaves its instance running.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, Any

#: Seconds that an interrupted program gets to clean up.
GRACE = 120
#: What a shell adds to the number of the signal that ended a program.
ENDED_BY_SIGNAL = 128


def main(argv: Sequence[str]) -> int:
    """Run ``argv`` in this process's group and return its exit status, 128 and more where a signal ended it."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _go_on)  # SIG_IGN would be inherited
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    abandoned = threading.Event()
    threading.Thread(target=_watch, args=(process, abandoned), daemon=True).start()
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    _pass_on(process.stdout)
    status = process.wait()
    if abandoned.is_set():
        os.killpg(0, signal.SIGKILL)  # plugins outlive a Packer that was killed; this process ends with them
    return status if status >= 0 else ENDED_BY_SIGNAL - status


def _watch(process: subprocess.Popen[bytes], abandoned: threading.Event) -> None:
    """Wait until nobody holds the other end of our standard input, then end the program."""
    while os.read(0, 1):
        pass
    abandoned.set()
    os.killpg(0, signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)


def _pass_on(source: IO[bytes]) -> None:
    """Copy ``source`` to our standard output; where nobody reads that any more, drain it all the same."""
    reader = True
    while chunk := os.read(source.fileno(), 65536):
        while reader and chunk:
            try:
                chunk = chunk[os.write(1, chunk) :]
            except BrokenPipeError:
                reader = False


def _go_on(*_: Any) -> None:
    """Take a signal that is meant for the program."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
