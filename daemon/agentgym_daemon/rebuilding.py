"""The verb `rebuild`: derives the database from the log again and says whether anything differs."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

from agentgym_daemon.clock import SystemClock
from agentgym_daemon.config import DaemonConfig, shares
from agentgym_daemon.errors import DaemonError
from agentgym_daemon.ingest.log import SegmentLog
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.lock import HomeLock, prepare
from agentgym_daemon.store.database import DATABASE_NAME, Store
from agentgym_daemon.store.rebuild import rebuild as rebuild_store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """Content hashes per table, before and after; `before` is empty if they cannot be compared."""

    log_bytes: int
    before: dict[str, str]
    after: dict[str, str]

    def compare(self, table: str) -> str:
        """Whether a table has the content that it had: equal, changed or new."""
        if table not in self.before:
            return "new"
        return "equal" if self.before[table] == self.after[table] else "changed"

    def plain(self) -> dict[str, Any]:
        """The result as JSON values."""
        equal = self.before == self.after if self.before else None
        return {**asdict(self), "equal": equal}


def rebuild(config: DaemonConfig) -> RebuildResult:
    """Derives the database from the log again; no daemon may hold the directory."""
    prepare(config.home)
    with HomeLock(config.home):
        log = SegmentLog(
            config.home / "log", segment_bytes=config.segment_bytes, clock=SystemClock()
        )
        try:
            before = _hashes(config, log.end)
            after = rebuild_store(
                config.home,
                log=log,
                decode=decode_traces,
                aggregation=config.reward_aggregation,
                weights=shares(config.reward_weights),
            )
        finally:
            log.close()
    return RebuildResult(log.end, before, after)


def _hashes(config: DaemonConfig, log_end: int) -> dict[str, str]:
    """Hashes of the present database, if it holds the whole log."""
    path = config.home / DATABASE_NAME
    if not path.exists():
        return {}
    try:
        store = Store.open(
            path,
            aggregation=config.reward_aggregation,
            weights=shares(config.reward_weights),
        )
    except DaemonError as error:
        _log.warning("the present database cannot be read: %s", error)
        return {}
    try:
        return store.content_hashes() if store.applied_offset() == log_end else {}
    finally:
        store.close()
