"""What a release does, as data: steps with their calls, their inverse, and what was there before.

A target's planner returns steps; whoever shows, records or runs them needs to know nothing of the target.
"""

from __future__ import annotations

import enum
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from splitbake.hclpatch import Edit, Patch, Sources
    from splitbake.release.live import Live


class Phase(enum.IntEnum):
    """When a step is done. The host comes first: a new image must never meet an old host.

    Registering a job definition releases it at once to everyone who submits by its bare name, so JOB follows HOST.
    The image's tag goes before all of them: nothing shall be live that a lifecycle rule may expire.
    """

    TAG = 0
    TEXT = 1
    HOST = 2
    JOB = 3
    DEFAULT = 4


@dataclass(frozen=True)
class Output:
    """A value that only doing a step tells, such as the number of a new version.

    It stands in the parameters of later calls until it is known; ``predicted`` is what a dry run shows for it.
    """

    name: str
    predicted: str

    def __str__(self) -> str:
        return f"{self.predicted} (predicted)"


Outputs = Mapping[Output, str]


def resolve(value: Any, outputs: Outputs) -> Any:
    """Return ``value`` with every Output in it replaced by what it turned out to be.

    Raises:
        KeyError: one of them is not known yet.
    """
    return _replace(value, outputs.__getitem__)


def shown(value: Any, outputs: Outputs) -> Any:
    """Return ``value`` as plain data for people and records: outputs that are not known yet as predicted."""
    return _replace(value, lambda output: outputs.get(output) or str(output))


def _replace(value: Any, what: Callable[[Output], str]) -> Any:
    match value:
        case Output():
            return what(value)
        case Mapping():
            return {key: _replace(item, what) for key, item in value.items()}
        case list() | tuple():
            return [_replace(item, what) for item in value]
        case _:
            return value


@dataclass(frozen=True)
class ApiCall:
    """One AWS call.

    Attributes:
        service: as boto3 names it, for example ``ec2``.
        operation: as the API names it, for example ``ModifyLaunchTemplate``.
        parameters: all that is sent.
        changed: the part of it that a reader and the record get: never what is only carried along (user data,
            environment values).
        gives: takes the outputs out of the answer.
    """

    service: str
    operation: str
    parameters: Mapping[str, Any]
    changed: Mapping[str, Any]
    gives: Callable[[Mapping[str, Any]], Outputs] = lambda _answer: {}

    def __str__(self) -> str:
        return f"{self.service} {self.operation} {json.dumps(shown(dict(self.changed), {}))}"

    @classmethod
    def plain(cls, service: str, operation: str, **parameters: Any) -> ApiCall:
        """A call whose parameters carry nothing along: all of them are shown."""
        return cls(service, operation, parameters, parameters)


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """One change of one target.

    Attributes:
        target: which one, as the manifest names it.
        title: what is done, in a few words.
        before: what is there now, by name; nothing secret.
        after: what will be there.
        undo: the calls that take the step back.
    """

    phase: Phase
    target: str
    title: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    undo: Sequence[ApiCall] = ()

    @property
    @abstractmethod
    def calls(self) -> Sequence[ApiCall]:
        """The AWS calls it makes, none for a change of text."""

    @abstractmethod
    def apply(self, live: Live, outputs: Outputs) -> Outputs:
        """Do it; return the outputs that it gives."""

    @abstractmethod
    def verify(self, live: Live, outputs: Outputs) -> None:
        """Read back what is there now.

        Raises:
            ReleaseError: it is not what was wanted.
        """


@dataclass(frozen=True, kw_only=True)
class ApiStep(Step):
    """A change made by one AWS call.

    Attributes:
        call: the call.
        check: reads back what is there now; raises ReleaseError where it is not as wanted.
    """

    call: ApiCall
    check: Callable[[Live, Outputs], None]

    @property
    def calls(self) -> Sequence[ApiCall]:
        """See Step."""
        return (self.call,)

    def apply(self, live: Live, outputs: Outputs) -> Outputs:
        """See Step."""
        parameters = resolve(self.call.parameters, outputs)
        answer = live.call(self.call.service, self.call.operation, self.title, **parameters)
        return self.call.gives(answer)

    def verify(self, live: Live, outputs: Outputs) -> None:
        """See Step."""
        self.check(live, outputs)


@dataclass(frozen=True, kw_only=True)
class TextStep(Step):
    """A change of Terraform text; nothing applies it yet. ``root`` is the project's folder, for names of files."""

    root: Path
    sources: Sources
    patch: Patch

    @property
    def calls(self) -> Sequence[ApiCall]:
        """See Step."""
        return ()

    def diff(self, *, context: int = 3) -> str:
        """The change as a unified diff, with so many unchanged lines around."""
        return self.patch.diff(self.root, context=context)

    def apply(self, live: Live, outputs: Outputs) -> Outputs:
        """Write all files or none."""
        from splitbake import hclpatch

        hclpatch.write(self.patch)
        return {}

    def verify(self, live: Live, outputs: Outputs) -> None:
        """Nothing to ask: the patch was judged before it was written, and writing is all or nothing."""

    def restore(self) -> bool:
        """Write back what was there; return whether anything had to be.

        Raises:
            PatchError: somebody has edited a file since.
        """
        from splitbake import hclpatch

        changes = tuple(
            hclpatch.FileChange(one.path, one.after, one.before)
            for one in self.patch.changes
            if one.path.read_bytes() != one.before
        )
        return bool(hclpatch.write(hclpatch.Patch((), changes, ())))

    @classmethod
    def of(cls, sources: Sources, edits: Sequence[Edit], target: str, root: Path) -> TextStep:
        """Put ``edits`` together and have the result judged.

        Raises:
            PatchError: two edits overlap, or more than the edited values would change.
        """
        from splitbake import hclpatch

        patch = hclpatch.plan(sources, edits)
        names = {change.path: change.name(root) for change in patch.changes}
        changes = [edit for edit in edits if edit.changes]
        return cls(
            phase=Phase.TEXT,
            target=target,
            title=f"patch {', '.join(names.values())} (text only; nothing applies it yet)",
            before={f"{names[edit.path]}:{edit.line}": edit.old for edit in changes},
            after={f"{names[edit.path]}:{edit.line}": edit.new for edit in changes},
            root=root,
            sources=sources,
            patch=patch,
        )

    @classmethod
    def joined(cls, steps: Sequence[TextStep]) -> TextStep:
        """One step out of several, so that their files are written all or none, and a file is patched once."""
        from splitbake import hclpatch

        sources = hclpatch.Sources({path: source for one in steps for path, source in one.sources.by_path.items()})
        edits = [edit for one in steps for edit in one.patch.edits if edit.changes]
        return cls.of(sources, edits, ", ".join(one.target for one in steps), steps[0].root)
