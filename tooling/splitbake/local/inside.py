"""What an instance finds in its own network although it is not in the instance: metadata service and registry.

Both are served by this process, at addresses that exist only in there. The registry listens on the loopback of this
machine, which no container can reach; the same address in the instance leads to it, so an image has one name
everywhere, and Docker asks for no certificate.
"""

from __future__ import annotations

import logging
import secrets
import socket
import socketserver
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network
from threading import Lock, Thread
from typing import Any

from splitbake.local.imds import ADDRESS, Look, Service

log = logging.getLogger("splitbake.local.inside")

#: Makes sockets that listen in the network namespace of a process.
Listen = Callable[[int, list[tuple[str, int]]], list[socket.socket]]


class Inside:
    """The servers of all instances."""

    def __init__(self, listen: Listen, registry: str, network: IPv4Network) -> None:
        """``registry`` is the ``host:port`` of the registry on this machine, ``network`` that of the instances."""
        self._listen = listen
        self._network = network
        host, _, port = registry.rpartition(":")
        self._registry = (host, int(port))
        self._looks: dict[str, Look] = {}
        self._servers: dict[str, list[Any]] = {}
        self._lock = Lock()

    def open(self, instance_id: str, pid: int, look: Look | None = None) -> None:
        """Serve the instance whose first process is ``pid``; ``look`` is known already where it starts once more.

        Raises:
            OSError: its network namespace cannot be entered.
        """
        self.close(instance_id)
        with self._lock:
            look = self._looks.setdefault(instance_id, look) if look else self._looks[instance_id]
        metadata, registry = self._listen(pid, [(ADDRESS, 80), self._registry])
        service = Service(look, secrets.token_bytes(32), self._network)
        servers = [_metadata_server(metadata, service), _Passage(registry, self._registry)]
        for server in servers:
            Thread(target=server.serve_forever, name=f"inside {instance_id}", daemon=True).start()
        with self._lock:
            self._servers[instance_id] = servers

    def close(self, instance_id: str) -> None:
        """End the servers of an instance that stops; one that has none is fine."""
        with self._lock:
            servers = self._servers.pop(instance_id, [])
        for server in servers:
            server.shutdown()
            server.server_close()

    def forget(self, instance_id: str) -> None:
        """End the servers of an instance for good."""
        self.close(instance_id)
        with self._lock:
            self._looks.pop(instance_id, None)


def _metadata_server(listener: socket.socket, service: Service) -> Any:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing: what an instance asks is its own business."""

    with listener:  # the server makes a copy
        return make_server(ADDRESS, 80, service, threaded=True, request_handler=Handler, fd=listener.fileno())


class _Passage(socketserver.ThreadingTCPServer):
    """Passes connections on to an address of this machine, byte by byte."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, to: tuple[str, int]) -> None:
        super().__init__(to, _Passing, bind_and_activate=False)
        self.socket.close()
        self.socket, self.to = listener, to


class _Passing(socketserver.BaseRequestHandler):
    server: _Passage

    def handle(self) -> None:
        try:
            target = socket.create_connection(self.server.to)
        except OSError as problem:
            log.warning("nobody answers at %s: %s", self.server.to, problem)
            return
        with target:
            answers = Thread(target=_pass, args=(target, self.request), daemon=True)
            answers.start()
            _pass(self.request, target)
            answers.join()


def _pass(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes, until one of the two ends it."""
    with suppress(OSError):
        while chunk := source.recv(2**16):
            target.sendall(chunk)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
