"""Packer as a program: which one is here, one run of it followed live, and what it made."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from splitbake.bake import keeper
from splitbake.errors import BuildError, ToolError
from splitbake.ui import Say

if TYPE_CHECKING:
    from splitbake.generate import Compat

#: From this version on, builders are plugins and the settings of ``latest`` are known.
_PLUGINS_SINCE: Final = (1, 7, 0)
_OLDEST: Final = (1, 6, 0)

#: Seconds that the keeper of an interrupted Packer gets; it has given Packer its own by then.
_GRACE = keeper.GRACE + 10

#: How our scripts on the builder say why they stop: ``splitbake: <kind>: <text>``.
_OUR_LINE = re.compile(r"splitbake: (?P<kind>[a-z-]+): (?P<text>.+)")
_HINTS: Mapping[str, str] = {
    "disk-full": "give ami.volume.size more room",
    "not-found": "does the source still have it? run splitbake lock",
    "forbidden": "may these credentials read it? a presigned URL also ends with the credentials that signed it",
    "unreachable": "can the builder reach the source? check its subnet, security group, and the source itself",
    "checksum": "the source has changed since it was locked: run splitbake lock if that is meant",
    "tool": "choose another base AMI, or install it in a script of ami.provision",
    "gate": "no AMI was made; a script of ami.provision may have changed what the checks look at",
    "cleanup": "what holds it? a script of ami.provision may have made it immutable or mounted something there",
    "runtime": "does the index still have them? splitbake lock",
    "budget": "take packages out of runtime.requirements, or raise runtime.budget",
    "volume": "does the base AMI use that device or folder? models.placement: root does without a volume",
    "preload": "is it in the registry, and may these credentials pull it? preloaded images lie on the root volume",
    "ecs": "take it out of the base AMI, or of the script of ami.provision that set it; user data gives it at launch",
    "first-boot": "start the base AMI by hand and look at /var/log/cloud-init-output.log",
}
#: Kinds of lines that are for programs that read the log.
_FOR_MACHINES = {"fetch-stats"}
_SCRIPT = re.compile(r"^(?:Provisioning with|Running local) shell script: (?:.*/)?(?P<name>[^/]+)$")
#: Which of Packer's own lines people get, and how; the log has them all.
_STEPS: Sequence[tuple[str, str]] = (
    (r"Launching a source AWS instance", "starting the builder"),
    (r"Waiting for instance \((?P<id>[\w-]+)\)", r"waiting for the builder \g<id>"),
    (r"Connected to SSH", "logged in to the builder"),
    (r"Uploading ", "uploading the list of models and the local files"),
    (r"Stopping the source instance", "stopping the builder"),
    (r"Creating AMI (?P<name>\S+) from", r"creating the AMI \g<name>"),
    (r"Waiting for AMI to become ready", "waiting for the snapshot"),
    (r"Terminating the source AWS instance", "terminating the builder"),
)
#: What Packer says while AWS makes the AMI, and when it gives up waiting: its step_create_ami.go.
_WAITING = ("Creating AMI ", "Waiting for AMI to become ready")
_GAVE_UP = re.compile(r"(Error|Unknown error) waiting for AMI[:;.]")
_SIGNED = re.compile(r"https?://\S+\?\S+")
_TAIL = 15


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
    """Packer ended while AWS was making the AMI: all provisioning was done, and the AMI may come to be all the same."""


@dataclass
class Output:
    """What Packer said: the log file gets all of it, people get the lines that tell progress.

    Attributes:
        step: the script that runs, or ran last.
        cleaning: Packer says from now on what it does after a failure.
        waiting: the last thing that Packer said is that AWS makes the AMI.
        gave_up: it stopped waiting without an AMI.
        reason: what one of our scripts said that went wrong: kind and text.
    """

    log: IO[str]
    say: Say
    hidden: Sequence[str] = ()
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))
    step: str = ""
    cleaning: bool = False
    waiting: bool = False
    gave_up: bool = False
    reason: tuple[str, str] | None = None

    def take(self, line: str) -> None:
        """Take one line of ``-machine-readable`` output: ``time,target,ui,kind,text``.

        A line of another form is kept as well: it is what the Go runtime says of a crash.
        """
        parts = line.rstrip("\n").split(",", 4)
        if not parts[0].isdecimal():
            parts = ["", "", "ui", "", line.rstrip("\n")]
        if len(parts) < 5 or parts[2] != "ui":  # noqa: PLR2004 - the five fields
            return
        text = parts[4].replace("%!(PACKER_COMMA)", ",").replace("\\r", "\n").replace("\\n", "\n")
        for one in text.split("\n"):
            if one.strip():
                self._line(self.redact(one.rstrip()))

    def redact(self, text: str) -> str:
        """Return ``text`` without URLs that carry a signature, and without the secrets of this run."""
        for secret in self.hidden:
            text = text.replace(secret, "[hidden]")
        return _SIGNED.sub("[URL hidden]", text)

    def _line(self, text: str) -> None:
        self.log.write(f"{text}\n")
        self.log.flush()
        bare = re.sub(r"^(==>|-->)? *([\w.-]+: )?", "", text)
        self._remember(bare)
        if ours := _OUR_LINE.search(bare):
            if ours["kind"] in _HINTS:
                self.reason = self.reason or (ours["kind"], ours["text"])
            if ours["kind"] not in _FOR_MACHINES:
                self.say(ours["text"])
        elif script := _SCRIPT.search(bare):
            self.step = script["name"]
            self.tail.clear()
            self.reason = None  # what an earlier one said did not stop the bake
            self.say(f"running {self.step}")
        elif text.startswith("==>"):
            self._step(bare)

    def _remember(self, line: str) -> None:
        """Keep the line if it can tell why: not what Packer says while it cleans up after a failure."""
        self.cleaning = self.cleaning or line.startswith("Provisioning step had errors")
        if not self.cleaning or "errored after" in line:
            self.tail.append(line)

    def _step(self, line: str) -> None:
        self.gave_up = self.gave_up or (self.waiting and _GAVE_UP.match(line) is not None)
        self.waiting = line.startswith(_WAITING)
        for pattern, words in _STEPS:
            if found := re.match(pattern, line):
                self.say(found.expand(words))


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
        AbandonedError: it gave up, or was killed, when only the AMI was still to come.
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
    kind = AbandonedError if output.waiting or output.gave_up else BuildError
    if killer := _killer(status):
        return kind(f"Packer was ended by {killer}{where}", hint="run splitbake build ami again")
    if output.reason:
        reason, text = output.reason
        return BuildError(f"the bake stopped in {output.step}: {text}{where}", hint=_HINTS[reason])
    place = f" in {output.step}" if output.step and not output.gave_up else ""
    lines = "\n".join(f"  {line}" for line in output.tail)
    return kind(f"Packer failed{place}:\n{lines}{where}", hint="the last lines above say why")


def _killer(status: int) -> str:
    """Return the name of the signal that ended Packer, or its keeper; empty where none did."""
    number = -status if status < 0 else status - keeper.ENDED_BY_SIGNAL
    return signal.Signals(number).name if number in {*signal.Signals} else ""
