"""`bench decision`: what a steer decision costs the calling thread, for 25, 50 and 150 tools."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from functools import partial

from agentgym.policy.arms import Exploration
from agentgym.policy.evaluate import CatalogueCache
from agentgym.policy.features import Featuriser, TextHasher
from agentgym.policy.parameters import initial
from agentgym.policy.policy_set import PolicySet
from agentgym.policy.snapshot import Snapshot
from agentgym.trajectory import ArmKind, PastCall, Tool
from agentgym_daemon.bench.frame import Report
from agentgym_daemon.encoders.choice import featuriser_of
from agentgym_daemon.scenarios.support_desk import requests

SIZES = (25, 50, 150)
_REPEATS = 300


def run(arguments: argparse.Namespace) -> Report:
    """Median CPU time of encoding a new task, of its first decision, and of a later one."""
    features = featuriser_of("default", TextHasher(b"bench"))
    units = {"encode_new_task_us": "us"}
    for size in SIZES:
        units |= {f"decide_{size}_tools_us": "us", f"decide_again_{size}_tools_us": "us"}
    return Report(
        name="decision",
        units=units,
        runs=[_round(features, number) for number in range(arguments.rounds)],
        not_measured=[
            "waiting for other threads (CPU time of the calling thread is measured)",
            "recording and sending, which are not part of the decision",
            "multiplying a new policy out with its tools, once per policy and catalogue",
        ],
    )


def _round(features: Featuriser, number: int) -> dict[str, float]:
    # Each round has texts of its own: known ones are looked up.
    texts = [f"{request.text} {number}" for request in requests.train()[:_REPEATS]]
    new = iter(texts)
    figures = {"encode_new_task_us": _cpu_us(lambda: features(next(new)), len(texts))}
    tasks = [features(text) for text in texts]
    for size in SIZES:
        tools = tuple(
            Tool(f"tool_{i}", f"Does thing number {i} for an order.") for i in range(size)
        )
        policies = _policies(tools, features)
        catalogue = policies.catalogue(tools, None)
        assert catalogue is not None  # it waits as long as it takes
        decide = partial(
            policies.decide,
            "agent",
            allowed=[True] * size,
            kind=ArmKind.FORCE,
            rng=random.Random(0),
        )
        decide(tasks[0], catalogue, ())
        times = iter(tasks[1:])
        figures[f"decide_{size}_tools_us"] = _cpu_us(
            lambda: decide(next(times), catalogue, ()),  # noqa: B023 - called within the turn
            len(tasks) - 1,
        )
        past = (PastCall(tools[0].fingerprint, error=False),)
        figures[f"decide_again_{size}_tools_us"] = _cpu_us(
            lambda: decide(tasks[-1], catalogue, past),  # noqa: B023 - called within the turn
            _REPEATS,
        )
    return figures


def _policies(tools: tuple[Tool, ...], features: Featuriser) -> PolicySet:
    parameters = initial(
        tuple(tool.fingerprint.hex() for tool in tools),
        tuple(tool.name for tool in tools),
        features.embedding_dim,
    )
    return PolicySet(
        features=features,
        catalogues=CatalogueCache(features),
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
