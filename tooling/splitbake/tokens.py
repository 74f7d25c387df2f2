"""Tokens and private keys in the files of the image, found by detect-secrets.

Only those of its detectors are asked that know a secret by its own form, whatever stands around it. Guesses by the name
of a variable or by how random a text looks would refuse sound code, and a detector that asks the issuer of a token
would send it across the network; so detectors are called one by one, without the settings that do that.

A file is looked at once: the SHA-256 of what was found clean is remembered. A cache that is missing, damaged, or of
other detectors is as good as none, and so is one that cannot be written.
"""

from __future__ import annotations

import codecs
import hashlib
import importlib
import importlib.metadata
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from splitbake import digests, files
from splitbake.errors import BuildError, SplitbakeError, StateError

if TYPE_CHECKING:
    from splitbake.context import Entry

#: Below the project's folder: the digests of what was found clean.
CACHE: Final = f"{digests.FOLDER}/tokens"
#: First word of it. Change it with the meaning of anything after it, and with how a file is read.
SCHEME: Final = "splitbake-tokens-1"

#: Modules and classes in ``detect_secrets.plugins``, and a text without which they find nothing: some search slowly.
#: Not among them: what judges by the words around (Cloudant, IBM, SoftLayer), and what ARNs and plain words look like
#: (Telegram, Artifactory), documented addresses (basic auth), or any host (public IP).
_DETECTORS: Final = (
    ("aws", "AWSKeyDetector", ""),
    ("azure_storage_key", "AzureStorageKeyDetector", ""),
    ("discord", "DiscordBotTokenDetector", ""),
    ("github_token", "GitHubTokenDetector", ""),
    ("gitlab_token", "GitLabTokenDetector", ""),
    ("jwt", "JwtTokenDetector", ""),
    ("mailchimp", "MailchimpDetector", "-us"),
    ("npm", "NpmDetector", ":_authToken"),
    ("openai", "OpenAIDetector", "T3BlbkFJ"),
    ("private_key", "PrivateKeyDetector", ""),
    ("pypi_token", "PypiTokenDetector", ""),
    ("sendgrid", "SendGridDetector", ""),
    ("slack", "SlackDetector", ""),
    ("square_oauth", "SquareOAuthDetector", ""),
    ("stripe", "StripeDetector", "k_live_"),
    ("twilio", "TwilioKeyDetector", ""),
)
#: How the keys of AWS's own documentation end, and no other ones.
_EXAMPLES: Final = ("EXAMPLE", "EXAMPLEKEY")
#: So many findings are told.
_SHOWN: Final = 10
#: Bytes read at a time; a line longer than that is looked at in parts, as detectors may take time by its square.
_PART: Final = 16 * 1024
#: Characters that such parts have in common; a token is shorter.
_OVERLAP: Final = 4 * 1024
#: Bytes at the beginning of a file that tell text from anything else by having no NUL, as git has it.
_LOOK: Final = 8000
#: What became a pipe since it was looked at must not hang; a link was followed when it was looked at.
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class _Detector(Protocol):
    secret_type: str

    def analyze_string(self, string: str) -> Iterable[str]: ...


#: A line, and what is there in words.
_Place = tuple[int, str]


def refuse_tokens(root: Path, entries: Iterable[Entry], cache: Path | None = None) -> None:
    """Refuse ``entries`` that hold a token or private key; ``pragma: allowlist secret`` on its line lets one stay.

    Args:
        root: the folder that the entries lie in.
        entries: links count as the files that they lead to.
        cache: the file that remembers what was found clean; it forgets all but ``entries``.

    Raises:
        BuildError: the message says where and of which kind they are, and never what they are. Or a file cannot be
            read, or is not what ``entries`` says any more.
    """
    paths: dict[bytes, list[str]] = {}  # equal files are looked at once
    for entry in entries:
        paths.setdefault(bytes.fromhex(entry.sha256), []).append(entry.path)
    head = f"{SCHEME} {importlib.metadata.version('detect-secrets')}"
    clean = _load(cache, head) if cache else frozenset[bytes]()
    if clean.issuperset(paths):
        return
    scanner = _Scanner()
    found = {digest: scanner.places(root, named[0], digest) for digest, named in paths.items() if digest not in clean}
    if cache:
        _save(cache, head, (digest for digest in paths if not found.get(digest)))
    if findings := [(path, *place) for digest, places in found.items() for path in paths[digest] for place in places]:
        raise _refusal(root, sorted(findings))


def _refusal(root: Path, findings: Sequence[tuple[str, int, str]]) -> BuildError:
    lines = [f"  {root / path}:{line}: {kind}" for path, line, kind in findings[:_SHOWN]]
    if len(findings) > _SHOWN:
        lines.append(f"  and {len(findings) - _SHOWN} more")
    return BuildError(
        "what looks like secrets would travel into the image:\n" + "\n".join(lines),
        hint="revoke each one that is real, take it out, and hand it to the job when it starts; end the line of one "
        "that is none with the comment # pragma: allowlist secret, or leave out its file with image.exclude",
    )


class _Scanner:
    """The detectors, loaded: that takes a moment, so it is done only where something must be looked at."""

    def __init__(self) -> None:
        from detect_secrets.filters.allowlist import is_line_allowlisted
        from detect_secrets.util.code_snippet import get_code_snippet

        self._is_allowed, self._snippet = is_line_allowlisted, get_code_snippet
        self._detectors: list[tuple[_Detector, str]] = []
        for module, name, needed in _DETECTORS:
            detector = getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)
            self._detectors.append((detector(), needed))

    def places(self, root: Path, path: str, sha256: bytes) -> set[_Place]:
        """Return what is found in a file whose content must have this digest."""
        digest, before, found = hashlib.sha256(), "", set[_Place]()
        try:
            with open(root / path, "rb", buffering=0, opener=lambda name, _: os.open(name, _READ)) as file:
                for first, text in _texts(file, digest):
                    found.update((first + line, kind) for line, kind in self._find(text, before))
                    before = text[:-1].rpartition("\n")[2]
        except OSError as problem:
            raise BuildError(
                f"cannot read {root / path}: {problem.strerror}", hint="check its permissions, and build again"
            ) from problem
        if digest.digest() != sha256:
            raise BuildError(f"{root / path} changed during the build", hint="build again when it is at rest")
        return found

    def _find(self, text: str, before: str) -> Iterator[_Place]:
        """Yield line, counted from 0, and kind of each secret in ``text``; ``before`` is the line before it."""
        detectors = [one for one, needed in self._detectors if needed in text and _finds(one, text)]
        if not detectors:
            return
        for number, line in enumerate(text.split("\n")):
            kinds = [one.secret_type for one in detectors if _finds(one, line)]
            if kinds and not self._is_allowed("", line.rstrip(), self._snippet([before, line], 2)):
                yield from ((number, kind) for kind in kinds)
            before = line


def _finds(detector: _Detector, text: str) -> bool:
    return any(not found.endswith(_EXAMPLES) for found in detector.analyze_string(text))


def _texts(file: io.FileIO, digest: hashlib._Hash) -> Iterator[tuple[int, str]]:
    """Yield whole lines of a text file, and the number of the first one; nothing of other files. All is digested."""
    rest, line, block = "", 1, file.read(_PART)
    decoder = _decoder(block)
    while block:
        digest.update(block)
        if decoder:
            text = rest + decoder.decode(block)
            end = text.rfind("\n") + 1
            rest = text[end:]
            if not end and len(text) > _PART:
                end, rest = len(text), text[-_OVERLAP:]
            if end:
                yield line, text[:end]
                line += text.count("\n", 0, end)
        block = file.read(_PART)
    if rest:
        yield line, rest


def _decoder(beginning: bytes) -> codecs.IncrementalDecoder | None:
    """Return what makes text of a file that begins so; None where it is none."""
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return codecs.getincrementaldecoder("utf-16")("replace")
    return None if b"\0" in beginning[:_LOOK] else codecs.getincrementaldecoder("utf-8")("replace")


def _load(cache: Path, head: str) -> frozenset[bytes]:
    """Return the digests of what was found clean. The first line vouches for them, so nobody but ``_save`` wrote it."""
    try:
        first, _, body = cache.read_bytes().partition(b"\n")
    except OSError:
        return frozenset()
    if first != _vouching(head, body):
        return frozenset()
    return frozenset(body[at : at + _DIGEST_BYTES] for at in range(0, len(body), _DIGEST_BYTES))


def _save(cache: Path, head: str, clean: Iterable[bytes]) -> None:
    body = b"".join(sorted(clean))
    try:
        files.replace(cache.parent / ".gitignore", b"*\n", StateError)
        files.replace(cache, _vouching(head, body) + b"\n" + body, StateError)
    except SplitbakeError:
        return


def _vouching(head: str, body: bytes) -> bytes:
    return f"{head} {hashlib.sha256(body).hexdigest()}".encode()
