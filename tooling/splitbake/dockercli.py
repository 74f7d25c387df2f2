"""The Docker client: a login that leaves no trace, and its failures in words that help."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from splitbake import files
from splitbake.errors import SplitbakeError, ToolError

if TYPE_CHECKING:
    from python_on_whales import DockerClient

    from splitbake.ecr import Credentials

#: Lines of a failed command's output that an error shows.
TAIL = 12

#: What Docker, BuildKit and registries say -> what to do about it; the first that fits counts.
_HINTS = (
    (r"no space left on device", "the disk is full: docker system df shows what Docker keeps, df -h the rest"),
    (r"cannot connect to the docker daemon", "start the engine (splitbake doctor --fix does), or check DOCKER_HOST"),
    (r"permission denied.*docker.*sock", "this user may not use Docker: add it to the group docker, or use sudo"),
    (r"is not a docker command|unknown command: docker buildx", "install the buildx plugin: splitbake doctor --fix"),
    (r"exec format error", "it is for another architecture: use such a machine, or QEMU (binfmt_misc)"),
    (r"immutable", "the repository's tags are immutable and this one exists: delete that image, or change an input"),
    (r"no such host|connection refused|i/o timeout|network is unreachable|tls handshake|connection reset",
     "the registry cannot be reached from here: check network, proxy and its name"),
    (r"unauthorized|denied|no basic auth", "the registry refused these credentials: check account and permissions"),
    (r"not found|manifest unknown|no such image", "it is not there: check the name, or run splitbake lock again"),
)  # fmt: skip


def client(config: Path | None = None) -> DockerClient:
    """Return the Docker client with the configuration folder ``config`` (default: the user's own)."""
    from python_on_whales import DockerClient

    return DockerClient(config=config)


def require_buildx() -> None:
    """Check that a Docker client, an engine that answers, and buildx are there.

    Raises:
        ToolError: says which of them is not, and how to get it.
    """
    docker = client()
    with told("ask the Docker engine for its version"):
        docker.system.info()
        docker.buildx.version()


@contextmanager
def login(*credentials: Credentials) -> Iterator[DockerClient]:
    """Yield a client that is logged in to registries, by a configuration of its own: see ``configuration``."""
    with configuration(*credentials) as folder:
        yield client(folder)


@contextmanager
def configuration(*credentials: Credentials) -> Iterator[Path]:
    """Yield a configuration folder of Docker (mode 0700) that lets into registries, and goes afterwards.

    The user's ``config.json`` is copied, never written; plugins, contexts and builders stay reachable by links. An
    empty credential helper keeps the password out of the user's keychain (docker/cli: a helper named for one
    registry goes before ``credsStore``).
    """
    home = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    with tempfile.TemporaryDirectory(prefix="splitbake-docker-") as name:
        folder = Path(name)
        settings = _settings(home / "config.json")
        tokens: dict[str, object] = {one.host: {"auth": one.token} for one in credentials}
        settings["auths"] = {**settings.get("auths", {}), **tokens}
        settings["credHelpers"] = {**settings.get("credHelpers", {}), **dict.fromkeys(tokens, "")}
        for entry in home.iterdir() if home.is_dir() else ():
            if entry.name != "config.json":
                (folder / entry.name).symlink_to(entry.resolve())
        files.replace(folder / "config.json", json.dumps(settings), ToolError, mode=0o600)
        yield folder


def _settings(path: Path) -> dict[str, dict[str, object]]:
    try:
        settings = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as problem:
        raise ToolError(f"Docker's configuration {path} cannot be read: {problem}", hint="repair it") from None
    return settings if isinstance(settings, dict) else {}


@contextmanager
def told(doing: str, kind: type[SplitbakeError] = ToolError, *, log: str = "") -> Iterator[None]:
    """Turn a failure of Docker into one error that says what was being done.

    The command line is left out on purpose: it can hold build arguments.

    Args:
        doing: completes "could not …".
        kind: the class of the error.
        log: where the whole output is kept, for the hint.

    Raises:
        ToolError: there is no Docker client, or no engine.
        SplitbakeError: of ``kind``, with the last lines of the output.
    """
    from python_on_whales import ClientNotFoundError
    from python_on_whales.exceptions import DockerException

    try:
        yield
    except ClientNotFoundError as problem:
        raise ToolError(
            f"could not {doing}: no Docker client is installed", hint="install it: splitbake doctor --fix"
        ) from problem
    except DockerException as problem:
        output = problem.stderr or f"docker left with status {problem.return_code}"
        raise failure(doing, output, kind, log=log) from problem


def failure(doing: str, output: str, kind: type[SplitbakeError], *, log: str = "") -> SplitbakeError:
    """Return the error of a client that could not do ``doing`` and said ``output``; see ``told``.

    It is a ToolError where the client found no engine.
    """
    output = tail(output)
    hint = hint_for(output)
    if log:
        hint = f"{hint or 'the last lines say why'}; everything is in {log}"
    return (ToolError if "docker daemon" in output.lower() else kind)(f"could not {doing}: {output}", hint=hint)


def tail(output: str) -> str:
    """Return the last lines of what was said, empty ones left out."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    return "\n".join(lines[-TAIL:])


def hint_for(output: str) -> str:
    """Return what to do about ``output``, empty where nothing is known."""
    return next((hint for pattern, hint in _HINTS if re.search(pattern, output, re.IGNORECASE)), "")
