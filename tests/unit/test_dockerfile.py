"""The generated Dockerfile: what it says, and that no text of the manifest becomes syntax."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
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
from splitbake.manifest.runtime import Runtime

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


def text(runtime: Runtime | None = None, **changes) -> str:
    manifest = Manifest.model_construct(project="video", image=image(**changes), runtime=runtime)
    base_image, base_ami = SimpleNamespace(digest=DIGEST), SimpleNamespace(architecture="x86_64")
    locked = SimpleNamespace(python=runtime.python, platform="x86_64-manylinux_2_28") if runtime else None
    return dockerfile.text(manifest, Lock.model_construct(base_image=base_image, base_ami=base_ami, runtime=locked))


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


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"requirements": "r"},
        {"requirements": "r", "installer": "pip"},
        {"runtime": Runtime(requirements="r", python="3.11", budget="1 GB")},
    ],
)
def test_hadolint_finds_nothing(changes, tmp_path):
    (tmp_path / "Dockerfile").write_text(text(**changes), encoding="utf-8")
    done = subprocess.run(["hadolint", tmp_path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# The runtime, judged by the Python of the base image

#: What the Python of an image that fits tells of itself.
FITS = {
    "implementation": "cpython",
    "version": (3, 11, 2),
    "soabi": "cpython-311-x86_64-linux-gnu",
    "machine": "x86_64",
    "libc": "glibc 2.28",
}
#: Makes this very Python tell something else.
ANOTHER = """
import json, os, platform, sys, sysconfig
told = json.loads(os.environ["TOLD"])
sys.implementation.name, sys.version_info = told["implementation"], tuple(told["version"])
platform.machine = lambda: told["machine"]
sysconfig.get_config_var = {"SOABI": told["soabi"]}.get
sysconfig.get_path = lambda _name: os.environ["SITE"]
def confstr(name):
    if told["libc"] is None:
        raise OSError("what musl does")
    return {"CS_GNU_LIBC_VERSION": told["libc"]}[name]
os.confstr = confstr
"""


def judged(site: Path, **told) -> subprocess.CompletedProcess[str]:
    """Run what the Dockerfile runs in a base image of which ``told`` is true."""
    made = text(Runtime(requirements="gpu.txt", python="3.11", root="/opt/it's", budget="1 GB"))
    python, option, program, *arguments = json.loads(run_of(made))
    assert (python, option) == ("python3", "-c")
    environment = {"TOLD": json.dumps(FITS | told), "SITE": str(site)}
    argv = [sys.executable, "-c", ANOTHER + program, *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("libc", ["glibc 2.28", "glibc 2.100"])
def test_a_base_that_fits_the_locked_runtime_gets_the_way_to_it(tmp_path, libc):
    done = judged(tmp_path, libc=libc)
    assert (done.returncode, done.stderr) == (0, "")
    (file,) = tmp_path.iterdir()
    assert file.name == "splitbake-runtime.pth"
    assert file.read_text() == 'import site; site.addsitedir("/opt/it\'s")\n'


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (
            {"version": (3, 12, 0), "soabi": "cpython-312-x86_64-linux-gnu"},
            "this image has Python 3.12, runtime.python is 3.11",
        ),
        (
            {"implementation": "pypy", "soabi": "pypy311-pp73-x86_64-linux-gnu"},
            "this image has pypy, the runtime is for cpython",
        ),
        (
            {"soabi": "cpython-311t-x86_64-linux-gnu"},
            "the Python of this image has the ABI cpython-311t-x86_64-linux-gnu, the runtime is for cpython-311",
        ),
        (
            {"soabi": None},
            "the Python of this image has the ABI unknown, the runtime is for cpython-311",
        ),
        ({"machine": "aarch64"}, "this image is for aarch64, the runtime is for x86_64"),
        ({"libc": "glibc 2.27"}, "this image has glibc 2.27, the runtime is locked for glibc 2.28 and later"),
        ({"libc": None}, "this image has no glibc, the runtime is locked for glibc 2.28 and later"),
        ({"libc": ""}, "this image has no glibc, the runtime is locked for glibc 2.28 and later"),
    ],
)
def test_a_base_that_cannot_run_the_locked_runtime_is_refused_with_one_line(tmp_path, told, line):
    done = judged(tmp_path, **told)
    assert (done.returncode, done.stderr) == (1, f"splitbake: {line}\n")
    assert not [*tmp_path.iterdir()]


def test_each_thing_that_does_not_fit_is_told(tmp_path):
    done = judged(tmp_path, machine="aarch64", libc="glibc 2.17")
    assert [line.split()[3] for line in done.stderr.splitlines()] == ["is", "has"]


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
