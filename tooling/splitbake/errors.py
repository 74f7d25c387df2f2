"""Every error that splitbake raises on purpose, and its exit code.

An error says what happened, where, and what to do. The command line prints it as one paragraph and leaves
with the exit code of its class; with ``--json`` it prints ``{"error": {"code", "message", "hint"}}``.

Exit codes: 0 done; 1 an error; 2 a difference or a finding (only from ``--check``, ``--exit-code``, ``verify``,
``doctor``, ``local status``); 64 a wrong call of the command line (``EX_USAGE`` of sysexits.h); 130 interrupted
(128 + SIGINT).
"""

from __future__ import annotations

from typing import ClassVar


class SplitbakeError(Exception):
    """Base of all errors meant for the user.

    Attributes:
        message: what happened and where, one sentence or a few lines.
        hint: what to do about it; may be empty where the message already says so.
        code: a stable machine-readable name for scripts.
        exit_code: the exit status of the process.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SplitbakeError):
    """The command line was called in a way that cannot mean anything."""

    code = "usage"
    exit_code = 64


class ManifestError(SplitbakeError):
    """The manifest is wrong; the message lists every problem with file:line:column."""

    code = "manifest"


class LockError(SplitbakeError):
    """The lock is missing, unreadable, or does not belong to this manifest."""

    code = "lock"


class SourceError(SplitbakeError):
    """A model, base AMI or base image cannot be resolved or fetched."""

    code = "source"


class ToolError(SplitbakeError):
    """An external program (Packer, Docker, Terraform, …) is missing, too old, or failed."""

    code = "tool"


class CloudError(SplitbakeError):
    """An AWS call failed, or what it found is not what the release needs."""

    code = "cloud"


class GuardError(SplitbakeError):
    """The credentials, region or endpoint in use are not those of the chosen environment."""

    code = "guard"


class BuildError(SplitbakeError):
    """A bake or an image build failed."""

    code = "build"


class VerifyError(SplitbakeError):
    """A verification could not be run to its end (a failed check is a finding, not this error)."""

    code = "verify"


class PatchError(SplitbakeError):
    """A Terraform text cannot be patched as asked; nothing was written."""

    code = "patch"


class ReleaseError(SplitbakeError):
    """A release cannot be planned or did not come to its end."""

    code = "release"


class StateError(SplitbakeError):
    """The state (records, artifacts, reports) cannot be read or written."""

    code = "state"


class HeldError(StateError):
    """Somebody else holds the lease that this work needs."""

    code = "held"


class LocalCloudError(SplitbakeError):
    """The local cloud cannot be started, reached or stopped."""

    code = "local-cloud"


class InternalError(SplitbakeError):
    """A bug of splitbake: an exception that nobody expected."""

    code = "internal"


class InterruptError(SplitbakeError):
    """The user or the machine ended the command (Ctrl-C, SIGTERM, SIGHUP); what had begun was cleaned up."""

    code = "interrupted"
    exit_code = 130


def printable(text: str) -> str:
    """Escape what a terminal, or a runner that reads its log line by line, may take for a command: names hold it."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
