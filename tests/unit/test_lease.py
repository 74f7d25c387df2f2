"""The lease: one holder at a time, whatever happens to it, and everybody is told who it is."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from splitbake.errors import CloudError, HeldError, StateError
from splitbake.lease import held, is_gone, last, process_id
from splitbake.state import FolderStore

KEY = "leases/release/prod.json"
START = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.moment = START

    def __call__(self) -> datetime.datetime:
        return self.moment

    def move(self, seconds: float) -> None:
        self.moment += datetime.timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path) -> FolderStore:
    return FolderStore(tmp_path)


def hold(store, who="ann", name="release/prod", **options):
    return held(store, name, who=who, doing=f"release by {who}", **options)


def stored(store) -> dict:
    return json.loads(store.get(KEY).value)


def eventually(seen) -> None:
    deadline = time.monotonic() + 10
    while not seen():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_second_holder_is_told_who_holds_it_and_until_when(store, clock):
    with hold(store, clock=clock), pytest.raises(HeldError) as caught, hold(store, "bob", clock=clock):
        pytest.fail("two are inside")
    assert caught.value.message.startswith("release/prod is held by ann (host ")
    assert f"process {os.getpid()}) since 2026-01-02 03:04:05 UTC: release by ann" in caught.value.message
    assert caught.value.hint == "if that process is dead, it falls free at 03:05:35 UTC, in 1 min 30 s"
    assert (caught.value.code, caught.value.exit_code) == ("held", 1)


def test_it_is_free_after_the_block_and_never_deleted(store, clock):
    for who in ("ann", "bob"):
        with hold(store, who, clock=clock) as lease:
            lease.require()
            assert (stored(store)["who"], stored(store)["released"]) == (who, False)
        assert (stored(store)["who"], stored(store)["released"]) == (who, True)


def test_who_comes_next_sees_whether_anybody_held_it_since_it_looked(store, clock):
    assert last(store, "release/prod") is None
    with hold(store, clock=clock) as first:
        during = last(store, "release/prod")
        assert first.previous is None
        assert (during.who, during.released) == ("ann", False)
    seen = last(store, "release/prod")
    assert during != seen
    with hold(store, "bob", clock=clock) as second:
        assert second.previous == seen
    assert last(store, "release/prod") != seen


def test_leases_of_other_names_do_not_meet(store):
    with hold(store), hold(store, "bob", name="release/dev") as lease:
        lease.require()


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_it_is_free_after_an_exception_too(store, problem):
    with pytest.raises(problem), hold(store):
        raise problem
    with hold(store, "bob"):
        pass


def test_a_silent_holder_loses_it_when_it_expires_and_no_earlier(store, clock):
    with hold(store, clock=clock) as first:
        clock.move(89)
        first.require()
        with pytest.raises(HeldError), hold(store, "bob", clock=clock):
            pass
        clock.move(1)
        with hold(store, "bob", clock=clock) as second:
            second.require()
            with pytest.raises(StateError, match=r"lease release/prod is lost; it expired at 03:05:35 UTC"):
                first.require()
    assert stored(store)["who"] == "bob", "who lost it does not release what another one took"


def test_a_living_holder_keeps_it(store):
    with hold(store, life=1.2) as lease:
        first = stored(store)
        eventually(lambda: stored(store)["expires"] > first["expires"])
        with pytest.raises(HeldError), hold(store, "bob", life=1.2):
            pass
        time.sleep(1.2)
        lease.require()
        assert stored(store) == {**first, "expires": stored(store)["expires"]}


def test_a_holder_whose_lease_was_taken_by_a_clock_ahead_learns_it(store, clock):
    with hold(store, life=0.3) as first:
        clock.moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        with hold(store, "bob", clock=clock) as second:
            eventually(lambda: first._lost)
            with pytest.raises(StateError, match=r"is lost; it was taken over by bob .*release by bob"):
                first.require()
            second.require()


def test_a_holder_whose_lease_was_removed_learns_it(store, tmp_path):
    with hold(store, life=0.3) as lease:
        (tmp_path / KEY).unlink()
        eventually(lambda: lease._lost)
        with pytest.raises(StateError, match="gone from the state"):
            lease.require()
    assert store.get(KEY) is None


class Failing(FolderStore):
    """A state that cannot be reached for a while."""

    down = False

    def get(self, key):
        if self.down:
            raise CloudError("no way to S3")
        return super().get(key)


def test_a_holder_that_cannot_renew_has_until_it_expires_and_says_why(tmp_path, caplog):
    store = Failing(tmp_path)
    with hold(store, life=1.5) as lease:
        store.down = True
        eventually(lambda: lease._trouble == "no way to S3")
        lease.require()
        store.down = False
        expires = lease._mine.expires
        eventually(lambda: lease._mine.expires > expires)
        lease.require()
        store.down = True
        eventually(lambda: lease._clock() > lease._mine.expires)
        with pytest.raises(StateError, match=r"is lost; it expired at .*: no way to S3"):
            lease.require()
    assert "lease release/prod was not released, it falls free when it expires: no way to S3" in caplog.text


def test_an_error_of_the_work_is_not_hidden_by_a_state_that_is_gone(tmp_path, caplog):
    store = Failing(tmp_path)

    def work() -> None:
        with hold(store):
            store.down = True
            raise RuntimeError("the work")

    with pytest.raises(RuntimeError, match="the work"):
        work()
    assert "was not released" in caplog.text


def test_a_state_that_cannot_be_reached_is_told(tmp_path, caplog):
    store = Failing(tmp_path)
    store.down = True
    with pytest.raises(CloudError, match="no way to S3"), hold(store):
        pytest.fail("inside without a lease")
    assert not caplog.text


class DeafOnce(FolderStore):
    """A state that loses the answer to its first write alone."""

    lost = False

    def create(self, key, value):
        stored, first = super().create(key, value), not self.lost
        self.lost = True
        return stored and not first


def test_a_lost_answer_to_a_write_is_not_taken_for_another_holder(tmp_path):
    store = DeafOnce(tmp_path)
    with hold(store) as lease:
        lease.require()
        assert store.lost
        assert lease.previous is None
    assert stored(store)["released"] is True


def test_who_waits_is_told_once_and_comes_in_when_it_is_free(store):
    lines: list[str] = []
    inside = threading.Event()

    def second() -> None:
        with hold(store, "bob", wait=lines.append, poll=0.01) as lease:
            lease.require()
            inside.set()

    with hold(store):
        waiting = threading.Thread(target=second)
        waiting.start()
        eventually(lambda: lines)
        time.sleep(0.1)
        assert not inside.is_set()
        free = datetime.datetime.now(datetime.UTC)
    waiting.join()
    assert inside.is_set()
    assert datetime.datetime.fromisoformat(stored(store)["since"]) > free, "waiting is not holding"
    (line,) = lines
    assert line.startswith("waiting for release/prod, held by ann (host ")


def test_who_is_interrupted_while_waiting_leaves_the_holder_alone(store):
    def interrupt(_line: str) -> None:
        raise KeyboardInterrupt

    with hold(store) as lease:
        with pytest.raises(KeyboardInterrupt), hold(store, "bob", wait=interrupt):
            pass
        lease.require()
        assert stored(store)["who"] == "ann"


HOLD = """
import sys, time
from pathlib import Path
from splitbake.lease import held
from splitbake.state import FolderStore
with held(FolderStore(Path(sys.argv[1])), "release/prod", who="ann", doing="release", life=4):
    print("inside", flush=True)
    time.sleep(60)
"""


def test_the_lease_of_a_killed_process_falls_free(store, tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"inside\n"
        time.sleep(5)  # longer than its life
        with pytest.raises(HeldError), hold(store, "bob"):
            pass
        process.kill()
    on_another_machine(store)
    with pytest.raises(HeldError), hold(store, "bob"):
        pass
    started = time.monotonic()
    with hold(store, "bob", wait=lambda _line: None, poll=0.02) as lease:
        lease.require()
    assert time.monotonic() - started < 60  # a life that nobody gave would be 90


def on_another_machine(store, process: str = "") -> None:
    """Let the holder be a process that cannot be looked for here."""
    store.put(KEY, json.dumps({**stored(store), "process": process}).encode())


def test_who_was_killed_on_this_machine_is_not_waited_for(store, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("1.5", "90"), str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"inside\n"
        with pytest.raises(HeldError), hold(store, "bob"):
            pass
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but not reaped yet
        assert is_gone(stored(store)["process"])
    with hold(store, "bob") as lease:
        lease.require()


def test_a_process_is_gone_only_where_that_is_certain():
    boot, namespace, pid, started = process_id().split()
    assert not is_gone(process_id())
    assert is_gone(f"{boot} {namespace} {pid} {int(started) + 1}"), "its number was given away again"
    assert not is_gone(f"{'0' * 36} {namespace} {pid} 1"), "another machine, or before the last boot"
    assert not is_gone(f"{boot} pid:[1] {pid} 1"), "a container of its own sees other numbers"
    assert not is_gone("")


def test_ctrl_c_sets_it_free_at_once(store, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("1.5", "90"), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout.readline() == b"inside\n"
        process.send_signal(signal.SIGINT)
    with hold(store, "bob"):
        pass


@pytest.mark.parametrize("text", [b"{}", b"not json", b'{"holder": 1}'])
def test_something_else_in_its_place_is_told_and_left(store, text):
    store.put(KEY, text)
    with pytest.raises(StateError, match=f"{KEY} in the state is damaged"), hold(store):
        pass
    assert store.get(KEY).value == text


def test_eight_threads_are_never_inside_together(store, tmp_path):
    store.put("count.json", b"0")

    def work(number: int) -> None:
        for _ in range(50):
            with hold(store, f"worker {number}", wait=lambda _line: None, poll=0.001) as lease:
                (tmp_path / "inside").touch(exist_ok=False)
                lease.require()
                store.put("count.json", b"%d" % (int(store.get("count.json").value) + 1))
                (tmp_path / "inside").unlink()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert store.get("count.json").value == b"400"


WORK = """
import sys
from pathlib import Path
from splitbake.lease import held
from splitbake.state import FolderStore
root = Path(sys.argv[1])
store = FolderStore(root)
for _ in range(7):
    with held(store, "count", who="worker", doing="count", wait=lambda line: None, poll=0.002) as lease:
        (root / "inside").touch(exist_ok=False)
        lease.require()
        store.put("count.json", b"%d" % (int(store.get("count.json").value) + 1))
        (root / "inside").unlink()
"""


def test_eight_processes_are_never_inside_together(store, tmp_path):
    store.put("count.json", b"0")
    workers = [subprocess.Popen([sys.executable, "-c", WORK, str(tmp_path)]) for _ in range(8)]
    assert [worker.wait() for worker in workers] == [0] * 8
    assert store.get("count.json").value == b"56"
