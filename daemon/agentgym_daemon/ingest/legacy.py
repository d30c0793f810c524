"""Segments as they were sealed once: one zstd frame of all frames, `log-START.seg.zst`.

They are unpacked when the log is opened, and sealed again as segments are sealed now.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import zstandard

from agentgym_daemon.ingest.disk import (
    BUFFER_BYTES,
    Disk,
    open_for_reading,
    remove,
    sync_directory,
    write_file,
)

_NAME = re.compile(r"log-\d{20}\.seg\.zst")

_logger = logging.getLogger(__name__)


def unpack_all(disk: Disk, directory: Path) -> None:
    """Unpacks every such segment of the directory; of a damaged one, what comes before."""
    for path in sorted(directory.iterdir()):
        if _NAME.fullmatch(path.name) is None:
            continue
        write_file(disk, path.with_suffix(""), _unpacked(disk, path))
        sync_directory(disk, directory)
        remove(disk, path)


def _unpacked(disk: Disk, path: Path) -> Iterator[bytes]:
    with open_for_reading(disk, path) as packed:
        reader = zstandard.ZstdDecompressor().stream_reader(packed, closefd=False)
        try:
            while part := reader.read(BUFFER_BYTES):
                yield part
        except zstandard.ZstdError as error:
            _logger.error("%s is damaged: %s", path, error)
