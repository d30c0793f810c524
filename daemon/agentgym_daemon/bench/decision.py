"""`bench decision`: what a steer decision costs the calling thread, for 25, 50 and 150 tools."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

from agentgym.policy.arms import Exploration
from agentgym.policy.evaluate import CatalogueCache
from agentgym.policy.features import TextHasher
from agentgym.policy.parameters import initial
from agentgym.policy.policy_set import PolicySet
from agentgym.policy.snapshot import Snapshot
from agentgym.trajectory import ArmKind, Tool
from agentgym_daemon.bench.frame import Report
from agentgym_daemon.scenarios.support_desk import requests

SIZES = (25, 50, 150)
_REPEATS = 300


def run(rounds: int) -> Report:
    """Median CPU time per decision, with the task hashed before and with a new task."""
    units = {"hash_new_task_us": "us"} | {f"decide_{n}_tools_us": "us" for n in SIZES}
    return Report(
        name="decision",
        units=units,
        runs=[_round() for _ in range(rounds)],
        not_measured=[
            "waiting for other threads (CPU time of the calling thread is measured)",
            "recording and sending, which are not part of the decision",
        ],
    )


def _round() -> dict[str, float]:
    texts = [request.text for request in requests.train()[:_REPEATS]]
    hasher = TextHasher(b"bench")
    times = iter(texts)
    figures = {"hash_new_task_us": _cpu_us(lambda: hasher(next(times)), len(texts))}
    task = hasher(texts[0])
    for size in SIZES:
        tools = tuple(
            Tool(f"tool_{i}", f"Does thing number {i} for an order.") for i in range(size)
        )
        policies = _policies(tools, hasher)
        rng = random.Random(0)
        allowed = [True] * size
        policies.decide("agent", task, tools, (), allowed=allowed, kind=ArmKind.FORCE, rng=rng)
        figures[f"decide_{size}_tools_us"] = _cpu_us(
            partial(
                policies.decide,
                "agent",
                task,
                tools,
                (),
                allowed=allowed,
                kind=ArmKind.FORCE,
                rng=rng,
            ),
            _REPEATS,
        )
    return figures


def _policies(tools: tuple[Tool, ...], hasher: TextHasher) -> PolicySet:
    parameters = initial(
        tuple(tool.fingerprint.hex() for tool in tools), tuple(tool.name for tool in tools)
    )
    return PolicySet(
        hasher=hasher,
        catalogues=CatalogueCache(hasher),
        exploration=Exploration(),
        control_share=0.0,
        stale_after_s=1.0,
        policies={"agent": Snapshot("p-000001", "", parameters, {})},
    )


def _cpu_us(action: Callable[[], object], times: int) -> float:
    start = time.thread_time()
    for _ in range(times):
        action()
    return (time.thread_time() - start) / times * 1e6
