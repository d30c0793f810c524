"""The torch twin computes what the agent computes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.policy.arms import Exploration, decide, distribution, force_arms, show_arms
from agentgym.policy.evaluate import Catalogue, Evaluation, evaluate
from agentgym.policy.features import DIM, TextHasher
from agentgym.policy.parameters import Parameters, extend, shapes
from agentgym.trajectory import PastCall, Tool
from agentgym_daemon.learning.arrays import arm_arrays, step_arrays
from agentgym_daemon.learning.dataset import GradientArm, Step, Trajectory
from agentgym_daemon.learning.policy_net import ArmNet, PolicyNet, to_parameters, to_tensors

HASHER = TextHasher(b"key")
TOOLS = tuple(
    Tool(name, text)
    for name, text in [
        ("track_order", "Find where a parcel is."),
        ("issue_refund", "Pay money back for a parcel."),
        ("reset_password", "Send a link for a new password."),
        ("service_status", "Report outages."),
        ("escalate", ""),
    ]
)
UNIVERSE = Catalogue(TOOLS, HASHER)
HEXES = tuple(f.hex() for f in UNIVERSE.fingerprints)
NAMES = tuple(t.name for t in TOOLS)
TEXTS = ("where is my parcel", "I need a new password please", "pay me back", "")


def random_policy(seed: int, known: list[int]) -> Parameters:
    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.normal(0, 1.5, shape).astype(np.float32)
        for name, shape in shapes(len(known)).items()
    }
    return Parameters(tuple(HEXES[i] for i in known), tuple(NAMES[i] for i in known), tensors)


def step(text: str, offered: list[int], history: list[PastCall], **more: Any) -> Step:
    values: dict[str, Any] = {"called": (), "failed": (), "responded": True, "alone": True}
    return Step(
        x=HASHER(text),
        offered=tuple(offered),
        allowed=(True,) * len(offered),
        history=tuple(history),
        gradient=more.pop("gradient", None),
        **{**values, **more},
    )


def offered_catalogue(offered: list[int]) -> Catalogue:
    return Catalogue(tuple(TOOLS[i] for i in offered), HASHER)


subsets = st.permutations(range(len(TOOLS))).flatmap(
    lambda order: st.integers(1, len(TOOLS)).map(lambda n: list(order)[:n])
)
calls = st.lists(
    st.builds(
        PastCall,
        st.sampled_from([*UNIVERSE.fingerprints, b"", b"foreign!"]),
        error=st.booleans(),
    ),
    max_size=5,
)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    known=subsets,
    cases=st.lists(st.tuples(st.sampled_from(TEXTS), subsets, calls), min_size=1, max_size=6),
)
def test_the_twin_equals_the_agents_evaluation(
    seed: int, known: list[int], cases: list[tuple[str, list[int], list[PastCall]]]
) -> None:
    policy = random_policy(seed, known)
    steps = [step(*case) for case in cases]
    arrays, tasks, _ = step_arrays([Trajectory(b"", 1.0, tuple(steps), 0)], UNIVERSE)

    got = PolicyNet(arrays, tasks)(to_tensors(extend(policy, HEXES, NAMES)))

    for i, (text, offered, history) in enumerate(cases):
        want = evaluate(policy, HASHER(text), offered_catalogue(offered), history)
        right = got.right[i].numpy()
        np.testing.assert_allclose(right[[*offered, -1]], want.right, rtol=0, atol=1e-9)
        assert right.sum() == pytest.approx(1.0, abs=1e-9)
        assert float(got.alone[i].sigmoid()) == pytest.approx(want.alone, abs=1e-9)
        assert float(got.alone_apart[i]) == float(got.alone[i])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    offered=subsets,
    top_k=st.integers(1, 4),
    protected=st.booleans(),
    advise=st.booleans(),
    temperature=st.sampled_from([0.05, 0.3, 1.0]),
)
def test_arm_probabilities_equal_what_the_agent_sampled_from(
    seed: int, offered: list[int], top_k: int, protected: bool, advise: bool, temperature: float
) -> None:
    policy = random_policy(seed, list(range(len(TOOLS))))
    exploration = Exploration(temperature, 0.04, 0.03, top_k)
    allowed = [not (protected and i == 0) for i in range(len(offered))]
    estimate = evaluate(policy, HASHER(TEXTS[0]), offered_catalogue(offered), [])
    arms = (show_arms if advise else force_arms)(estimate, allowed, top_k)
    decision = decide(arms, exploration, random.Random(seed))
    gradient = GradientArm(
        tuple(
            type(arm)(arm.kind, tuple(offered[t] for t in arm.tools), arm.score, arm.probability)
            for arm in decision.support
        ),
        decision.arm,
        decision.propensity,
        decision.temperature,
        decision.floor,
        decision.defer_floor,
        "p-1",
    )
    steps = [step(TEXTS[1], offered, []), step(TEXTS[0], offered, [], gradient=gradient)]
    arrays, tasks, _ = step_arrays([Trajectory(b"", 1.0, tuple(steps), 0)], UNIVERSE)
    estimates = PolicyNet(arrays, tasks)(to_tensors(policy), np.array([1]))
    net = ArmNet(arm_arrays(steps, [1], arrays.columns))

    probability = net.probabilities(estimates, torch.tensor([0]))[0].numpy()

    np.testing.assert_allclose(
        probability, [arm.probability for arm in decision.support], rtol=0, atol=1e-9
    )
    assert probability.sum() == pytest.approx(1.0)


def test_defer_probability_has_no_gradient_into_the_tools_where_it_is_kept_apart() -> None:
    policy = random_policy(1, list(range(len(TOOLS))))
    tensors = {name: t.requires_grad_() for name, t in to_tensors(policy).items()}
    arrays, tasks, _ = step_arrays(
        [Trajectory(b"", 1.0, (step(TEXTS[0], [0, 1], []),), 0)], UNIVERSE
    )
    net = PolicyNet(arrays, tasks)

    net(tensors).alone_apart.sum().backward()  # type: ignore[no-untyped-call]

    assert tensors["tool.weight"].grad is None or not tensors["tool.weight"].grad.any()
    assert tensors["defer.weight"].grad is not None
    assert tensors["defer.weight"].grad.any()


def test_parameters_survive_the_way_to_torch_and_back() -> None:
    policy = random_policy(2, [0, 3])

    again = to_parameters(policy, to_tensors(policy))

    assert again.tools == policy.tools
    assert all(np.array_equal(again[name], policy[name]) for name in policy.tensors)
    assert again["tool.weight"].shape == (DIM, 3)


def test_an_only_arm_has_probability_one() -> None:
    lonely = Evaluation(np.array([1.0]), 0.5, {})

    assert distribution(np.array([a.score for a in force_arms(lonely, [], 5)]), Exploration()) == [
        1
    ]


def test_no_steps_at_all_are_no_error(tmp_path: Path) -> None:
    arrays, tasks, steps = step_arrays([], UNIVERSE)

    assert steps == []
    assert PolicyNet(arrays, tasks)(to_tensors(random_policy(0, [0, 1, 2, 3, 4]))).right.shape == (
        0,
        len(TOOLS) + 1,
    )
