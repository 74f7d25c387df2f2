"""The instance metadata service: what an instance asks at 169.254.169.254, and only from inside.

The service runs in the server's process and listens in the network of each instance (``inside``). So the address is
never taken on this machine, who asks is known by the socket, answers follow the books at once, and an image of the
instance holds nothing of it. The protocol is that of the EC2 user guide ("Access instance metadata").
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeAlias

ADDRESS = "169.254.169.254"
#: Longest life of a token, seconds.
LONGEST_TTL = 21600

_TTL = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
_VERSIONS = ("1.0", "2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest")

#: A text, or what makes it when it is asked for; ``None`` where there is none.
Leaf: TypeAlias = "str | bytes | Callable[[], str]"
Tree: TypeAlias = "Mapping[str, Leaf | Tree]"


@dataclass(frozen=True)
class Metadata:
    """What the service says to one instance at this moment.

    Attributes:
        tree: what is below ``/latest/``. A name may be ``0=label``: it is asked for as ``0``.
        enabled: HttpEndpoint; a disabled one answers 403 to everything.
        tokens_required: HttpTokens: whether a call without a token is refused.
        hop_limit: HttpPutResponseHopLimit: with 1 no token gets as far as a container of the instance.
        address: of the instance, in the network that it shares with its neighbours.
    """

    tree: Tree
    enabled: bool = True
    tokens_required: bool = True
    hop_limit: int = 2
    address: str = ""


@dataclass(frozen=True)
class Answer:
    """A status, a body and more headers."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


#: Tells what an instance may know now.
Look: TypeAlias = Callable[[], Metadata]


@dataclass(frozen=True)
class Service:
    """The service of one instance, as a WSGI application.

    Attributes:
        look: asked anew for each call, so that a change is seen at once.
        key: what tokens are sealed with; another instance has another one.
        network: the one that instances share. Who is in it can send packets for the address of the service to any of
            them; on AWS they would get nowhere.
    """

    look: Look
    key: bytes
    network: IPv4Network

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one call.

        Raises:
            ConnectionAbortedError: the caller is a neighbour of the instance, or see :meth:`answer`.
        """
        caller = environ["REMOTE_ADDR"]
        if IPv4Address(caller) in self.network and caller != self.look().address:
            raise ConnectionAbortedError(f"a call of the neighbour {caller}")
        headers = {
            name.removeprefix("HTTP_").lower(): value for name, value in environ.items() if name.startswith("HTTP_")
        }
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "/")
        answer = self.answer(method, path, headers, local=caller == ADDRESS)
        status = f"{answer.status} {HTTPStatus(answer.status).phrase}"
        start_response(status, [("Content-Type", "text/plain"), *answer.headers])
        return [] if method == "HEAD" else [answer.body]

    def answer(self, method: str, path: str, headers: Mapping[str, str], *, local: bool) -> Answer:
        """Answer a call.

        Args:
            method: of HTTP.
            path: without a query.
            headers: with names like ``x_aws_ec2_metadata_token``.
            local: it comes from the instance itself and not from a network behind it, such as that of its containers.

        Raises:
            ConnectionAbortedError: the answer does not get there: the caller hears nothing.
        """
        now = self.look()
        if not now.enabled:
            return Answer(403)
        if path == "/latest/api/token":
            return self._token(method, headers, reach=now.hop_limit if local else now.hop_limit - 1)
        if method not in {"GET", "HEAD"}:
            return Answer(405)
        token = headers.get("x_aws_ec2_metadata_token")
        if (token is None and now.tokens_required) or (token is not None and not self._valid(token)):
            return Answer(401)
        found = _find(now.tree, path)
        return Answer(404) if found is None else Answer(200, found)

    def _token(self, method: str, headers: Mapping[str, str], reach: int) -> Answer:
        if method != "PUT":
            return Answer(405)
        if "x_forwarded_for" in headers:  # an open proxy on the instance must not hand tokens out
            return Answer(403)
        seconds = headers.get(_TTL.lower().replace("-", "_"), "")
        if not re.fullmatch(r"[0-9]{1,5}", seconds) or not 1 <= int(seconds) <= LONGEST_TTL:
            return Answer(400)
        if reach < 1:
            raise ConnectionAbortedError("a token for a caller beyond the hop limit")
        end = f"{time.time() + int(seconds):.0f}"
        return Answer(200, f"{end}-{self._seal(end)}".encode(), ((_TTL, seconds),))

    def _valid(self, token: str) -> bool:
        end, _, seal = token.partition("-")
        return hmac.compare_digest(seal.encode(), self._seal(end).encode()) and time.time() <= int(end)

    def _seal(self, end: str) -> str:
        return hmac.digest(self.key, end.encode(), "sha256").hex()


def _find(tree: Tree, path: str) -> bytes | None:
    """Return the text at ``path``, or the names below it; None where there is nothing."""
    version, *names = path.strip("/").split("/")
    if not version:
        return "\n".join(_VERSIONS).encode()
    node: Leaf | Tree | None = tree if version in _VERSIONS else None
    for name in names:
        node = _child(node, name) if isinstance(node, Mapping) else None
    if isinstance(node, Mapping):
        return "\n".join(_listed(name, child) for name, child in node.items()).encode()
    if callable(node):
        node = node()
    return node.encode() if isinstance(node, str) else node


def _child(node: Tree, name: str) -> Leaf | Tree | None:
    labelled = (child for known, child in node.items() if known.partition("=")[0] == name)
    return node[name] if name in node else next(labelled, None)


def _listed(name: str, child: Leaf | Tree) -> str:
    return f"{name}/" if isinstance(child, Mapping) and "=" not in name else name
