"""One round of the loop, through the command line as a user would type it, timed and told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitbake import ui
from splitbake.errors import SplitbakeError


@dataclass
class Loop:
    """Runs splitbake commands in one project folder and remembers how long each took.

    Attributes:
        folder: the project's folder.
        environment: the variables of ``splitbake local env``.
        seconds: stage -> seconds, filled as the commands run.
    """

    folder: Path
    environment: Mapping[str, str]
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, stage: str, *arguments: str, yes: bool = False) -> dict[str, Any]:
        """Run ``splitbake ARGUMENTS --json`` and return its answer.

        Raises:
            SplitbakeError: the command failed; its own message is passed on.
        """
        shown = ["splitbake", *arguments, *(["--yes"] if yes else [])]
        started = time.monotonic()
        with ui.stage(f"$ {' '.join(shown)}") as say:
            answer = self._answer([*shown[1:], "--json"], say)
        self.seconds[stage] = round(time.monotonic() - started, 1)
        return answer

    def again(self) -> Loop:
        """Return a loop of the same project that has not run anything yet."""
        return Loop(self.folder, self.environment)

    def run_together(self, commands: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
        """Run several commands at the same time: the two halves never need each other."""
        answers: dict[str, dict[str, Any]] = {}
        problems: list[SplitbakeError] = []

        def one(stage: str, arguments: Sequence[str]) -> None:
            started = time.monotonic()
            try:
                answers[stage] = self._answer([*arguments, "--json"], ui.silent)
            except SplitbakeError as problem:
                problems.append(problem)
            self.seconds[stage] = round(time.monotonic() - started, 1)

        title = "  and  ".join(f"$ splitbake {' '.join(arguments)}" for arguments in commands.values())
        with ui.stage(title):
            threads = [threading.Thread(target=one, args=command) for command in commands.items()]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if problems:
                raise problems[0]
        return answers

    def _answer(self, arguments: Sequence[str], say: ui.Say) -> dict[str, Any]:
        process = subprocess.Popen(
            [sys.executable, "-m", "splitbake", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            output, errors = process.communicate()
        except KeyboardInterrupt:
            process.wait()  # it got the same Ctrl-C and cleans up after itself
            raise
        for line in errors.splitlines():
            say(line)
        try:
            answer: dict[str, Any] = json.loads(output)
        except json.JSONDecodeError:
            raise SplitbakeError(f"splitbake {arguments[0]} gave no answer: {errors.strip()[-2000:]}") from None
        if "error" in answer:
            raise SplitbakeError(answer["error"]["message"], hint=answer["error"]["hint"])
        if process.returncode:
            raise SplitbakeError(f"splitbake {' '.join(arguments)} found something:\n{output}")
        return answer
