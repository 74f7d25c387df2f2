"""A remembered digest is never a wrong one: the cases that git tests for its index, and damaged caches."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from splitbake import digests

SECOND = 1_000_000_000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wanted(root: Path, *names: str) -> tuple[list[str], list[bytes]]:
    return [*names], [digests.state((root / name).lstat()) for name in names]


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / digests.FOLDER / "test"


@pytest.fixture
def read(tmp_path, cache) -> Callable[..., str]:
    """Read one file with the cache: its digest, and whether it came from there."""

    def read_one(name: str = "file") -> tuple[str, str]:
        said: list[str] = []
        _, (digest,) = digests.read(tmp_path, *wanted(tmp_path, name), cache=cache, say=said.append)
        return digest, "read" if said else "remembered"

    return read_one


def settle(file: Path) -> None:
    """Wait until the file system's clock has moved on since ``file`` changed."""
    probe = file.with_name(".probe")
    while not probe.exists() or probe.stat().st_ctime_ns <= file.stat().st_ctime_ns:
        probe.write_bytes(b"")
    probe.unlink()


def make(root: Path, content: bytes = b"one", name: str = "file") -> Path:
    """Make a file that is at rest."""
    file = root / name
    file.write_bytes(content)
    settle(file)
    return file


def at(status: os.stat_result, **times: int) -> os.stat_result:
    """Return ``status`` with other times (in nanoseconds) or another device."""
    fields = list(status)
    fields[2] = times.pop("st_dev", status.st_dev)
    return os.stat_result(fields, {"st_mtime_ns": status.st_mtime_ns, "st_ctime_ns": status.st_ctime_ns} | times)


def test_a_file_at_rest_is_read_once(tmp_path, read):
    make(tmp_path)
    assert read() == (sha256(b"one"), "read")
    assert read() == (sha256(b"one"), "remembered")


def test_without_a_cache_everything_is_read_and_nothing_written(tmp_path):
    make(tmp_path)
    said: list[str] = []
    for _ in range(2):
        digests.read(tmp_path, *wanted(tmp_path, "file"), say=said.append)
    assert said == ["file", "file"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_equal_size_within_one_granule_of_the_clock(tmp_path, read):
    """As fast as the machine can: many of these changes carry the same time as the one before."""
    file = tmp_path / "file"
    for number in range(300):
        content = b"%03d" % number
        file.write_bytes(content)
        os.utime(file, ns=(0, 0))
        assert read()[0] == sha256(content)


def edit(file: Path) -> None:
    file.write_bytes(b"two")


def edit_in_place(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.write(b"two")


def edit_and_put_the_time_back(file: Path) -> None:
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_rename(file: Path) -> None:
    before, other = file.stat(), file.with_name("other")
    other.write_bytes(b"two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)


def replace_by_an_older_file(file: Path) -> None:
    make(file.parent, b"two", "older")
    file.write_bytes(b"one")
    file.with_name("older").replace(file)


@pytest.mark.parametrize(
    "change", [edit, edit_in_place, edit_and_put_the_time_back, replace_by_rename, replace_by_an_older_file]
)
def test_a_change_of_equal_size_is_noticed(tmp_path, read, change):
    file = make(tmp_path)
    assert read() == (sha256(b"one"), "read")
    assert read() == (sha256(b"one"), "remembered")
    change(file)
    assert read() == (sha256(b"two"), "read")


def test_another_mode_is_another_identity(tmp_path, cache):
    file = make(tmp_path)
    for mode in (0o644, 0o755):
        file.chmod(mode)
        settle(file)
        (found,), _ = digests.read(tmp_path, *wanted(tmp_path, "file"), cache=cache)
        assert [seen & 0o777 for _, seen in digests.sizes_and_modes([found])] == [mode]


@pytest.mark.parametrize("field", ["st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev", "st_mode"])
def test_everything_that_the_file_system_says_counts(tmp_path, field):
    status = make(tmp_path).stat()
    fields = ["st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev", "st_mode"]
    same = {name: getattr(status, name) for name in fields}
    other = SimpleNamespace(**same | {field: same[field] + 1})
    assert digests.state(SimpleNamespace(**same)) == digests.state(status)
    assert digests.state(other) != digests.state(status)


@pytest.mark.parametrize(
    ("later", "kept"),
    [((1, 1, 0), True), ((0, 0, 0), False), ((-1, 1, 0), False), ((1, -1, 0), False), ((1, 1, 1), False)],
    ids=["a moment later", "the same moment", "coarse mtime", "coarse ctime", "another file system"],
)
def test_a_digest_is_kept_only_where_the_clock_proves_that_the_file_was_at_rest(
    tmp_path, read, monkeypatch, later, kept
):
    """By how much the clock's mtime, ctime (nanoseconds) and device exceed the file's ctime; its mtime is long ago."""
    file = make(tmp_path)
    os.utime(file, ns=(0, 0))
    settle(file)
    status = file.stat()
    mtime, ctime, device = (status.st_ctime_ns + later[0], status.st_ctime_ns + later[1], status.st_dev + later[2])
    clock = at(status, st_mtime_ns=mtime, st_ctime_ns=ctime, st_dev=device)
    monkeypatch.setattr(digests, "_clock", lambda _folder: clock)
    read()
    assert read() == (sha256(b"one"), "remembered" if kept else "read")


def test_without_a_clock_nothing_is_kept(tmp_path, read, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr(digests, "_clock", lambda _folder: None)
    read()
    assert read() == (sha256(b"one"), "read")


def test_a_file_dated_into_the_future_is_always_read(tmp_path, read):
    file = make(tmp_path)
    os.utime(file, ns=(0, file.stat().st_ctime_ns + 3600 * SECOND))
    settle(file)
    assert [read()[1], read()[1]] == ["read", "read"]


def test_a_clock_that_stands_still(tmp_path, read, monkeypatch):
    """Nothing that changes can get another time, so nothing may be remembered."""
    file = tmp_path / "file"
    frozen = at(tmp_path.stat(), st_mtime_ns=5 * SECOND, st_ctime_ns=5 * SECOND)
    real = os.fstat
    monkeypatch.setattr(digests.os, "fstat", lambda fd: at(real(fd), st_mtime_ns=5 * SECOND, st_ctime_ns=5 * SECOND))
    monkeypatch.setattr(digests, "_clock", lambda _folder: frozen)
    for content in (b"one", b"two", b"six"):
        file.write_bytes(content)
        status = at(file.stat(), st_mtime_ns=5 * SECOND, st_ctime_ns=5 * SECOND)
        _, (digest,) = digests.read(tmp_path, ["file"], [digests.state(status)], cache=tmp_path / "cache")
        assert digest == sha256(content)


def test_times_of_whole_seconds(tmp_path, cache, monkeypatch):
    """A file system of 1 s: two changes in one second look the same, later ones do not."""
    file = tmp_path / "file"
    now = 100

    def coarse(status: os.stat_result) -> os.stat_result:
        return at(status, st_mtime_ns=changed * SECOND, st_ctime_ns=changed * SECOND)

    def read() -> tuple[str, bool]:
        said: list[str] = []
        _, (digest,) = digests.read(
            tmp_path, ["file"], [digests.state(coarse(file.stat()))], cache=cache, say=said.append
        )
        return digest, bool(said)

    real = os.fstat
    monkeypatch.setattr(digests.os, "fstat", lambda descriptor: coarse(real(descriptor)))
    monkeypatch.setattr(
        digests, "_clock", lambda _folder: at(tmp_path.stat(), st_mtime_ns=now * SECOND, st_ctime_ns=now * SECOND)
    )
    changed = now
    file.write_bytes(b"one")
    assert read() == (sha256(b"one"), True)
    file.write_bytes(b"two")
    assert read() == (sha256(b"two"), True)
    now += 1
    assert read() == (sha256(b"two"), True)
    assert read() == (sha256(b"two"), False)
    changed = now
    file.write_bytes(b"six")
    assert read() == (sha256(b"six"), True)


def changing(monkeypatch, change: Callable[[], None], times: int) -> list[int]:
    """Change something each time that the first bytes of a file have been read."""
    real, left = os.readv, [times]

    def readv(descriptor, buffers):
        count = real(descriptor, buffers)
        if left[0] and count:
            left[0] -= 1
            change()
        return count

    monkeypatch.setattr(digests.os, "readv", readv)
    return left


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path, read, monkeypatch):
    file = make(tmp_path)

    def append() -> None:
        with file.open("ab") as stream:
            stream.write(b"+")

    changing(monkeypatch, append, times=2)
    assert read() == (sha256(b"one++"), "read")
    assert read()[0] == sha256(b"one++")


def test_a_file_that_never_comes_to_rest_is_an_error(tmp_path, read, monkeypatch):
    file = make(tmp_path)

    def touch() -> None:
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))

    changing(monkeypatch, touch, times=1000)
    with pytest.raises(OSError, match="changes while it is read") as caught:
        read()
    assert caught.value.filename == str(file)


def test_what_is_no_regular_file_any_more_is_neither_followed_nor_waited_for(tmp_path, cache):
    file = make(tmp_path)
    files = wanted(tmp_path, "file")
    (tmp_path / "secret").write_bytes(b"secret")
    for become in (lambda: file.symlink_to("secret"), lambda: os.mkfifo(file), file.mkdir):
        file.unlink()
        become()
        with pytest.raises(OSError, match="file"):
            digests.read(tmp_path, *files, cache=cache)
    file.rmdir()
    with pytest.raises(FileNotFoundError):
        digests.read(tmp_path, *files, cache=cache)


def test_the_status_is_that_of_what_was_read(tmp_path, cache):
    file = make(tmp_path)
    files = wanted(tmp_path, "file")
    file.write_bytes(b"longer")
    file.chmod(0o755)
    states, (digest,) = digests.read(tmp_path, *files, cache=cache)
    ((size, mode),) = digests.sizes_and_modes(states)
    assert (size, mode & 0o777, digest) == (6, 0o755, sha256(b"longer"))


def damage_a_digest(content: bytes) -> bytes:
    return content.replace(sha256(b"one").encode(), sha256(b"lie").encode())


@pytest.mark.parametrize(
    "damage",
    [
        damage_a_digest,
        lambda content: content.replace(digests.SCHEME.encode(), b"splitbake-digests-0"),
        lambda content: content.partition(b"\n")[2],
        lambda content: content + b"more",
        lambda content: b"",
        lambda content: b"\0" * len(content),
        lambda content: b"\xff\n\xff",
    ],
)
def test_a_damaged_cache_is_not_used(tmp_path, read, cache, damage):
    make(tmp_path)
    read()
    content = cache.read_bytes()
    assert damage(content) != content
    cache.write_bytes(damage(content))
    assert read() == (sha256(b"one"), "read")
    assert cache.read_bytes() == content


def test_a_truncated_cache_is_not_used(tmp_path, read, cache):
    make(tmp_path)
    read()
    content = cache.read_bytes()
    for length in range(len(content)):
        cache.write_bytes(content[:length])
        assert digests._load(cache) == (b"", [])


def test_the_cache_of_another_checkout_is_not_used(tmp_path, read, cache):
    make(tmp_path)
    read()
    elsewhere = tmp_path / "clone"
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(b"two")
    old = (tmp_path / "file").stat()
    os.utime(elsewhere / "file", ns=(old.st_atime_ns, old.st_mtime_ns))
    _, (digest,) = digests.read(elsewhere, *wanted(elsewhere, "file"), cache=cache)
    assert digest == sha256(b"two")


@pytest.mark.parametrize("blocked", ["build", "build/cache", "build/cache/test"])
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, read, blocked):
    make(tmp_path)
    place = tmp_path / blocked
    place.parent.mkdir(parents=True, exist_ok=True)
    if blocked.endswith("test"):
        place.mkdir()
    else:
        place.write_bytes(b"")
    assert [read(), read()] == [(sha256(b"one"), "read")] * 2


def test_files_that_are_gone_are_forgotten(tmp_path, cache):
    for name in ("a", "b"):
        make(tmp_path, name=name)
    digests.read(tmp_path, *wanted(tmp_path, "a", "b"), cache=cache)
    assert len(digests._load(cache)[1]) == 2
    digests.read(tmp_path, *wanted(tmp_path, "b"), cache=cache)
    assert bytes(digests._load(cache)[0]).endswith(b"\0b")
    assert len(digests._load(cache)[1]) == 1
    digests.read(tmp_path, [], [], cache=cache)
    assert digests._load(cache) == (b"", [])


def test_an_unchanged_cache_is_not_written_again(tmp_path, read, cache):
    make(tmp_path)
    read()
    before = cache.stat()
    read()
    assert cache.stat().st_ino == before.st_ino


def test_nobody_commits_a_cache(tmp_path, read, cache):
    make(tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    read()
    assert cache.exists()
    status = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"], cwd=tmp_path, check=True, capture_output=True
    )
    assert status.stdout == b"?? file\n"


NAMES = [
    "new\nline",
    "tab\t",
    " blank ",
    "-rf",
    "'quoted\"",
    "b\\n",
    "caf\u00e9",
    "cafe\u0301",
    "0 1 2 3 4 5 x",
    "日本",
]


def test_names_of_every_kind(tmp_path, cache):
    for name in NAMES:
        make(tmp_path, os.fsencode(name), name)
    expected = [sha256(os.fsencode(name)) for name in NAMES]
    for say in (lambda _path: None, pytest.fail):
        _, contents = digests.read(tmp_path, *wanted(tmp_path, *NAMES), cache=cache, say=say)
        assert contents == expected


def test_two_at_once_never_damage_the_cache(tmp_path, cache):
    names = [f"file{number}" for number in range(20)]
    for name in names:
        make(tmp_path, name.encode(), name)

    def work(number: int) -> None:
        for turn in range(15):
            some = names[(number + turn) % 7 :: 1 + turn % 3]
            _, contents = digests.read(tmp_path, *wanted(tmp_path, *some), cache=cache)
            assert contents == [sha256(name.encode()) for name in some]
            assert digests._load(cache)[0]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sorted(path.name for path in cache.parent.iterdir()) == [".gitignore", "test"]


def test_many_large_files_take_little_memory(tmp_path):
    names = [f"file{number}" for number in range(40)]
    for name in names:
        with (tmp_path / name).open("wb") as file:
            file.truncate(8 * 1024**2)
    tracemalloc.start()
    try:
        _, contents = digests.read(tmp_path, *wanted(tmp_path, *names))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert set(contents) == {sha256(b"\0" * 8 * 1024**2)}
    assert peak < 40 * 1024**2


def test_an_error_ends_the_reading_of_large_files(tmp_path, monkeypatch):
    """This one has no end at all."""
    make(tmp_path, b"x" * (2 * 1024**2), "large")
    reading = threading.Event()

    def endless(descriptor, buffers):
        reading.set()
        return 1

    def missing(path: str) -> None:
        if path == "small":
            reading.wait()
            raise FileNotFoundError(path)

    monkeypatch.setattr(digests.os, "readv", endless)
    make(tmp_path, name="small")
    with pytest.raises(FileNotFoundError):
        digests.read(tmp_path, *wanted(tmp_path, "large", "small"), say=missing)
