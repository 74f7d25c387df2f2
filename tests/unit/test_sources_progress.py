"""Progress: the first line at once, then now and then, and never a wrong sum."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from splitbake.sources import progress
from splitbake.sources.progress import Progress


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_in_a_log_come_now_and_then(clock):
    said: list[str] = []
    shown = Progress(said.append, files=2, size=3_000_000)
    shown.add(0, "a")
    shown.add(1_000_000, "a")
    assert said == ["0 B of 3.0 MB, 0 of 2 files: a"]
    clock[0] += 60
    shown.end()
    shown.add(500_000, "b")
    shown.add(500_000, "b")
    assert said[1:] == ["1.5 MB of 3.0 MB, 1 of 2 files: b"]


def test_a_terminal_sees_more_of_them(clock, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    said: list[str] = []
    shown = Progress(said.append, files=1, size=10)
    for _ in range(10):
        clock[0] += 1
        shown.add(1, "a")
    assert len(said) == 10


def test_what_says_no_size_counts_as_it_comes(clock):
    said: list[str] = []
    shown = Progress(said.append, files=1, size=0)
    shown.add(5, "a")
    assert said == ["5 B of 5 B, 0 of 1 file: a"]


def test_threads_lose_no_bytes():
    said: list[str] = []
    shown = Progress(said.append, files=1, size=40_000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: shown.add(1, "a"), range(40_000)))
    assert shown._read == 40_000
