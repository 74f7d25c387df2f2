"""The Dockerfile of the dependencies image: what changes rarely. The code comes on top of it without a build.

Only what BuildKit's oldest built-in frontend knows (Engine 20.10): no ``# syntax=`` line, which would need an image
hub, no heredocs. Every text from the manifest goes through one of the small writers at the end, so that it is a value
wherever it stands and never an instruction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import resources
from typing import Final

from splitbake import contract
from splitbake.generate import entrypoint
from splitbake.generate.mark import MARK
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.manifest.image import Image
from splitbake.sources import base_image

#: The generated files are below this folder; in a build context they have the same names.
FOLDER: Final = "dockerfiles"
NAME: Final = "Dockerfile"
DOCKERFILE: Final = f"{FOLDER}/{NAME}"
#: In a build context: image.requirements, and what installs uv.
REQUIREMENTS: Final = "requirements.txt"
UV: Final = "uv.txt"

#: The build secret that is a CA bundle.
CA: Final = "ca"

_SECRETS: Final = "/run/secrets"
#: What both installers are told: wheels alone, and nothing without the hash that its file says.
_PIP: Final = (
    "python3 -m pip install --disable-pip-version-check --no-input --progress-bar off --root-user-action=ignore",
    "--only-binary :all: --require-hashes",
)

#: Nothing is pushed that cannot run the locked wheels. They are reached by a .pth file, so that what the runtime itself
#: brings as .pth is read as well; PYTHONPATH does not do that.
_REACH: Final = """\
import os, pathlib, platform, sys, sysconfig
root, python, wanted = sys.argv[1:]
machine, _, glibc = wanted.partition('-manylinux_2_')
found, name = '%d.%d' % sys.version_info[:2], sys.implementation.name
soabi, abi = sysconfig.get_config_var('SOABI') or 'unknown', 'cpython-' + python.replace('.', '')
try:
    libc = os.confstr('CS_GNU_LIBC_VERSION') or ''
except (OSError, ValueError):
    libc = ''
problems = []
if found != python:
    problems.append(f'this image has Python {found}, runtime.python is {python}')
elif name != 'cpython':
    problems.append(f'this image has {name}, the runtime is for cpython')
elif not soabi.startswith(f'{abi}-'):
    problems.append(f'the Python of this image has the ABI {soabi}, the runtime is for {abi}')
if platform.machine() != machine:
    problems.append(f'this image is for {platform.machine()}, the runtime is for {machine}')
if not libc.startswith('glibc 2.') or int(libc.split('.')[1]) < int(glibc):
    problems.append(f"this image has {libc or 'no glibc'}, the runtime is locked for glibc 2.{glibc} and later")
if problems:
    sys.exit('\\n'.join(f'splitbake: {problem}' for problem in problems))
file = pathlib.Path(sysconfig.get_path('purelib'), 'splitbake-runtime.pth')
file.write_text(f'import site; site.addsitedir({root!r})\\n', encoding='utf-8')
"""


def render(manifest: Manifest, lock: Lock) -> dict[str, str]:
    """Return the generated files: path below the project's folder -> text.

    Raises:
        SourceError: ``image.base`` is not the name of an image.
    """
    beside = {f"{FOLDER}/{name}": text for name, text in installers(manifest.image).items()}
    return {DOCKERFILE: text(manifest, lock), **beside, **entrypoint.render(manifest, lock)}


def installers(image: Image) -> dict[str, str]:
    """Return what is generated beside the Dockerfile and copied by it: name -> text."""
    if image.requirements is None or image.installer == "pip":
        return {}
    pinned = resources.files("splitbake.generate").joinpath(UV).read_text(encoding="utf-8")
    return {UV: f"{MARK}\n{pinned}"}


def text(manifest: Manifest, lock: Lock) -> str:
    """Return the Dockerfile.

    Raises:
        SourceError: ``image.base`` is not the name of an image.
    """
    image = manifest.image
    base = base_image.parse(image.base)
    lines = [f"{MARK}\n", *_base_stage(base, lock.base_image.digest)]
    if image.requirements:
        lines += [*_dependencies(image), ""]
    lines += ["FROM base", *_ROOT, *_environment(image)]
    if manifest.runtime and lock.runtime:
        lines.append("# The runtime of the host, reached from this Python; a base that cannot run it is refused.")
        reach = ["python3", "-c", _REACH, manifest.runtime.root, lock.runtime.python, lock.runtime.platform]
        lines.append(f"RUN {_exec(reach)}")
    lines.append(f"WORKDIR {_quoted(image.workdir)}")
    if image.requirements:
        lines.append(f"COPY --from=dependencies {_exec([contract.SITE, contract.SITE])}")
    lines.append(f"USER {image.uid}:{image.uid}")
    return "\n".join(lines) + "\n"


#: Some bases start as another user; the last line of the Dockerfile says who runs the program.
_ROOT: Final = ("# hadolint ignore=DL3002", "USER 0")


def _dependencies(image: Image) -> list[str]:
    """Return the stage that installs; what it needs for that stays behind in it."""
    mounts = [f"--mount=type=secret,id={name}" for name in (CA, *image.secrets)]
    cache = "uv" if image.installer == "uv" else "pip"
    shell = [
        "set -eu;",
        f"if [ -s {_SECRETS}/{CA} ]; then export PIP_CERT={_SECRETS}/{CA} SSL_CERT_FILE={_SECRETS}/{CA}; fi;",
        *(f'{name}="$(cat {_SECRETS}/{name})"; export {name};' for name in image.secrets),
        *(_by_uv() if image.installer == "uv" else _by_pip()),
    ]
    run = [f"--mount=type=cache,target=/root/.cache/{cache}", *mounts, *shell]
    copied = [REQUIREMENTS, *installers(image)]
    return [
        "# The installer and its cache stay behind in this stage. Secrets are seen by this RUN alone: no layer ever",
        "# holds one, nor a CA bundle. A distribution without the hash that the requirements file says is refused.",
        "FROM base AS dependencies",
        *_ROOT,
        f"COPY {_exec([*copied, '/build/'])}",
        "RUN " + " \\\n    ".join(run),
    ]


def _by_pip() -> list[str]:
    return [*_PIP, f"--target {contract.SITE} --requirement /build/{REQUIREMENTS}"]


def _by_uv() -> list[str]:
    site = contract.SITE
    return [
        *_PIP,
        f"--no-cache-dir --target /build/uv --requirement /build/{UV};",
        '/build/uv/bin/uv pip install --no-config --no-progress --python "$(command -v python3)" --link-mode copy',
        f"--only-binary :all: --require-hashes --compile-bytecode --target {site} --requirement /build/{REQUIREMENTS};",
        f"rm -f {site}/.lock",
    ]


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
        settings += [f"PYTHONPATH={contract.SITE}", f"PATH={contract.SITE}/bin:$PATH"]
    return ["ENV " + " \\\n    ".join(settings)]


def _quoted(text: str) -> str:
    """Write a value of LABEL, ENV or WORKDIR: in double quotes only three characters have a meaning."""
    if re.fullmatch(r"[\w.:/@+-]+", text, re.ASCII):
        return text
    return '"' + re.sub(r'(["\\$])', r"\\\1", text) + '"'


def _exec(arguments: Sequence[str]) -> str:
    """Write the JSON form of CMD, COPY and ENTRYPOINT."""
    return json.dumps(list(arguments), ensure_ascii=False)
