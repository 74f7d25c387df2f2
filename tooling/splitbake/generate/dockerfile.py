"""The Dockerfile of the image half, its default-deny ``.dockerignore``, and the entry check that it copies.

Only what BuildKit's oldest built-in frontend knows (Engine 20.10): no ``# syntax=`` line, which would need an image
hub, no heredocs, no ``COPY --link`` or ``--exclude``. Every text from the manifest goes through one of
the small writers at the end, so that it is a value wherever it stands and never an instruction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from splitbake import contract, patterns
from splitbake.generate import entrypoint
from splitbake.generate.mark import MARK
from splitbake.lock import Lock
from splitbake.manifest import Image, Manifest
from splitbake.sources import base_image

DOCKERFILE = "dockerfiles/Dockerfile"
IGNORE_FILE = f"{DOCKERFILE}.dockerignore"

#: Where the distributions of image.requirements lie in the image.
SITE = "/opt/python"
#: Label with the fingerprint of everything that the image was made from.
FINGERPRINT_LABEL = "splitbake.fingerprint"
#: Labels with the contract that the image was made for, and the JSON list of the models that it needs.
CONTRACT_LABEL = "splitbake.contract"
NEEDS_LABEL = "splitbake.needs"
#: What running Python leaves beside its sources, and the folder that is splitbake's own: neither ever travels.
LEFTOVERS = ("**/__pycache__/", f"{contract.FOLDER}/")

_DEPENDENCIES = """\
# pip and its cache stay behind in this stage. A CA bundle comes as a secret, so that no layer ever holds one. Hashes in
# the requirements file make pip insist on them for every distribution (its hash-checking mode).
FROM base AS dependencies
# Some bases start as another user; nothing of this stage runs later.
# hadolint ignore=DL3002
USER 0
COPY {copy}
RUN --mount=type=cache,target=/root/.cache/pip \\
    --mount=type=secret,id=ca \\
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \\
    python3 -m pip install --disable-pip-version-check --no-input --progress-bar off \\
        --root-user-action=ignore --only-binary :all: --target {site} --requirement /requirements.txt
"""


#: A .pth file, so that what the runtime itself brings as .pth is read as well; PYTHONPATH does not do that.
_RUNTIME = (
    "# The runtime of the host, reached from this Python and refused by any other. Some bases start as another user.",
    "# hadolint ignore=DL3002",
    "USER 0",
)
_REACH = (
    "import pathlib, sys, sysconfig; root, wanted = sys.argv[1:]; found = '%d.%d' % sys.version_info[:2]; "
    "found == wanted or sys.exit(f'splitbake: this image has Python {found}, runtime.python is {wanted}'); "
    "pathlib.Path(sysconfig.get_path('purelib'), 'splitbake-runtime.pth').write_text("
    "f'import site; site.addsitedir({root!r})\\n', encoding='utf-8')"
)


@dataclass(frozen=True)
class Copy:
    """One ``COPY`` of the final stage.

    Attributes:
        source: a file, a glob for files of one folder, or a folder (with ``/`` at its end).
        target: the folder it goes to, relative to the working directory.
    """

    source: str
    target: str

    def landing(self, path: str) -> str | None:
        """Return where this instruction puts the file ``path`` of the build context, None where it leaves it.

        What BuildKit does: a folder's content goes into the target without the folder's own name.
        """
        if self.source == "./":
            return path
        folder = PurePosixPath(self.target)
        if not self.source.endswith("/") and patterns.names(self.source, path):
            return str(folder / PurePosixPath(path).name)
        for parent in PurePosixPath(path).parents:
            if patterns.names(self.source, str(parent)):
                return str(folder / PurePosixPath(path).relative_to(parent))
        return None


def render(manifest: Manifest, lock: Lock) -> dict[str, str]:
    """Return the generated files: path below the project's folder -> text.

    Raises:
        SourceError: ``image.base`` is not the name of an image.
    """
    texts = {DOCKERFILE: _dockerfile(manifest, lock), IGNORE_FILE: _ignore_file(manifest.image)}
    return texts | entrypoint.render(manifest, lock)


def copies(image: Image) -> list[Copy]:
    """Return what the final stage copies, in the order of ``image.include``: a layer each, what changes least first."""
    return list(dict.fromkeys(map(_copy, image.include)))


def excluded(image: Image) -> tuple[str, ...]:
    """Return the patterns that are taken out again: the manifest's, and what never travels."""
    return (*image.exclude, *LEFTOVERS)


def _copy(pattern: str) -> Copy:
    """Return the ``COPY`` that takes the files of ``pattern``.

    COPY knows wildcards only within one folder; for a pattern beyond that it takes the folder where the wildcards
    start, out of which the build context offers nothing but what is included. So it does where a wildcard fits the
    name of our own folder, whose files COPY would put among those of the context.
    """
    path = PurePosixPath(pattern)
    *folders, last = path.parts
    if any(map(patterns.is_glob, folders)) or "**" in last or (pattern.endswith("/") and patterns.is_glob(last)):
        fixed = next(index for index, part in enumerate(path.parts) if patterns.is_glob(part))
        path = PurePosixPath(*path.parts[:fixed])
    elif patterns.names(pattern, contract.FOLDER):
        path = PurePosixPath()
    elif not pattern.endswith("/"):
        return Copy(_copy_source(str(path)), _relative(path.parent))
    return Copy(_copy_source(_relative(path)), _relative(path))


def _relative(folder: PurePosixPath) -> str:
    return "./" if folder == PurePosixPath() else f"{folder}/"


def _copy_source(path: str) -> str:
    """Write what COPY would take for syntax as the wildcard ``?``.

    Quotes, dollar signs and backslashes in a source are read differently by old and new BuildKit, and ``[`` starts a
    class; a ``?`` means the same everywhere. ``context`` refuses a project where it would take another file too.
    """
    return re.sub(r"""['"\\$\[]""", "?", path)


def _dockerfile(manifest: Manifest, lock: Lock) -> str:
    image = manifest.image
    base = base_image.parse(image.base)
    lines = [f"{MARK}\n", *_base_stage(base, lock.base_image.digest)]
    if image.requirements:
        copy = _exec([_copy_source(image.requirements), "/requirements.txt"])
        lines.append(_DEPENDENCIES.format(copy=copy, site=SITE))
    lines += ["FROM base", *_environment(image)]
    if manifest.runtime:
        lines += [*_RUNTIME, f"RUN {_exec(['python3', '-c', _REACH, manifest.runtime.root, manifest.runtime.python])}"]
    lines.append(f"WORKDIR {_quoted(image.workdir)}")
    if image.requirements:
        lines.append(f"COPY --from=dependencies {_exec([SITE, SITE])}")
    lines.append(f"COPY {_exec([f'{contract.FOLDER}/', f'{contract.IN_IMAGE}/'])}")
    lines += [f"COPY {_exec([copy.source, _expandable(copy.target)])}" for copy in copies(image)]
    lines += [f"USER {image.uid}:{image.uid}", f"ENTRYPOINT {_exec([contract.ENTRY])}", f"CMD {_exec(image.command)}"]
    lines += _labels(manifest, base, lock.base_image.digest)
    return "\n".join(lines) + "\n"


def _base_stage(base: base_image.BaseImage, digest: str) -> list[str]:
    if base.in_ecr:
        return [
            f"# Tag {base.tag} when it was locked, in the account's own registry; splitbake build fills in its host.",
            "ARG REGISTRY",
            f"FROM ${{REGISTRY}}/{base.repository}@{digest} AS base\n",
        ]
    return [f"FROM {base.host}/{base.repository}:{base.tag}@{digest} AS base\n"]


def _environment(image: Image) -> list[str]:
    """Return the settings for a container that may not write: no bytecode, and a home where a tmpfs can be."""
    settings = ["PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", "HOME=/tmp"]
    if image.requirements:
        settings += [f"PYTHONPATH={SITE}", f"PATH={SITE}/bin:$PATH"]
    return ["ENV " + " \\\n    ".join(settings)]


def _labels(manifest: Manifest, base: base_image.BaseImage, digest: str) -> list[str]:
    """Return the labels; what differs from build to build comes last and costs no layer."""
    name = f"{base.host}/{base.repository}:{base.tag}" if base.host else manifest.image.base
    return [
        f"LABEL org.opencontainers.image.title={_quoted(manifest.project)} \\",
        f"    org.opencontainers.image.base.name={_quoted(name)} \\",
        f"    org.opencontainers.image.base.digest={_quoted(digest)} \\",
        f"    {CONTRACT_LABEL}={manifest.contract} \\",
        f"    {NEEDS_LABEL}={_quoted(_exec(contract.needed_paths(manifest.image)))}",
        'ARG FINGERPRINT=""',
        'ARG REVISION=""',
        f'LABEL {FINGERPRINT_LABEL}="$FINGERPRINT" \\',
        '    org.opencontainers.image.revision="$REVISION"',
    ]


def _ignore_file(image: Image) -> str:
    """Deny all, allow what is included, take out what never travels; the last line that fits a file counts."""
    lines = ["*", *(f"!{line}" for pattern in image.include for line in _ignore_lines(pattern))]
    lines += [line for pattern in excluded(image) for line in _ignore_lines(pattern)]
    if image.requirements:
        lines.append(f"!{_ignore_pattern(image.requirements)}")
    lines += [f"!{path}" for path in entrypoint.STAGED]
    return "\n".join([MARK, *lines]) + "\n"


def _ignore_lines(pattern: str) -> list[str]:
    """Write ``pattern`` so that a folder it names goes with everything below: older Dockers miss that after ``**``."""
    line = _ignore_pattern(pattern)
    if "**" not in pattern or pattern.endswith("**"):
        return [line]
    return [f"{line}**"] if line.endswith("/") else [line, f"{line}/**"]


def _ignore_pattern(pattern: str) -> str:
    """Write ``pattern`` for .dockerignore: literal characters with a meaning there become classes of one.

    Docker turns a line into a regular expression and older ones escape only ``.`` and ``$`` in it
    (moby/patternmatcher); ``#`` and ``!`` have a meaning at the start, and blanks at both ends are dropped.
    """
    text = re.sub(r"[\\\[\]^+(){}|]", lambda found: _class(found[0]), pattern)
    return re.sub(r"^[#! ]| (?=/?$)", lambda found: _class(found[0]), text)


def _class(character: str) -> str:
    return f"[\\{character}]" if character in "\\]^" else f"[{character}]"


def _quoted(text: str) -> str:
    """Write a value of LABEL, ENV or WORKDIR: in double quotes only three characters have a meaning."""
    if re.fullmatch(r"[\w.:/@+-]+", text, re.ASCII):
        return text
    return '"' + re.sub(r'(["\\$])', r"\\\1", text) + '"'


def _expandable(text: str) -> str:
    """Write the target of COPY, in which Docker expands variables and reads shell quotes even in the JSON form."""
    return re.sub(r"""(['"\\$])""", r"\\\1", text)


def _exec(arguments: Sequence[str]) -> str:
    """Write the JSON form of CMD, COPY and ENTRYPOINT."""
    return json.dumps(list(arguments), ensure_ascii=False)
