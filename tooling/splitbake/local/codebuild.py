"""CodeBuild that builds: StartBuild runs the buildspec in a container, and a build ends as its commands do.

moto keeps the projects. What this cloud cannot do is refused as an invalid input. Taken and told back, but without any
effect, are the image of the environment, the longest time in the queue, the key of artifacts, and a ``LOCAL`` cache.
"""

from __future__ import annotations

import copy
import json
import platform
import re
import time
import uuid
from collections.abc import Mapping
from threading import Lock
from typing import Any, Final

from moto.codebuild.exceptions import (
    InvalidInputException,
    ResourceAlreadyExistsException,
    ResourceNotFoundException,
)
from moto.codebuild.models import CodeBuild
from moto.codebuild.responses import CodeBuildResponse
from moto.core.responses import ActionResult
from moto.core.utils import utcnow

from splitbake.local.codebuild_builds import Build
from splitbake.local.codebuild_containers import MEMORY, BuildContainers
from splitbake.local.codebuild_role import trusts
from splitbake.local.codebuild_runner import Runner
from splitbake.local.state import Cloud

#: Members of CreateProject and UpdateProject, and of StartBuild with what they lie over.
_PROJECT: Final = (
    *("name", "description", "source", "sourceVersion", "artifacts", "cache", "environment", "serviceRole", "tags"),
    *("timeoutInMinutes", "queuedTimeoutInMinutes", "encryptionKey", "vpcConfig", "logsConfig"),
)
_OVERRIDES: Final[Mapping[str, tuple[str, ...]]] = {
    "sourceVersion": ("sourceVersion",),
    "sourceTypeOverride": ("source", "type"),
    "sourceLocationOverride": ("source", "location"),
    "buildspecOverride": ("source", "buildspec"),
    "artifactsOverride": ("artifacts",),
    "cacheOverride": ("cache",),
    "environmentTypeOverride": ("environment", "type"),
    "imageOverride": ("environment", "image"),
    "computeTypeOverride": ("environment", "computeType"),
    "privilegedModeOverride": ("environment", "privilegedMode"),
    "imagePullCredentialsTypeOverride": ("environment", "imagePullCredentialsType"),
    "serviceRoleOverride": ("serviceRole",),
    "timeoutInMinutesOverride": ("timeoutInMinutes",),
    "queuedTimeoutInMinutesOverride": ("queuedTimeoutInMinutes",),
    "encryptionKeyOverride": ("encryptionKey",),
    "logsConfigOverride": ("logsConfig",),
}
_DEFAULTS: Final = {"timeoutInMinutes": 60, "queuedTimeoutInMinutes": 480, "cache": {"type": "NO_CACHE"}}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{1,149}")
#: What kind of environment this machine can be.
_TYPE: Final = {"x86_64": "LINUX_CONTAINER", "aarch64": "ARM_CONTAINER"}.get(platform.machine(), "LINUX_CONTAINER")
#: Longest build, minutes. AWS takes none shorter than five; here who tests a time-out need not wait that long.
_LONGEST: Final = 2160
#: Seconds that a token of StartBuild is remembered, as AWS has it.
_TOKEN_SECONDS: Final = 300
_VARIABLES: Final = {"PLAINTEXT", "PARAMETER_STORE", "SECRETS_MANAGER"}


def install(cloud: Cloud, client: Any) -> None:
    """Hook CodeBuild."""
    hook(Builds(Runner(cloud, BuildContainers(cloud, client))))


def hook(builds: Builds) -> None:
    """Let ``builds`` answer the calls on projects and builds; the lists stay moto's."""
    calls: Mapping[str, Any] = {
        "create_project": create_project,
        "update_project": update_project,
        "batch_get_projects": get_projects,
        "start_build": builds.start,
        "batch_get_builds": builds.get,
        "stop_build": builds.stop,
    }
    for name, call in calls.items():
        # A bound method is no function: it would not get the response.
        setattr(CodeBuildResponse, name, lambda response, call=call: call(response))


class Builds:
    """All builds, and the tokens they were started with."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._builds: dict[tuple[str, str, str], Build] = {}
        self._tokens: dict[tuple[str, str, str], tuple[float, str, Build]] = {}
        self._numbers: dict[str, int] = {}
        self._lock = Lock()

    def start(self, response: Any) -> ActionResult:
        """StartBuild: it runs from now on; the same call with the token of an earlier one is that build."""
        asked, backend = _given(response), response.codebuild_backend
        key = (backend.account_id, backend.region_name, asked.get("idempotencyToken", ""))
        said, now = json.dumps(asked, sort_keys=True), time.monotonic()
        with self._lock:
            since, before, build = self._tokens.get(key, (0.0, "", None)) if key[2] else (0.0, "", None)
            if build is not None and now - since < _TOKEN_SECONDS:
                if before != said:
                    raise InvalidInputException("The idempotency token was used before with other parameters")
                return ActionResult({"build": build.describe()})
            build = self._made(backend, asked)
            self._tokens[key] = (now, said, build)
        told = build.describe()
        self._runner.start(build)
        return ActionResult({"build": told})

    def get(self, response: Any) -> ActionResult:
        """BatchGetBuilds."""
        found, lost = [], []
        for name in _given(response)["ids"]:
            build = self._builds.get(_key(response, name))
            if build:
                found.append(build.describe())
            else:
                lost.append(name)
        return ActionResult({"builds": found, "buildsNotFound": lost})

    def stop(self, response: Any) -> ActionResult:
        """StopBuild: no command of it runs any more when this returns; a build that has ended stays as it is."""
        name = _given(response)["id"]
        build = self._builds.get(_key(response, name))
        if build is None:
            raise ResourceNotFoundException(f"Build {name} does not exist")
        self._runner.stop(build)
        return ActionResult({"build": build.describe()})

    def _made(self, backend: Any, asked: Mapping[str, Any]) -> Build:
        name = asked["projectName"].rpartition(":project/")[2]
        project = backend.codebuild_projects.get(name)
        if project is None:
            raise ResourceNotFoundException(f"Project cannot be found: {_arn(backend, name)}")
        settings = overridden(project.project_metadata, asked)
        check(backend, settings)
        number = self._numbers[project.arn] = self._numbers.get(project.arn, 0) + 1
        build = Build(
            account=backend.account_id,
            region=backend.region_name,
            number=number,
            uuid=str(uuid.uuid4()),
            project=name,
            settings=settings,
        )
        self._builds[backend.account_id, backend.region_name, build.id] = build
        backend.build_history[name].insert(0, build.id)
        return build


def create_project(response: Any) -> ActionResult:
    """CreateProject."""
    asked, backend = _given(response), response.codebuild_backend
    _only(asked, {*_PROJECT})
    name = asked["name"]
    if not _NAME.fullmatch(name):
        raise InvalidInputException(f"Invalid project name: {name}")
    if name in backend.codebuild_projects:
        raise ResourceAlreadyExistsException(f"Project already exists: {_arn(backend, name)}")
    now = utcnow()
    arn = _arn(backend, name)
    key = f"{arn.partition(':codebuild:')[0]}:kms:{backend.region_name}:{backend.account_id}:alias/aws/s3"
    book: dict[str, Any] = {"encryptionKey": key} | _DEFAULTS | asked
    book |= {"arn": arn, "created": now, "lastModified": now, "badge": {"badgeEnabled": False}}
    check(backend, book)
    project = CodeBuild(
        backend.account_id, backend.region_name, name, None, book["source"], book["artifacts"], book["environment"]
    )
    _keep(backend, project, book)
    backend.codebuild_projects[name] = project
    backend.build_history.setdefault(name, [])
    return ActionResult({"project": book})


def update_project(response: Any) -> ActionResult:
    """UpdateProject: a member that is given replaces the old one whole."""
    asked, backend = _given(response), response.codebuild_backend
    _only(asked, {*_PROJECT})
    project = backend.codebuild_projects.get(asked["name"])
    if project is None:
        raise ResourceNotFoundException(f"Project cannot be found: {_arn(backend, asked['name'])}")
    book = project.project_metadata | asked | {"lastModified": utcnow()}
    check(backend, book)
    _keep(backend, project, book)
    return ActionResult({"project": book})


def get_projects(response: Any) -> ActionResult:
    """BatchGetProjects."""
    wanted, backend = _given(response)["names"], response.codebuild_backend
    by_name = {name: name.rpartition(":project/")[2] for name in wanted}
    known = backend.codebuild_projects
    return ActionResult(
        {
            "projects": [known[name].project_metadata for name in by_name.values() if name in known],
            "projectsNotFound": [asked for asked, name in by_name.items() if name not in known],
        }
    )


def overridden(project: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a project as StartBuild wants it for one build; variables lie over those of the project one by one."""
    _only(asked, {*_OVERRIDES, "projectName", "idempotencyToken", "environmentVariablesOverride"})
    settings = copy.deepcopy(dict(project))
    for name, path in _OVERRIDES.items():
        if name in asked:
            *outer, last = path
            place = settings
            for one in outer:
                place = place[one]
            place[last] = asked[name]
    variables = settings["environment"].get("environmentVariables", []) + asked.get("environmentVariablesOverride", [])
    settings["environment"]["environmentVariables"] = list({one["name"]: one for one in variables}.values())
    return settings


def check(backend: Any, settings: Mapping[str, Any]) -> None:
    """Refuse what AWS refuses, and what cannot be done here.

    Raises:
        InvalidInputException: says what.
    """
    source, environment = settings["source"], settings["environment"]
    _one_of(source["type"], {"S3", "NO_SOURCE"}, "source type")
    if source["type"] == "S3" and not re.fullmatch(r"(arn:[a-z-]+:s3:::)?[^/:]+/.*[^/]", source.get("location", "")):
        raise InvalidInputException("Project source location is required: bucket/path/to/file.zip")
    if source["type"] == "NO_SOURCE" and "\n" not in source.get("buildspec", "").strip():
        raise InvalidInputException("A buildspec is required where there is no source")
    _one_of(settings["artifacts"]["type"], {"NO_ARTIFACTS"}, "artifact type")
    _one_of(settings["cache"]["type"], {"NO_CACHE", "LOCAL"}, "cache type")
    if any(settings.get("vpcConfig", {}).values()):  # an update takes a VPC away by an empty one
        raise InvalidInputException("The local cloud has no builds in a VPC: vpcConfig")
    if settings.get("logsConfig", {}).get("s3Logs", {}).get("status", "DISABLED") != "DISABLED":
        raise InvalidInputException("The local cloud writes no logs of builds to S3: logsConfig.s3Logs")
    _one_of(environment["type"], {_TYPE}, "environment type")
    _one_of(environment["computeType"], {*MEMORY}, "compute type")
    for one in environment.get("environmentVariables", []):
        _one_of(one.get("type", "PLAINTEXT"), _VARIABLES, "type of environment variable")
    if not 0 < settings["timeoutInMinutes"] <= _LONGEST:
        raise InvalidInputException(f"Invalid timeout: it must be between 5 and {_LONGEST} minutes")
    role, account = settings["serviceRole"], backend.account_id
    if not trusts(role, account, backend.region_name, settings["arn"]):
        raise InvalidInputException(f"CodeBuild is not authorized to perform: sts:AssumeRole on {role}")


def _keep(backend: Any, project: Any, book: dict[str, Any]) -> None:
    """Let moto's project be what ``book`` says."""
    project.project_metadata, project.service_role, project.tags = book, book["serviceRole"], book.get("tags")


def _one_of(value: str, known: set[str], what: str) -> None:
    if value not in known:
        raise InvalidInputException(f"Invalid {what} {value}: the local cloud knows {', '.join(sorted(known))}")


def _only(asked: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(name for name, value in asked.items() if name not in known and value not in ([], False)):
        raise InvalidInputException(f"The local cloud does not know {', '.join(unknown)}")


def _given(response: Any) -> dict[str, Any]:
    """Return the parameters of a call as they were sent."""
    given: dict[str, Any] = json.loads(response.body or "{}")
    return given


def _key(response: Any, name: str) -> tuple[str, str, str]:
    """Return what a build is kept under; it may be named by its ARN."""
    if ":" not in name:
        raise InvalidInputException("Invalid build ID provided")
    backend = response.codebuild_backend
    return backend.account_id, backend.region_name, name.rpartition(":build/")[2]


def _arn(backend: Any, name: str) -> str:
    return f"arn:{backend.partition}:codebuild:{backend.region_name}:{backend.account_id}:project/{name}"
