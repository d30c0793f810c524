"""The torch twin computes what the agent computes."""

from __future__ import annotations

import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.policy.arms import Exploration, decide, distribution, force_arms, show_arms
from agentgym.policy.evaluate import Catalogue, Evaluation, Scorer
from agentgym.policy.features import DIM, Featuriser, TextHasher
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
DIMENSIONS = 8


def encode(text: str) -> np.ndarray:
    """A fake encoder: pure in the text, of unit length."""
    vector = np.random.default_rng(zlib.crc32(text.encode())).normal(size=DIMENSIONS)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


FEATURES = {
    0: Featuriser(HASHER),
    DIMENSIONS: Featuriser(HASHER, encode, schema=7, dim=DIMENSIONS),
}
UNIVERSES = {dim: Catalogue(TOOLS, features) for dim, features in FEATURES.items()}
UNIVERSE = UNIVERSES[0]
HEXES = tuple(f.hex() for f in UNIVERSE.fingerprints)
NAMES = tuple(t.name for t in TOOLS)
TEXTS = ("where is my parcel", "I need a new password please", "pay me back", "")


def random_policy(seed: int, known: list[int], dim: int = 0) -> Parameters:
    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.normal(0, 1.5, shape).astype(np.float32)
        for name, shape in shapes(len(known), dim).items()
    }
    return Parameters(tuple(HEXES[i] for i in known), tuple(NAMES[i] for i in known), tensors)


def step(text: str, offered: list[int], history: list[PastCall], dim: int = 0, **more: Any) -> Step:
    values: dict[str, Any] = {"called": (), "failed": (), "responded": True, "alone": True}
    return Step(
        x=FEATURES[dim](text),
        offered=tuple(offered),
        allowed=(True,) * len(offered),
        history=tuple(history),
        gradient=more.pop("gradient", None),
        **{**values, **more},
    )


def scorer(policy: Parameters, offered: list[int], dim: int) -> Scorer:
    return Scorer(policy, UNIVERSES[dim].part(offered))


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
    cases=st.lists(
        st.tuples(st.sampled_from(TEXTS), subsets, calls, st.sets(st.integers(0, 4), max_size=3)),
        min_size=1,
        max_size=6,
    ),
    dim=st.sampled_from([0, DIMENSIONS]),
    broken=st.booleans(),
)
def test_the_twin_equals_the_agents_evaluation(
    seed: int,
    known: list[int],
    cases: list[tuple[str, list[int], list[PastCall], set[int]]],
    dim: int,
    broken: bool,
) -> None:
    policy = random_policy(seed, known, dim)
    if not broken:
        cases = [(text, offered, history, set()) for text, offered, history, _ in cases]
    steps = [
        step(text, offered, history, dim, down=tuple(sorted(down & set(offered))))
        for text, offered, history, down in cases
    ]
    arrays, tasks, _ = step_arrays([Trajectory(b"", 1.0, tuple(steps), 0)], UNIVERSES[dim])

    got = PolicyNet(arrays, tasks)(to_tensors(extend(policy, HEXES, NAMES)))

    for i, (_, offered, history, _) in enumerate(cases):
        down = [offered.index(tool) for tool in steps[i].down]
        want = scorer(policy, offered, dim)(steps[i].x, history, down)
        whole = scorer(policy, offered, dim)(steps[i].x, history)
        right = got.right[i].numpy()
        np.testing.assert_allclose(right[[*offered, -1]], want.right, rtol=0, atol=1e-9)
        assert right.sum() == pytest.approx(1.0, abs=1e-9)
        assert float(got.alone[i].sigmoid()) == pytest.approx(whole.alone, abs=1e-9)
        working = 1.0 if got.working is None else float(got.working[i])
        assert float(got.alone[i].sigmoid()) * working == pytest.approx(want.alone, abs=1e-9)
        assert float(got.alone_apart[i]) == float(got.alone[i])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    offered=subsets,
    top_k=st.integers(1, 4),
    protected=st.booleans(),
    advise=st.booleans(),
    temperature=st.sampled_from([0.05, 0.3, 1.0]),
    dim=st.sampled_from([0, DIMENSIONS]),
    broken=st.booleans(),
)
def test_arm_probabilities_equal_what_the_agent_sampled_from(
    seed: int,
    offered: list[int],
    top_k: int,
    protected: bool,
    advise: bool,
    temperature: float,
    dim: int,
    broken: bool,
) -> None:
    policy = random_policy(seed, list(range(len(TOOLS))), dim)
    exploration = Exploration(temperature, 0.04, 0.03, top_k)
    allowed = [not (protected and i == 0) for i in range(len(offered))]
    down = (len(offered) - 1,) if broken else ()
    estimate = scorer(policy, offered, dim)(FEATURES[dim](TEXTS[0]), [], down)
    free = [ok and i not in down for i, ok in enumerate(allowed)]
    arms = (show_arms if advise else force_arms)(estimate, free, top_k)
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
    columns = tuple(offered[i] for i in down)
    steps = [
        step(TEXTS[1], offered, [], dim),
        step(TEXTS[0], offered, [], dim, gradient=gradient, down=columns),
    ]
    arrays, tasks, _ = step_arrays([Trajectory(b"", 1.0, tuple(steps), 0)], UNIVERSES[dim])
    estimates = PolicyNet(arrays, tasks)(to_tensors(policy), np.array([1]))
    net = ArmNet(arm_arrays(steps, [1], arrays.columns))

    probability = net.probabilities(estimates, torch.tensor([0]))[0].numpy()

    np.testing.assert_allclose(
        probability, [arm.probability for arm in decision.support], rtol=0, atol=1e-9
    )
    assert probability.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("broken", [False, True])
def test_meaning_gets_a_gradient_and_chosen_rows_are_the_same_rows(broken: bool) -> None:
    policy = random_policy(1, list(range(len(TOOLS))), DIMENSIONS)
    tensors = {name: t.requires_grad_() for name, t in to_tensors(policy).items()}
    steps = [
        step(text, [0, 1, 2], [], DIMENSIONS, down=(1,) if broken and i else ())
        for i, text in enumerate(TEXTS)
    ]
    universe = UNIVERSES[DIMENSIONS]
    arrays, tasks, _ = step_arrays([Trajectory(b"", 1.0, tuple(steps), 0)], universe)
    net, rows = PolicyNet(arrays, tasks), np.array([3, 1])

    every, some = net(tensors), net(tensors, rows)
    again = every.take(torch.from_numpy(rows))

    for name in ("right", "alone", "working"):
        one, other = getattr(some, name), getattr(again, name)
        assert (one is None and other is None and not broken) or torch.equal(one, other)
    (some.right[:, 0].sum() + some.alone.sum()).backward()  # type: ignore[no-untyped-call]
    for name in ("meaning.gain", "meaning.map", "tool.embedding", "defer.embedding"):
        grad = tensors[name].grad
        assert grad is not None
        assert grad.any()
        assert torch.isfinite(grad).all()


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
    lonely = Evaluation(np.array([1.0]), 0.5)

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
