"""Building with an engine of this machine: all that Docker and podman have in common.

One way only: streamed lines of programs that end with us. Of python-on-whales (0.81) the other ways hide the log or
lose the reason of a failure, and its streams leave the program running where nobody reads on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO, ClassVar, Final

from splitbake import contract, dockercli, files
from splitbake.artifact import Weight
from splitbake.bake import builders, weights
from splitbake.bake.builders import Made, Order
from splitbake.ecr import Credentials
from splitbake.errors import BuildError, SourceError, ToolError
from splitbake.oci import archive, layer
from splitbake.oci.measure import is_gzip, measure
from splitbake.signals import uninterrupted
from splitbake.ui import Say

#: Runs an argument list to its end, and returns the lines that it said.
Run = Callable[[Sequence[str]], list[str]]

#: Seconds that an interrupted program gets to end.
_GRACE: Final = 10


@dataclass(frozen=True)
class Access:
    """A client that is let into a registry.

    Attributes:
        folder: private, with the password; it is gone afterwards.
        options: what the client must be told.
        environment: variables that it gets besides those of this process.
    """

    folder: Path
    options: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class Engine(ABC):
    """A kind of image builder that asks a client on this machine; see ImageBuilder."""

    #: The client.
    program: ClassVar[str]
    #: How it prints the versions of itself and, where there is one, its engine: a template.
    versions: ClassVar[str] = "{{.Client.Version}}"
    #: What its ``run`` has to be told, besides what all kinds share.
    running: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def health(self) -> None:
        """See ImageBuilder."""

    @abstractmethod
    def platforms(self) -> set[str]:
        """Return what it can build for, as ``linux/amd64``; empty where it does not tell."""

    @abstractmethod
    def layers(self, name: str) -> tuple[Weight, ...]:
        """Return what takes most of the layers of image ``name``."""

    @abstractmethod
    def login(self, credentials: Credentials) -> AbstractContextManager[Access]:
        """Let the client into the registry, by a private folder that goes afterwards."""

    @abstractmethod
    def build(self, order: Order, access: Access) -> list[str]:
        """Return the arguments of a build, but for those that all kinds share."""

    @abstractmethod
    def push(self, name: str, access: Access, run: Run) -> str | None:
        """Push the image ``name``; return its digest in the registry, None where that was not told."""

    @abstractmethod
    def forget(self, access: Access) -> None:
        """Remove what a build with this ``access`` left behind that did not end by itself."""

    def make(self, order: Order, say: Say) -> Made:
        """See ImageBuilder."""
        self._require_platform(order.platform)

        with self.login(order.credentials) as access:

            def run(argv: Sequence[str], *, doing: str) -> list[str]:
                return follow(argv, f"{doing} {order.name}", order.log, say, access.environment)

            with builders.secret_files(order.secrets) as secrets:
                try:
                    run([*self.build(order, access), *_options(order, secrets), str(order.context)], doing="build")
                except BaseException:
                    with uninterrupted():
                        self.forget(access)
                    raise
            say(f"measuring {order.name}")
            size, compressed = self._measure(order, partial(run, doing="save"))
            heaviest = self._weigh(order.name, say)
            weights.require_within(size, order.budget, heaviest)
            packed = weights.heaviest("layer", compressed)
            others = [each for each in heaviest if each.kind != "layer"]
            whole = sum(each for each, _ in compressed)
            weights.require_compressed_within(whole, order.compressed_budget, [*packed, *others])
            digest = self.push(order.name, access, partial(run, doing="push"))
        if not digest:
            raise BuildError(f"{order.name} was pushed, but {self.program} told no digest", hint=f"see {order.log}")
        return Made(digest, size, heaviest, self._tools())

    def _require_platform(self, wanted: str) -> None:
        """Refuse a foreign platform that is not emulated either: the first program of the build would not start."""
        offered = self.platforms()
        if offered and wanted not in offered:
            raise BuildError(
                f"the image must be for {wanted}, as the base AMI is; this machine builds for "
                f"{', '.join(sorted(offered))}",
                hint="build on a machine of that architecture, or give this one its emulation (QEMU, binfmt_misc)",
            )

    def _tools(self) -> dict[str, str]:
        """Return what was at work, for the record of the build; what is not told is left out."""
        with suppress(BuildError):
            told = self.answer("version", "--format", self.versions).split()
            return dict(zip((self.program, f"{self.program} engine"), told, strict=False))
        return {}

    def _measure(self, order: Order, run: Run) -> tuple[int, Sequence[tuple[int, str]]]:
        """Return what the image takes uncompressed, and what each of its layers will in the registry, and its name.

        The latter only where ``order.compressed_budget`` asks for it: it takes time, and may differ a little from what
        the engine's own gzip makes. What was pushed is read from the registry and judged again.

        It is read from what the engine saves, as engines mean different things by the size of an image: Docker with
        containerd's store that of the packed layers, later of packed and unpacked ones together (moby PR 53426).
        """
        with tempfile.TemporaryDirectory(prefix="splitbake-image-") as scratch:
            file = Path(scratch) / "image.tar"
            run([self.program, "image", "save", f"--output={file}", order.name])
            try:
                with archive.opened(file) as saved:
                    image = saved.images()[0]
                    size, sizes = 0, list[int]()
                    for name in image.layers:
                        with saved.open(name) as content:
                            size += measure(content).size
                            sizes += [_compressed(content)] if order.compressed_budget is not None else []
                    return size, [*zip(sizes, weights.makers(image.settings, len(image.layers)), strict=False)]
            except (SourceError, ValueError) as problem:
                said = problem.message if isinstance(problem, SourceError) else str(problem)
                raise BuildError(f"cannot measure {order.name}: {said}", hint="build again") from problem

    def _weigh(self, name: str, say: Say) -> tuple[Weight, ...]:
        """Weigh the layers, and what was installed; the latter in a container that is gone afterwards.

        A failure is only told: what is looked for explains a finding and must not hide it.
        """
        run = ("run", "--rm", "--pull=never", "--network=none", "--read-only", *self.running, "--entrypoint=python3")
        found: list[Weight] = []
        try:
            found += self.layers(name)
            said = self.answer(*run, name, "-c", weights.DISTRIBUTIONS, contract.SITE)
            found += weights.read("distribution", said)
        except BuildError as problem:
            say(f"what takes most of the image is not known: {problem.message}")
        return tuple(found)

    def answer(self, *arguments: str) -> str:
        """Return what the client answers to a question.

        Raises:
            ToolError: it is not there.
            BuildError: it failed.
        """
        try:
            done = subprocess.run([self.program, *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError as problem:
            raise _missing(self.program) from problem
        if done.returncode:
            doing = f"ask {self.program} for {' '.join(arguments[:2])}"
            raise dockercli.failure(doing, done.stderr, BuildError)
        return done.stdout


def _compressed(content: IO[bytes]) -> int:
    """Return what a layer takes compressed by gzip, as it may be already."""
    content.seek(0)
    if is_gzip(content):
        return content.seek(0, os.SEEK_END)
    with Path(os.devnull).open("wb") as nowhere:
        return layer.compress(content, nowhere).blob.size


def _options(order: Order, secrets: Mapping[str, Path]) -> list[str]:
    """Return what every client calls the same."""
    options = [f"--platform={order.platform}", f"--file={order.context / builders.DOCKERFILE}", f"--tag={order.name}"]
    options += [f"--build-arg={name}={value}" for name, value in order.arguments.items()]
    options += [f"--network={order.network}"] if order.network else []
    # Without its type podman 4 takes a secret from a variable where there is one of its name, whatever src says.
    return options + [f"--secret=id={name},type=file,src={path}" for name, path in secrets.items()]


def follow(
    argv: Sequence[str], doing: str, log: Path, say: Say, environment: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """Run a client to its end; say what it says, write it into ``log``, and return it.

    Args:
        argv: with the client's name.
        doing: completes "could not …".
        log: what is said is added to it.
        say: gets each line.
        environment: variables besides those of this process.

    Raises:
        ToolError: the client or its engine is not there.
        BuildError: it failed; its last lines say why. Its arguments are left out: they can hold build arguments.
    """
    said: list[str] = []
    with (
        files.writing(log, BuildError),
        log.open("a", encoding="utf-8") as file,
        _running(argv, environment) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        for line in process.stdout:
            file.write(line)
            file.flush()
            if text := line.strip():
                said.append(text)
                say(text)
        status = process.wait()
    if status:
        output = "\n".join(said) or f"{argv[0]} left with status {status}"
        raise dockercli.failure(doing, output, BuildError, log=str(log))
    return said


@contextmanager
def _running(argv: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run ``argv``, and end it with the block, however that ends.

    It has a process group of its own: the client of Docker leaves it to its plugin to end, and that must hear of it.
    """
    try:
        started = subprocess.Popen(
            argv,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError as problem:
        raise _missing(argv[0]) from problem
    with started as process:
        try:
            yield process
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if process.poll() is None:
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE)


def _missing(program: str) -> ToolError:
    return ToolError(f"there is no {program} on this machine", hint="splitbake doctor names what is missing")
