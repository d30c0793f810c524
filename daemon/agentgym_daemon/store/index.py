"""A map from 64-bit hashes to row numbers, in arrays: 16 bytes an entry, no tree, no file.

New entries make small sorted runs, which are merged like those of a log-structured merge tree, so
that adding costs the same however many there are. Different keys may share a hash: what is found
are candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

_GROWTH = 4
"""A run is merged into its older neighbour unless that one is this many times as long."""


class _Run(NamedTuple):
    hashes: Hashes  # sorted
    numbers: Numbers


class HashIndex:
    """Written by one thread, read by any: the runs are replaced as a whole."""

    def __init__(self) -> None:
        self._runs: tuple[_Run, ...] = ()

    def __len__(self) -> int:
        return sum(len(run.hashes) for run in self._runs)

    def add(self, hashes: Hashes, numbers: Numbers) -> None:
        """Adds entries; one that is there already is there twice."""
        if not len(hashes):
            return
        runs = [*self._runs, _sorted(hashes, numbers)]
        while len(runs) > 1 and len(runs[-2].hashes) < _GROWTH * len(runs[-1].hashes):
            newer, older = runs.pop(), runs.pop()
            runs.append(
                _sorted(
                    np.concatenate([older.hashes, newer.hashes]),
                    np.concatenate([older.numbers, newer.numbers]),
                )
            )
        self._runs = tuple(runs)

    def find(self, hashes: Hashes) -> list[int]:
        """The numbers of all entries with one of these hashes, ascending, each once."""
        found: set[int] = set()
        for run in self._runs:
            first = np.searchsorted(run.hashes, hashes, side="left")
            last = np.searchsorted(run.hashes, hashes, side="right")
            for i in np.flatnonzero(last > first):
                found.update(run.numbers[first[i] : last[i]].tolist())
        return sorted(found)


def _sorted(hashes: Hashes, numbers: Numbers) -> _Run:
    order = np.argsort(hashes, kind="stable")
    return _Run(hashes[order], numbers[order])
