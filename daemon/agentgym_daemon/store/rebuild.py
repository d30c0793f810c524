"""Derives the whole database anew from the log, beside the old file, and swaps it in."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from agentgym_daemon.store.aggregate import Aggregation
from agentgym_daemon.store.applier import BATCH_BYTES
from agentgym_daemon.store.batch import BatchWriter
from agentgym_daemon.store.database import DATABASE_NAME, Store
from agentgym_daemon.store.rows import Log, TraceDecoder, batches

_logger = logging.getLogger(__name__)


def rebuild(
    home: Path,
    *,
    log: Log,
    decode: TraceDecoder,
    aggregation: Aggregation = "last",
    weights: Mapping[str, float] | None = None,
) -> dict[str, str]:
    """Rebuilds `home`'s database, which nobody may have open; returns its content hashes."""
    path = home / DATABASE_NAME
    beside = home / f"{DATABASE_NAME}.rebuilding"
    _remove(beside)
    store = Store.open(beside, aggregation=aggregation, weights=weights)
    try:
        writer = BatchWriter(store, decode)
        for entries in batches(log.replay(0), BATCH_BYTES):
            writer.apply(entries)
        hashes = store.content_hashes()
    finally:
        store.close()  # which also moves everything from the write-ahead file into the file
    _swap(beside, path)
    _logger.info("database %s was rebuilt from the log up to offset %d", path, log.end)
    return hashes


def _swap(fresh: Path, path: Path) -> None:
    # The old write-ahead file must not be taken for the new file's.
    _wal(path).unlink(missing_ok=True)
    if _wal(fresh).exists():
        _wal(fresh).rename(_wal(path))
    fresh.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _wal(path).unlink(missing_ok=True)


def _wal(path: Path) -> Path:
    return path.with_name(path.name + ".wal")
