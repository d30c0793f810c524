"""Sources of rewards that behave unlike themselves: much more than before, or another mean.

An alarm changes nothing. It is told in words, so that somebody looks, revokes, or sets a weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from agentgym_daemon.store.rewards import Activity

RECENT_NS = 86_400 * 10**9
"""What came within it is compared with what came before."""
LEAST = 50
"""Rewards without which nothing is said."""
TIMES = 5.0
"""So many times its usual rate is a jump."""
MEAN_STEP, STANDARD_ERRORS = 0.15, 4.0
NEW_SHARE = 0.5
"""Of all recent rewards, given by a source that was not known before."""


def alarms(rows: Sequence[Activity], now_ns: int) -> dict[tuple[str, str], list[str]]:
    """What is odd, by agent and source."""
    recent: dict[str, int] = {}
    for row in rows:
        recent[row.agent] = recent.get(row.agent, 0) + row.recent
    found = {(row.agent, row.source): _of(row, recent[row.agent], now_ns) for row in rows}
    return {key: words for key, words in found.items() if words}


def lines(found: dict[tuple[str, str], list[str]]) -> list[str]:
    """The same as sentences."""
    return [
        f"rewards of source {source!r} for {agent}: {words}"
        for (agent, source), said in found.items()
        for words in said
    ]


def _of(row: Activity, recent_of_all: int, now_ns: int) -> list[str]:
    if row.recent < LEAST:
        return []
    if not row.before:
        share = row.recent / recent_of_all
        if share > NEW_SHARE and recent_of_all - row.recent >= LEAST:
            return [f"new within 24 h, and {row.recent} ({share:.0%}) of all that came since"]
        return []
    return [words for words in (_volume(row, now_ns), _mean(row)) if words]


def _volume(row: Activity, now_ns: int) -> str:
    days = max(1.0, (now_ns - RECENT_NS - row.first_ns) / RECENT_NS)
    usual = row.before / days
    if row.recent <= TIMES * usual:
        return ""
    return f"{row.recent} within 24 h, {row.recent / usual:.0f} times its usual {usual:.1f} a day"


def _mean(row: Activity) -> str:
    now, before = row.recent_mean, row.before_mean
    if now is None or before is None or row.before < LEAST:
        return ""
    # Of a share, which has the greatest spread that values in [0, 1] can have.
    spread = math.sqrt(before * (1 - before) * (1 / row.recent + 1 / row.before))
    if abs(now - before) < max(MEAN_STEP, STANDARD_ERRORS * spread):
        return ""
    return f"mean {now:.2f} within 24 h, {before:.2f} before"
