"""The server process of one local cloud: ``python -m splitbake.local.server STATE_DIR``.

moto answers the AWS API; the hooks make instances, images, the registry and jobs real. A call comes through the guard
(who is it?), then the gate (may it? and write it down), then to moto. moto's settings are read from the environment at
import time, so they are set before it is imported.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from splitbake.local.state import Cloud, load

log = logging.getLogger("splitbake.local")


def main(arguments: list[str]) -> int:
    """Serve the cloud of the state folder ``arguments[0]`` until the process is asked to end."""
    cloud = load(Path(arguments[0]))
    if cloud is None:
        return 1
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _end)
    serve(cloud)
    return 0


def serve(cloud: Cloud) -> None:
    """Answer calls on the cloud's own bridge address; returns when the process is asked to end."""
    os.environ |= {
        "MOTO_DISABLE_GLOBAL_CORS": "true",
        "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
        "MOTO_ENABLE_KEYPAIR_VALIDATION": "true",
        "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",  # AWS's own, which a temporary role gets
    }
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    from splitbake.local import services, sessions
    from splitbake.local.calls import Recorder
    from splitbake.local.gate import Gate
    from splitbake.local.guard import Guard
    from splitbake.local.throttle import Throttle

    services.install(cloud)
    sessions.install()
    recorder = Recorder(cloud.directory)
    address = urlsplit(cloud.endpoint)
    guard = Guard(
        app=Gate(Throttle(DomainDispatcherApplication(create_backend_app), cloud.directory), recorder),
        host=address.netloc,
        cloud_id=cloud.id,
        keys=cloud.keys,
        sessions=sessions.find,
    )
    assert address.hostname is not None  # noqa: S101 - `up` wrote it
    assert address.port is not None  # noqa: S101
    handler = _handler(MotoRequestHandler)
    server = make_server(address.hostname, address.port, guard, threaded=True, request_handler=handler)
    log.info("local cloud %s listens on %s", cloud.id, cloud.endpoint)
    recorder.start()
    try:
        server.serve_forever()
    finally:
        recorder.close()


def _handler(base: Any) -> Any:
    """Return moto's request handler without its access log: URLs may carry presigned access."""

    class Handler(base):  # type: ignore[misc]
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing: refusals are logged by the guard."""

    return Handler


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
