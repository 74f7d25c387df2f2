"""Runs builds: each in a container of its own, from its first phase to its end."""

from __future__ import annotations

import io
import json
import logging
import secrets
import zipfile
from collections.abc import Mapping
from datetime import UTC
from threading import Lock, Thread, Timer
from typing import Any, Final

from splitbake.errors import ToolError
from splitbake.local import engine
from splitbake.local.codebuild_builds import Build, Context, Failure
from splitbake.local.codebuild_containers import BuildContainers
from splitbake.local.codebuild_log import Log
from splitbake.local.codebuild_role import Role
from splitbake.local.codebuild_spec import Buildspec, BuildspecError, parse
from splitbake.local.state import Cloud

log = logging.getLogger("splitbake.local.codebuild")

#: What a project reads where it names no buildspec.
_BUILDSPEC: Final = "buildspec.yml"
_INTERNAL: Final = "INTERNAL_SERVICE_ERROR"
_DEAD: Final = (
    "Build container found dead before completing the build. Build container died because it was out of memory, "
    "or the Docker image is not supported."
)


class Runner:
    """Runs each build in a thread of its own."""

    def __init__(self, cloud: Cloud, containers: BuildContainers) -> None:
        self._cloud = cloud
        self._containers = containers
        self._running: dict[str, Any] = {}
        self._lock = Lock()

    def start(self, build: Build) -> None:
        """Begin a build; returns at once."""
        Thread(target=self.run, args=(build,), name=build.id, daemon=True).start()

    def stop(self, build: Build, status: str = "STOPPED", context: Context | None = None) -> None:
        """Break a build off, wherever it is: it has that status, and its container is killed."""
        if build.finish(status, context or Context()):
            with self._lock:
                container = self._running.get(build.uuid)
            if container is not None:
                self._containers.kill(container)

    def run(self, build: Build) -> None:
        """Take a build to its end."""
        build.enter("PROVISIONING")
        seconds = float(build.settings["timeoutInMinutes"]) * 60
        timer = Timer(seconds, self.stop, (build, "TIMED_OUT", Context("BUILD_TIMED_OUT", "Build has timed out. ")))
        timer.daemon = True
        timer.start()
        try:
            status = self._outcome(build)
        except Failure as problem:
            status = problem.status
            build.leave(status, problem.context)
        except Exception as problem:  # the top of a thread: whatever it was, the build must end
            log.exception("build %s: the local cloud failed to run it", build.id)
            status = "FAULT"
            build.leave(status, Context(_INTERNAL, f"The local cloud failed, its server.log says more: {problem}"))
        finally:
            timer.cancel()
        build.finish(status)
        self._remove(build)

    def _outcome(self, build: Build) -> str:
        """Run a build and return its status.

        Raises:
            Failure: it cannot go on.
        """
        role = Role(build)
        lines = Log(build, role)
        lines.hide(role.credentials.values())
        container = self._provide(build)
        if lines.enabled:
            build.logs = {"group": lines.group, "stream": lines.stream}
        build.enter("DOWNLOAD_SOURCE")
        lines.say("Phase is DOWNLOAD_SOURCE")
        try:
            order, source = self._order(build, role, lines)
        except Failure as problem:
            lines.say("Phase complete: DOWNLOAD_SOURCE State: FAILED")
            lines.say(f"Phase context status code: {problem.context.code} Message: {problem.context.message}")
            raise
        if build.complete:
            return build.status
        self._containers.hand_over(container, order, source)
        return self._follow(build, container, lines, str(order["mark"]))

    def _provide(self, build: Build) -> Any:
        """Start the container of a build."""
        environment = build.settings["environment"]
        try:
            with engine.refusals("starting a build"):
                container = self._containers.create(
                    build.uuid, environment["computeType"], privileged=bool(environment.get("privilegedMode"))
                )
                with self._lock:
                    self._running[build.uuid] = container
                self._containers.start(container, build.uuid)
        except (ToolError, OSError) as problem:
            log.exception("build %s: no container", build.id)
            raise Failure(Context(_INTERNAL, str(problem)), "FAULT") from problem
        return container

    def _order(self, build: Build, role: Role, lines: Log) -> tuple[Mapping[str, Any], bytes | None]:
        """Return what the agent is to do, and the source as a zip.

        Raises:
            Failure: source, buildspec or secrets are not to be had.
        """
        folder = f"/codebuild/output/src{secrets.randbelow(10**9):09}/src"
        lines.say(f"CODEBUILD_SRC_DIR={folder}")
        wanted = build.settings["source"]
        source = None
        if wanted["type"] == "S3":
            source = role.source(wanted["location"], build.settings.get("sourceVersion"))
        try:
            spec = parse(_buildspec(wanted.get("buildspec") or _BUILDSPEC, source, folder))
        except BuildspecError as problem:
            raise Failure(Context("YAML_FILE_ERROR", str(problem))) from problem
        lines.say("Processing environment variables")
        variables, hidden = _variables(build, spec, role)
        lines.hide(hidden)
        order = {
            "mark": f"{secrets.token_hex(16)} ",
            "source": folder,
            "docker": bool(build.settings["environment"].get("privilegedMode")),
            "shell": spec.shell,
            "environment": self._environment(build, role) | variables | _own_variables(build, folder, lines),
            "exported": spec.exported,
            "phases": {
                name: {"commands": one.commands, "last": one.last, "on_failure": one.on_failure}
                for name, one in spec.phases.items()
            },
        }
        return order, source

    def _environment(self, build: Build, role: Role) -> dict[str, str]:
        """Return where AWS is, and the credentials of the role."""
        return self._cloud.environment(build.account, build.region) | dict(role.credentials)

    def _follow(self, build: Build, container: Any, lines: Log, mark: str) -> str:
        """Pass on what the agent says until the build has ended; return its status.

        Raises:
            Failure: the container ended before it.
        """
        for chunk in self._containers.follow(container):
            said: list[tuple[int, str]] = []
            for moment, line in chunk:
                text, marked, event = line.partition(mark)
                if text or not marked:
                    said.append((moment, text))
                if marked:
                    lines.write(said)
                    said = []
                    if status := _take(build, json.loads(event)):
                        return status  # to end the container takes a while where Docker ran in it
            lines.write(said)
        raise Failure(Context(_INTERNAL, _DEAD), "FAULT")

    def _remove(self, build: Build) -> None:
        with self._lock:
            container = self._running.pop(build.uuid, None)
        if container is not None:
            self._containers.remove(container, build.uuid)


def _take(build: Build, event: Mapping[str, Any]) -> str:
    """Note what the agent told; return the status of the build where it has ended.

    Raises:
        Failure: the agent cannot go on.
    """
    match event:
        case {"entered": phase}:
            build.enter(phase)
        case {"left": _, "code": code, "message": message}:
            build.leave("FAILED" if code else "SUCCEEDED", Context(code, message))
        case {"exported": name, "value": value}:
            build.exported[name] = value
        case {"fault": problem}:
            raise Failure(Context(_INTERNAL, problem), "FAULT")
        case {"ended": True, "succeeded": succeeded}:
            for phase in ("UPLOAD_ARTIFACTS", "FINALIZING"):
                build.enter(phase)
            return "SUCCEEDED" if succeeded else "FAILED"
        case _:
            pass
    return ""


def _buildspec(named: str, source: bytes | None, folder: str) -> str:
    """Return the text of a buildspec: what is given, or the file of that name in the source.

    Raises:
        Failure: the source is no zip.
        BuildspecError: it has no such file.
    """
    if "\n" in named.strip():
        return named
    if source is None:
        raise BuildspecError(f"stat {folder}/{named}: no such file or directory")
    try:
        with zipfile.ZipFile(io.BytesIO(source)) as archive:
            return archive.read(named).decode()
    except zipfile.BadZipFile as problem:
        raise Failure(Context("CLIENT_ERROR", "zip: not a valid zip file for primary source")) from problem
    except KeyError:
        raise BuildspecError(f"stat {folder}/{named}: no such file or directory") from None
    except UnicodeDecodeError as problem:
        raise BuildspecError(f"{named} is not text in UTF-8") from problem


def _variables(build: Build, spec: Buildspec, role: Role) -> tuple[dict[str, str], list[str]]:
    """Return the variables of buildspec and project, the project's over the others, and which values are secret.

    Raises:
        Failure: a secret is not to be had.
    """
    wanted = {name: ("PLAINTEXT", value) for name, value in spec.variables.items()}
    wanted |= {name: ("PARAMETER_STORE", value) for name, value in spec.parameters.items()}
    wanted |= {name: ("SECRETS_MANAGER", value) for name, value in spec.secrets.items()}
    given = build.settings["environment"].get("environmentVariables") or []
    wanted |= {one["name"]: (one.get("type", "PLAINTEXT"), one["value"]) for one in given}
    found, hidden = {}, []
    for name, (kind, value) in wanted.items():
        if kind != "PLAINTEXT":
            value = role.parameter(value) if kind == "PARAMETER_STORE" else role.secret(value)  # noqa: PLW2901
            hidden.append(value)
        found[name] = value
    return found, hidden


def _own_variables(build: Build, folder: str, lines: Log) -> dict[str, str]:
    """Return what CodeBuild sets itself ("Environment variables in build environments")."""
    started = int(build.started.replace(tzinfo=UTC).timestamp() * 1000)
    return {
        "CI": "true",
        "CODEBUILD_CI": "true",
        "CODEBUILD_BUILD_ARN": build.arn,
        "CODEBUILD_BUILD_ID": build.id,
        "CODEBUILD_BUILD_IMAGE": str(build.settings["environment"]["image"]),
        "CODEBUILD_BUILD_NUMBER": str(build.number),
        "CODEBUILD_BUILD_SUCCEEDING": "1",
        "CODEBUILD_INITIATOR": "root",
        "CODEBUILD_LOG_PATH": lines.stream,
        "CODEBUILD_SOURCE_REPO_URL": str(build.settings["source"].get("location", "")),
        "CODEBUILD_SOURCE_VERSION": str(build.settings.get("sourceVersion") or ""),
        "CODEBUILD_SRC_DIR": folder,
        "CODEBUILD_START_TIME": str(started),
    }
