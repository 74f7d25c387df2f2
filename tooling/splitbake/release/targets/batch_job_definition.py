"""A Batch job definition: a new revision with the image by digest, and models and contract mounted read-only.

Registering is releasing: who submits by bare name gets the latest ACTIVE revision (Batch API model, SubmitJob).
It is not idempotent either, so an equal revision is never registered again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from splitbake import contract
from splitbake.errors import ReleaseError
from splitbake.release.steps import ApiCall, ApiStep, Output, Phase
from splitbake.release.targets import Context, Planned, Target
from splitbake.spec import Text

if TYPE_CHECKING:
    from splitbake.release.live import Live

#: What DescribeJobDefinitions says and RegisterJobDefinition does not take; every other field is carried through.
DESCRIBED_ONLY = frozenset({"containerOrchestrationType", "jobDefinitionArn", "revision", "status"})

#: What a job exits with where the host lacks its models, as the image's entry check does.
MISMATCH = str(contract.REFUSED)
#: How often a job is tried where only a mismatch is a reason to try again.
_ATTEMPTS = 3
#: AWS takes this many rules at most (Batch API model, RetryStrategy).
_MOST_RULES = 5
_CONSISTENT_WITHIN = 60
_CONTAINER = "containerProperties."


class BatchJobDefinition(Target):
    """A job definition by its name."""

    kind: ClassVar[str] = "batch_job_definition"
    batch_job_definition: Text

    def plan(self, context: Context) -> Planned:
        """See Target."""
        return steps(self.label, read(context.live, self.batch_job_definition), context)


def read(live: Live, name: str) -> dict[str, Any]:
    """Return the latest ACTIVE revision of the job definition ``name``.

    Raises:
        ReleaseError: there is none.
    """
    revisions = live.pages(
        "batch",
        "DescribeJobDefinitions",
        "jobDefinitions",
        f"read job definition {name}",
        jobDefinitionName=name,
        status="ACTIVE",
    )
    if not revisions:
        raise ReleaseError(
            f"there is no active Batch job definition {name!r} in environment {live.where}",
            hint="register a first revision (a release changes what is there), or correct its name in the manifest",
        )
    latest: dict[str, Any] = max(revisions, key=lambda one: one["revision"])
    return latest


def steps(label: str, latest: Mapping[str, Any], context: Context) -> Planned:
    """Plan the new revision; pure."""
    name, revision = latest["jobDefinitionName"], latest["revision"]
    if "containerProperties" not in latest:
        raise ReleaseError(
            f"{label} has no containerProperties (revision {revision}, type {latest.get('type')}); only container "
            "jobs on ECS can be released to",
            hint="give the environment a job definition of type container",
        )
    old = registrable(latest)
    new = released(old, context)
    warnings = tuple(_warnings(label, new.get("retryStrategy", {})))
    if new == old:
        return Planned(warnings=warnings)
    before, after = difference(old, new)
    created = Output(f"revision of {name}", f"{name}:{revision + 1}")
    step = ApiStep(
        phase=Phase.JOB,
        target=label,
        title=f"register a revision of job definition {name}",
        before={"revision": f"{name}:{revision}", **before},
        after={"revision": created, **after},
        undo=(ApiCall.plain("batch", "DeregisterJobDefinition", jobDefinition=created),),
        call=ApiCall(
            "batch",
            "RegisterJobDefinition",
            new,
            {**_nested(after), "all else": f"as in revision {revision}"},
            gives=lambda answer: {created: f"{answer['jobDefinitionName']}:{answer['revision']}"},
        ),
        check=lambda live, outputs: _check(live, name, outputs[created], context),
    )
    return Planned(steps=(step,), warnings=warnings)


def registrable(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return a described revision as RegisterJobDefinition takes it; fields that this code does not know stay."""
    kept = {key: value for key, value in described.items() if key not in DESCRIBED_ONLY}
    # AWS reserves the prefix: such tags cannot be given.
    tags = {key: value for key, value in kept.pop("tags", {}).items() if not key.startswith("aws:")}
    return {**kept, "tags": tags} if tags else kept


def released(old: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Return the revision ``old`` with the image, the mounts, and a retry on a mismatch of the pair; pure.

    What is right already comes back as it is, so equality means that there is nothing to release.
    """
    container = {**old["containerProperties"], "image": context.pair.image.uri}
    container |= mounted(container, context.models_root, {**context.mounts, contract.FOLDER: contract.HOST})
    if context.runtime_root:
        container |= mounted(container, context.runtime_root, {".": context.runtime_root})
    retry = retrying(old.get("retryStrategy", {}))
    return {**old, "containerProperties": container, **({"retryStrategy": retry} if retry else {})}


def mounted(container: Mapping[str, Any], root: str, mounts: Mapping[str, str]) -> dict[str, Any]:
    """Return the ``volumes`` and ``mountPoints`` of ``container`` with exactly ``mounts`` from below ``root``.

    Volumes from elsewhere on the host stay, except that nothing else may be mounted where a folder of ours is.

    Args:
        container: the properties of the container as they are.
        root: a folder of the host.
        mounts: folder below ``root`` -> path in the container; all of them read-only.
    """
    old = {volume["name"]: volume for volume in container.get("volumes", [])}
    ours = {name: volume["host"]["sourcePath"] for name, volume in old.items() if _is_below(root, volume)}
    names = {source: name for name, source in ours.items()}
    places = {PurePosixPath(path) for path in mounts.values()}
    volumes = [volume for name, volume in old.items() if name not in ours]
    points = [
        point
        for point in container.get("mountPoints", [])
        if point["sourceVolume"] not in ours and PurePosixPath(point["containerPath"]) not in places
    ]
    for folder, path in sorted(mounts.items()):
        source = str(PurePosixPath(root, folder.strip("/")))
        wish = PurePosixPath(root).name if folder == "." else folder
        name = names.setdefault(source, _free_name(wish, old.keys() | names.values()))
        volume = {"host": {"sourcePath": source}, "name": name}
        if volume not in volumes:
            volumes.append(volume)
        points.append({"containerPath": path, "readOnly": True, "sourceVolume": name})
    if _by_name(volumes) == _by_name(old.values()) and _by_path(points) == _by_path(container.get("mountPoints", [])):
        return {}
    return {"volumes": volumes, "mountPoints": points}


def _is_below(root: str, volume: Mapping[str, Any]) -> bool:
    return PurePosixPath(volume.get("host", {}).get("sourcePath", "/")).is_relative_to(root)


def _free_name(folder: str, taken: Set[str]) -> str:
    """Batch takes letters, digits, hyphens and underscores in the name of a volume."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder).strip("-") or "models"
    while name in taken:
        name += "-models"
    return name


def _by_name(volumes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(volumes, key=lambda volume: str(volume["name"]))


def _by_path(points: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(points, key=lambda point: str(point["containerPath"]))


def retrying(strategy: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``strategy`` with a new attempt, on another host perhaps, after the exit code of a mismatch.

    Other failures keep their fate. A job that no rule matches is tried again (Batch API model), so the rule alone
    would retry every failure: the second rule stands for "no retry", as it was.
    """
    rules = strategy.get("evaluateOnExit", [])
    again = {"onExitCode": MISMATCH, "action": "RETRY"}
    if any(rule.get("onExitCode") == MISMATCH for rule in rules) or len(rules) >= _MOST_RULES:
        return dict(strategy)
    if rules:
        return {**strategy, "evaluateOnExit": [again, *rules]}
    if strategy.get("attempts", 1) > 1:
        return dict(strategy)  # every failure is a reason already
    return {"attempts": _ATTEMPTS, "evaluateOnExit": [again, {"onReason": "*", "action": "EXIT"}]}


def _warnings(label: str, strategy: Mapping[str, Any]) -> Iterator[str]:
    """Say where a retry strategy of the user's own, which is kept, does not try again after a mismatch."""
    rules = strategy.get("evaluateOnExit", [])
    action = next(
        (rule["action"] for rule in rules if rule.get("onExitCode") == MISMATCH), "EXIT" if rules else "RETRY"
    )
    if strategy.get("attempts", 1) == 1 or action.upper() != "RETRY":
        yield (
            f"{label}: its own retry strategy does not try a job again that left with {MISMATCH}, as on a host that "
            "does not fit: while hosts are exchanged, jobs may fail"
        )


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what differs, before and after, by field; environment values never do, so none is shown."""
    old, new = _flat(old), _flat(new)
    keys = [key for key in new if old.get(key) != new[key]]
    return {key: old.get(key) for key in keys}, {key: new[key] for key in keys}


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Undo ``_flat``."""
    inside = {key.removeprefix(_CONTAINER): value for key, value in fields.items() if key.startswith(_CONTAINER)}
    outside = {key: value for key, value in fields.items() if not key.startswith(_CONTAINER)}
    return {**outside, "containerProperties": inside}


def _flat(revision: Mapping[str, Any]) -> dict[str, Any]:
    container = {f"{_CONTAINER}{key}": value for key, value in revision["containerProperties"].items()}
    return {**{key: value for key, value in revision.items() if key != "containerProperties"}, **container}


def _check(live: Live, name: str, created: str, context: Context) -> None:
    """The new revision is what a bare name means now, and there is nothing left to release in it."""

    def is_latest() -> bool:
        return f"{name}:{read(live, name)['revision']}" == created

    live.wait(is_latest, _CONSISTENT_WITHIN, f"{created} was registered, but it is not the latest active revision")
    found = registrable(read(live, name))
    if released(found, context) != found:
        raise ReleaseError(
            f"{created} was registered, but it does not hold what was sent: "
            f"{', '.join(difference(found, released(found, context))[1])}",
            hint=f"deregister {created} to go back to the revision before it",
        )
