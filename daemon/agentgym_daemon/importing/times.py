"""Recorded times, in the forms that exports have, as unix nanoseconds; 0 where there is none."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

_MAX_NS = 4_102_444_800 * 10**9  # the year 2100; what is later is no time
_UNITS = ((1e17, 1), (1e14, 1_000), (1e11, 1_000_000), (0.0, 1_000_000_000))
"""Least number of ns, µs, ms and s since 1970 that lies after 1973, and what one of it is in ns."""


def unix_ns(value: Any) -> int:
    """A time as ISO 8601 (without a zone: UTC), or as a number since 1970 in s, ms, µs or ns."""
    if isinstance(value, str):
        if value.strip().isdecimal():
            return unix_ns(int(value))
        return _iso(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    if not math.isfinite(value) or value <= 0:
        return 0
    unit = next(unit for least, unit in _UNITS if value >= least)
    return _plausible(value * unit if isinstance(value, int) else round(value * unit))


def _iso(value: str) -> int:
    try:
        parsed = datetime.fromisoformat(value.strip())
    except ValueError:
        return 0
    parsed = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed
    since = parsed - datetime(1970, 1, 1, tzinfo=UTC)
    return _plausible((since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000)


def _plausible(nanoseconds: int) -> int:
    return nanoseconds if 0 < nanoseconds <= _MAX_NS else 0
