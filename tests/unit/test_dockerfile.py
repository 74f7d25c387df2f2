"""The generated Dockerfile and .dockerignore: what they say, and that no text of the manifest becomes syntax."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake.generate import dockerfile
from splitbake.generate.dockerfile import Copy
from splitbake.generate.mark import MARK
from splitbake.lock import Lock
from splitbake.manifest import Image, Manifest

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


def texts(**changes) -> tuple[str, str]:
    manifest = Manifest.model_construct(project="video", image=image(**changes))
    base_image, base_ami = SimpleNamespace(digest=DIGEST), SimpleNamespace(architecture="x86_64")
    lock = Lock.model_construct(base_image=base_image, base_ami=base_ami)
    rendered = dockerfile.render(manifest, lock)
    return rendered[dockerfile.DOCKERFILE], rendered[dockerfile.IGNORE_FILE]


def instructions(text: str) -> list[tuple[str, str]]:
    """Read a Dockerfile as Docker does: comments out, continued lines joined, the first word names the instruction."""
    lines = [line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.split("\n"))]


def arguments(text: str, wanted: str) -> list[list[str]]:
    return [json.loads(rest) for word, rest in instructions(text) if word == wanted and rest.startswith("[")]


def test_the_whole_of_a_plain_image():
    text, ignore = texts(exclude=["**/*.csv"])
    assert text == (
        f"{MARK}\n\n"
        f"FROM docker.io/library/python:3.11-slim@{DIGEST} AS base\n\n"
        "FROM base\n"
        "ENV PYTHONDONTWRITEBYTECODE=1 \\\n    PYTHONUNBUFFERED=1 \\\n    HOME=/tmp\n"
        "WORKDIR /app\n"
        'COPY [".splitbake/", "/opt/splitbake/"]\n'
        'COPY ["lib/", "lib/"]\n'
        'COPY ["run.py", "./"]\n'
        "USER 10001:10001\n"
        'ENTRYPOINT ["/opt/splitbake/entry"]\n'
        'CMD ["python", "run.py"]\n'
        "LABEL org.opencontainers.image.title=video \\\n"
        "    org.opencontainers.image.base.name=docker.io/library/python:3.11-slim \\\n"
        f"    org.opencontainers.image.base.digest={DIGEST} \\\n"
        "    splitbake.contract=1 \\\n"
        '    splitbake.needs="[\\"models/\\"]"\n'
        'ARG FINGERPRINT=""\nARG REVISION=""\n'
        'LABEL splitbake.fingerprint="$FINGERPRINT" \\\n'
        '    org.opencontainers.image.revision="$REVISION"\n'
    )
    assert ignore.splitlines()[1:] == [
        *("*", "!lib/", "!run.py", "**/*.csv", "**/*.csv/**", "**/__pycache__/**", ".splitbake/"),
        *("!.splitbake/entry", "!.splitbake/needs"),
    ]


def test_a_base_in_ecr_names_no_registry():
    text, _ = texts(base="ecr://docker-hub/library/python:3.11-slim")
    assert [rest for word, rest in instructions(text) if word in {"ARG", "FROM"}][:2] == [
        "REGISTRY",
        f"${{REGISTRY}}/docker-hub/library/python@{DIGEST} AS base",
    ]


def test_dependencies_have_a_stage_of_their_own_and_leave_no_secret():
    text, ignore = texts(requirements="requirements.txt")
    run = next(rest for word, rest in instructions(text) if word == "RUN")
    assert "--mount=type=secret,id=ca" in run
    assert "--mount=type=cache" in run
    assert "--only-binary :all:" in run
    assert 'COPY --from=dependencies ["/opt/python", "/opt/python"]' in text
    assert "!requirements.txt" in ignore.splitlines()


def test_only_what_the_oldest_frontend_knows():
    text, _ = texts(requirements="requirements.txt", include=["a/**/*.py", "*.py"])
    assert not re.search(r"^# *syntax|<<|--link|--exclude|--parents", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("pattern", "copy"),
    [
        ("run.py", Copy("run.py", "./")),
        ("lib/", Copy("lib/", "lib/")),
        ("a/b/*.py", Copy("a/b/*.py", "a/b/")),
        ("a/**/*.py", Copy("a/", "a/")),
        ("a/*/x.py", Copy("a/", "a/")),
        ("a/lib*/", Copy("a/", "a/")),
        ("**", Copy("./", "./")),
        ("*", Copy("./", "./")),
        ("?splitbake", Copy("./", "./")),
        ("*.py", Copy("*.py", "./")),
        ("it's $x.py", Copy("it?s ?x.py", "./")),
    ],
)
def test_the_copy_of_a_pattern(pattern, copy):
    assert dockerfile.copies(image(include=[pattern])) == [copy]


@pytest.mark.parametrize(
    ("copy", "path", "landing"),
    [
        (Copy("lib/", "lib/"), "lib/a/b.py", "lib/a/b.py"),
        (Copy("lib", "./"), "lib/a.py", "a.py"),
        (Copy("*.py", "./"), "x.py/a.txt", "a.txt"),
        (Copy("*.py", "./"), "lib/x.py", None),
        (Copy("./", "./"), "lib/x.py", "lib/x.py"),
    ],
)
def test_where_a_copy_puts_a_file(copy, path, landing):
    assert copy.landing(path) == landing


@given(folder=names, file=names, command=names, workdir=names, requirements=names)
def test_odd_names_stay_values(folder, file, command, workdir, requirements):
    plain, plain_ignore = texts(include=["a/", "a/b"], command=["a"], workdir="/a", requirements="b", exclude=["c"])
    text, ignore = texts(
        include=[f"{folder}/", f"{folder}/{file}"],
        command=[command],
        workdir=f"/{workdir}",
        requirements=requirements,
        exclude=[file],
    )
    assert [word for word, _ in instructions(text)] == [word for word, _ in instructions(plain)]
    assert arguments(text, "CMD") == [[command]]
    assert len(arguments(text, "COPY")) == len(arguments(plain, "COPY"))
    for source, target in arguments(text, "COPY"):
        assert not re.search(r"""['"\\$\[]""", source)
        assert not re.search(r"""(?<!\\)(\\\\)*['"$]""", target)
    assert len(ignore.split("\n")) == len(plain_ignore.split("\n"))
    assert not any(line.startswith("#") for line in ignore.split("\n")[1:])
