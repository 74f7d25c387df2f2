"""The recorder of the local cloud: every API call as a line of JSON, written while nobody waits for it."""

from __future__ import annotations

import io
import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from splitbake.iam.calls import Call

log = logging.getLogger("splitbake.local.calls")

#: In the state folder: the calls now, and those before them. Both together stay below twice the limit.
FILES: Final = ("calls.1.jsonl", "calls.jsonl")
LIMIT: Final = 16 * 2**20
#: Calls that may wait for the writer; more are counted and left out.
_WAITING: Final = 20_000

#: Where the guard leaves who called, for what comes after it.
CALLER: Final = "splitbake.caller"

Environ = dict[str, Any]


@dataclass(frozen=True)
class Caller:
    """Who made a call, as the signature proves it.

    Attributes:
        arn: of the role's session, or of the account's root.
        account: the account that answers.
        service, region: of the credential scope.
        role: name of the role; empty for the account's own key, which may do everything.
    """

    arn: str
    account: str
    service: str
    region: str
    role: str = ""


def paths(directory: Path) -> tuple[Path, ...]:
    """Return the files with the calls of the cloud in ``directory``, oldest first."""
    return tuple(directory / name for name in FILES)


def snapshot(environ: Environ) -> Environ:
    """Return what ``decode`` reads of a request, before the application works on it.

    The body is taken where the guard holds it already; that of S3 is content, and none of ours.
    """
    kept = {key: value for key, value in environ.items() if isinstance(value, str)}
    body = environ["wsgi.input"]
    caller: Caller = environ[CALLER]
    if caller.service != "s3" and isinstance(body, io.BytesIO):
        return kept | {CALLER: caller, "wsgi.input": io.BytesIO(body.getbuffer())}
    return kept | {CALLER: caller, "wsgi.input": io.BytesIO()}


def decode(environ: Environ) -> Call:
    """Return the call in a request of ``snapshot``, its parameters named as in the API's own model."""
    from moto.core.parse import PROTOCOL_PARSERS
    from moto.core.request import Request, determine_request_protocol
    from moto.core.routing import get_service_router
    from moto.core.utils import get_service_model

    caller: Caller = environ[CALLER]
    call = Call(
        principal=caller.arn, account=caller.account, region=caller.region, service=caller.service, operation=""
    )
    request = Request({**environ, "wsgi.url_scheme": "http"})
    try:
        model = get_service_model(caller.service)
        operation, in_path = get_service_router(caller.service).match(request)
        protocol = determine_request_protocol(model, request.content_type)
        parameters = PROTOCOL_PARSERS[protocol](operation).parse(
            {
                "method": request.method,
                "values": request.args if caller.service == "s3" else request.values,
                "headers": request.headers,
                "body": b"" if caller.service == "s3" else request.data,
                "url_path": request.path,
                "url_params": in_path,
            }
        )
    except Exception as problem:  # noqa: BLE001 - whatever a client sends: the call is noted without its parameters
        return replace(call, error=f"not understood: {type(problem).__name__}: {problem}")
    return replace(call, operation=operation.name, parameters=parameters)


@dataclass
class Recorder:
    """Writes calls into a file; a thread of its own does it, so that no call waits for the disk.

    Attributes:
        directory: the state folder of the cloud.
        limit: bytes after which the file becomes the one before it, and that one is gone.
    """

    directory: Path
    limit: int = LIMIT
    _calls: queue.Queue[Callable[[], Call] | None] = field(default_factory=lambda: queue.Queue(_WAITING))
    _lost: int = 0

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._write, name="calls", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[], Call]) -> None:
        """Take a call, which is made up in the writer's thread; returns at once."""
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Write what is waiting, and end."""
        self._calls.put(None)
        self._thread.join(timeout=10)

    def _write(self) -> None:
        before, now = paths(self.directory)
        while (make := self._calls.get()) is not None:
            try:
                self._append(now, masked(make()).line() + "\n")
                if now.stat().st_size > self.limit:
                    now.replace(before)
            except Exception:  # the next call is to be written all the same
                log.exception("a call could not be recorded")
            if self._lost:
                log.warning("%d calls came faster than they could be recorded", self._lost)
                self._lost = 0

    @staticmethod
    def _append(path: Path, line: str) -> None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as file:
            file.write(line)


def now() -> str:
    """Return this moment as calls name it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


_MASK: Final = "********"
#: Characters of a text that are kept, and of a list.
_LONGEST: Final = 2000
#: Names of values that the API models do not mark as sensitive, and that carry secrets all the same.
_SECRET: Final = {"userdata", "policytoken", "clientsecret", "accesstoken", "webidentitytoken", "authorizationtoken"}


def masked(call: Call) -> Call:
    """Return ``call`` without what the API's model marks as sensitive, environment values, and long texts."""
    return replace(call, parameters=_masked(call.parameters, _input_shape(call)))


def _input_shape(call: Call) -> Any:
    from moto.core.utils import get_service_model

    return get_service_model(call.service).operation_model(call.operation).input_shape if call.operation else None


def _masked(value: Any, shape: Any, name: str = "") -> Any:
    if name.lower() in _SECRET or (shape is not None and shape.metadata.get("sensitive")):
        return _MASK
    match value:
        case Mapping():
            members = getattr(shape, "members", {})
            inner = getattr(shape, "value", None)
            # A name with a value beside it is a variable of a container.
            is_variable = {"name", "value"} <= value.keys()
            return {
                key: _MASK if is_variable and key == "value" else _masked(one, members.get(key, inner), str(key))
                for key, one in value.items()
            }
        case list() | tuple():
            return [_masked(one, getattr(shape, "member", None), name) for one in value]
        case bytes():
            return f"({len(value)} bytes)"
        case str() if len(value) > _LONGEST:
            return f"{value[:_LONGEST]}… ({len(value)} characters)"
        case _:
            return value
