"""What all tests share: with ``SPLITBAKE_REQUIRE_ENGINES=1`` a missing tool is a failure, not a skip.

CI sets it, so that an engine or end-to-end test cannot fall silent there. What a CI machine cannot have may
still be skipped: the reason must name it (see ``MAY_BE_MISSING``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

# A deadline for each example judges how busy the machine is, not the code; pytest-timeout ends what hangs.
hypothesis.settings.register_profile("splitbake", deadline=None)
hypothesis.settings.load_profile("splitbake")

MAY_BE_MISSING = re.compile(r"\b(GPU|real AWS|Terraform)\b", re.IGNORECASE)
FOLDERS = tuple(Path(__file__).parent / name for name in ("engine", "e2e"))


def forbid_skip(report: pytest.TestReport | pytest.CollectReport, path: Path) -> None:
    """Turn a skip into a failure where engines are required and the reason is not a good one."""
    if os.environ.get("SPLITBAKE_REQUIRE_ENGINES") != "1" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if any(path.is_relative_to(folder) for folder in FOLDERS) and not MAY_BE_MISSING.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{path}: may not be skipped here (SPLITBAKE_REQUIRE_ENGINES=1): {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    forbid_skip(report, item.path)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    forbid_skip(report, collector.path)
    return report
