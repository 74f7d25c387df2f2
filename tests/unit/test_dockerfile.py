"""The generated Dockerfile: what it says, and that no text of the manifest becomes syntax."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from splitbake.generate import dockerfile
from splitbake.generate.mark import MARK
from splitbake.lock import Lock
from splitbake.manifest import Manifest
from splitbake.manifest.image import Image

DIGEST = f"sha256:{'a' * 64}"
names = st.text(st.characters(exclude_categories=["C"], exclude_characters="/*?"), min_size=1).filter(
    lambda name: name not in {".", ".."}
)


def image(**changes) -> Image:
    plain = {
        "base": "python:3.11-slim",
        "include": ["lib/", "run.py"],
        "mounts": {"models": "/workspace/models"},
        "command": ["python", "run.py"],
        "repository": "x",
        "budget": "1 GB",
    }
    return Image.model_validate(plain | changes)


def text(**changes) -> str:
    manifest = Manifest.model_construct(project="video", image=image(**changes))
    base_image, base_ami = SimpleNamespace(digest=DIGEST), SimpleNamespace(architecture="x86_64")
    return dockerfile.text(manifest, Lock.model_construct(base_image=base_image, base_ami=base_ami))


def instructions(text: str) -> list[tuple[str, str]]:
    """Read a Dockerfile as Docker does: comments out, continued lines joined, the first word names the instruction."""
    lines = [line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.split("\n"))]


def run_of(text: str) -> str:
    return next(rest for word, rest in instructions(text) if word == "RUN")


def test_the_whole_without_requirements():
    assert text() == (
        f"{MARK}\n\n"
        f"FROM docker.io/library/python:3.11-slim@{DIGEST} AS base\n\n"
        "FROM base\n"
        "# hadolint ignore=DL3002\nUSER 0\n"
        "ENV PYTHONDONTWRITEBYTECODE=1 \\\n    PYTHONUNBUFFERED=1 \\\n    HOME=/tmp\n"
        "WORKDIR /app\n"
        "USER 10001:10001\n"
    )


def test_a_base_in_ecr_names_no_registry():
    made = text(base="ecr://docker-hub/library/python:3.11-slim")
    assert [rest for word, rest in instructions(made) if word in {"ARG", "FROM"}][:2] == [
        "REGISTRY",
        f"${{REGISTRY}}/docker-hub/library/python@{DIGEST} AS base",
    ]


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_dependencies_have_a_stage_of_their_own_and_leave_no_secret(installer):
    made = text(requirements="a/b.txt", installer=installer, secrets=["INDEX"])
    run = run_of(made)
    assert {"--mount=type=secret,id=ca", "--mount=type=secret,id=INDEX"} <= {*run.split()}
    assert f"--mount=type=cache,target=/root/.cache/{installer}" in run
    assert run.count("--only-binary :all: --require-hashes") == (2 if installer == "uv" else 1)
    assert 'COPY --from=dependencies ["/opt/python", "/opt/python"]' in made
    assert instructions(made)[-1] == ("USER", "10001:10001")


def test_what_installs_uv_is_pinned_to_the_uv_that_locks():
    pinned = dockerfile.installers(image(requirements="r"))[dockerfile.UV]
    assert f"uv=={version('uv')} " in pinned
    assert dockerfile.installers(image()) == dockerfile.installers(image(requirements="r", installer="pip")) == {}


def test_only_what_the_oldest_frontend_knows():
    assert not re.search(r"^# *syntax|<<|COPY --link|--exclude|--parents", text(requirements="r"), re.MULTILINE)


@pytest.mark.parametrize("changes", [{}, {"requirements": "r"}, {"requirements": "r", "installer": "pip"}])
def test_hadolint_finds_nothing(changes, tmp_path):
    (tmp_path / "Dockerfile").write_text(text(**changes), encoding="utf-8")
    done = subprocess.run(["hadolint", tmp_path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@given(names, names)
def test_odd_names_stay_values(workdir, requirements):
    made = text(workdir=f"/x/{workdir}", requirements=requirements)
    plain = text(workdir="/x/a", requirements="r")
    assert [word for word, _ in instructions(made)] == [word for word, _ in instructions(plain)]
    quoted = next(rest for word, rest in instructions(made) if word == "WORKDIR")
    assert re.sub(r'\\(["\\$])', r"\1", quoted.removeprefix('"').removesuffix('"')) == f"/x/{workdir}"


@pytest.mark.parametrize("workdir", ["/lib/app", "/bin", "/var/run/x", "/proc/1"])
def test_a_workdir_that_would_hide_what_the_base_has_is_refused(workdir):
    with pytest.raises(ValidationError, match="expected a folder that no base has for a link"):
        image(workdir=workdir)
