"""Building with the Docker engine of this machine, through BuildKit.

One way only: streamed lines and plain progress, of programs that end with us. Of python-on-whales (0.81) the other ways
hide the log or lose the reason of a failure, and its streams leave the program running where nobody reads on.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from splitbake import dockercli, files, units
from splitbake.bake.image import Order
from splitbake.errors import BuildError
from splitbake.generate import dockerfile
from splitbake.ui import Say

if TYPE_CHECKING:
    from python_on_whales import DockerClient

_HEAVIEST = 5
_PUSHED = re.compile(r"\bdigest: (sha256:[0-9a-f]{64}) size: \d+")
_LONGEST_LINE = 100
#: Seconds that an interrupted program of Docker gets to end.
_GRACE = 10
_SIZES_OF_DISTRIBUTIONS = """\
import importlib.metadata, os, sys
for found in importlib.metadata.distributions(path=sys.argv[1:]):
    paths = [found.locate_file(file) for file in found.files or ()]
    print(sum(os.path.getsize(path) for path in paths if os.path.isfile(path)), found.name, found.version, sep="\\t")
"""


class DockerBuilder:
    """The ``docker`` kind of image builder."""

    def health(self) -> None:
        """See ImageBuilder."""
        dockercli.require_buildx()

    def build(self, order: Order, say: Say) -> int:
        """See ImageBuilder."""
        _require_platform(order.platform)
        options = ["--load", "--provenance=false", "--progress=plain", f"--platform={order.platform}"]
        options += [f"--file={order.dockerfile}", f"--tag={order.name}"]
        options += [f"--build-arg={name}={value}" for name, value in order.arguments.items()]
        options += [f"--secret=id=ca,src={order.ca}"] if order.ca else []
        options += [f"--network={order.network}"] if order.network else []
        options += ["--allow=network.host"] if order.network == "host" else []
        with _client(order, f"build {order.name}") as docker:
            _follow(docker, ["buildx", "build", *options, str(order.context)], order.log, say)
            return docker.image.inspect(order.name).size

    def heaviest(self, order: Order) -> Sequence[str]:
        """See ImageBuilder."""
        return [*_layers(order.name), *_distributions(order.name)]

    def push(self, order: Order, say: Say) -> str:
        """See ImageBuilder."""
        with _client(order, f"push {order.name}") as docker:
            said: list[str] = []

            def take(line: str) -> None:
                said.append(line)
                say(line)

            _follow(docker, ["image", "push", order.name], order.log, take)
        # What this very push says: the image may have other digests in the repository, of other compressions.
        digest = next((found[1] for line in reversed(said) if (found := _PUSHED.search(line))), None)
        if digest is None:
            raise BuildError(f"{order.name} was pushed, but Docker told no digest of it", hint=f"see {order.log}")
        return digest


def platforms(inspected: str) -> set[str]:
    """Return what a builder says that it builds for, in the answer of ``docker buildx inspect``."""
    lines = [line.removeprefix("Platforms:") for line in inspected.splitlines() if line.startswith("Platforms:")]
    return {name.strip(" *") for line in lines for name in line.split(",") if name.strip()}


def _require_platform(wanted: str) -> None:
    """Refuse a foreign platform that is not emulated either: the first program of the build would not start.

    A builder that was not started yet tells none, and is given a chance.
    """
    done = subprocess.run(["docker", "buildx", "inspect"], capture_output=True, text=True, check=False)
    offered = platforms(done.stdout)
    if offered and wanted not in offered:
        raise BuildError(
            f"the image must be for {wanted}, as the base AMI is; this machine builds for {', '.join(sorted(offered))}",
            hint="build on a machine of that architecture, or give this one its emulation (QEMU, binfmt_misc)",
        )


@contextmanager
def _client(order: Order, doing: str) -> Iterator[DockerClient]:
    with dockercli.login(order.credentials) as docker, dockercli.told(doing, BuildError, log=str(order.log)):
        yield docker


def _follow(docker: DockerClient, command: Sequence[str], log: Path, say: Say) -> None:
    """Run a command of Docker to its end; say what it says, and write it into ``log``.

    Raises:
        DockerException: it failed.
    """
    from python_on_whales.exceptions import DockerException

    argv = [*map(str, docker.client_config.docker_cmd), *command]
    last: deque[str] = deque(maxlen=dockercli.TAIL)
    with (
        files.writing(log, BuildError),
        log.open("a", encoding="utf-8") as file,
        _running(argv) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        for line in process.stdout:
            file.write(line)
            file.flush()
            if text := line.strip():
                last.append(line)
                say(text)
        status = process.wait()
    if status:
        raise DockerException(argv, status, stderr="".join(last).encode())


@contextmanager
def _running(argv: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run ``argv``, and end it with the block, however that ends.

    It has a process group of its own: the client of Docker leaves it to its plugin to end, and that must hear of it.
    """
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if process.poll() is None:
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE)


def _layers(name: str) -> list[str]:
    return _largest("layer", "history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", name)


def _distributions(name: str) -> list[str]:
    """Weigh what pip installed, in a container that is gone afterwards."""
    run = ("run", "--rm", "--network=none", "--read-only", "--entrypoint=python3", name)
    return _largest("distribution", *run, "-c", _SIZES_OF_DISTRIBUTIONS, dockerfile.SITE)


def _largest(kind: str, *command: str) -> list[str]:
    """Run a Docker command that prints sizes and names, and word its largest lines.

    Its failure is told as a line of its own: what is looked for here explains a finding and must not hide it.
    """
    done = subprocess.run(["docker", *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return [f"({kind} sizes: {done.stderr.strip()})"]
    weighed = (line.split("\t", 1) for line in done.stdout.splitlines())
    ordered = sorted(((int(size), " ".join(what.split())) for size, what in weighed), reverse=True)
    return [f"{units.format_size(size)}  {kind} {what[:_LONGEST_LINE]}" for size, what in ordered[:_HEAVIEST] if size]
