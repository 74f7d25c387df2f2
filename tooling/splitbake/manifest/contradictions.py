"""What parts of a manifest say about each other.

These checks look at the plain data, not at the model, so that they speak up in the same run as everything else that
is wrong; where the data has not the right shape they are silent, as the model complains there.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Final

from splitbake import hygiene
from splitbake.manifest.places import OF_THE_BASE, places
from splitbake.manifest.promotions import Finding, from_other_accounts, promotions
from splitbake.manifest.runtime import Runtime
from splitbake.manifest.yamldoc import Location

#: What lies there lies in memory.
_AT_EACH_BOOT: Final = ("/run", "/var/run", "/dev", "/proc", "/sys")


def contradictions(data: Any) -> Iterator[Finding]:
    """Yield the place and the words of everything that cannot be true at once."""
    entries = [(index, _mapping(entry)) for index, entry in enumerate(_list(_at(data, "models", "files")))]
    mounts = _mapping(_at(data, "image", "mounts"))
    paths = {index: entry["path"] for index, entry in entries if isinstance(entry.get("path"), str)}
    for index, entry in entries:
        yield from _file_or_folder(("models", "files", index), entry)
    yield from _repeated(paths)
    yield from _empty_mounts(mounts, list(paths.values()))
    yield from _mounted_twice(mounts)
    yield from _mounted_inside(mounts, list(paths.values()))
    yield from _idle_needs(_list(_at(data, "image", "needs")), list(paths.values()), list(mounts))
    yield from _codebuild(_mapping(_at(data, "image")))
    yield from _cache(_mapping(_at(data, "image")))
    yield from _roots(data)
    yield from places(_mapping(_at(data, "image")), _mapping(_at(data, "runtime")))
    yield from _provision(_list(_at(data, "ami", "provision")))
    yield from _ami(_mapping(_at(data, "ami")), on_root=_at(data, "models", "placement") == "root")
    yield from _shared(_mapping(_at(data, "ami")), _mapping(_at(data, "environments")))
    yield from promotions(_mapping(_at(data, "environments")))


def _codebuild(image: dict[str, Any]) -> Iterator[Finding]:
    settings, builds = image.get("codebuild"), image.get("builder") == "codebuild"
    if builds and settings is None:
        yield ("image", "builder"), "codebuild needs to know its role; add codebuild: {role: …}"
    there, wanted = _mapping(_mapping(settings).get("secrets")), _list(image.get("secrets"))
    for name in there:
        if name not in wanted:
            yield ("image", "codebuild", "secrets", name), f"{name!r} is no entry of image.secrets, so nobody reads it"
    # Whoever may look at a build sees its variables, so no value of the caller's machine is sent.
    for index, name in enumerate(wanted if builds and isinstance(settings, dict) else []):
        if isinstance(name, str) and name not in there:
            message = (
                f"{name!r} must be in AWS Secrets Manager for builder: codebuild; "
                f"add image.codebuild.secrets, {name}: its name or ARN there"
            )
            yield ("image", "secrets", index), message


def _cache(image: dict[str, Any]) -> Iterator[Finding]:
    if image.get("cache") is None:
        return
    if image.get("builder", "docker") != "docker":
        yield ("image", "cache"), "only the builder docker keeps layers there; remove it"
    if image["cache"] == image.get("repository") and _at(image, "ecr", "immutable") is True:
        message = "a cache is written anew by each build, and the tags of image.repository are immutable; name another"
        yield ("image", "cache"), message


def _roots(data: Any) -> Iterator[Finding]:
    from splitbake.manifest import Models  # that module needs this one

    usual = {"models": Models.model_fields["root"].default, "runtime": Runtime.model_fields["root"].default}
    wanted = {key: _at(data, key, "root") or default for key, default in usual.items() if _mapping(_at(data, key))}
    roots = {key: PurePosixPath(root) for key, root in wanted.items() if isinstance(root, str) and root.startswith("/")}
    for key, root in roots.items():
        if loss := _loss(root):
            yield (key, "root"), f"{loss}; choose a folder apart from it, for example {usual[key]}"
    models, runtime = roots.get("models"), roots.get("runtime")
    if models and runtime and (models.is_relative_to(runtime) or runtime.is_relative_to(models)):
        message = f"{runtime} and models.root, {models}, lie in each other; give each a folder of its own"
        yield ("runtime", "root"), message


def _loss(root: PurePosixPath) -> str:
    """Return why no instance would have what lies there, or all of what lies there; "" where nothing is in the way."""
    for place in _AT_EACH_BOOT:
        if root.is_relative_to(place):
            return f"{place} is made anew at each boot"
    for pattern in itertools.chain.from_iterable(rule.patterns for rule in hygiene.RULES):
        if all(map(fnmatchcase, root.parts, PurePosixPath(pattern).parts)):  # up to where the shorter one ends
            return f"the bake clears {pattern} before the snapshot"
    if str(root) in OF_THE_BASE:
        return f"{root} is a folder that the base has for itself"
    return ""


def _provision(scripts: list[Any]) -> Iterator[Finding]:
    for index, path in enumerate(scripts):
        if isinstance(path, str) and not unicodedata.is_normalized("NFC", path):
            message = (
                "Packer would look for its composed form (NFC), which is another file; rename the file and write it so"
            )
            yield ("ami", "provision", index), message


def _ami(ami: dict[str, Any], *, on_root: bool) -> Iterator[Finding]:
    builder, pull = _mapping(ami.get("builder")), _at(ami, "ecs", "pull")
    roles = [key for key in ("profile", "permissions_boundary") if builder.get(key) is not None]
    if len(roles) > 1:
        yield ("ami", "builder", "permissions_boundary"), "a temporary role is made where there is no profile; name one"
    if builder.get("connect") == "session-manager" and not roles:
        message = (
            "the builder needs a role for Systems Manager: give profile, or permissions_boundary for a temporary one"
        )
        yield ("ami", "builder", "connect"), message
    if ami.get("kms_key") is not None and ami.get("encrypt") is not True:
        yield ("ami", "kms_key"), "it encrypts nothing without encrypt: true"
    if on_root and _at(ami, "volume", "initialize") is not None:
        yield ("ami", "volume", "initialize"), "it is for a models volume, and models.placement is root"
    if pull == "prefer-cached" and not _list(ami.get("preload")):
        # The agent then never removes an image (its docker_image_manager.go): disks fill up for nothing.
        yield ("ami", "ecs", "pull"), "prefer-cached ends the agent's cleaning of images; it is for preload only"


def _shared(ami: dict[str, Any], environments: dict[str, Any]) -> Iterator[Finding]:
    """EC2 refuses to share what the key aws/ebs encrypted, as no other account may use that key."""
    if ami.get("encrypt") is not True:
        return
    refused, has_key = "what the account's default key encrypts cannot be shared", ami.get("kms_key") is not None
    if _list(ami.get("share")):
        if not has_key:
            yield ("ami", "share"), f"{refused}; give kms_key"
        for index, copy in enumerate(_list(ami.get("copies"))):
            if isinstance(copy, dict) and copy.get("kms_key") is None:  # that of the AMI is a key of its own region
                yield ("ami", "copies", index), f"{refused}; give kms_key"
    for at in () if has_key else from_other_accounts(environments):
        yield at, f"{refused}; give ami.kms_key"


def _file_or_folder(at: Location, entry: dict[str, Any]) -> Iterator[Finding]:
    path, source = entry.get("path"), entry.get("from")
    if isinstance(path, str) and isinstance(source, str) and path.endswith("/") != source.endswith("/"):
        yield (*at, "from"), "path and from must both end with / (a folder) or neither (a file)"
    if isinstance(path, str) and path.endswith("/") and entry.get("sha256") is not None:
        yield (*at, "sha256"), "sha256 belongs to one file; the digests of a folder's files are in the lock"


def _repeated(paths: dict[int, str]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, path in paths.items():
        if first.setdefault(path, index) != index:
            yield ("models", "files", index, "path"), f"an earlier entry has the path {path!r} already"


def _empty_mounts(mounts: dict[str, Any], paths: list[str]) -> Iterator[Finding]:
    for folder in mounts:
        if paths and not any(path.startswith(f"{folder.rstrip('/')}/") for path in paths):
            yield ("image", "mounts", folder), f"{folder!r} is mounted, but no entry of models.files lies in it"


def _mounted_twice(mounts: dict[str, Any]) -> Iterator[Finding]:
    seen: set[str] = set()
    for folder, where in mounts.items():
        if isinstance(where, str) and where in seen:
            yield ("image", "mounts", folder), f"another folder is mounted at {where} already"
        elif isinstance(where, str):
            seen.add(where)


def _mounted_inside(mounts: dict[str, Any], paths: list[str]) -> Iterator[Finding]:
    """No container starts where a mount lies in another one that has no folder for it: mounts are read-only."""
    places = {folder: PurePosixPath(where) for folder, where in mounts.items() if isinstance(where, str)}
    for (inside, inner), (around, outer) in itertools.permutations(places.items(), 2):
        if inner == outer or not inner.is_relative_to(outer):
            continue
        needed = f"{around.rstrip('/')}/{inner.relative_to(outer)}/"
        if paths and not any(_provides(path, needed) for path in paths):
            message = f"{inner} lies in what is mounted read-only at {outer}, which has no folder {needed} for it"
            yield ("image", "mounts", inside), message


def _idle_needs(needs: list[Any], paths: list[str], mounts: list[str]) -> Iterator[Finding]:
    for index, need in enumerate(needs):
        at = ("image", "needs", index)
        if not isinstance(need, str):
            continue
        if need in needs[:index]:
            yield at, f"{need!r} stands here already"
        elif paths and not any(_provides(path, need) for path in paths):
            folder = f"; a folder is written {need}/" if any(_provides(path, f"{need}/") for path in paths) else ""
            yield at, f"{need!r} is needed, but no entry of models.files provides it{folder}"
        elif mounts and not any(need.startswith(f"{folder.rstrip('/')}/") for folder in mounts):
            yield at, f"{need!r} is needed, but no folder of image.mounts shows it"


def _provides(path: str, need: str) -> bool:
    """Return whether an entry can bring the file, or any file of the folder; the lock says what a folder brings."""
    return (
        path == need or (path.endswith("/") and need.startswith(path)) or (need.endswith("/") and path.startswith(need))
    )


def _at(data: Any, *keys: str) -> Any:
    for key in keys:
        data = _mapping(data).get(key)
    return data


def _mapping(data: Any) -> dict[str, Any]:
    return data if isinstance(data, dict) else {}


def _list(data: Any) -> list[Any]:
    return data if isinstance(data, list) else []
