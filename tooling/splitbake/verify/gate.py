"""The gate before the snapshot: the checks of an AMI on the builder, while it lives.

``packer/scripts/80-gate.sh`` runs this module on the machine on which Packer runs; a finding ends the bake before there
is any AMI. ``prepare`` lays out what it needs in a private folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitbake import files
from splitbake.artifact import Artifact, Report, now
from splitbake.bake import uploads
from splitbake.cloud import Cloud
from splitbake.errors import BuildError, SplitbakeError
from splitbake.project import Project
from splitbake.verify import ami, ssh, suite

#: Environment of the script. Folder and Python come from ``prepare``, the rest from the template.
FOLDER, PYTHON = "SPLITBAKE_GATE", "SPLITBAKE_PYTHON"
HOST, PORT, USER = "SPLITBAKE_GATE_HOST", "SPLITBAKE_GATE_PORT", "SPLITBAKE_GATE_USER"

_ORDER = "gate.json"
#: The builder is no artifact yet.
_BUILDER = "builder"
_SHOWN = 3


def prepare(
    project: Project, cloud: Cloud, fingerprint: str, *, folder: Path, private_key: Path, public_key: str
) -> dict[str, str]:
    """Lay out ``folder`` for the gate of a bake, and return the variables by which the script finds it.

    Args:
        project: what is baked.
        cloud: where.
        fingerprint: of what is baked.
        folder: is made, mode 0700.
        private_key: file with the key of this run.
        public_key: its public half, the one key that may log in to the builder.
    """
    placeholder = Artifact(
        half="ami",
        id=_BUILDER,
        location=cloud.environment.region,
        fingerprint=fingerprint,
        created=now(),
        seconds=0.0,
        size=project.lock.models_size,
    )
    order = {
        "artifact": placeholder.model_dump(mode="json"),
        "standard": project.standard("ami"),
        "private_key": str(private_key),
        "connect": ssh.seconds_to_connect(project.manifest.ami.builder.connect),
        "limit": ami.limit(project.manifest, project.lock),
        "expected": {
            **ami.expectation(project.manifest, project.lock, fingerprint, public_key),
            "moment": "builder",
        },
    }
    with files.writing(folder, BuildError):
        folder.mkdir(mode=0o700)
    uploads.write_private(folder / _ORDER, json.dumps(order))
    return {FOLDER: str(folder), PYTHON: sys.executable}


def main(environment: Mapping[str, str]) -> int:
    """Look at the builder and say what was found; 1 where something is wrong."""
    try:
        found = _look(environment)
    except SplitbakeError as problem:
        _say("gate", f"the builder could not be checked: {problem.message.splitlines()[0]}")
        return 1
    if found.passed:
        return 0
    wrong = [f"{check.name} ({check.saw})" for check in found.checks if not check.passed]
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    _say("gate", f"{'; '.join(wrong[:_SHOWN])}{more}" if wrong else "no check was made")
    return 1


def _look(environment: Mapping[str, str]) -> Report:
    folder = Path(environment[FOLDER])
    order: dict[str, Any] = json.loads((folder / _ORDER).read_text(encoding="utf-8"))
    private_key, connect = Path(order["private_key"]), order["connect"]
    config = ssh.configure(folder, user=environment[USER], private_key=private_key, connect=connect)
    ssh.add_host(config, _BUILDER, address=environment[HOST], port=int(environment[PORT]))
    try:
        return suite.run(
            "ami",
            artifact=Artifact.model_validate(order["artifact"]),
            standard=order["standard"],
            hosts=ssh.hostspec(_BUILDER, connect),
            expected=order["expected"],
            ssh_config=config,
            junit=None,
            say=lambda line: _say("check", line),
            limit=order["limit"],
        )
    finally:
        ssh.disconnect(config, _BUILDER)


def _say(kind: str, text: str) -> None:
    """Say a line as the scripts of a bake do."""
    sys.stdout.write(f"splitbake: {kind}: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(os.environ))
