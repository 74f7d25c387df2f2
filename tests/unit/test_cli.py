"""How every command ends: exit codes, one JSON object where JSON was asked for, nothing slow loaded too early."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import click
import pytest

from splitbake import cli
from splitbake.errors import ReleaseError

SLOW = {"boto3", "botocore", "docker", "hcl2", "moto", "pytest", "python_on_whales", "requests", "rich", "testinfra"}


def ending(problem: BaseException | None) -> click.Command:
    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    def command(as_json: bool) -> int:
        if problem:
            raise problem
        return 2

    return command


@pytest.mark.parametrize(
    ("problem", "arguments", "code", "name"),
    [
        (ReleaseError("no target", hint="name one"), [], 1, "release"),
        (OSError(28, "No space left on device", "lock"), [], 1, "error"),
        (KeyboardInterrupt(), [], 130, "interrupted"),
        (click.Abort(), [], 130, "interrupted"),
        (ZeroDivisionError("a bug"), [], 1, "internal"),
        (None, ["--nonsense"], 64, "usage"),
        (None, ["unexpected"], 64, "usage"),
    ],
)
def test_every_end_is_one_json_object_or_one_paragraph(capsys, problem, arguments, code, name):
    assert cli.run(ending(problem), prog_name="splitbake", argv=[*arguments, "--json"]) == code
    answer = json.loads(capsys.readouterr().out)["error"]
    assert answer["code"] == name
    assert answer.keys() == {"code", "message", "hint"}
    assert answer["message"]

    assert cli.run(ending(problem), prog_name="splitbake", argv=arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "error: " in shown.err.lower()
    assert ("Traceback" in shown.err) == (name == "internal")


def test_what_a_command_returns_is_the_exit_code():
    assert cli.run(ending(None), prog_name="splitbake", argv=[]) == 2


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["schema"], *([name, "--help"] for name in cli.COMMANDS)]
)
def test_nothing_slow_is_loaded_before_it_is_needed(arguments):
    script = (
        "import sys; from splitbake import cli; code = cli.main();"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout
    assert SLOW & set(done.stderr.split()) == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_are_interrupts_that_clean_up(number):
    script = (
        "import click, time; from splitbake import cli\n"
        "@click.command()\n"
        "def wait():\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "    finally:\n"
        "        print('cleaning', flush=True); time.sleep(1); print('clean', flush=True)\n"
        "raise SystemExit(cli.run(wait, prog_name='wait'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    process.send_signal(number)
    assert process.stdout.readline() == "cleaning\n"
    process.terminate()  # a second one breaks nothing off
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "clean\n")
    assert "interrupted" in err
    assert time.monotonic() - started < 20
