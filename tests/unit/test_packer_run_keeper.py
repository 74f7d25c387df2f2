"""The keeper: a program does not outlive splitbake, and gets the time to clean up; nothing else changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from splitbake.bake import keeper, rundir

#: Says that it is ready; interrupted, it says a lot, writes a file and ends.
PROGRAM = """
import pathlib, signal, sys, time
count = 0
def clean(*_):
    global count
    count += 1
    for _ in range(2000):
        print("cleaning " + "x" * 100, flush=True)
    pathlib.Path(sys.argv[1]).write_text(f"clean after {count}")
    sys.exit(3)
signal.signal(signal.SIGINT, clean)
print("ready", flush=True)
time.sleep(60)
"""


def kept(*argv: str, lock: int | None = None) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-I", keeper.__file__, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        pass_fds=() if lock is None else (lock,),
    )
    assert process.stdin
    assert process.stdout
    return process


def await_text(path: Path) -> str:
    deadline = time.monotonic() + 30
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return path.read_text()


@pytest.mark.parametrize(("script", "status"), [("echo one; echo two >&2", 0), ("echo one; echo two; exit 7", 7)])
def test_what_the_program_says_and_how_it_ends_are_passed_on(script, status):
    process = kept("sh", "-c", script)
    assert (process.stdout.read(), process.wait(30)) == ("one\ntwo\n", status)
    process.communicate()


def test_the_signal_that_ended_the_program_is_passed_on():
    process = kept("sh", "-c", "kill -9 $$")
    assert process.wait(30) == keeper.ENDED_BY_SIGNAL + signal.SIGKILL
    process.communicate()


def test_a_closed_pipe_interrupts_the_program_once_and_lets_it_clean_up(tmp_path):
    process = kept(sys.executable, "-c", PROGRAM, str(tmp_path / "done"))
    assert process.stdout.readline() == "ready\n"
    out, _ = process.communicate(timeout=30)
    assert out.count("cleaning") == 2000
    assert (tmp_path / "done").read_text() == "clean after 1"


def test_nobody_who_reads_is_no_reason_to_die(tmp_path):
    """A killed splitbake closes both pipes; Packer must be able to say that it cleans up."""
    process = kept(sys.executable, "-c", PROGRAM, str(tmp_path / "done"))
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    process.stdin.close()
    assert await_text(tmp_path / "done") == "clean after 1"
    process.wait(30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_keeper_alone_ends_nothing(tmp_path, number):
    process = kept("sh", "-c", "echo ready; sleep 0.5; echo end")
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, number)
    assert (process.stdout.read(), process.wait(30)) == ("end\n", 0)
    process.stdin.close()
    process.stdout.close()


IMPATIENT = """
import sys
sys.path.insert(0, sys.argv[1])
import keeper
keeper.GRACE = 0.3
sys.exit(keeper.main(sys.argv[2:]))
"""


def test_a_program_that_does_not_end_is_killed():
    stubborn = ("sh", "-c", "trap '' INT; echo ready; while :; do sleep 1; done")
    process = subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, str(Path(keeper.__file__).parent), *stubborn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


def test_a_run_lives_as_long_as_its_keeper(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = "0" * 12
    with rundir.opened(run) as room:
        assert room.path.stat().st_mode & 0o777 == 0o700
        assert rundir.is_alive(run)
        assert rundir.found() == {run: room.path}
        process = kept("sh", "-c", "echo ready; exec sleep 60", lock=room.lock)  # a shell that waits may miss a SIGINT
        assert process.stdout.readline() == "ready\n"
        room.path.rename(tmp_path / "moved")  # so that leaving the block does not remove it
    (tmp_path / "moved").rename(tmp_path / f"splitbake-{run}")
    assert rundir.is_alive(run)
    process.communicate(timeout=30)
    process.wait(30)
    assert not rundir.is_alive(run)
    assert rundir.found() == {run: tmp_path / f"splitbake-{run}"}


def test_a_folder_of_somebody_else_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"splitbake-{'1' * 12}").symlink_to(tmp_path / "elsewhere")
    (tmp_path / f"splitbake-{'2' * 12}").write_text("a file")
    (tmp_path / "splitbake-other").mkdir()
    assert rundir.found() == {}
    assert rundir.is_alive("1" * 12) is False


def test_nobody_knows_whether_the_run_of_another_user_lives(tmp_path, monkeypatch):
    """Nobody else can look at its lock."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def closed(*_: object) -> int:
        raise PermissionError

    with rundir.opened("1" * 12):
        monkeypatch.setattr(os, "open", closed)
        assert rundir.is_alive("1" * 12) is None
        monkeypatch.undo()


def test_a_folder_goes_whatever_else_removes_of_it_meanwhile(tmp_path, monkeypatch):
    """The master of an SSH connection removes its own socket when it ends."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    unlink = os.unlink

    def vanished(path: str, **options: object) -> None:
        if str(path).endswith("socket"):
            unlink(path, **options)
        unlink(path, **options)

    with rundir.opened("1" * 12) as room:
        for name in ("a-socket", "b-socket", "id_ed25519", "z-socket"):
            (room.path / name).write_text("secret")
        monkeypatch.setattr(os, "unlink", vanished)
    assert not room.path.exists()
