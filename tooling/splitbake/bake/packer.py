"""Packer as a program: which one is here, one run of it followed live, and what it made."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from splitbake.errors import BuildError, ToolError
from splitbake.ui import Say

if TYPE_CHECKING:
    from splitbake.generate import Compat

#: From this version on, builders are plugins and the settings of ``latest`` are known.
_PLUGINS_SINCE: Final = (1, 7, 0)
_OLDEST: Final = (1, 6, 0)

#: Seconds that an interrupted Packer gets to terminate its instance.
_GRACE = 120

#: How our scripts on the builder say why they stop: ``splitbake: <kind>: <text>``.
_OUR_LINE = re.compile(r"splitbake: (?P<kind>[a-z-]+): (?P<text>.+)")
_HINTS: Mapping[str, str] = {
    "disk-full": "give ami.volume.size more room",
    "not-found": "does the source still have it? run splitbake lock",
    "forbidden": "may these credentials read it? a presigned URL also ends with the credentials that signed it",
    "unreachable": "can the builder reach the source? check its subnet, security group, and the source itself",
    "checksum": "the source has changed since it was locked: run splitbake lock if that is meant",
    "tool": "choose another base AMI, or install it in a script of ami.provision",
    "cleanup": "what holds it? a script of ami.provision may have made it immutable or mounted something there",
    "first-boot": "start the base AMI by hand and look at /var/log/cloud-init-output.log",
}
_SCRIPT = re.compile(r"^Provisioning with shell script: (?:.*/)?(?P<name>[^/]+)$")
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


def artifact_id(record: Path, region: str) -> str:
    """Return the AMI that the last run wrote into ``record``, the file of the manifest post-processor.

    The file keeps the builds of earlier runs; only ``last_run_uuid`` tells which one is new.

    Raises:
        BuildError: there is no AMI of ``region`` in it.
    """
    try:
        body = json.loads(record.read_text(encoding="utf-8"))
        builds = [build for build in body["builds"] if build["packer_run_uuid"] == body["last_run_uuid"]]
        ids = [pair for build in builds for pair in str(build["artifact_id"]).split(",")]
    except (OSError, ValueError, KeyError) as problem:
        raise BuildError(f"Packer left no readable record of what it made: {problem!r}") from problem
    found = [pair.partition(":")[2] for pair in ids if pair.partition(":")[0] == region]
    if len(found) != 1:
        raise BuildError(f"Packer's record names {ids or 'no AMI'}; expected one AMI of {region}")
    return found[0]


@dataclass
class Output:
    """What Packer said: the log file gets all of it, people get the lines that tell progress."""

    log: IO[str]
    say: Say
    hidden: Sequence[str] = ()
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))
    step: str = ""
    cleaning: bool = False
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
            self.say(ours["text"])
        elif script := _SCRIPT.search(bare):
            self.step = script["name"]
            self.tail.clear()
            self.say(f"running {self.step}")
        elif text.startswith("==>"):
            self._step(bare)

    def _remember(self, line: str) -> None:
        """Keep the line if it can tell why: not what Packer says while it cleans up after a failure."""
        self.cleaning = self.cleaning or line.startswith("Provisioning step had errors")
        if not self.cleaning or "errored after" in line:
            self.tail.append(line)

    def _step(self, line: str) -> None:
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


def build(template: Path, variables: Path, *, env: Mapping[str, str], output: Output) -> None:
    """Run ``packer build`` to its end.

    Packer runs in a session of its own, so that Ctrl-C reaches it once and from us: a second SIGINT makes it leave
    its instance behind.

    Raises:
        BuildError: it failed, or somebody killed it.
        KeyboardInterrupt: passed on after Packer has cleaned up.
    """
    argv = ["packer", "build", "-machine-readable", f"-var-file={variables}", str(template)]
    with _running(argv, env) as process:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        for line in process.stdout:
            output.take(line)
        status = process.wait()
    if status:
        raise _failure(status, output)


@contextmanager
def _running(argv: Sequence[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run ``argv``; whatever ends the block, nothing of the process group survives it."""
    process = subprocess.Popen(
        argv,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        yield process
    except KeyboardInterrupt:
        _signal(process, signal.SIGINT)
        try:
            process.communicate(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
        raise
    finally:
        # Plugins outlive a Packer that was killed.
        _signal(process, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _failure(status: int, output: Output) -> BuildError:
    where = f"\nThe whole log: {output.log.name}"
    if status < 0:
        name = signal.Signals(-status).name
        return BuildError(f"Packer was ended by {name}{where}", hint="run splitbake build ami again")
    if output.reason:
        kind, text = output.reason
        return BuildError(f"the bake stopped in {output.step}: {text}{where}", hint=_HINTS[kind])
    place = f" in {output.step}" if output.step else ""
    lines = "\n".join(f"  {line}" for line in output.tail)
    return BuildError(f"Packer failed{place}:\n{lines}{where}", hint="the last lines above say why")
