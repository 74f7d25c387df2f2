"""The image that builds run in: the one of the instances, with the AWS CLI and an agent that runs the buildspec.

It is made at the first build, once a machine, and kept beside the base images. Whatever image a project names, this is
the one: AWS's own are on no hub that a test could rely on.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from splitbake.errors import ToolError
from splitbake.local.images import BASE_LABEL, cache
from splitbake.local.state import locked
from splitbake.sources.wheels import uv

#: Debian's own is too old to know AWS_ENDPOINT_URL.
AWS_CLI: Final = "awscli==1.46.3"
#: Debian 12's Python, which runs it.
PYTHON: Final = "3.11"

_FILES: Final = {"aws": "usr/local/bin/aws", "boot": "usr/lib/splitbake/boot", "agent": "usr/lib/splitbake/agent"}
_DOCKERFILE: Final = """\
FROM {base}
COPY root/ /
RUN python3 -m compileall -q /opt/awscli
ENTRYPOINT []
CMD []
"""
#: Of the AWS CLI: texts of its help.
_LEFT_OUT: Final = "awscli/examples"


def ensure(client: Any, base: str) -> str:
    """Make sure that the image is in the engine, and return its name.

    Args:
        client: the engine.
        base: id of the instances' image.

    Raises:
        ToolError: the AWS CLI cannot be had.
        docker.errors.DockerException: the engine cannot build it.
    """
    import docker

    digest = _digest(base)
    tag = f"splitbake/codebuild:{digest[:12]}"
    with locked(cache() / "codebuild.lock"):
        try:
            client.images.get(tag)
        except docker.errors.ImageNotFound:
            archive = cache() / f"codebuild-{digest[:12]}.tar"
            if not archive.exists():
                _pack(base, archive)
            with archive.open("rb") as file:
                client.images.build(
                    fileobj=file,
                    custom_context=True,
                    tag=tag,
                    labels={BASE_LABEL: digest},
                    network_mode="none",
                    rm=True,
                    forcerm=True,
                )
    return tag


def _digest(base: str) -> str:
    parts = [base, AWS_CLI, PYTHON, _DOCKERFILE, _LEFT_OUT, *(f"{at}\0{_text(name)}" for name, at in _FILES.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _text(name: str) -> str:
    return (Path(str(files("splitbake.local"))) / "recipes" / "codebuild" / name).read_text(encoding="utf-8")


def _pack(base: str, archive: Path) -> None:
    """Write what the engine builds the image from; all of it or nothing."""
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix="codebuild-") as name:
        scratch = Path(name)
        _install(scratch / "awscli")
        partial = scratch / "context.tar"
        with tarfile.open(partial, "w") as tar:
            _add(tar, "Dockerfile", _DOCKERFILE.format(base=base), 0o644)
            for source, at in _FILES.items():
                _add(tar, f"root/{at}", _text(source), 0o755)
            tar.add(scratch / "awscli", "root/opt/awscli", filter=_root)
        for older in archive.parent.glob("codebuild-*.tar"):
            older.unlink()
        partial.replace(archive)


def _install(folder: Path) -> None:
    """Install the AWS CLI by the machine's own settings of package indexes.

    Raises:
        ToolError: uv cannot.
    """
    argv = [uv(), "pip", "install", "--quiet", "--target", str(folder), "--python-version", PYTHON]
    argv += ["--only-binary", ":all:", "--link-mode", "copy", AWS_CLI]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ToolError(
            f"The local cloud cannot get {AWS_CLI} for its builds:\n{done.stderr.strip()}",
            hint="It comes from a Python package index; see uv's settings (UV_DEFAULT_INDEX, SSL_CERT_FILE).",
        )


def _add(tar: tarfile.TarFile, name: str, text: str, mode: int) -> None:
    header, content = tarfile.TarInfo(name), text.encode()
    header.size, header.mode = len(content), mode
    tar.addfile(header, io.BytesIO(content))


def _root(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Give a file to root, or leave it out."""
    if f"/{_LEFT_OUT}/" in f"{member.name}/":
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
