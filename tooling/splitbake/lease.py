"""A lease: of all who share a state, one at a time may do a thing, for as long as its process lives.

It stands in the state as ``leases/<name>.json`` and is never deleted: it is created once, and from then on replaced
on condition that nobody else has replaced it since it was read. That condition lets only one of two take it,
whatever their clocks say; clocks say only when a silent holder counts as dead, where the machine that it ran on is
another one: on this one the process itself is looked for. A living one writes a new moment of
expiry every third of the lease's life, and who finds that moment passed takes the lease over.

So a clock that is ahead by more than two thirds of the life may take the lease from a living holder, who learns
it at the next renewal: ``Lease.require``. One that is behind only waits longer. A process that was stopped for longer
than the life finds its own lease expired.
"""

from __future__ import annotations

import datetime
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, Field, ValidationError

from splitbake.errors import HeldError, SplitbakeError, StateError
from splitbake.spec import Spec, Text
from splitbake.state import Store, Stored
from splitbake.ui import Say, silent
from splitbake.units import format_seconds

#: Seconds from the last renewal of a lease to its expiry, and between two looks of one who waits for it.
LIFE, POLL = 90.0, 2.0

log = logging.getLogger(__name__)


class Holding(Spec):
    """What the state says of a lease. Nothing in it is secret.

    Attributes:
        holder: a random name of this one hold.
        released: whether the holder is done; else it holds the lease until ``expires``.
    """

    holder: Text
    who: Text
    host: Text
    pid: int
    process: str = Field(default="", description="what tells that process from every other one: see process_id")
    doing: Text
    since: AwareDatetime
    expires: AwareDatetime
    released: bool = False

    def is_held(self, moment: datetime.datetime) -> bool:
        """Whether the holder still counts: not done, not silent for too long, and not seen to be dead."""
        return not self.released and self.expires > moment and not is_gone(self.process)

    def __str__(self) -> str:
        return (
            f"{self.who} (host {self.host}, process {self.pid}) since {self.since:%Y-%m-%d %H:%M:%S} UTC: {self.doing}"
        )


def now() -> datetime.datetime:
    """Return the present moment."""
    return datetime.datetime.now(datetime.UTC)


def process_id(number: int | str = "self") -> str:
    """Return what no other process has: this boot of the kernel, the PID namespace, the PID, and when it started.

    Empty where the system does not tell (it is no Linux), or there is no such process; one that is dead but not yet
    reaped counts as none.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").readlink()
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        pid = Path(f"/proc/{number}").resolve().name
    except OSError:
        return ""
    # proc(5): behind the name come the state (3) and, as field 22, the start time in ticks since boot.
    return "" if fields[0] in {"Z", "X"} else f"{boot} {namespace} {pid} {fields[19]}"


def is_gone(process: str) -> bool:
    """Whether ``process``, of ``process_id``, has ended; only one of this very kernel and namespace can be judged."""
    mine, parts = process_id().split(), process.split()
    if len(parts) != len(mine) or not mine or parts[:2] != mine[:2]:
        return False
    return process_id(parts[2]) != process


def names(store: Store, prefix: str) -> list[str]:
    """Return the names of the leases, held or not, that begin with ``prefix``."""
    keys = store.keys(f"leases/{prefix}")
    return [key.removeprefix("leases/").removesuffix(".json") for key in keys]


def last(store: Store, name: str) -> Holding | None:
    """Return who holds the lease ``name``, or held it last; None where nobody ever did.

    Raises:
        StateError, CloudError: the state cannot be read.
    """
    key = _key(name)
    return _read(key, store.get(key))


@contextmanager
def held(
    store: Store,
    name: str,
    *,
    who: str,
    doing: str,
    wait: Say | None = None,
    life: float = LIFE,
    poll: float = POLL,
    clock: Callable[[], datetime.datetime] = now,
) -> Iterator[Lease]:
    """Hold the lease ``name`` while the block runs, however it ends; a killed process holds it until it expires.

    Long work calls ``Lease.require`` before each change that it makes.

    Args:
        store: the state that all share who compete.
        name: part of a key of the state, for example ``release/prod``.
        who: the caller's ARN, or the user, for those who find the lease held.
        doing: what for, in words, for the same.
        wait: told once who else holds the lease, until it is free; without it HeldError is raised.
        life: seconds.
        poll: seconds.
        clock: the present moment.

    Raises:
        HeldError: somebody else holds it.
        StateError, CloudError: the state cannot be read or written.
    """
    lease = Lease(store, name, who=who, doing=doing, life=life, clock=clock)
    try:
        while other := lease.take():
            if wait is None:
                raise HeldError(f"{name} is held by {other}", hint=_free(other, clock()))
            wait(f"waiting for {name}, held by {other}; {_free(other, clock())}")
            wait = silent
            time.sleep(poll)
        lease.keep()
        yield lease
    finally:
        lease.release()


def _free(other: Holding, moment: datetime.datetime) -> str:
    left = format_seconds((other.expires - moment).total_seconds())
    return f"if that process is dead, it falls free at {other.expires:%H:%M:%S} UTC, in {left}"


class Lease:
    """One hold on a name; ``held`` makes it.

    Attributes:
        name: of the lease.
        previous: what ``last`` said when it was taken: equal to what it said before where nobody held it since.
    """

    def __init__(
        self, store: Store, name: str, *, who: str, doing: str, life: float, clock: Callable[[], datetime.datetime]
    ) -> None:
        self.name = name
        self.previous: Holding | None = None
        self._store, self._life, self._clock = store, datetime.timedelta(seconds=life), clock
        self._mine = Holding(
            holder=secrets.token_hex(8),
            who=who,
            host=socket.gethostname() or "unknown",
            pid=os.getpid(),
            process=process_id(),
            doing=doing,
            since=clock(),
            expires=clock(),
        )
        self._written = False
        self._lost = ""
        self._trouble = ""
        self._done = threading.Event()
        self._keeper = threading.Thread(target=self._renew, name=f"lease {name}", daemon=True)

    def require(self) -> None:
        """Make sure that the lease is ours still.

        Raises:
            StateError: somebody took it over, or it expired before it could be renewed.
        """
        expired = f"it expired at {self._mine.expires:%H:%M:%S} UTC: {self._trouble or 'it was not renewed in time'}"
        lost = self._lost or (expired if self._clock() >= self._mine.expires else "")
        if lost:
            hint = "see what was done, and by whom, before you run the command again"
            raise StateError(f"the lease {self.name} is lost; {lost}", hint=hint)

    def take(self) -> Holding | None:
        """Take the lease where it is free; return who holds it where it is not."""

        def may(there: Holding | None) -> bool:
            if self._is_mine(there):  # stored already, though the answer got lost
                return True
            self.previous = there
            return there is None or not there.is_held(self._clock())

        there = self._write(may, since=self._clock())
        return None if self._is_mine(there) else there

    def keep(self) -> None:
        """Begin to renew it."""
        self._keeper.start()

    def release(self) -> None:
        """Let the next one have it; where that cannot be written, the work is done all the same, and it expires."""
        self._done.set()
        if self._keeper.is_alive():
            self._keeper.join()
        if not self._written:
            return
        try:
            self._write(self._is_mine, released=True)
        except SplitbakeError as problem:
            log.warning("lease %s was not released, it falls free when it expires: %s", self.name, problem)

    def _renew(self) -> None:
        while not self._done.wait(self._life.total_seconds() / 3):
            try:
                there = self._write(self._is_mine)
            except SplitbakeError as problem:  # the next try may do better; require tells it when there was none
                self._trouble = problem.message
                continue
            if not self._is_mine(there):
                self._lost = f"it was taken over by {there}" if there else "it is gone from the state"
                return
            self._trouble = ""

    def _is_mine(self, there: Holding | None) -> bool:
        return there is not None and there.holder == self._mine.holder

    def _write(self, may: Callable[[Holding | None], bool], **changes: Any) -> Holding | None:
        """Write our hold with ``changes`` over what is there, where ``may`` agrees; return what is there then."""
        key = _key(self.name)
        while True:
            stored = self._store.get(key)
            there = _read(key, stored)
            if not may(there):
                return there
            mine = self._mine.model_copy(update={"expires": self._clock() + self._life, **changes})
            text = mine.model_dump_json(indent=2).encode()
            self._written = True
            if self._store.replace(key, text, stored.version) if stored else self._store.create(key, text):
                self._mine = mine
                return mine


def _key(name: str) -> str:
    return f"leases/{name}.json"


def _read(key: str, stored: Stored | None) -> Holding | None:
    try:
        return Holding.model_validate_json(stored.value) if stored else None
    except ValidationError as problem:
        raise StateError(
            f"{key} in the state is damaged, or of another version of splitbake: {problem.errors()[0]['msg']}",
            hint="make sure that nobody is at work, then remove it",
        ) from problem
