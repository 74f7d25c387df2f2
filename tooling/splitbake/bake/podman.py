"""Building with podman: no daemon, and no root where the machine has user namespaces."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from splitbake import files
from splitbake.artifact import Weight
from splitbake.bake import weights
from splitbake.bake.builders import Made, Order
from splitbake.bake.engines import Access, Engine, Run
from splitbake.ecr import Credentials
from splitbake.errors import BuildError, ToolError
from splitbake.ui import Say

#: The first with the mounts of a RUN that generated Dockerfiles have: podman 4.0 came with buildah 1.24.
_OLDEST: Final = (4, 0)
#: Where Linux says which foreign programs it can run, and what it calls OCI's architectures there (qemu-user-static).
_EMULATED: Final = Path("/proc/sys/fs/binfmt_misc")
_QEMU: Final = {"qemu-aarch64": "linux/arm64", "qemu-x86_64": "linux/amd64"}
#: Where podman works by default.
_SCRATCH: Final = "/var/tmp"  # noqa: S108 - only for a folder that is private
#: There, what RUN --mount=type=cache keeps: of podman 4, and of later ones.
_CACHES: Final = ("buildah-cache", f"buildah-cache-{os.getuid()}")
#: An empty secret of every build, by a name that no variable has. In the containers it works in, podman notes where
#: secrets come from: so ours can be told from those of others.
_MARK: Final = "splitbake-mark"


class PodmanBuilder(Engine):
    """The ``podman`` kind of image builder."""

    program = "podman"
    # By default it asks for more open files than a machine may have that lets nobody raise its limits.
    running = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")

    def health(self) -> None:
        """See ImageBuilder."""
        version = str(self._info().get("version", {}).get("Version", ""))
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
        if numbers < _OLDEST:
            raise ToolError(
                f"podman {version or '(of no version)'} is too old: cache mounts of a build came with 4.0",
                hint="install a newer podman, or choose another image.builder",
            )

    def make(self, order: Order, say: Say) -> Made:
        """See ImageBuilder."""
        if order.cache:
            say("podman keeps layers on this machine only, so image.cache does nothing")
        return super().make(order, say)

    def platforms(self) -> set[str]:
        """See Engine."""
        host = self._info()["host"]
        if host.get("serviceIsRemote"):  # a virtual machine of its own, which brings emulation and does not tell
            return set()
        emulated = {platform for name, platform in _QEMU.items() if (_EMULATED / name).exists()}
        return {f"{host['os']}/{host['arch']}", *emulated, *(host.get("emulatedArchitectures") or ())}

    def layers(self, name: str) -> tuple[Weight, ...]:
        """See Engine. As a template podman 4 writes sizes for people, whatever it is told."""
        told = json.loads(self.answer("history", "--no-trunc", "--format", "json", name))
        return weights.heaviest("layer", ((each.get("size") or 0, each.get("CreatedBy") or "") for each in told))

    @contextmanager
    def login(self, credentials: Credentials) -> Iterator[Access]:
        """See Engine. What the user is logged in to stays open: the base may come from there."""
        scratch = os.environ.get("TMPDIR") or _SCRATCH
        with tempfile.TemporaryDirectory(prefix="splitbake-podman-", dir=scratch) as name:
            path = Path(name) / "auth.json"
            files.replace(Path(name) / _MARK, "", ToolError)
            for cache in _CACHES:
                (Path(name) / cache).symlink_to(_own_folder(Path(scratch) / cache))
            settings = _logins()
            settings["auths"] = {**settings.get("auths", {}), credentials.host: {"auth": credentials.token}}
            helpers = settings.get("credHelpers", {})
            settings["credHelpers"] = {host: helper for host, helper in helpers.items() if host != credentials.host}
            files.replace(path, json.dumps(settings), ToolError, mode=0o600)
            # Without TLS for that one registry of this machine; podman knows no list, so for a base from the network
            # it would be so too: those are named by digest.
            plain = ("--tls-verify=false",) if credentials.plain else ()
            yield Access(Path(name), (f"--authfile={path}", *plain), {"TMPDIR": name})

    def build(self, order: Order, access: Access) -> list[str]:
        """See Engine. What a variable of the environment could change is said; the label would hold a version."""
        mark = f"--secret=id={_MARK},type=file,src={access.folder / _MARK}"
        return ["podman", "build", *access.options, "--format=oci", "--layers=true", "--identity-label=false", mark]

    def forget(self, access: Access) -> None:
        """See Engine. A podman that is ended leaves the containers that it worked in, and copies of secrets in them."""
        with suppress(ToolError):
            store = self._info()["store"]
            containers = Path(store["graphRoot"], f"{store['graphDriverName']}-containers")
            for noted in containers.glob("*/userdata/buildah.json"):
                with suppress(BuildError, OSError):
                    if str(access.folder) in noted.read_text(encoding="utf-8"):
                        self.answer("rm", "--force", noted.parent.parent.name)

    def push(self, name: str, access: Access, run: Run) -> str | None:
        """See Engine."""
        told = access.folder / "digest"
        run(["podman", "push", *access.options, "--compression-format=gzip", f"--digestfile={told}", name])
        return told.read_text(encoding="ascii").strip() if told.exists() else None

    def _info(self) -> Mapping[str, Any]:
        """Return what podman tells of itself and its host.

        Raises:
            ToolError: it is not there, or cannot work here.
        """
        try:
            found: dict[str, Any] = json.loads(self.answer("info", "--format", "json"))
        except BuildError as problem:
            raise ToolError(problem.message, hint=_hint(problem.message) or problem.hint) from problem
        except ValueError as problem:
            raise ToolError(f"podman info gave no JSON: {problem}", hint="does podman info work?") from problem
        return found


def _own_folder(path: Path) -> Path:
    """Return ``path``, a folder that is made where there is none: in /var/tmp anybody may have put something there.

    Raises:
        ToolError: it is no folder, or not ours. Who owns it decides what the build installs from it.
    """
    with files.writing(path, ToolError):
        with suppress(FileExistsError):
            path.mkdir(mode=0o755)
        found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ToolError(
            f"{path} is no folder of this user, so podman cannot keep there what builds cache",
            hint="remove it, or set TMPDIR to a folder of your own",
        )
    return path


def _hint(said: str) -> str:
    if "subuid" in said or "newuidmap" in said or "subgid" in said:
        return "without root it needs the package uidmap, and a range for this user in /etc/subuid and /etc/subgid"
    return ""


def _logins() -> dict[str, Any]:
    """Return what the user is logged in to: the first of the files that podman reads (containers-auth.json(5))."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    named = os.environ.get("REGISTRY_AUTH_FILE")
    docker = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    places = (
        [Path(named)] if named else [Path(runtime, "containers/auth.json"), settings / "containers/auth.json", docker]
    )
    for path in places:
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as problem:
            raise ToolError(f"the logins of podman in {path} cannot be read: {problem}", hint="repair it") from None
        return found if isinstance(found, dict) else {}
    return {}
