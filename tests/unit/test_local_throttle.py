"""Calls that fail on demand: which ones, and that clients of AWS get through."""

from __future__ import annotations

import pytest

from splitbake.local import throttle


@pytest.mark.parametrize(("number", "failed"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (3, [3, 6])])
def test_one_in_so_many_calls_fails_before_anything_is_done(tmp_path, number, failed):
    done, statuses = [], []
    front = throttle.Throttle(lambda environ, start: done.append(environ["call"]) or [b"done"], tmp_path)
    throttle.set_every(tmp_path, number)
    answers = {call: front({"call": call}, lambda status, _: statuses.append(status)) for call in range(1, 7)}
    assert [call for call, answer in answers.items() if answer == []] == failed
    assert [call for call in answers if call not in done] == failed
    assert statuses == ["503 Service Unavailable"] * len(failed)


def test_nothing_fails_unless_asked_for_and_no_more_afterwards(tmp_path):
    assert throttle.every(tmp_path) == 0
    throttle.set_every(tmp_path, 4)
    assert throttle.every(tmp_path) == 4
    throttle.set_every(tmp_path, 0)
    assert throttle.every(tmp_path) == 0


def test_counting_begins_anew_with_each_number(tmp_path):
    front, fails = throttle.Throttle(lambda _environ, _start: [b"done"], tmp_path), []
    for number, calls in ((2, 1), (0, 1), (2, 2), (3, 3), (2, 3)):
        throttle.set_every(tmp_path, number)
        fails.append([front({}, lambda *_: None) == [] for _ in range(calls)])
    assert fails == [[False], [False], [False, True], [False, False, True], [False, True, False]]
