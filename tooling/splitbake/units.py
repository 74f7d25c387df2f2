"""Sizes, rates and durations as people write them: ``500 MB``, ``3 GiB``, ``300 MiB/s``, ``3 min``.

Decimal units are powers of 1000 and binary units powers of 1024, as in IEC 80000-13.
A bare number is refused: nobody can tell afterwards whether ``500`` meant bytes or megabytes.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

_BYTES: Final[dict[str, int]] = {
    "B": 1,
    **{unit: 1000**power for power, unit in enumerate(("kB", "MB", "GB", "TB"), start=1)},
    **{unit: 1024**power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), start=1)},
}
_SECONDS: Final[dict[str, int]] = {"s": 1, "min": 60, "h": 3600}
_DAYS: Final[dict[str, int]] = {"days": 1}

_NUMBER = r"(?P<number>\d{1,15}(?:\.\d{1,6})?)"
_SIZE = re.compile(rf"{_NUMBER} ?(?P<unit>{'|'.join(_BYTES)})", re.ASCII)
_RATE = re.compile(rf"{_NUMBER} ?(?P<unit>{'|'.join(_BYTES)})/s", re.ASCII)
_DURATION = re.compile(rf"{_NUMBER} ?(?P<unit>{'|'.join(_SECONDS)})", re.ASCII)
_AGE = re.compile(rf"{_NUMBER} ?(?P<unit>{'|'.join(_DAYS)})", re.ASCII)


def _parse(text: Any, pattern: re.Pattern[str], factors: dict[str, int], example: str) -> int:
    found = pattern.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"expected a number with a unit, for example {example}{_respelt(text, pattern, factors)}")
    return round(Decimal(found["number"]) * factors[found["unit"]])


def _respelt(text: Any, pattern: re.Pattern[str], factors: dict[str, int]) -> str:
    """Return "; did you mean …?" where only the case of the unit's letters is wrong."""
    found = re.fullmatch(pattern.pattern, text, re.ASCII | re.IGNORECASE) if isinstance(text, str) else None
    if found is None:
        return ""
    unit = next(unit for unit in factors if unit.lower() == found["unit"].lower())
    start, end = found.span("unit")
    return f"; did you mean '{text[:start]}{unit}{text[end:].lower()}'?"


def parse_size(text: Any) -> int:
    """Return the bytes in ``text`` (``"3 GiB"`` -> 3221225472); ValueError where it has no known unit."""
    return _parse(text, _SIZE, _BYTES, "500 MB or 3 GiB")


def parse_rate(text: Any) -> int:
    """Return the bytes per second in ``text`` (``"125 MiB/s"``); ValueError where it has no known unit."""
    return _parse(text, _RATE, _BYTES, "125 MiB/s")


def parse_duration(text: Any) -> int:
    """Return the seconds in ``text`` (``"3 min"`` -> 180); ValueError where it has no known unit."""
    return _parse(text, _DURATION, _SECONDS, "90 s or 3 min")


def parse_age(text: Any) -> int:
    """Return the days in ``text`` (``"180 days"`` -> 180); ValueError where it has no known unit."""
    return _parse(text, _AGE, _DAYS, "180 days")


def format_size(size: float) -> str:
    """Return ``size`` bytes as people read it, decimal as on a registry's bill: ``312.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if round(size, 1) < 1000:  # noqa: PLR2004 - the decimal step
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_seconds(seconds: float) -> str:
    """Return a duration as people read it: ``0.4 s``, ``12.3 s``, ``2 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def counted(number: int, noun: str) -> str:
    """Return ``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _quantity(parse: Any, pattern: re.Pattern[str], example: str) -> Any:
    plain = pattern.pattern.replace("?P<number>", "").replace("?P<unit>", "")
    schema = {"type": "string", "pattern": f"^{plain}$", "examples": [example]}
    return Annotated[int, BeforeValidator(parse), WithJsonSchema(schema)]


Size = _quantity(parse_size, _SIZE, "500 MB")
Rate = _quantity(parse_rate, _RATE, "125 MiB/s")
Duration = _quantity(parse_duration, _DURATION, "3 min")
Age = _quantity(parse_age, _AGE, "180 days")
