"""The buildspec of a CodeBuild build, version 0.2, as its user guide has it ("Build specification reference").

What the local cloud does not do is refused, never passed over, so that a build which ends well here was understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

#: The phases that have commands, in their order.
PHASES: Final = ("install", "pre_build", "build", "post_build")

_VERSION: Final = "0.2"
#: Sections that say nothing where a project has neither artifacts nor a cache, and for builds that are not batches.
_IDLE: Final = {"artifacts", "batch", "cache"}
_MAPS: Final = ("variables", "parameter-store", "secrets-manager")
_SHELLS: Final = ("sh", "bash")
_ON_FAILURE: Final = ("ABORT", "CONTINUE")


class BuildspecError(Exception):
    """The buildspec cannot be used; the text is the message of the phase's context."""


@dataclass(frozen=True)
class Phase:
    """What one phase does.

    Attributes:
        commands: run one after the other, until one fails.
        last: the commands of ``finally``, which run in any case.
        on_failure: ``ABORT`` or ``CONTINUE`` where it is said, else empty: then the build goes on as usual.
    """

    commands: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    on_failure: str = ""


@dataclass(frozen=True)
class Buildspec:
    """A buildspec, read.

    Attributes:
        variables: environment variables by their value.
        parameters: environment variables by the name of a parameter in SSM.
        secrets: environment variables by ``secret-id:json-key:version-stage:version-id``.
        exported: names of the variables that BatchGetBuilds tells.
        shell: what runs the commands.
        phases: by their names.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    exported: tuple[str, ...] = ()
    shell: str = "sh"
    phases: Mapping[str, Phase] = field(default_factory=dict)


def parse(text: str) -> Buildspec:
    """Read a buildspec.

    Raises:
        BuildspecError: it is not YAML, not of version 0.2, or has what is not known here.
    """
    try:
        document = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - makes texts, lists and mappings, nothing else
    except yaml.YAMLError as problem:
        raise BuildspecError(" ".join(str(problem).split())) from problem
    if not isinstance(document, dict):
        raise BuildspecError("a buildspec is a mapping")
    if document.get("version") != _VERSION:
        raise BuildspecError(f"version {document.get('version')} is not known in the local cloud, only {_VERSION}")
    _only(document, {"version", "env", "phases"} | _IDLE, "the buildspec")
    env = _mapping(document.get("env", {}), "env")
    _only(env, {*_MAPS, "exported-variables", "shell"}, "env")
    variables, parameters, secrets = (_texts(env.get(name, {}), f"env/{name}") for name in _MAPS)
    phases = _mapping(document.get("phases"), "phases")
    _only(phases, set(PHASES), "phases")
    return Buildspec(
        variables=variables,
        parameters=parameters,
        secrets=secrets,
        exported=tuple(_commands(env.get("exported-variables", []), "Exported-variables")),
        shell=_one_of(env.get("shell", "sh"), _SHELLS, "env/shell"),
        phases={name: _phase(name, one) for name, one in phases.items()},
    )


def _phase(name: str, value: Any) -> Phase:
    given = _mapping(value, f"phases/{name}")
    _only(given, {"commands", "finally", "on-failure"}, f"phases/{name}")
    return Phase(
        commands=_commands(given.get("commands", []), "Commands"),
        last=_commands(given.get("finally", []), "Finally"),
        on_failure=_one_of(given["on-failure"], _ON_FAILURE, "on-failure") if "on-failure" in given else "",
    )


def _commands(value: Any, where: str) -> tuple[str, ...]:
    """Return a list of texts; a colon and a space make a mapping of what should have been one."""
    if not isinstance(value, list):
        raise BuildspecError(f"Expected {where} to be of sequence type")
    for number, one in enumerate(value):
        if not isinstance(one, str):
            raise BuildspecError(f"Expected {where}[{number}] to be of string type: found subkeys instead")
    return tuple(value)


def _texts(value: Any, where: str) -> Mapping[str, str]:
    given = _mapping(value, where)
    for name, one in given.items():
        if not isinstance(one, str):
            raise BuildspecError(f"Expected {where}/{name} to be of string type")
    return given


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BuildspecError(f"Expected {where} to be of mapping type")
    return value


def _one_of(value: Any, known: tuple[str, ...], where: str) -> str:
    if value not in known:
        raise BuildspecError(f"{where} is {value}: the local cloud knows {' and '.join(known)}")
    return str(value)


def _only(given: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(given.keys() - known):
        raise BuildspecError(f"{where} has {', '.join(unknown)}, which the local cloud does not know")
