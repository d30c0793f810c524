"""Row B8: a daemon that is killed while it starts and migrates, and files of a newer one."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentgym_daemon.store.database import DATABASE_NAME, Store

pytestmark = pytest.mark.timeout(300)  # many starts of a daemon, on whatever machine

DEAD_WITHIN_S = 1.5
"""A daemon is killed at a random instant before, be it importing, migrating or replaying."""


@pytest.fixture
def hashes() -> Callable[[Path], dict[str, str]]:
    """Content hashes of all tables of a daemon that has ended."""

    def of(home: Path) -> dict[str, str]:
        store = Store.open(home / DATABASE_NAME, aggregation="last")
        try:
            return dict(store.content_hashes())
        finally:
            store.close()

    return of


def fill(otlp: Any, traces: Any, span: Any, batches: int) -> None:
    """Sends trajectories until there is something to migrate and to replay."""
    for first in range(0, batches * 512, 512):
        otlp.export(traces([span(number) for number in range(first, first + 512)]))


def test_killed_at_any_instant_of_its_start_it_ends_with_the_rows_of_an_undisturbed_one(
    load: Callable[..., int], report: Any, make_daemon: Any, otlp: Any, traces: Any, span: Any,
    hashes: Any,
) -> None:  # fmt: skip
    """Start, replay and migration are atomic: killed in the middle, the rows are the same."""
    kills, rng = load(100), random.Random(8)
    daemon = make_daemon().start()
    fill(otlp(daemon.home), traces, span, batches=load(200))
    daemon.applied()
    daemon.stop()
    wanted = hashes(daemon.home)

    for number in range(kills):
        if number % 3 == 0:  # everything must be derived again
            for path in daemon.home.glob(f"{DATABASE_NAME}*"):
                path.unlink() if path.is_file() else shutil.rmtree(path)
        daemon.start(wait=False)
        time.sleep(rng.uniform(0.0, DEAD_WITHIN_S))
        daemon.kill()
    daemon.start()
    daemon.applied()
    daemon.stop()

    report.load |= {"kills": kills, "spans": load(200) * 512}
    assert wanted["spans"].startswith(f"{load(200) * 512}:")
    assert hashes(daemon.home) == wanted
    assert list(daemon.home.glob(f"{DATABASE_NAME}.damaged*")) == []


def test_a_database_of_a_newer_version_is_kept_aside_and_derived_again_from_the_log(
    report: Any, make_daemon: Any, otlp: Any, traces: Any, span: Any, hashes: Any
) -> None:
    """A downgrade loses no row: the newer file is kept, and the log gives the rows again."""
    daemon = make_daemon().start()
    fill(otlp(daemon.home), traces, span, batches=2)
    daemon.applied()
    daemon.stop()
    wanted = hashes(daemon.home)
    store = Store.open(daemon.home / DATABASE_NAME, aggregation="last")
    store.writer.execute("INSERT INTO migrations VALUES ('m999_of_the_future')")
    store.close()

    daemon.start()
    daemon.applied()
    assert "m999_of_the_future" in daemon.log
    daemon.stop()

    assert hashes(daemon.home) == wanted
    assert [path.name for path in daemon.home.glob(f"{DATABASE_NAME}.damaged*")]
    report.load["spans"] = 1024
