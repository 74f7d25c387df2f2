"""Values that are known only after a step: shown as predicted, resolved when they are known."""

from __future__ import annotations

import pytest

from splitbake.release.steps import Output, Phase, resolve, shown

VERSION = Output("version of lt-1", "4")


def test_an_output_is_found_wherever_it_stands():
    value = {"a": [VERSION, {"b": VERSION}], "c": "4", "d": (1, None, True)}
    assert resolve(value, {VERSION: "5"}) == {"a": ["5", {"b": "5"}], "c": "4", "d": [1, None, True]}
    assert shown(value, {})["a"] == ["4 (predicted)", {"b": "4 (predicted)"}]
    assert shown(value, {VERSION: "5"}) == resolve(value, {VERSION: "5"})


def test_an_output_that_is_not_known_is_never_sent():
    with pytest.raises(KeyError):
        resolve({"version": VERSION}, {})


def test_hosts_come_before_jobs_and_defaults_last():
    assert list(Phase) == [Phase.TAG, Phase.TEXT, Phase.HOST, Phase.JOB, Phase.DEFAULT] == sorted(Phase)
