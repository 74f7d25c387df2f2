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

#: Names a JSON file with what the artifact has to be; every check module says which keys it reads.
EXPECTED = "SPLITBAKE_EXPECTED"
#: Number of an open file descriptor that gets one JSON line for each finished check.
STREAM = "SPLITBAKE_STREAM"

_SAW = pytest.StashKey[list[str]]()
_LONGEST = 300


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the stream about a check as soon as its outcome is known."""
    report = yield
    if report.when == "call" or report.outcome != "passed":
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
    }
    os.write(int(stream), (json.dumps(line) + "\n").encode())


def _outcome(call: pytest.CallInfo[None], report: pytest.TestReport) -> str:
    """Return ``passed``, ``failed`` (the artifact is wrong), ``skipped``, or ``broken`` (it could not be looked at)."""
    if report.failed:
        finding = call.excinfo is not None and call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
        return "failed" if finding and report.when == "call" else "broken"
    return report.outcome


def _reason(call: pytest.CallInfo[None]) -> str:
    if call.excinfo is None:
        return ""
    text = str(call.excinfo.value).strip() or call.excinfo.typename
    return text.splitlines()[0]


def _name(item: pytest.Item) -> str:
    """Return the check's name for people: ``model file: models/x.onnx``; testinfra's host is not part of it."""
    words = getattr(item, "originalname", item.name).removeprefix("test_").replace("_", " ")
    callspec = getattr(item, "callspec", None)
    values = [str(value) for key, value in callspec.params.items() if key != "_testinfra_host"] if callspec else []
    return f"{words}: {', '.join(values)}" if values else str(words)
