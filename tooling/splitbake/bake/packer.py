"""Packer as a program: which one is here, one run of it followed live, and what it made."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from splitbake.bake import keeper
from splitbake.bake.progress import HINTS, Output
from splitbake.errors import BuildError, ToolError
from splitbake.ui import Say

if TYPE_CHECKING:
    from splitbake.generate import Compat

#: From this version on, builders are plugins and the settings of ``latest`` are known.
_PLUGINS_SINCE: Final = (1, 7, 0)
_OLDEST: Final = (1, 6, 0)

#: Seconds that the keeper of an interrupted Packer gets; it has given Packer its own by then.
_GRACE = keeper.GRACE + 10


def version() -> tuple[int, int, int]:
    """Return the version of the Packer on PATH.

    Raises:
        ToolError: there is none, it is too old, or what is called packer is another program.
    """
    if shutil.which("packer") is None:
        raise ToolError("packer is not on PATH", hint="splitbake doctor --fix installs it")
    try:
        done = subprocess.run(
            ["packer", "version"], capture_output=True, text=True, timeout=30, check=False, env=environment()
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise ToolError(f"packer version cannot be run: {problem}", hint="splitbake doctor") from problem
    found = re.search(r"Packer v(\d+)\.(\d+)\.(\d+)", done.stdout)
    if found is None:
        raise ToolError(
            f"{shutil.which('packer')} is not HashiCorp's Packer",
            hint="some distributions have another program of this name (cracklib); put Packer first on PATH",
        )
    numbers = int(found[1]), int(found[2]), int(found[3])
    if numbers < _OLDEST:
        raise ToolError(f"Packer {found[0]} is too old: 1.6 is needed", hint="splitbake doctor --fix")
    return numbers


def detect(numbers: Sequence[int]) -> Compat:
    """Return which HCL is for Packer ``numbers`` (major, minor, patch)."""
    return "latest" if tuple(numbers) >= _PLUGINS_SINCE else "1.6"


def installed_compat() -> Compat:
    """Return which HCL is for the Packer that is installed here."""
    return detect(version())


def environment(secrets: Mapping[str, str] | None = None, folder: Path | None = None) -> dict[str, str]:
    """Return the environment for Packer: ours without what would change its course, and with the AWS keys.

    Args:
        secrets: AWS credentials; the user's profiles are not needed any more with them.
        folder: where it may put its temporary files and sockets.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PACKER_LOG", "PKR_VAR_"))}
    if secrets is not None:
        kept = {name: value for name, value in kept.items() if not name.startswith("AWS_")} | dict(secrets)
    if folder is not None:
        kept["TMPDIR"] = str(folder)
    return kept | {"CHECKPOINT_DISABLE": "1", "PACKER_NO_COLOR": "1"}


def amis(record: Path) -> dict[str, str]:
    """Return the AMIs that the last run wrote into ``record``, the file of the manifest post-processor, by region.

    The file keeps the builds of earlier runs; only ``last_run_uuid`` tells which one is new.

    Raises:
        BuildError: it cannot be read.
    """
    try:
        body = json.loads(record.read_text(encoding="utf-8"))
        builds = [build for build in body["builds"] if build["packer_run_uuid"] == body["last_run_uuid"]]
        pairs = [pair.partition(":") for build in builds for pair in str(build["artifact_id"]).split(",")]
    except (OSError, ValueError, KeyError) as problem:
        raise BuildError(f"Packer left no readable record of what it made: {problem!r}") from problem
    return {region: ami for region, _, ami in pairs}


class AbandonedError(BuildError):
    """Packer failed after it had asked for the AMI: all provisioning was done, and the AMI may come to be anyway."""


def init(folder: Path, say: Say) -> None:
    """Let a current Packer fetch the plugins that ``versions.pkr.hcl`` asks for.

    Raises:
        ToolError: it cannot.
    """
    say("packer init")
    done = subprocess.run(
        ["packer", "init", str(folder)], capture_output=True, text=True, check=False, env=environment()
    )
    if done.returncode:
        raise ToolError(
            f"packer init failed: {(done.stderr or done.stdout).strip()}", hint="is GitHub reachable from here?"
        )


def build(template: Path, variables: Path, *, env: Mapping[str, str], output: Output, lock: int) -> None:
    """Run ``packer build`` to its end, or to ours: see ``splitbake.bake.keeper``.

    Args:
        template: the HCL file, or the folder of a current Packer.
        variables: JSON file with the values of the variables.
        env: Packer's whole environment.
        output: takes what it says.
        lock: of the run's folder, which lives as long as Packer does.

    Raises:
        AbandonedError: it failed, or was killed, after it had asked for the AMI.
        BuildError: it failed, or somebody killed it.
        KeyboardInterrupt: passed on after Packer has cleaned up.
    """
    argv = ["packer", "build", "-machine-readable", f"-var-file={variables}", str(template)]
    with _running(argv, env, lock) as process:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        for line in process.stdout:
            output.take(line)
        status = process.wait()
    if status:
        raise _failure(status, output)


@contextmanager
def _running(argv: Sequence[str], env: Mapping[str, str], lock: int) -> Iterator[subprocess.Popen[str]]:
    """Run ``argv`` under its keeper; whatever ends the block, nothing of the process group survives it.

    The group is one of its own, so that Ctrl-C reaches Packer once and from its keeper: a second SIGINT makes it leave
    its instance behind.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", str(Path(keeper.__file__)), *argv],
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        pass_fds=(lock,),
        start_new_session=True,
    )
    try:
        yield process
    except KeyboardInterrupt:
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_GRACE)  # closes its standard input, which says enough
        raise
    finally:
        # Plugins outlive a Packer that was killed.
        _kill_group(process)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _kill_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _failure(status: int, output: Output) -> BuildError:
    where = f"\nThe whole log: {output.log.name}"
    kind = AbandonedError if output.asked else BuildError
    if killer := _killer(status):
        return kind(f"Packer was ended by {killer}{where}", hint="run splitbake build ami again")
    if output.reason and not output.asked:
        reason, text = output.reason
        return BuildError(f"the bake stopped in {output.step}: {text}{where}", hint=HINTS[reason])
    place = f" in {output.step}" if output.step and not output.asked else ""
    lines = "\n".join(f"  {line}" for line in output.tail)
    return kind(f"Packer failed{place}:\n{lines}{where}", hint="the last lines above say why")


def _killer(status: int) -> str:
    """Return the name of the signal that ended Packer, or its keeper; empty where none did."""
    number = -status if status < 0 else status - keeper.ENDED_BY_SIGNAL
    return signal.Signals(number).name if number in {*signal.Signals} else ""
