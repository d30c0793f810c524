"""The files of the twins (see `crossfit`): VERSION.HALF.safetensors, while they are needed.

They judge and never act: no agent gets them. Where they are missing or damaged, their version is
judged by the runs that are held out, and the next one's twins start anew.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from agentgym.errors import SnapshotError
from agentgym.policy import snapshot
from agentgym.policy.parameters import Parameters
from agentgym.policy.snapshot import Snapshot
from agentgym_daemon.learning.crossfit import HALVES, Fitted

_log = logging.getLogger(__name__)


def load(directory: Path | None, version: Snapshot) -> Fitted:
    """A version with its twins, or without any."""
    if directory is None:
        return Fitted(version.parameters)
    try:
        twins = tuple(_read(_path(directory, version.version, half)) for half in range(HALVES))
    except FileNotFoundError:
        twins = ()
    except (OSError, SnapshotError) as error:
        _log.warning("the twins of %s cannot be used: %s", version.version, error)
        twins = ()
    return Fitted(version.parameters, twins)


def _read(path: Path) -> Parameters:
    data = path.read_bytes()
    return snapshot.parse(data, snapshot.digest(data)).parameters


def save(
    directory: Path, version: str, twins: Collection[Parameters], manifest: Mapping[str, Any]
) -> None:
    """Writes the twins of a version; without fsync, for what is lost is only not used."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for half, twin in enumerate(twins):
        path = _path(directory, version, half)
        part = path.with_name(path.name + ".part")
        part.write_bytes(snapshot.dump(twin, manifest))
        part.replace(path)


def keep_only(directory: Path, versions: Collection[str]) -> None:
    """Deletes the twins of all other versions."""
    for path in directory.glob("*.safetensors*"):
        if path.name.split(".")[0] not in versions:
            path.unlink(missing_ok=True)


def _path(directory: Path, version: str, half: int) -> Path:
    return directory / f"{version}.{half}.safetensors"
