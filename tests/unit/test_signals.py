"""Signals that wait for the end of a block."""

from __future__ import annotations

import signal
import threading

import pytest

from splitbake.signals import uninterrupted


@pytest.fixture(autouse=True)
def _handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def block(*numbers: signal.Signals, breakable: bool) -> list[str]:
    """Run a block to which the signals ``numbers`` come, and return what it came to do."""
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it may be raised at two places
        with uninterrupted(breakable=breakable):
            for number in numbers:
                signal.raise_signal(number)
            done.append("block")
        done.append("after")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return done


@pytest.mark.parametrize("breakable", [False, True])
def test_an_interrupt_waits_for_the_end_of_the_block(breakable):
    assert block(signal.SIGINT, breakable=breakable) == ["block"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_handler_from_before_gets_the_signal(number):
    got = []
    signal.signal(number, lambda arrived, _: got.append(arrived))
    with uninterrupted():
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert got == []
    assert got == [number]


@pytest.mark.parametrize(("breakable", "done"), [(False, ["block"]), (True, [])])
def test_a_second_interrupt_breaks_off_only_what_may_be_broken(breakable, done):
    assert block(signal.SIGINT, signal.SIGTERM, signal.SIGINT, breakable=breakable) == done


def test_only_an_interrupt_is_counted():
    assert block(signal.SIGINT, signal.SIGTERM, signal.SIGTERM, breakable=True) == ["block"]


def test_what_is_ignored_stays_so():
    """Under nohup SIGHUP is; it must not end the run, nor hide what comes after it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with uninterrupted():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.raise_signal(signal.SIGHUP)
    assert block(signal.SIGHUP, signal.SIGINT, breakable=False) == ["block"]


def test_an_interrupt_counts_also_where_the_block_fails():
    with pytest.raises(KeyboardInterrupt) as caught, uninterrupted():  # noqa: PT012 - it comes out of the second one
        signal.raise_signal(signal.SIGINT)
        raise ValueError("the block's")
    assert str(caught.value.__context__) == "the block's"


def test_elsewhere_than_in_the_main_thread_nothing_waits():
    handlers = []

    def work():
        with uninterrupted():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
