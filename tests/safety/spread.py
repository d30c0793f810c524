"""Simulations that know nothing of each other, on as many cores as there are."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch

from tests.reports import FULL

T = TypeVar("T")


def spread(simulate: Callable[[int], T], seeds: Iterable[int]) -> list[T]:
    """What each seed gives, in order; `simulate` is a module's function, or a partial of one.

    A whole load takes all cores; the twentieth of an ordinary run stays in this process, where its
    coverage is seen.
    """
    cores = os.cpu_count() or 1
    if not FULL or cores == 1:
        return [simulate(seed) for seed in seeds]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, mp_context=context, initializer=_alone) as pool:
        return list(pool.map(simulate, seeds))


def _alone() -> None:
    torch.set_num_threads(1)
