"""The way to an instance through Session Manager: no inbound port, no public address.

``python -P -m splitbake.verify.tunnel INSTANCE REGION [ENDPOINT]`` is the ProxyCommand of an SSH configuration. It asks
Systems Manager for a session to the instance's sshd and becomes ``session-manager-plugin``, which carries the bytes
between its standard streams and AWS.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from splitbake.cloud import aws_errors
from splitbake.errors import CloudError, ToolError

PLUGIN = "session-manager-plugin"
#: By this variable the token of a session comes, since 1.2.536: every user of the machine can read an argument.
_RESPONSE = "AWS_SSM_START_SESSION_RESPONSE"
_DOCUMENT = "AWS-StartSSHSession"


def proxy_command(instance: str, region: str, endpoint: str | None) -> str:
    """Return the ProxyCommand that leads to ``instance``; ``endpoint``: another Systems Manager than AWS's own."""
    # -P: the user's folder is no place to look for modules.
    argv = [sys.executable, "-P", "-m", __name__, instance, region, *([endpoint] if endpoint else [])]
    return shlex.join(argv).replace("%", "%%")  # ssh reads % signs, and has the user's shell exec it


def require_plugin() -> None:
    """Find out whether the plugin is here and works, before any instance is started.

    Raises:
        ToolError: it is missing, too old, or a version that AWS took back.
    """
    from splitbake.doctor import catalogue, diagnose, machine, report
    from splitbake.doctor.model import Status

    (found,) = diagnose.diagnose(machine.look(), checks=(catalogue.SESSION_MANAGER,))
    if found.status is not Status.OK:
        raise ToolError(report.advice(found))


def main(argv: Sequence[str]) -> None:
    """Open a session and become the plugin that carries it; where AWS refuses, say so in one line."""
    instance, region, *endpoints = argv
    wish = {"Target": instance, "DocumentName": _DOCUMENT, "Parameters": {"portNumber": ["22"]}}
    try:
        with aws_errors(f"open a session to {instance}"):
            ssm = _systems_manager(region, endpoints[0] if endpoints else None)
            answer = ssm.start_session(**wish)
    except CloudError as problem:
        sys.exit(problem.message)
    token = json.dumps({name: answer[name] for name in ("SessionId", "StreamUrl", "TokenValue")})
    # As AWS's own command line calls it: the name of the variable stands in the place of the answer.
    profile = os.environ.get("AWS_PROFILE", "")
    words = [PLUGIN, _RESPONSE, region, "StartSession", profile, json.dumps(wish), ssm.meta.endpoint_url]
    os.execvpe(PLUGIN, words, {**os.environ, _RESPONSE: token})  # noqa: S606 - an argument list, no shell


def _systems_manager(region: str, endpoint: str | None) -> Any:
    from boto3.session import Session
    from botocore.config import Config

    settings: dict[str, Any] = {"ignore_configured_endpoint_urls": True}  # the stubs do not know it
    return Session(region_name=region).client("ssm", endpoint_url=endpoint, config=Config(**settings))


if __name__ == "__main__":
    main(sys.argv[1:])
