"""Print everything by which instances of one AMI must differ: name -> value, null where this host has none.

Secrets are told as their SHA-256. ``ECS agent`` is the ARN under which the agent is registered, out of its state: a
database of BoltDB, agent.db, since agent 1.44, JSON before.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import sys
from pathlib import Path

_IMDS = "169.254.169.254"
_PATIENCE = 3
_ARN = re.compile(rb"arn:aws[a-z-]*:ecs:[a-z0-9-]+:\d{12}:container-instance/[A-Za-z0-9_/-]+")


def digest(path: Path) -> str | None:
    """Return the SHA-256 of a file, None where it is not there or empty."""
    content = path.read_bytes() if path.is_file() else b""
    return hashlib.sha256(content).hexdigest() if content else None


def text(path: Path) -> str | None:
    """Return the text of a file, None where it is not there or empty."""
    return (path.read_text(encoding="utf-8").strip() or None) if path.is_file() else None


def metadata(name: str) -> str | None:
    """Ask IMDSv2; None where there is none."""
    service = http.client.HTTPConnection(_IMDS, timeout=_PATIENCE)
    try:
        service.request("PUT", "/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        token = service.getresponse().read().decode()
        service.request("GET", f"/latest/meta-data/{name}", headers={"X-aws-ec2-metadata-token": token})
        answer = service.getresponse()
        return answer.read().decode() if answer.status == http.HTTPStatus.OK else None
    except OSError:
        return None
    finally:
        service.close()


def agent() -> str | None:
    """Return the ARN of the container instance, None where no agent is registered."""
    states = sorted(Path("/var/lib/ecs/data").glob("*"))
    found = {arn.decode() for path in states if path.is_file() for arn in _ARN.findall(path.read_bytes())}
    return ", ".join(sorted(found)) or None


def main() -> None:
    """Print this host's identity."""
    keys = {f"SSH host key {path.name[9:-8]}": digest(path) for path in Path("/etc/ssh").glob("ssh_host_*_key.pub")}
    instance = Path("/var/lib/cloud/instance")
    found = {
        "machine id": text(Path("/etc/machine-id")),
        **keys,
        "instance id": metadata("instance-id"),
        "cloud-init instance": instance.resolve().name if instance.is_symlink() else None,
        "random seed": digest(Path("/var/lib/systemd/random-seed")),
        "ECS agent": agent(),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
