"""What moved from one lock to the next, in words."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from splitbake import runtime as runtimes
from splitbake.lock import Lock, LockedBaseAmi, LockedFile

#: Paths that one line names before it only counts them.
_NAMED = 5
#: What is told of a file beside its content -> what it means when it changes and the content does not.
_SIGNS = {
    "version": "another version",
    "etag": "another entity tag",
    "modified": "another time of change",
    "checksum": "another checksum of its source",
}
#: A file of the Hugging Face Hub: repository, commit, path.
_AT_COMMIT = re.compile(r"(hf://[^@]+)@([^/]+)/(.*)")


def differences(old: Lock | None, new: Lock) -> list[str]:
    """Say in words what moved from ``old`` (None: there was none) to ``new``; empty where nothing did."""
    if old is None:
        models = [f"model new: {file.path}" for file in new.files]
        runtime = runtimes.differences(None, new.runtime)
        return [f"base AMI: {_named(new.base_ami)}", f"base image: {_image(new)}", *models, *runtime]
    moved = [*_base(old, new), *_models(old.files, new.files), *runtimes.differences(old.runtime, new.runtime)]
    if old.order != new.order:
        moved.append(f"order of the layers: {_layers(old)} -> {_layers(new)}")
    if not moved and old.models != new.models:
        moved.append("models.files is divided into other entries; the files are the same")
    return moved


def _base(old: Lock, new: Lock) -> Iterator[str]:
    before, after = old.base_ami, new.base_ami
    if before.id != after.id or before.request != after.request:
        yield f"base AMI: {_named(before)} -> {_named(after)}"
    elif before != after:
        said = after.model_dump()
        told = [f"{key} {value} -> {said[key]}" for key, value in before.model_dump().items() if value != said[key]]
        yield f"base AMI: {after.id} is the same, but {'; '.join(told)}"
    if old.base_image != new.base_image:
        yield f"base image: {_image(old)} -> {_image(new)}"


def _models(old: Sequence[LockedFile], new: Sequence[LockedFile]) -> Iterator[str]:
    """Yield one line for each file whose content moved, and one for all of which the same can be said."""
    before, after = ({file.path: file for file in files} for files in (old, new))
    for path in sorted(before.keys() - after.keys()):
        yield f"model gone: {path}"
    for path in sorted(after.keys() - before.keys()):
        yield f"model new: {path}"
    said = defaultdict(list)
    for path in sorted(before.keys() & after.keys()):
        if how := _change(before[path], after[path]):
            said[how].append(path)
    for how, paths in said.items():
        more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
        yield f"model {how}: {', '.join(paths[:_NAMED])}{more}"


def _change(before: LockedFile, after: LockedFile) -> str:
    if before.sha256 != after.sha256:
        return f"changed (sha256 {before.sha256[:12]} -> {after.sha256[:12]}, {before.size} -> {after.size} bytes)"
    if before.source != after.source:
        old, new = _AT_COMMIT.fullmatch(before.source), _AT_COMMIT.fullmatch(after.source)
        if old and new and (old[1], old[3]) == (new[1], new[3]):
            return f"comes from another commit of {new[1]} with equal content ({old[2]} -> {new[2]})"
        return f"comes from elsewhere with equal content ({before.source} -> {after.source})"
    told = [name for name in (*_SIGNS, "resolved") if getattr(before, name) != getattr(after, name)]
    if all(getattr(before, name) is None for name in told):
        return f"is described more closely ({', '.join(told)})" if told else ""
    signs = [_SIGNS[name] for name in told if name in _SIGNS]
    if signs:
        return f"was written anew with equal content ({', '.join(signs)})"
    return f"is reached at another address ({before.resolved} -> {after.resolved or after.source})"


def _named(base: LockedBaseAmi) -> str:
    return f"{base.id} ({base.name}, of {base.created[:10]}, {base.region}, from {base.request})"


def _image(lock: Lock) -> str:
    return f"{lock.base_image.digest} ({lock.base_image.request})"


def _layers(lock: Lock) -> str:
    return ", ".join(lock.order) if lock.order else "as declared"
