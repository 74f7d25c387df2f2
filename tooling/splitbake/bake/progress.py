"""What Packer says: all of it into the log, what tells progress to people, and why it failed."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from splitbake.ui import Say, silent

#: How our scripts on the builder say why they stop: ``splitbake: <kind>: <text>``.
_OUR_LINE = re.compile(r"splitbake: (?P<kind>[a-z-]+): (?P<text>.+)")
#: Such a kind -> what to do about it.
HINTS: Mapping[str, str] = {
    "disk-full": "with models.placement: root, raise ami.volume.size; a volume of their own is sized by the lock",
    "disk": "try again on another builder; if it stays, what does the base AMI have at that place?",
    "folder": "choose another models.root or runtime.root; a script of ami.provision may have put something there",
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
    (r"Launching a (source|spot) AWS instance", "starting the builder"),
    (r"Waiting for instance \((?P<id>[\w-]+)\)", r"waiting for the builder \g<id>"),
    (r"Connected to SSH", "logged in to the builder"),
    (r"Uploading ", "uploading the list of models and the local files"),
    (r"Stopping the source instance", "stopping the builder"),
    (r"Creating AMI (?P<name>\S+) from", r"creating the AMI \g<name>"),
    (r"Waiting for AMI to become ready", "waiting for the snapshot"),
    (r"Terminating the source AWS instance", "terminating the builder"),
)
#: What Packer says of its instance, also of a spot one, before the first script: which it is, and that it answers.
_BUILDER = re.compile(r"Instance ID: (?P<id>i-\w+)")
_RUNS = "Connected to SSH"
#: What Packer says when it asks for the AMI: its step_create_ami.go.
_ASKED = re.compile(r"Creating AMI \S+ from instance ")
_SIGNED = re.compile(r"https?://\S+\?\S+")
_TAIL = 15


@dataclass
class Output:
    """What Packer said: the log file gets all of it, people get the lines that tell progress.

    Attributes:
        step: the script that runs, or ran last.
        cleaning: Packer says from now on what it does after a failure.
        asked: Packer has asked for the AMI: all provisioning is done.
        runs: is told the id of the builder as soon as that answers.
        reason: what one of our scripts said that went wrong: kind and text.
    """

    log: IO[str]
    say: Say
    hidden: Sequence[str] = ()
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))
    step: str = ""
    cleaning: bool = False
    asked: bool = False
    runs: Say = silent
    reason: tuple[str, str] | None = None
    _builder: str = ""

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
        if not self.step:  # what a script says looks the same
            self._await_builder(bare)
        if ours := _OUR_LINE.search(bare):
            if ours["kind"] in HINTS:
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
        self.asked = self.asked or _ASKED.match(line) is not None
        for pattern, words in _STEPS:
            if found := re.match(pattern, line):
                self.say(found.expand(words))

    def _await_builder(self, line: str) -> None:
        if found := _BUILDER.match(line):
            self._builder = found["id"]
        elif self._builder and line.startswith(_RUNS):
            self.runs(self._builder)
