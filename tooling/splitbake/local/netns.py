"""Listening inside the network namespace of an instance, from outside of it.

A socket belongs to the namespace that it was made in, for good. So it is enough to enter the namespace of a container
for the moment that it takes to make one. That takes rights that a user of Docker need not have; a container with these
lends them (``listen``), and hands the sockets over. It runs this very file, which needs nothing but Python.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

#: Linux's ``sched.h`` and ``in.h``; Python has names for them from 3.12 and 3.14 on.
_CLONE_NEWNET = 0x40000000
_IP_FREEBIND = 15

#: Seconds that the lending container gets.
_LEND_TIMEOUT = 60.0
_SOCKET = "handover"

Address = tuple[str, int]


def listen(pid: int, addresses: list[Address], client: Any, image: str, labels: dict[str, str]) -> list[socket.socket]:
    """Return sockets that listen at ``addresses`` in the network namespace of the process ``pid``.

    The namespace need not have the addresses yet.

    Args:
        pid: number of the process on this machine.
        addresses: IPv4 addresses and ports.
        client: the Docker client to borrow the rights through, where this process does not have them.
        image: an image with Python in it.
        labels: labels of the lending container.

    Raises:
        OSError: there is no such process, or no way into its namespace.
    """
    try:
        with ThreadPoolExecutor(1) as visitor:  # namespaces are a thread's own: this one ends in there
            return visitor.submit(_visit, pid, addresses).result()
    except PermissionError:
        return _borrowed(pid, addresses, client, image, labels)


def _visit(pid: int, addresses: list[Address]) -> list[socket.socket]:
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"cannot enter the network namespace of process {pid}: {os.strerror(code)}")
    finally:
        os.close(namespace)
    listeners: list[socket.socket] = []
    try:
        for address in addresses:
            listener = socket.socket()
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
            listener.bind(address)
            listener.listen(64)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _borrowed(
    pid: int, addresses: list[Address], client: Any, image: str, labels: dict[str, str]
) -> list[socket.socket]:
    """Let a container make the sockets; it can do nothing but enter namespaces, and is gone when they are here."""
    import docker

    with tempfile.TemporaryDirectory(prefix="splitbake-netns-") as folder, socket.socket(socket.AF_UNIX) as door:
        door.settimeout(_LEND_TIMEOUT)
        door.bind(f"{folder}/{_SOCKET}")
        door.listen(1)
        wanted = [f"{host}:{port}" for host, port in addresses]
        try:
            client.containers.run(
                image,
                ["python3", "-c", Path(__file__).read_text(encoding="utf-8"), str(pid), *wanted],
                labels=labels,
                mounts=[docker.types.Mount("/handover", folder, type="bind")],
                network_mode="none",
                pid_mode="host",
                read_only=True,
                cap_drop=["ALL"],
                cap_add=["SYS_ADMIN", "SYS_PTRACE", "NET_BIND_SERVICE", "DAC_OVERRIDE"],
                security_opt=["apparmor=unconfined"],
                remove=True,
            )
            giver, _ = door.accept()
        except (docker.errors.DockerException, TimeoutError) as problem:
            reason = getattr(problem, "stderr", None) or getattr(problem, "explanation", None) or problem
            raise OSError(f"cannot borrow the right to enter the namespace of process {pid}: {reason!s}") from problem
        with giver:
            _, descriptors, _, _ = socket.recv_fds(giver, 1, len(addresses))
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]


def _lend(arguments: list[str]) -> None:
    pid, *wanted = arguments
    addresses = [(host, int(port)) for host, _, port in (one.rpartition(":") for one in wanted)]
    with socket.socket(socket.AF_UNIX) as taker:
        taker.connect(f"/handover/{_SOCKET}")
        listeners = _visit(int(pid), addresses)
        socket.send_fds(taker, [b"."], [one.fileno() for one in listeners])


if __name__ == "__main__":
    _lend(sys.argv[1:])
