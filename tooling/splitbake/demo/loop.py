"""One round of the loop, through the command line as a user would type it, timed and told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitbake import ui
from splitbake.errors import SplitbakeError

#: Where the demo is killed, its commands get SIGTERM and clean up after themselves (util-linux, in every Linux).
_WITH_US = ("setpriv", "--pdeathsig", "TERM")


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

    def again(self) -> Loop:
        """Return a loop of the same project that has not run anything yet."""
        return Loop(self.folder, self.environment)

    def run(self, stage: str, *arguments: str) -> dict[str, Any]:
        """Run ``splitbake ARGUMENTS --json`` and return its answer.

        Raises:
            SplitbakeError: the command failed; its own message is passed on.
        """
        return self.run_together({stage: arguments})[stage]

    def run_together(self, commands: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
        """Run several commands at the same time (the two halves never need each other); see ``run``.

        Where one fails, or we are interrupted, the others are ended, and waited for.
        """
        title = "  and  ".join(f"$ splitbake {' '.join(arguments)}" for arguments in commands.values())
        processes: dict[str, subprocess.Popen[str]] = {}
        with ui.stage(title), ThreadPoolExecutor(len(commands)) as pool:
            try:
                for stage, arguments in commands.items():
                    processes[stage] = self._start(arguments)
                jobs = {stage: pool.submit(self._answer, stage, process) for stage, process in processes.items()}
                return {stage: job.result() for stage, job in jobs.items()}
            except BaseException:
                for process in processes.values():
                    process.terminate()
                raise

    def _start(self, arguments: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command in a session of its own: a Ctrl-C reaches us alone, and it gets one signal, from us."""
        return subprocess.Popen(
            [*_WITH_US, sys.executable, "-m", "splitbake", *arguments, "--json"],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _answer(self, stage: str, process: subprocess.Popen[str]) -> dict[str, Any]:
        started = time.monotonic()
        output, errors = process.communicate()
        self.seconds[stage] = round(time.monotonic() - started, 1)
        try:
            answer: dict[str, Any] = json.loads(output)
        except json.JSONDecodeError:
            raise SplitbakeError(f"splitbake ({stage}) gave no answer: {errors.strip()[-2000:]}") from None
        if "error" in answer:
            raise SplitbakeError(answer["error"]["message"], hint=answer["error"]["hint"])
        if process.returncode:
            raise SplitbakeError(f"splitbake ({stage}) found something:\n{output}")
        return answer
