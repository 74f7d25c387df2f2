"""What can be run in this project; ``./run SESSION`` and ``nox -s SESSION`` are the same."""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests"]

ROOT = Path(__file__).parent
#: In this order: the cloud that an engine or end-to-end test starts stays in the environment of its process, where no
#: unit test may find it; and files that take long do not begin last.
TESTS = ("tests/unit", "tests/e2e", "tests/engine")
#: Engine and end-to-end tests mostly wait, so more of them than processors; a file's tests stay together.
SIDE_BY_SIDE = ("--numprocesses=3", "--dist=loadfile", "--no-loadscope-reorder")
PYTHON_FILES = (".", "run")


@nox.session
def demo(session: nox.Session) -> None:
    """The whole loop on this machine: bake, build, verify, release, run a job (--yes: ask nothing)."""
    install(session, "local", "example", "sbom")
    # On Ctrl-C nox would kill it after half a second; it needs longer to take its cloud down.
    session.run("python", "-m", "splitbake.demo", *session.posargs, interrupt_timeout=90, terminate_timeout=30)


@nox.session
def tests(session: nox.Session) -> None:
    """Unit, engine and end-to-end tests; arguments go to pytest (tests/unit -k lock)."""
    install(session, "local", "example", "sbom", "dev")
    if not session.posargs:
        find_tools(session, "podman")  # what is still missing then is the reason of a skipped test
    session.run("pytest", *(session.posargs or (*SIDE_BY_SIDE, *TESTS)), interrupt_timeout=90, terminate_timeout=30)


@nox.session
def faults(session: nox.Session) -> None:
    """Kill splitbake and Packer at every stage of a bake, and see that nothing is left (tests try some of them)."""
    install(session, "local", "example", "sbom", "dev")
    session.run("pytest", "tests/e2e/test_faults.py", *session.posargs, env={"SPLITBAKE_ALL_FAULTS": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what docs/benchmarks.md promises; arguments are names of benchmarks."""
    install(session, "local", "bench")
    find_tools(session, "nginx")
    # On Ctrl-C it takes down its cloud as well.
    session.run("python", "-m", "benchmarks", *session.posargs, interrupt_timeout=90, terminate_timeout=30)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types and shell scripts: ruff, mypy, shellcheck."""
    install(session, "local", "dev")
    session.run("ruff", "check", *PYTHON_FILES)
    session.run("ruff", "format", "--check", *PYTHON_FILES)
    session.run("mypy")
    session.run("mypy", "benchmarks")
    session.run("shellcheck", *shell_scripts())


@nox.session
def doctor(session: nox.Session) -> None:
    """Check the external tools; --fix --yes installs what is missing and starts the engine."""
    install(session)
    session.run("splitbake", "doctor", *session.posargs)


@nox.session
def verify(session: nox.Session) -> None:
    """Verify the AMI and the image of this project's manifest (ami or image for one of them)."""
    install(session, "local", "sbom")
    session.run("splitbake", "verify", *session.posargs)


def install(session: nox.Session, *extras: str) -> None:
    """Install the project in place, with the tested versions of everything it needs."""
    project = f".[{','.join(extras)}]" if extras else "."
    # uv leaves compiling to the first run, pip does not; where Python may not write (PYTHONDONTWRITEBYTECODE)
    # every run would compile boto3 and pydantic anew, and take twice as long to start.
    compiled = {"UV_COMPILE_BYTECODE": "1"}
    session.install("--constraint", "constraints.txt", "--editable", project, env=compiled)


def find_tools(session: nox.Session, *optional: str) -> None:
    """Install the external tools that are missing: a person is asked first, elsewhere the call is the answer."""
    agreed = [] if session.interactive else ["--yes"]
    session.run("splitbake", "doctor", *optional, "--fix", *agreed, success_codes=[0, 2])


def shell_scripts() -> list[str]:
    """Return every shell script of the project."""
    found = [path for folder in ("packer", "tooling") for path in ROOT.glob(f"{folder}/**/*.sh")]
    return [".ci/run", *sorted(str(path.relative_to(ROOT)) for path in found)]
