"""The OpenSSH client: one configuration for the machines of one run, and a command on one of them."""

from __future__ import annotations

import shlex
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from splitbake.errors import ToolError

#: Seconds that a connection may take to come about; a tunnel of Session Manager needs several.
CONNECT = 5
CONNECT_BY_TUNNEL = 30
PORT = 22
#: The exit status of ssh itself: the machine was not reached, or gave no answer.
NO_ANSWER = 255
#: What to ask where a machine that answered before does so no more.
STILL_THERE = "is the machine still there?"
#: Seconds between two looks at whether an answer is still wanted.
_PAUSE = 0.5


def seconds_to_connect(connect: str) -> int:
    """Return the seconds that a connection may take to come about, by ``ami.builder.connect``."""
    return CONNECT_BY_TUNNEL if connect == "session-manager" else CONNECT


def configure(folder: Path, *, user: str, private_key: Path, connect: int = CONNECT) -> Path:
    """Write an SSH configuration without any host into ``folder``, which is private, and return its path.

    Nothing else decides how a machine is reached: no agent, no key and no known host of the user's. The first contact
    pins a machine's host key; any other key later is refused.

    Args:
        folder: also gets the hosts, their keys, and the sockets of shared connections.
        user: who logs in.
        private_key: with this key alone.
        connect: seconds that a connection may take to come about.
    """
    settings = {
        "User": user,
        "IdentityFile": private_key,
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "StrictHostKeyChecking": "accept-new",
        "UserKnownHostsFile": folder / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "ConnectTimeout": connect,
        "ServerAliveInterval": 10,
        "ServerAliveCountMax": 3,
        "ControlPath": folder / "%n",
        "LogLevel": "ERROR",
    }
    config = folder / "ssh_config"
    lines = [f'Include "{folder}/*.host"', "Host *", *(f'  {key} "{value}"' for key, value in settings.items())]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return config


def add_host(config: Path, name: str, *, address: str, port: int = PORT, proxy: str = "") -> None:
    """Say how the machine ``name`` is reached; ``proxy`` is a ProxyCommand, in the place of a connection."""
    lines = [
        f"Host {name}",
        f'  HostName "{address}"',
        f"  Port {port}",
        *([f"  ProxyCommand {proxy}"] if proxy else []),
    ]
    config.with_name(f"{name}.host").write_text("\n".join(lines) + "\n", encoding="utf-8")


def hostspec(name: str, connect: int = CONNECT) -> str:
    """Return how testinfra names the machine ``name`` of a configuration, with root's view.

    ``connect`` is that of the configuration, in the place of which testinfra puts a number of its own.
    """
    return f"ssh://{name}?sudo=true&timeout={connect}"


def run(
    config: Path,
    host: str,
    command: Sequence[str],
    *,
    text: str = "",
    within: float,
    over: threading.Event | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` on ``host`` with ``text`` on its standard input, and return what it said.

    ``NO_ANSWER`` is its exit status where the machine gave none in ``within`` seconds, or until ``over`` was set.

    Raises:
        ToolError: there is no ssh here.
    """
    return _ssh(["-F", str(config), host, shlex.join(command)], text, within, over or threading.Event())


def disconnect(config: Path, host: str) -> None:
    """Close the shared connection to ``host``, which would outlive us by a minute; none is fine."""
    _ssh(["-F", str(config), "-O", "exit", host], "", CONNECT, threading.Event())


def _ssh(arguments: Sequence[str], text: str, within: float, over: threading.Event) -> subprocess.CompletedProcess[str]:
    argv, pipe, deadline = ["ssh", *arguments], subprocess.PIPE, time.monotonic() + within
    try:
        process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    except FileNotFoundError:
        raise ToolError("ssh is not on PATH", hint="install the OpenSSH client; splitbake doctor") from None
    with process:
        try:
            while True:
                try:
                    said = process.communicate(text, timeout=_PAUSE)
                    return subprocess.CompletedProcess(argv, process.returncode, *said)
                except subprocess.TimeoutExpired:
                    text = ""  # it is on its way: a second call must not bring it again
                    if over.is_set() or time.monotonic() > deadline:
                        return subprocess.CompletedProcess(argv, NO_ANSWER, "", "ssh gave no answer")
        finally:
            process.kill()
