"""When training is due, and how its settings travel."""

from __future__ import annotations

import pytest

from agentgym_daemon.learning.schedule import GROWTH, Progress, due, needed
from agentgym_daemon.learning.settings import LearningSettings

MINUTE = 60 * 10**9


@pytest.mark.parametrize(
    ("now", "at_last", "last_ns", "expected"),
    [
        (99, 0, None, False),
        (100, 0, None, True),
        (150, 100, 0, False),
        (200, 100, 0, True),
        (101, 100, -29 * MINUTE, False),
        (101, 100, -30 * MINUTE, True),
        (100, 100, -99 * MINUTE, False),
        (90, 100, -99 * MINUTE, False),
        (10_100, 10_000, 0, False),  # of a long history, more
        (10_001, 10_000, -30 * MINUTE, True),
    ],
)
def test_training_is_due_after_enough_runs_or_enough_time(
    now: int, at_last: int, last_ns: int | None, expected: bool
) -> None:
    assert due(Progress(now, at_last), last_ns, 0, trajectories=100, minutes=30) is expected


def test_a_long_history_waits_for_a_share_of_itself() -> None:
    enough = int(GROWTH * 10_000)
    assert enough > 100

    for new, expected in ((enough - 1, False), (enough, True)):
        progress = Progress(10_000 + new, 10_000)
        assert due(progress, 0, 0, trajectories=100, minutes=30) is expected


@pytest.mark.parametrize(
    ("now", "at_last", "missing"),
    [
        (0, 0, 100),
        (99, 0, 1),
        (250, 0, 0),
        (130, 100, 70),
        (10_000, 10_000, 800),
        (10_799, 10_000, 1),
        (10_800, 10_000, 0),
        (90, 100, 110),  # rewards were taken back
    ],
)
def test_how_many_runs_are_missing(now: int, at_last: int, missing: int) -> None:
    assert needed(Progress(now, at_last), 100) == missing


def test_settings_survive_the_way_through_json() -> None:
    changed = LearningSettings(rounds=3, temperature=0.2)

    assert LearningSettings.of(changed.plain()) == changed
    assert changed.exploration.temperature == 0.2


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ValueError, match="unknown learning setting 'learning_rate'"):
        LearningSettings.of({"learning_rate": 1})


def test_settings_are_read_from_text() -> None:
    values = LearningSettings.parse("pg_weight = 0, rounds=10,,half_life=1e9")

    assert values == {"pg_weight": 0.0, "rounds": 10, "half_life": 1e9}
    assert LearningSettings.of(values).rounds == 10
    assert LearningSettings.parse("") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed=1", "expected NAME=VALUE"),
        ("rounds", "rounds: expected a number"),
        ("rounds=x", "x"),
    ],
)
def test_text_that_names_no_setting_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LearningSettings.parse(text)
