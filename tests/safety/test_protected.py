"""Protected tools, whatever the mode, stage, steering and policy; with a daemon: test_ladder."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from agentgym.config import Mode
from agentgym.policy.arms import Exploration
from agentgym.policy.snapshot import Snapshot
from agentgym.testing.recording import RecordingGym, certain
from agentgym.trajectory import ArmKind, Fallback, Stage, Tool
from tests.reports import Report
from tests.safety.world import NAME, VERSION, World

RUNS, STEPS = 50, 3
pytestmark = [pytest.mark.timeout(900), pytest.mark.no_cover]


@dataclass(frozen=True)
class Case:
    """One agent with everything that may vary drawn by a seed, and what it must not touch."""

    gym: RecordingGym
    offers: tuple[tuple[Tool, ...], ...]  # few, for each takes longer to prepare than a decision
    protected: frozenset[str]
    world: World
    rng: random.Random
    force: str
    text_agent: bool
    has_policy: bool


def case(seed: int, world: World, *, protect: bool = True) -> Case:
    """An agent of any mode, stage and steering, whose policy loves a protected tool, if any."""
    rng = random.Random(seed)
    listed, marked, *more = (tool.name for tool in rng.sample(world.tools, rng.randint(2, 4)))
    marks = {marked, *more} if protect else set()
    tools = tuple(replace(tool, protected=tool.name in marks) for tool in world.tools)
    mode = rng.choice((Mode.STEER, Mode.ADVISE))
    gym = RecordingGym(
        "desk", mode=mode, seed=seed, protected=[listed] if protect else [],
        explore=rng.random() < 0.8, hint_text=True,
    )  # fmt: skip
    loved = rng.choice((listed, marked))
    has_policy = rng.random() < 0.9
    policies = {NAME: Snapshot(VERSION, "0" * 64, certain(tools, loved), {})} if has_policy else {}
    exploration = Exploration(
        temperature=10 ** rng.uniform(-3, 1),
        floor=rng.uniform(0, 0.5),
        defer_floor=rng.uniform(0.02, 0.3),
        top_k=rng.randint(1, 12),
    )
    down = rng.sample([tool.fingerprint for tool in tools], rng.choice((0, 0, 2)))
    acting = world.policy_set(policies, rng.choice((0.0, 0.1)), exploration, down=down)
    stage = rng.choice((Stage.LIVE, Stage.LIVE, Stage.CANARY, Stage.SHADOW))
    gym.live.swap(replace(acting, stage=stage, canary_share=rng.random()))
    offers = tuple(tuple(rng.sample(tools, rng.randint(2, len(tools)))) for _ in range(4))
    return Case(
        gym, offers, frozenset({listed} | marks), world, rng,
        force=rng.choice(("hard", "soft")), text_agent=rng.random() < 0.2, has_policy=has_policy,
    )  # fmt: skip


def run(one: Case, counted: Counter[str]) -> None:
    """A run of a few steps; now and then the agent itself calls what cannot be taken back."""
    task = one.rng.choice(one.world.slots).text
    started = one.gym.recorder.start_run(NAME, framework="test", task=task)
    touched = False
    for step in range(STEPS):
        offered = one.rng.choice(one.offers)
        turn = started.turn(offered, force=one.force, text_agent=one.text_agent)
        count(one, turn, counted)
        sealed = touched and turn.decision is not None
        counted["decided_after_a_protected_call"] += sealed
        free = [tool.name for tool in offered if tool.name not in one.protected]
        name = turn.forced.name if turn.forced else one.rng.choice(free or [offered[0].name])
        own = [tool.name for tool in offered if tool.name in one.gym.recorder.protected]
        if turn.forced is None and own and one.rng.random() < 0.05:
            name, touched = own[0], True
        turn.finish([(name, str(step))])
        started.call(name, call_id=str(step)).finish()
    started.finish()
    one.gym.sink.items.clear()
    one.gym.sink.ended.clear()


def count(one: Case, turn: Any, counted: Counter[str]) -> None:
    """What a turn did, and whatever of it was not allowed."""
    names = [tool.name for tool in turn.offered]
    acted = [tool.name for tool in (turn.forced, turn.hint) if tool is not None]
    counted["forced"] += any(name in one.protected for name in acted)
    if turn.decision is None:
        counted["undecided"] += 1
        counted["without_policy"] += turn.fallback is Fallback.NO_POLICY
        counted["changed_undecided"] += bool(acted) or turn.shown is not None
        return
    counted["decided"] += 1
    counted[f"decided_{turn.mode}"] += 1
    counted["decided_without_policy"] += not one.has_policy
    kept = {i for i, name in enumerate(names) if name in one.protected}
    for arm in turn.decision.support:
        if arm.kind is ArmKind.FORCE:
            counted["explored"] += bool(kept & set(arm.tools))
        elif arm.kind is ArmKind.SHOW:
            # At the end, where tools that are down are too: neither hidden nor promoted.
            end = len(arm.tools) - len(kept | set(turn.decision.down))
            counted["moved"] += not kept <= set(arm.tools[end:])


def decide(
    seeds: Sequence[int], decisions: int, *, protect: bool = True
) -> tuple[Counter[str], set[Stage]]:
    """Cases until so many decisions were made."""
    counted: Counter[str] = Counter()
    stages: set[Stage] = set()
    for seed in seeds:
        if counted["decided"] >= decisions:
            break
        one = case(seed, World(seed=seed % 20), protect=protect)
        assert one.gym.live.current is not None
        stages.add(one.gym.live.current.stage)
        for _ in range(RUNS):
            run(one, counted)
    return counted, stages


def test_no_protected_tool_is_explored_or_forced(load: Callable[..., int], report: Report) -> None:
    """Over 100,000 decisions none is forced, hinted at, explored, hidden or promoted."""
    decisions = load(100_000, 5_000)
    counted, stages = decide(range(decisions), decisions)
    report.load = {"decisions": decisions, "stages": sorted(stage.name for stage in stages)}
    report.figures = dict(sorted(counted.items()))
    assert counted["decided"] >= decisions
    assert min(counted["decided_steer"], counted["decided_advise"]) > decisions / 10
    assert stages == {Stage.LIVE, Stage.CANARY, Stage.SHADOW}
    assert counted["without_policy"] > 0
    wrong = (
        "forced", "explored", "moved", "changed_undecided", "decided_without_policy",
        "decided_after_a_protected_call",
    )  # fmt: skip
    assert {name: counted[name] for name in wrong if counted[name]} == {}


def test_the_same_agents_take_those_tools_where_nothing_protects_them() -> None:
    """What the test above sees is the protection, and not a policy that looks away."""
    found: Counter[str] = Counter()
    for seed in range(40):
        one = case(seed, World(seed=seed % 20), protect=False)
        watched = replace(one, protected=case(seed, one.world).protected)
        for _ in range(RUNS):
            run(watched, found)

    assert found["explored"] > 300
    assert found["forced"] > 50
    assert found["moved"] > 100
