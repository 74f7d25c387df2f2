"""What one local cloud remembers between two commands: a folder with ``cloud.json`` (mode 0600) in it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from splitbake.errors import LocalCloudError
from splitbake.local.keys import Key, Keyring

#: The account that a cloud's own environment selects; it answers for every other one as well.
ACCOUNT = "123456789012"

#: Variables of a user's own that boto3, Packer or Terraform would follow in spite of what a cloud's environment says.
_FOREIGN = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
)
#: An endpoint of one service wins over ``AWS_ENDPOINT_URL``.
_FOREIGN_ENDPOINT = "AWS_ENDPOINT_URL_"


def foreign(environ: Iterable[str]) -> list[str]:
    """Return the variables to unset before a cloud's environment is set, given the names of those that are there."""
    return [*_FOREIGN, *sorted(name for name in environ if name.startswith(_FOREIGN_ENDPOINT))]


@dataclass(frozen=True)
class Process:
    """A detached process; its start time tells it from a later one that got the same number.

    Attributes:
        pid: process number; also the number of its session.
        started: field 22 of ``/proc/PID/stat``, clock ticks since boot.
        boot: which boot of the machine that was.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Process:
        """Describe the running process ``pid``."""
        running = _running(pid)
        return cls(pid, running[1] if running else 0, _boot())

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        running = _running(self.pid)
        return running is not None and running[1] == self.started and self.boot == _boot()

    def stop(self, *, within: float = 10.0) -> None:
        """Ask the processes of its session to end, and kill them after ``within`` seconds.

        They may be there although it is not: a server that was killed leaves what it started.
        """
        if not (self._ended_by(signal.SIGTERM, within) or self._ended_by(signal.SIGKILL, within)):
            raise LocalCloudError(f"Process {self.pid} of the local cloud does not end, even when killed.")

    def _ended_by(self, number: signal.Signals, within: float) -> bool:
        deadline = time.monotonic() + within
        for pid in self._session():
            with suppress(ProcessLookupError):  # it ended between the two looks
                os.kill(pid, number)
        while self._session():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _session(self) -> list[int]:
        """Return the processes of its session; none where the number is by now another session's."""
        leader = _running(self.pid)
        if self.boot != _boot() or (leader and leader[1] != self.started):
            return []
        numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
        running = [(number, _running(number)) for number in numbers]
        return [number for number, one in running if one and one[0] == self.pid and one[1] >= self.started]


def _running(pid: int) -> tuple[int, int] | None:
    """Return the session of ``pid`` and when it started, or None where there is no such process any more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else (int(fields[3]), int(fields[19]))


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@dataclass(frozen=True)
class Cloud:
    """A running local cloud and the way into it.

    Attributes:
        id: random name; every Docker object of this cloud carries the label ``splitbake.cloud=<id>``.
        directory: its state folder.
        region: the region its environment selects; the server answers for others as well.
        account: the account its environment selects; the server answers for others as well.
        endpoint: the base URL of all AWS services, reachable from the host and from its instances.
        registry: ``host:port`` of the registry behind ECR.
        network: name of the Docker bridge network that its instances live in.
        gateway: the address of the host on that network.
        access_key: the access key id of that account; the secret that belongs to it is not shown in a ``repr``.
        instance_image: Docker image id that stands in for the AMIs of AWS.
        python_image: Docker image id that stands in for ``python:3.11-slim``.
    """

    id: str
    directory: Path
    region: str
    account: str
    endpoint: str
    registry: str
    network: str
    gateway: str
    access_key: str
    instance_image: str
    python_image: str
    processes: tuple[Process, ...] = ()
    secret_key: str = field(default="", repr=False)
    registry_password: str = field(default="", repr=False)

    @property
    def log(self) -> Path:
        """The log of the server: refused calls, failed hooks, jobs."""
        return self.directory / "server.log"

    @property
    def keys(self) -> Keyring:
        """The access keys of all accounts."""
        return Keyring(Key(self.account, self.access_key, self.secret_key))

    def environment(self, account: str | None = None, region: str | None = None) -> dict[str, str]:
        """Return the standard AWS configuration of ``account`` in ``region``; the cloud's own ones by default.

        The user's own profile is shut out, so that nothing meant for the local cloud can reach a real account.
        """
        key = self.keys.of(account or self.account)
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": key.id,
            "AWS_SECRET_ACCESS_KEY": key.secret,
            "AWS_REGION": region or self.region,
            "AWS_DEFAULT_REGION": region or self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def public(self) -> dict[str, Any]:
        """Return what may be shown to anyone: everything but the secrets."""
        names = ("id", "region", "account", "endpoint", "registry", "network", "access_key")
        shown: dict[str, Any] = {name: getattr(self, name) for name in names}
        return shown | {"directory": str(self.directory), "log": str(self.log)}


def save(cloud: Cloud) -> None:
    """Write ``cloud`` into its folder, readable by its owner only; all of it or nothing."""
    write_private(_path(cloud.directory), json.dumps(asdict(cloud), default=str, indent=2))


def load(directory: Path) -> Cloud | None:
    """Read the cloud of ``directory``, or None where there is none."""
    try:
        text = _path(directory).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        values = json.loads(text)
        processes = tuple(Process(**one) for one in values.pop("processes"))
        return Cloud(**values | {"directory": directory, "processes": processes})
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise LocalCloudError(
            f"{_path(directory)} is not what this version of splitbake wrote ({problem}).",
            hint="Run `splitbake local down` of the version that wrote it, or remove by hand the folder and what "
            "`docker ps --all --filter label=splitbake.cloud` shows.",
        ) from problem


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step, with mode 0600."""
    partial = path.with_name(path.name + ".part")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``: a second ``up`` waits for the first one and then finds its work done.

    The holder may remove the file, and ``down`` does; whoever waited for it then locks the new one.
    """
    with _lock(path):
        yield


def _lock(path: Path) -> IO[str]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            file = path.open("w")
        except FileNotFoundError:  # a `down` removed the folder between the two
            continue
        fcntl.flock(file, fcntl.LOCK_EX)
        if _is_at(file.fileno(), path):
            return file
        file.close()


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _path(directory: Path) -> Path:
    return directory / "cloud.json"
