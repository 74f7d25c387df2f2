"""Sizes, rates and durations with units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitbake import units

SIZES = ["B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0 B", 0),
        ("500 MB", 500_000_000),
        ("3 GiB", 3 * 2**30),
        ("1.5 KiB", 1536),
        ("3GiB", 3 * 2**30),
        ("0.1 GB", 100_000_000),
    ],
)
def test_sizes(text, size):
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        3,
        None,
        True,
        ["3 GB"],
        "GB",
        "-3 GB",
        "3  GB",
        " 3 GB",
        "3 GB ",
        "3 GB\n",
        "1e3 MB",
        "٣ GB",
        "9" * 400 + " GB",
        "inf GB",
    ],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match=r"expected a number with a unit, for example 500 MB or 3 GiB$"):
        units.parse_size(text)


@pytest.mark.parametrize(("text", "meant"), [("3 gib", "3 GiB"), ("3 mb", "3 MB"), ("3 KB", "3 kB")])
def test_a_unit_in_the_wrong_case_is_recognised_but_not_taken(text, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        units.parse_size(text)
    with pytest.raises(ValueError, match=f"did you mean '{meant}/s'"):
        units.parse_rate(f"{text}/S")


def test_rates_and_durations():
    assert units.parse_rate("125 MiB/s") == 125 * 2**20
    assert units.parse_duration("90 s") == 90
    assert units.parse_duration("3 min") == 180
    assert units.parse_duration("1.5 h") == 5400
    with pytest.raises(ValueError, match=r"125 MiB/s$"):
        units.parse_rate("125 MiB")
    with pytest.raises(ValueError, match="90 s or 3 min"):
        units.parse_duration("3 m")


@given(number=st.integers(0, 10**15 - 1), unit=st.sampled_from(SIZES))
def test_whole_numbers_are_exact(number, unit):
    assert units.parse_size(f"{number} {unit}") == number * units.parse_size(f"1 {unit}")


@given(size=st.integers(0, 10**15))
def test_what_is_shown_can_be_read_again_to_the_digit_shown(size):
    shown = units.format_size(size)
    assert abs(units.parse_size(shown) - size) <= size / 20
    assert units.format_size(units.parse_size(shown)) == shown


def test_times_as_people_read_them():
    assert units.format_seconds(0.44) == "0.4 s"
    assert units.format_seconds(59.2) == "59.2 s"
    assert units.format_seconds(125) == "2 min 05 s"
