"""The harness of the benchmarks: what is counted, what is written, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

BENCHES = """
    import sys
    from contextlib import contextmanager
    from pathlib import Path

    from benchmarks import __main__ as program, process
    from benchmarks.harness import Duel, bench

    program.GROUPS = ()

    def side(name, *figures):
        figures = iter(figures)
        def run():
            log(name)
            return next(figures)
        return run

    def log(line):
        with Path("log").open("a") as file:
            file.write(f"{line}\\n")

    @contextmanager
    def cloud(stage):
        log("cloud up")
        try:
            yield
        finally:
            log("cloud down")

    @contextmanager
    def project(stage):
        stage.use(cloud)
        log("project made")
        try:
            yield
        finally:
            log("project removed")
"""


def play(folder: Path, script: str, **settings: Any) -> subprocess.Popen[str]:
    whole = f"{textwrap.dedent(BENCHES)}\n{textwrap.dedent(script)}\nsys.exit(program.main(sys.argv[1:]))"
    argv = [sys.executable, "-c", whole, *settings.pop("arguments", ())]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(argv, cwd=folder, env=ENV, **pipes, **settings)


def test_both_sides_take_turns_and_the_first_turn_does_not_count(tmp_path):
    script = """
        @bench("contest", "s", at_most=2, of_theirs=True)
        def contest(stage):
            stage.use(project)
            return Duel(side("ours", 99, 3, 1, 2, 5, 4), side("theirs", 0, 1, 1, 1, 1, 1))

        @bench("alone", "MB", at_most=7)
        def alone(stage):
            stage.use(project)
            return Duel(side("alone", 99, 7, 7, 7, 7, 7))
    """
    process = play(tmp_path, script)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == [
        "cloud up", "project made", *["ours", "theirs"] * 6, *["alone"] * 6, "project removed", "cloud down"
    ]  # fmt: skip
    assert json.loads((tmp_path / "build/bench/results.json").read_text()) == [
        {
            "name": "contest",
            "ours": 3,
            "theirs": 1,
            "unit": "s",
            "runs": {"ours": [3, 1, 2, 5, 4], "theirs": [1, 1, 1, 1, 1]},
        },
        {"name": "alone", "ours": 7, "theirs": None, "unit": "MB", "runs": {"ours": [7] * 5, "theirs": []}},
    ]
    _, contest, alone = out.splitlines()
    assert contest.split()[-5:] == ["3.00x", "<=", "2x", "theirs", "MISSED"]
    assert alone.split()[-4:] == ["<=", "7", "MB", "holds"]


def test_a_bound_may_be_so_much_more_than_theirs(tmp_path):
    script = """
        @bench("slow", "s", at_most=1, of_theirs=True, or_more=1.2)
        def slow(stage):
            return Duel(side("ours", 99, 3, 2, 3, 2, 2.5), side("theirs", 0, 1, 2, 1, 2, 1.5))
    """
    process = play(tmp_path, script)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (result,) = json.loads((tmp_path / "build/bench/results.json").read_text())
    assert (result["ours"], result["theirs"]) == (2.5, 1.5)
    assert out.splitlines()[1].split()[-6:] == ["1x", "theirs", "or", "+1.2", "s", "holds"]


def test_the_counter_counts_what_clients_send_and_not_what_the_cloud_asks(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config, figure, registry = tmp_path / "config.yml", tmp_path / "bytes", tmp_path / "registry"
    config.write_text(json.dumps({"http": {"addr": f"127.0.0.1:{port}"}}))
    registry.write_text(f"#!{sys.executable}\n{textwrap.dedent(REGISTRY)}")
    registry.chmod(0o755)
    argv = [sys.executable, str(REPOSITORY / "benchmarks/counter.py"), str(registry), str(figure), "serve", str(config)]
    calls = [
        b"PUT / HTTP/1.1\r\nUser-Agent: %b\r\n\r\n%b" % (agent, body)
        for agent, body in ((b"python-urllib3/2.6", b"x" * 300_000), (b"Python-urllib/3.11", b""), (b"docker/28", b"y"))
    ]
    with subprocess.Popen(argv, start_new_session=True) as counter:
        try:
            answers, figures = zip(*((ask(port, call), int(figure.read_text())) for call in calls), strict=True)
        finally:
            os.killpg(counter.pid, signal.SIGTERM)
    sizes = [len(call) for call in calls]
    assert list(answers) == sizes
    assert list(figures) == [sizes[0], sizes[0], sizes[0] + sizes[2]]


#: Answers each call with the number of bytes that came.
REGISTRY = """
    import json, socketserver, sys

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"%d" % len(self.rfile.read()))

    address = json.load(open(sys.argv[2]))["http"]["addr"].split(":")
    socketserver.TCPServer((address[0], int(address[1])), Handler).serve_forever()
"""


def ask(port: int, call: bytes) -> int:
    deadline = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(call)
                connection.shutdown(socket.SHUT_WR)
                if answer := connection.makefile("rb").read():
                    return int(answer)
        except OSError:
            pass
        assert time.monotonic() < deadline, "the registry does not start"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_it_finds_nothing_left(tmp_path, number):
    script = """
        @bench("endless", "s", at_most=1)
        def endless(stage):
            stage.use(project)
            argv = (sys.executable, "-c", "import os, pathlib, time; "
                    "pathlib.Path('pid').write_text(f'{os.getpid()} '); time.sleep(300)")
            return Duel(lambda: process.run(argv, cwd=Path.cwd(), env=process.environment()).seconds)
    """
    process = play(tmp_path, script)
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith(" "):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert (tmp_path / "log").read_text().splitlines()[-2:] == ["project removed", "cloud down"]
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_a_side_that_fails_says_what_it_said(tmp_path):
    script = """
        @bench("broken", "s", at_most=1)
        def broken(stage):
            stage.use(cloud)
            argv = (sys.executable, "-c", "raise SystemExit('no such thing')")
            return Duel(lambda: process.run(argv, cwd=Path.cwd(), env=process.environment()).seconds)
    """
    process = play(tmp_path, script)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no such thing" in err
    assert (tmp_path / "log").read_text().splitlines() == ["cloud up", "cloud down"]


def test_the_real_ones_are_known_by_name(tmp_path):
    argv = [sys.executable, "-m", "benchmarks", "hlep"]
    done = subprocess.run(argv, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 64
    assert "help, plan-nochange, plan-scan, plan-cold, peak-rss" in done.stderr
    assert not (tmp_path / "build").exists()


def test_memory_is_that_of_the_process(tmp_path):
    script = """
        from benchmarks.process import environment, run
        hundred = "b = bytearray(100_000_000); b[::4096] = bytes(len(b[::4096])); print('ready')"
        small = run((sys.executable, "-c", "pass"), cwd=Path.cwd(), env=environment())
        large = run((sys.executable, "-c", hundred), cwd=Path.cwd(), env=environment())
        assert small.peak < 50_000_000, small
        assert 100_000_000 < large.peak < 150_000_000, large
        assert large.output == "ready\\n", large
        assert 0 < small.seconds < 30, small
    """
    process = play(tmp_path, script, arguments=["none"])
    _, err = process.communicate(timeout=60)
    assert "AssertionError" not in err
    assert (process.returncode, err.count("no benchmark none")) == (64, 1)
