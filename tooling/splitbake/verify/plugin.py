"""The pytest plugin of the check modules: what they compare with, what they say, and who hears it while they run.

A check module is usable on its own, without splitbake around it::

    SPLITBAKE_EXPECTED=expected.json pytest path/to/checks/ami.py --hosts='ssh://user@address?sudo=true'

PYTEST_DONT_REWRITE: the modules import this one before they name it as their plugin, and it asserts nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from typing import Any

import pytest

from splitbake.verify import probe

#: ``contents(host, folder)``: path below the folder -> what ``probes/contents.py`` saw there.
Contents = Callable[[Any, str], dict[str, Any]]

#: Names a JSON file with what the artifact has to be; every check module says which keys it reads.
EXPECTED = "SPLITBAKE_EXPECTED"
#: Number of an open file descriptor that gets one JSON line for each finished check.
STREAM = "SPLITBAKE_STREAM"

_SAW = pytest.StashKey[list[str]]()
_FIGURES = pytest.StashKey[dict[str, float]]()
_LONGEST = 300


def pytest_configure() -> None:
    """Refuse a Python that drops ``assert``, of which every check is made."""
    if not __debug__:
        raise pytest.UsageError("this Python runs with -O or PYTHONOPTIMIZE, so that no check could fail")


def expectation() -> dict[str, Any]:
    """Return what ``SPLITBAKE_EXPECTED`` names, for parameters that are needed before any fixture."""
    path = os.environ.get(EXPECTED)
    if path is None:
        raise pytest.UsageError(f"{EXPECTED} must name a JSON file with what is expected")
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        expected: dict[str, Any] = json.load(file)
    return expected


@pytest.fixture(scope="session")
def expected() -> dict[str, Any]:
    """What the artifact has to be."""
    return expectation()


@pytest.fixture
def saw(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Take what was seen, in words, for the report of a check that passes."""
    lines = request.node.stash.setdefault(_SAW, [])
    saw: Callable[[str], None] = lines.append
    return saw


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Take a figure for the report, by a name that ends with its unit: ``first read, MB/s``."""
    figures = request.node.stash.setdefault(_FIGURES, {})
    measured: Callable[[str, float], None] = figures.__setitem__
    return measured


@pytest.fixture(scope="session")
def contents() -> Contents:
    """Return every file below a folder of a host; read once a run, however many checks ask for it.

    The first reading of a file tells how fast its volume is, and hashes it: a second one would cost as much again.
    """
    known: dict[tuple[str, str], dict[str, Any]] = {}

    def contents(host: Any, folder: str) -> dict[str, Any]:
        key = host.backend.hostname, folder
        if key not in known:
            known[key] = probe.ask(host, "contents", folder)
        return known[key]

    return contents


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the stream about a check as soon as its outcome is known; stop where none of the others can be made."""
    report = yield
    if _of_ssh(call) is not None:
        item.session.shouldstop = "the connection is dead"
    # A check that is skipped before it begins is a kind of which the manifest wants none: no check at all.
    if report.when == "call" or report.failed:
        _tell(item, call, report)
    return report


def _tell(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    stream = os.environ.get(STREAM)
    if stream is None:
        return
    seen = item.stash.get(_SAW, []) if report.passed else [_reason(call)]
    line = {
        "name": _name(item),
        "outcome": _outcome(call, report),
        "saw": "; ".join(seen)[:_LONGEST],
        "seconds": round(report.duration, 3),
        "figures": item.stash.get(_FIGURES, {}),
    }
    os.write(int(stream), (json.dumps(line) + "\n").encode())


def _outcome(call: pytest.CallInfo[None], report: pytest.TestReport) -> str:
    """Return ``passed``, ``failed`` (the artifact is wrong), ``skipped``, or ``broken`` (it could not be looked at)."""
    if report.failed:
        finding = call.excinfo is not None and call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
        return "failed" if finding and report.when == "call" else "broken"
    return report.outcome


def _of_ssh(call: pytest.CallInfo[None]) -> str | None:
    """Return what ssh said last where it ended with 255: there is no connection any more. None where there is."""
    from testinfra.backend.base import CommandResult

    problem = call.excinfo.value if call.excinfo else None
    result = problem.args[0] if isinstance(problem, RuntimeError) and problem.args else None
    # Its text in the machine's own encoding could be had only by asking the machine.
    return probe.last_line(result.stderr_bytes.decode(errors="replace")) if isinstance(result, CommandResult) else None


def _reason(call: pytest.CallInfo[None]) -> str:
    if call.excinfo is None:
        return ""
    if (said := _of_ssh(call)) is not None:
        return f"ssh ended with 255: {said}"
    text = str(call.excinfo.value).strip() or call.excinfo.typename
    return text.splitlines()[0]


def _name(item: pytest.Item) -> str:
    """Return the check's name for people: ``model file: models/x.onnx``; testinfra's host is not part of it."""
    words = getattr(item, "originalname", item.name).removeprefix("test_").replace("_", " ")
    callspec = getattr(item, "callspec", None)
    values = [str(value) for key, value in callspec.params.items() if key != "_testinfra_host"] if callspec else []
    return f"{words}: {', '.join(values)}" if values else str(words)
