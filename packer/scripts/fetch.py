#!/usr/bin/python3 -I
# Made by splitbake generate from splitbake.yaml and splitbake.lock: change those, not this file.
"""Fetches model files over many connections, and puts them in place when every one has its checksum.

    fetch.py LIST ROOT

LIST has a line for each file: sha256 <TAB> bytes <TAB> path below ROOT <TAB> URL, or upload:NAME for a file in files/
beside LIST. Each connection is a process of its own and stays open. A file of more than LARGE bytes comes in ranges
over all of them, through memory that all share; one more process takes the ranges in order, hashes and appends them.
A smaller file is hashed and written by the process that fetches it.

Until all are right they lie in ROOT/.splitbake-fetch, under names made from checksum, size and path: the next run goes
on where a killed one was, and removes what the list does not ask for any more. At the end they are flushed to the disk,
all at once, and renamed: what has its final name is whole, also after a power cut.

URLs are secrets: no argument, variable or message holds one. Needs Python 3.7 on Linux, and nothing else.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import errno
import fcntl
import hashlib
import http.client
import json
import mmap
import multiprocessing
import os
import random
import re
import shutil
import signal
import ssl
import sys
import time
import traceback
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

RANGE = 4 << 20  # bytes asked for at once
LARGE = 8 * RANGE  # bytes; a larger file comes in ranges
PIECE = 256 << 10  # bytes read at once: they are still in the processor's cache when they are hashed and written
# Bytes written at once. For more, Linux takes larger areas of memory; on a virtual machine those were often not used
# before, and cost half again the time (measured).
WRITTEN = 32 << 10
BATCH = 64  # small files that a process gets at once
WINDOW = 2  # ranges for each connection that may wait for those before them
RESERVE = 256 << 20  # bytes that stay free; of a small disk, a twentieth
HOSTS = 4  # connections that a process keeps open: to a source, and to where that redirects
REDIRECTS = 10
LONGEST_PAUSE = 30.0  # seconds between two attempts
LONGEST_WAIT = 300.0  # seconds that a source may ask for instead: the windows of the Hub's rate limits are as long
TOLD_EVERY = 5.0  # seconds
MB, GB = 10**6, 10**9
LIBC = ctypes.CDLL(None, use_errno=True)  # for what Python's os does not have
SYNC_FILE_RANGE_WRITE = 2
PROCESSORS = len(os.sched_getaffinity(0))


class FetchError(Exception):
    """What ends the run, told as ``splitbake: KIND: TEXT``."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind, self.text = kind, text


class AgainError(Exception):
    """Asking again can help, in no less than ``pause`` seconds."""

    def __init__(self, reason: str, pause: float = 0) -> None:
        super().__init__(reason)
        self.pause = pause


class RangesIgnoredError(Exception):
    """The server sends the whole file whatever it is asked for."""


def disk_problem(text: str, number: int | None) -> FetchError:
    """Say that something cannot be written; ``number`` is why, as ``errno`` has it."""
    full = number in {errno.ENOSPC, errno.EDQUOT}
    return FetchError("disk-full", text) if full else FetchError("disk", text)


class File(NamedTuple):
    """A line of the list; ``part`` is where the file lies until all are right."""

    sha256: str
    size: int
    path: str
    source: str
    final: Path
    part: Path

    @property
    def upload(self) -> str:
        """The name of the uploaded file; empty where there is a URL."""
        return self.source[len("upload:") :] if self.source.startswith("upload:") else ""

    @property
    def is_large(self) -> bool:
        """Whether it comes in ranges."""
        return self.size > LARGE and not self.upload

    def is_at(self, path: Path) -> bool:
        """Return whether ``path`` is this file, byte for byte."""
        return size_of(path) == self.size and digest_of(path).hexdigest() == self.sha256

    def mismatch(self, size: int, sha256: str) -> FetchError:
        """Say what was found instead."""
        found = f"{size} bytes with sha256 {sha256}"
        return FetchError("checksum", f"{self.path} has {found}, locked are {self.size} with sha256 {self.sha256}")


# Connections


class Web:
    """The connections of one process. They stay open; what breaks is asked for again."""

    def __init__(self, silence: float, attempts: int) -> None:
        self.silence, self.attempts = silence, attempts
        self._open: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self._led: dict[str, str] = {}  # source -> where its redirects ended
        self._proxies = urllib.request.getproxies()
        self._trust: ssl.SSLContext | None = None

    def pieces(
        self, file: File, start: int, stop: int, room: Callable[[int], memoryview]
    ) -> Iterator[tuple[int, memoryview]]:
        """Yield the bytes from ``start`` to ``stop`` in order, each piece with its place; ``room`` is where it is put.

        Where all of a file is wanted of a server that cannot go on after a break, they begin at 0 once more.
        """
        at = furthest = start
        failures = 0
        while True:
            try:
                with at_most(self.silence):
                    answer = self._get(file, at, stop)
                at = beginning(answer, file, at, whole=stop - start == file.size)
                while at < stop:
                    with at_most(self.silence):
                        piece = room(at)[: min(PIECE, stop - at)]
                        length = answer.readinto(piece)
                    if not length:
                        raise AgainError("its source breaks off")
                    yield at, piece[:length]
                    at += length
                    if at > furthest:
                        furthest, failures = at, 0
                if self._goes_on(answer):
                    raise FetchError("checksum", f"{file.path} has more than the {file.size} bytes that are locked")
                return
            except ssl.SSLCertVerificationError as problem:
                raise FetchError("unreachable", f"{file.path}: certificate: {problem.verify_message}") from None
            except ValueError:
                raise FetchError("unreachable", f"{file.path}: the address of its source is malformed") from None
            except (AgainError, OSError, http.client.HTTPException) as problem:
                self._close()
                self._led.pop(file.source, None)
                failures += 1
                if failures >= self.attempts:
                    raise FetchError("unreachable", f"{file.path}: {reason(problem)}, {failures} times") from None
                time.sleep(pause_after(failures, problem))

    def _goes_on(self, answer: http.client.HTTPResponse) -> bool:
        """Return whether more comes than was wanted. A lost end is no more: what came is judged by its checksum."""
        try:
            with at_most(self.silence):
                return bool(answer.read(1))
        except (AgainError, OSError, http.client.HTTPException):
            self._close()
            return False

    def _close(self) -> None:
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def _get(self, file: File, at: int, stop: int) -> http.client.HTTPResponse:
        """Ask, and follow redirects, but never to plain http.

        Where they end is asked at once the next time, until it refuses: sources count how often they are asked.
        """
        headers = {"User-Agent": "splitbake"}
        if (at, stop) != (0, file.size):
            headers["Range"] = f"bytes={at}-{stop - 1}"
        url = self._led.get(file.source, file.source)
        for _ in range(REDIRECTS):
            answer = self._ask(urllib.parse.urlsplit(url), headers)
            if answer.status in {301, 302, 303, 307, 308}:
                url = urllib.parse.urljoin(url, answer.headers.get("Location", ""))
                if urllib.parse.urlsplit(url).scheme != "https":
                    raise FetchError("unreachable", f"{file.path}: its source redirects to something that is not https")
            elif answer.status >= http.HTTPStatus.BAD_REQUEST and self._led.pop(file.source, ""):
                url = file.source  # what it told some time ago may have expired
            else:
                if url != file.source:
                    self._led[file.source] = url
                return answer
            answer.read(PIECE)
        raise FetchError("unreachable", f"{file.path}: its source redirects {REDIRECTS} times")

    def _ask(self, url: urllib.parse.SplitResult, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        key = url.scheme, url.netloc
        if key not in self._open:
            if len(self._open) == HOSTS:
                self._close()
            self._open[key] = self._connection(url)
        # What is quoted already stays; a space or a line break would end the request line.
        target = urllib.parse.quote((url.path or "/") + (f"?{url.query}" if url.query else ""), "!#$%&'()*+,/:;=?@[]~")
        proxy = self._proxy(url)
        if proxy and url.scheme == "http":
            target, headers = f"http://{url.netloc}{target}", {**headers, **login(proxy)}
        self._open[key].request("GET", target, headers=dict(headers))
        return self._open[key].getresponse()

    def _connection(self, url: urllib.parse.SplitResult) -> http.client.HTTPConnection:
        proxy = self._proxy(url)
        host, port = (proxy or url).hostname, (proxy or url).port
        if not host or not url.hostname or url.scheme not in {"http", "https"}:
            raise ValueError
        if url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self.silence)
        if self._trust is None:
            self._trust = ssl.create_default_context()  # whom the machine trusts, or SSL_CERT_FILE
        connection = http.client.HTTPSConnection(host, port, timeout=self.silence, context=self._trust)
        if proxy:
            connection.set_tunnel(url.hostname, url.port, login(proxy))
        return connection

    def _proxy(self, url: urllib.parse.SplitResult) -> urllib.parse.SplitResult | None:
        proxy = self._proxies.get(url.scheme)
        if not proxy or urllib.request.proxy_bypass(url.hostname or ""):
            return None
        return urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def beginning(answer: http.client.HTTPResponse, file: File, at: int, *, whole: bool) -> int:
    """Return which byte of the file the answer begins with; raise where it brings none."""
    status, size = answer.status, answer.headers.get("Content-Length", "")
    if status == http.HTTPStatus.PARTIAL_CONTENT:
        found = re.match(r"bytes (\d+)-\d+/(\d+|\*)$", answer.headers.get("Content-Range", ""))
        if not found or int(found.group(1)) != at:
            raise AgainError("its source sends another range than asked for")
        size = found.group(2)
    elif status == http.HTTPStatus.OK:
        if not whole:
            raise RangesIgnoredError
        at = 0
    elif status in {404, 410}:
        raise FetchError("not-found", f"{file.path}: its source answers {status}")
    elif status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise FetchError("checksum", f"{file.path} has less than the {file.size} bytes that are locked")
    elif status in {408, 425, 429} or status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        raise AgainError(f"its source answers {status}", wanted_pause(answer))
    else:
        raise FetchError("forbidden", f"{file.path}: its source answers {status}")
    if size.isdecimal() and int(size) != file.size:
        raise FetchError("checksum", f"{file.path} has {size} bytes, locked are {file.size}")
    return at


def wanted_pause(answer: http.client.HTTPResponse) -> float:
    """Return the seconds that a source wants to be left alone."""
    after = answer.headers.get("Retry-After", "")
    if after.isdecimal():
        return float(after)
    # The Hub says how long its window still is, with every answer (draft-ietf-httpapi-ratelimit-headers).
    limit = re.search(r";\s*t=(\d+)", answer.headers.get("RateLimit", ""))
    return float(limit.group(1)) if limit and answer.status == http.HTTPStatus.TOO_MANY_REQUESTS else 0.0


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Break off what takes longer; a socket's timeout would begin anew with every byte that trickles in."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def stalled(_number: int, _frame: Any) -> None:
    """Be what happens then."""
    raise AgainError("its source has stalled")


def pause_after(failures: int, problem: Exception) -> float:
    """Return the seconds until the next attempt; the first follows at once, as idle connections get closed."""
    pause = min(LONGEST_PAUSE, 0.5 * 2 ** (failures - 1)) if failures > 1 else 0.0
    asked = min(LONGEST_WAIT, problem.pause) if isinstance(problem, AgainError) else 0.0
    return asked + pause * random.uniform(0.5, 1)  # noqa: S311 - spreads the load, guards nothing


def reason(problem: Exception) -> str:
    """Return what may be told: the texts of http.client hold addresses."""
    if isinstance(problem, http.client.HTTPException) and not isinstance(problem, OSError):
        return type(problem).__name__
    return getattr(problem, "strerror", None) or str(problem)


def login(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    """Return the header for the user and password of a proxy, if it has any."""
    if proxy.username is None:
        return {}
    pair = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


# One process


class Worker:
    """Does what the run asks for over a pipe, one thing after the other, and tells how it went."""

    def __init__(self, pipe: Connection, files: list[File], uploads: Path, window: memoryview, web: Web) -> None:
        self.pipe, self.files, self.uploads, self.window, self.web = pipe, files, uploads, window, web
        self.buffer = memoryview(bytearray(PIECE))
        self.parent = os.getppid()

    def work(self) -> None:
        """Do what comes, until the pipe is closed."""
        while True:
            try:
                task, *arguments = self.pipe.recv()
            except (EOFError, ConnectionResetError):
                return
            getattr(self, f"do_{task}")(*arguments)

    def do_small(self, numbers: list[int]) -> None:
        """Fetch whole files; what is there already is hashed and then believed."""
        fetched, kept = 0, []
        for number in numbers:
            file = self.files[number]
            if file.is_at(file.final):
                kept.append(number)
            elif file.upload:
                self._adopt(file)
            elif not file.is_at(file.part):
                self._fetch(file)
                fetched += file.size
        self.pipe.send(("small", numbers, fetched, kept))

    def do_range(self, number: int, start: int, stop: int, slot: int) -> None:
        """Fetch a range of a large file into a slot of the window."""
        memory = self.window[slot * RANGE :]
        try:
            for _ in self.web.pieces(self.files[number], start, stop, lambda at: memory[at - start :]):
                self._stay()
        except RangesIgnoredError:
            self.pipe.send(("range", number, start, slot, False))
        else:
            self.pipe.send(("range", number, start, slot, True))

    def do_sink(self, number: int, path: Path, at: int) -> None:
        """Hash the ``at`` bytes that are there of a large file; then hash and append what comes, slot by slot."""
        file, digest = self.files[number], digest_of(path)
        while at < file.size:
            slot = self.pipe.recv()
            if slot is None:
                self.pipe.send(("stopped", number))
                return
            self._stay()
            memory = self.window[slot * RANGE :][: min(RANGE, file.size - at)]
            with writing(file, os.O_WRONLY | os.O_CREAT) as part:
                for begin in range(0, len(memory), PIECE):
                    piece = memory[begin : begin + PIECE]
                    digest.update(piece)
                    write(part, piece, at + begin)
                begin_flush(part, at, len(memory))
            at += len(memory)
            self.pipe.send(("taken", number, slot, at))
        self.pipe.send(("digest", number, digest.hexdigest()))

    def _fetch(self, file: File) -> None:
        digest = hashlib.sha256()
        with writing(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as part:
            for at, piece in self.web.pieces(file, 0, file.size, lambda _: self.buffer):
                if at == 0:
                    digest = hashlib.sha256()
                self._stay()
                digest.update(piece)
                write(part, piece, at)
            if file.size > RANGE:
                begin_flush(part, 0, file.size)
        if digest.hexdigest() != file.sha256:
            file.part.unlink()
            raise file.mismatch(file.size, digest.hexdigest())

    def _adopt(self, file: File) -> None:
        uploaded = self.uploads / file.upload
        if uploaded.exists():  # else an earlier run has moved it
            with writing(file, os.O_WRONLY | os.O_CREAT):
                shutil.move(str(uploaded), str(file.part))
        if not file.is_at(file.part):
            raise file.mismatch(file.part.stat().st_size, digest_of(file.part).hexdigest())

    def _stay(self) -> None:
        """Leave when the run was killed: the next one may begin."""
        if os.getppid() != self.parent:
            raise SystemExit(1)


def start_worker(pipe: Connection, others: list[Connection], worker: tuple[Any, ...]) -> None:
    """Be a process of its own; the copies of others' pipes are closed, so that all of them see the end of the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, stalled)
    for other in others:
        other.close()
    files, uploads, window, silence, attempts = worker
    with suppress(BrokenPipeError):  # the run was killed
        try:
            Worker(pipe, files, uploads, window, Web(silence, attempts)).work()
        except FetchError as problem:
            pipe.send(("problem", problem.kind, problem.text))
        except BrokenPipeError:
            raise
        except Exception as problem:  # noqa: BLE001 - its own text may hold an address
            where = traceback.extract_tb(problem.__traceback__)[-1]
            pipe.send(("crash", f"{type(problem).__name__} in {where.filename}:{where.lineno}"))


@contextmanager
def writing(file: File, flags: int) -> Iterator[int]:
    """Open the part of a file; what goes wrong is told of the disk."""
    try:
        part = os.open(str(file.part), flags, 0o600)
        try:
            yield part
        finally:
            os.close(part)
    except OSError as problem:
        raise disk_problem(f"{file.path} cannot be written: {problem.strerror}", problem.errno) from None


def write(part: int, piece: memoryview, at: int) -> None:
    """Write all of ``piece`` at ``at``."""
    while piece:
        length = os.pwrite(part, piece[:WRITTEN], at)
        piece, at = piece[length:], at + length


def begin_flush(part: int, start: int, length: int) -> None:
    """Let Linux write to the disk now what it would keep in memory, so that little is left to wait for at the end."""
    LIBC.sync_file_range(part, ctypes.c_int64(start), ctypes.c_int64(length), SYNC_FILE_RANGE_WRITE)


# The run


class Member:
    """A process as the run sees it."""

    def __init__(self, process: Any, pipe: Connection) -> None:
        self.process, self.pipe, self.busy = process, pipe, False

    def give(self, *task: Any) -> None:
        """Give it a task."""
        self.busy = True
        self.pipe.send(task)


class Large:
    """A file that comes in ranges: how far it was asked for, and how far it is hashed and written."""

    def __init__(self, number: int, file: File) -> None:
        self.number, self.file = number, file
        self.sink: Member | None = None
        self.running = 0  # processes that fetch a range of it
        self.came: dict[int, int] = {}  # where a range begins -> its slot
        self.ranges_ignored = False
        self.path, there = file.part, size_of(file.part) or 0
        if size_of(file.final) == file.size:
            self.path, there = file.final, file.size
        self.is_old = 0 < there <= file.size
        self.asked = self.told = self.taken = there
        if there > file.size:
            self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what is there: it is wrong."""
        self.path, self.is_old = self.file.part, False
        self.asked = self.told = self.taken = 0
        with writing(self.file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
            return

    def end_of(self, start: int) -> int:
        """Return where the range ends that begins at ``start``."""
        return min(start + RANGE, self.file.size)

    def under_way(self) -> int:
        """Return how many bytes were asked for and are not written."""
        return self.asked - self.taken


class Run:
    """Hands the files out to the processes until all of them are there."""

    def __init__(self, files: list[File], slots: int) -> None:
        self.files, self.free = files, list(range(slots))
        by_size = sorted(range(len(files)), key=lambda number: -files[number].size)
        self.waiting = deque(number for number in by_size if files[number].is_large)
        self.batches = deque(batches(files, [number for number in by_size if not files[number].is_large]))
        self.larges: dict[int, Large] = {}
        self.kept: set[int] = set()  # in place before
        self.total = sum(file.size for file in files)
        self.fetched = self.done_bytes = self.done_files = 0
        self.told, self.told_bytes = time.monotonic(), 0

    def run(self, sinks: list[Member], fetchers: list[Member]) -> None:
        """Fetch all of it."""
        members = {member.pipe: member for member in (*sinks, *fetchers)}
        self._hand_out(sinks, fetchers)
        while any(member.busy for member in members.values()):
            for pipe in wait(list(members), timeout=1):
                member = members[pipe]  # type: ignore[index] # wait() returns what it was given
                try:
                    message, *rest = member.pipe.recv()
                except (EOFError, ConnectionResetError):
                    raise RuntimeError("a process of the fetch was killed") from None
                getattr(self, f"take_{message}")(member, *rest)
            self._hand_out(sinks, fetchers)
            if time.monotonic() - self.told >= TOLD_EVERY:
                self._tell()
        self._tell()

    def _hand_out(self, sinks: list[Member], fetchers: list[Member]) -> None:
        for sink in sinks:
            if self.waiting and not sink.busy:
                number = self.waiting.popleft()
                self._begin(Large(number, self.files[number]), sink)
        for place, fetcher in enumerate(fetchers):
            if not fetcher.busy:
                # A few care for small files from the start: those wait for answers, large ones for bytes.
                first, second = (
                    (self._next_batch, self._next_range) if place % 4 == 0 else (self._next_range, self._next_batch)
                )
                task = first() or second()
                if task:
                    fetcher.give(*task)

    def _begin(self, large: Large, sink: Member) -> None:
        self.larges[large.number], large.sink = large, sink
        sink.give("sink", large.number, large.path, large.taken)

    def _next_batch(self) -> tuple[Any, ...] | None:
        return ("small", self.batches.popleft()) if self.batches else None

    def _next_range(self) -> tuple[Any, ...] | None:
        for large in sorted(self._unfinished(), key=Large.under_way):
            start = large.asked
            if self.free and start < large.file.size and not large.ranges_ignored:
                large.running += 1
                large.asked = large.end_of(start)
                return ("range", large.number, start, large.asked, self.free.pop())
        return None

    def _done(self, file: File) -> None:
        self.done_files += 1
        self.done_bytes += file.size
        if file.is_large:
            say(f"checked: {file.path} ({file.size} bytes)")

    @staticmethod
    def _tell_sink(large: Large, slot: int | None) -> None:
        if large.sink:
            large.sink.pipe.send(slot)

    def _unfinished(self) -> list[Large]:
        return [large for large in self.larges.values() if large.sink]

    def take_small(self, member: Member, numbers: list[int], fetched: int, kept: list[int]) -> None:
        """Small files are there, or a large one over one connection."""
        member.busy = False
        self.kept.update(kept)
        self.fetched += fetched
        for number in numbers:
            self._done(self.files[number])

    def take_range(self, member: Member, number: int, start: int, slot: int, came: bool) -> None:
        """A range is in its slot, or the server knows none."""
        member.busy = False
        large = self.larges[number]
        large.running -= 1
        large.came[start] = slot
        large.ranges_ignored = large.ranges_ignored or not came
        if came:
            self.fetched += large.end_of(start) - start
        if large.ranges_ignored and not large.running:
            self.free.extend(large.came.values())
            large.came.clear()
            self._tell_sink(large, None)
        while not large.ranges_ignored and large.told in large.came:
            self._tell_sink(large, large.came.pop(large.told))
            large.told = large.end_of(large.told)

    def take_taken(self, _member: Member, number: int, slot: int, upto: int) -> None:
        """A range is hashed and written."""
        self.free.append(slot)
        self.larges[number].taken = upto

    def take_stopped(self, member: Member, number: int) -> None:
        """All of a file has to come over one connection, and nobody else writes it any more."""
        self.larges[number].sink, member.busy = None, False
        self.batches.append([number])

    def take_digest(self, member: Member, number: int, sha256: str) -> None:
        """A file is hashed: it is right, or what was there before this run may be to blame, or its source is."""
        large = self.larges[number]
        large.sink, member.busy = None, False
        if sha256 == large.file.sha256:
            self._done(large.file)
            if large.path == large.file.final:
                self.kept.add(number)
        elif large.is_old:
            say(f"again: {large.file.path}, as what was there is not what is locked")
            large.begin_anew()
            self._begin(large, member)
        else:
            large.file.part.unlink()
            raise large.file.mismatch(large.file.size, sha256)

    def take_problem(self, _member: Member, kind: str, text: str) -> None:
        """A file cannot be had."""
        raise FetchError(kind, text)

    def take_crash(self, _member: Member, text: str) -> None:
        """A process has met what nobody thought of."""
        raise RuntimeError(text)

    def _tell(self) -> None:
        now = time.monotonic()
        speed = (self.fetched - self.told_bytes) / (now - self.told)
        self.told, self.told_bytes = now, self.fetched
        there = self.done_bytes + sum(large.taken for large in self._unfinished())
        unit, name = (GB, "GB") if self.total >= GB else (MB, "MB")
        amount = f"{there / unit:.1f} of {self.total / unit:.1f} {name}"
        say(f"fetched: {amount}, {speed / MB:.0f} MB/s, {self.done_files} of {len(self.files)} files")


def batches(files: list[File], numbers: list[int]) -> Iterator[list[int]]:
    """Yield ``numbers`` in groups, none of too many bytes or files."""
    group: list[int] = []
    for number in numbers:
        if group and (len(group) == BATCH or sum(files[one].size for one in (*group, number)) > LARGE):
            yield group
            group = []
        group.append(number)
    if group:
        yield group


@contextmanager
def processes(count: int, *worker: Any) -> Iterator[list[Member]]:
    """Run ``count`` workers; all have ended when the block has."""
    forking = multiprocessing.get_context("fork")  # they know the list from the start, no address goes through a pipe
    members: list[Member] = []
    try:
        for _ in range(count):
            ours, theirs = forking.Pipe()
            pipes = [ours, *(member.pipe for member in members)]
            process = forking.Process(target=start_worker, args=(theirs, pipes, worker), daemon=True)
            process.start()
            theirs.close()
            members.append(Member(process, ours))
        yield members
    finally:
        for member in members:
            member.process.kill()  # SIGTERM may be ignored: that is handed down
            member.process.join()


# Before and after


def read_list(path: Path, root: Path) -> list[File]:
    """Read the list."""
    files = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            sha256, size, name, source = line.rstrip("\n").split("\t")
            key = hashlib.sha256(f"{sha256} {size} {name}".encode()).hexdigest()
            files.append(File(sha256, int(size), name, source, root / name, parts_below(root) / f"{key}.part"))
    return files


def parts_below(root: Path) -> Path:
    """Return where files lie until all are right: on the disk of ``root``, so that they can be renamed."""
    return root / ".splitbake-fetch"


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Wait until nobody else fetches below ``root``, not even a process that a killed run has left."""
    folder = os.open(str(root), os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting: another fetch has not ended")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def check_disk(root: Path, files: list[File], uploads: Path) -> None:
    """Stop before the first byte where the disk has no room for the last."""
    disk = os.statvfs(str(root))
    needed, inodes = 0, len({file.final.parent for file in files})
    for file in files:
        if size_of(file.final) == file.size or (file.upload and moves(uploads / file.upload, root)):
            continue
        have = file.part.stat().st_blocks * 512 if file.part.exists() else 0
        needed += max(0, -(-file.size // disk.f_frsize) * disk.f_frsize - have)
        inodes += 1
    free = disk.f_bavail * disk.f_frsize
    reserve = min(RESERVE, disk.f_blocks * disk.f_frsize // 20)
    if free < needed + reserve:
        room = f"free are {free >> 20} MiB, of which {reserve >> 20} have to stay free"
        raise FetchError("disk-full", f"the models need {(needed >> 20) + 1} MiB below {root}, {room}")
    if disk.f_files and disk.f_favail < inodes:  # some file systems do not count them
        raise FetchError("disk-full", f"the models need {inodes} inodes below {root}, free are {disk.f_favail}")


def moves(upload: Path, root: Path) -> bool:
    """Return whether an uploaded file takes no more space: it can be renamed, or was."""
    return not upload.exists() or upload.stat().st_dev == root.stat().st_dev


def place(root: Path, files: list[File]) -> None:
    """Flush everything to the disk, and only then give it its name.

    One call for all: fsync() for each of many small files takes seconds, and sync() does not tell of errors.
    """
    folder = os.open(str(root), os.O_RDONLY)
    try:
        if LIBC.syncfs(folder):
            number = ctypes.get_errno()
            raise disk_problem(f"{root} cannot be flushed: {os.strerror(number)}", number)
    finally:
        os.close(folder)
    for parent in {file.final.parent for file in files}:
        parent.mkdir(parents=True, exist_ok=True)
    for file in files:
        file.part.replace(file.final)


def size_of(path: Path) -> int | None:
    """Return the size of a file, None where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def digest_of(path: Path) -> hashlib._Hash:
    """Return the checksum of what is there of a file, so that more can be added."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(PIECE))
    if path.exists():
        with path.open("rb", buffering=0) as file:
            for length in iter(lambda: file.readinto(buffer), 0):
                digest.update(buffer[:length])
    return digest


def say(text: str) -> None:
    """Tell people."""
    sys.stdout.write(f"splitbake: {text}\n")
    sys.stdout.flush()


def run_to_the_end(options: argparse.Namespace) -> None:
    """Do all of it."""
    root, uploads, started = options.root, options.list.parent / "files", time.monotonic()
    files = read_list(options.list, root)
    root.mkdir(parents=True, exist_ok=True)
    with alone(root):
        parts_below(root).mkdir(mode=0o700, exist_ok=True)
        for leftover in set(parts_below(root).iterdir()) - {file.part for file in files}:
            leftover.unlink()
        check_disk(root, files, uploads)
        slots = WINDOW * options.connections
        window = memoryview(mmap.mmap(-1, slots * RANGE))  # nothing of it is taken before it is written to
        run = Run(files, slots)
        sinks = min(PROCESSORS, len(run.waiting))
        count = sinks + options.connections
        with processes(count, files, uploads, window, options.silence, options.attempts) as members:
            run.run(members[:sinks], members[sinks:])
        place(root, [file for number, file in enumerate(files) if number not in run.kept])
        shutil.rmtree(str(parts_below(root)))
    seconds = time.monotonic() - started
    stats = {"files": len(files), "bytes": run.total, "fetched": run.fetched, "seconds": round(seconds, 2)}
    say(f"fetch-stats: {json.dumps({**stats, 'mb_per_s': round(run.fetched / seconds / MB, 1)})}")


def main() -> None:
    """Read the arguments, and do it."""
    parser = argparse.ArgumentParser(description="Fetch model files, and put them in place.")
    parser.add_argument("list", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("--connections", type=int, default=min(32, max(8, 4 * PROCESSORS)))
    parser.add_argument("--silence", type=float, default=60, help="seconds to wait for the next piece of a file")
    parser.add_argument("--attempts", type=int, default=8, help="failures in a row that end it")
    try:
        run_to_the_end(parser.parse_args())
    except FetchError as problem:
        sys.exit(f"splitbake: {problem.kind}: {problem.text}")
    except RuntimeError as problem:
        sys.exit(f"fetch.py: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
