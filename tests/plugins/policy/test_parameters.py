"""Parameters: known tools keep what was learned when the set of tools changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.policy.evaluate import Catalogue, evaluate
from agentgym.policy.features import TextHasher
from agentgym.policy.parameters import Parameters, extend, initial, shapes
from agentgym.trajectory import PastCall, Tool

POOL = tuple(Tool(f"tool_{i}", f"does thing number {i}") for i in range(6))


def learned(tools: tuple[Tool, ...], dim: int = 0) -> Parameters:
    rng = np.random.default_rng(3)
    made = initial(tuple(t.fingerprint.hex() for t in tools), tuple(t.name for t in tools), dim)
    for tensor in made.tensors.values():
        tensor[...] = rng.normal(0, 1, tensor.shape)
    return made


@pytest.mark.parametrize("dim", [0, 5])
def test_the_prior_has_every_tensor_in_its_shape(dim: int, tools: tuple[Tool, ...]) -> None:
    prior = initial(tuple(t.fingerprint.hex() for t in tools), tuple(t.name for t in tools), dim)

    assert {name: t.shape for name, t in prior.tensors.items()} == shapes(len(tools), dim)
    assert prior.embedding_dim == dim
    assert ("meaning.map" in prior.tensors) == bool(dim)
    assert all(t.dtype == np.float32 for t in prior.tensors.values())


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(range(6)), unique=True, min_size=1),
    st.lists(st.sampled_from(range(6)), unique=True, min_size=1),
    st.sampled_from([0, 5]),
)
def test_extending_keeps_what_was_learned(before: list[int], after: list[int], dim: int) -> None:
    old = learned(tuple(POOL[i] for i in before), dim)
    now = tuple(POOL[i] for i in after)

    new = extend(old, tuple(t.fingerprint.hex() for t in now), tuple(t.name for t in now))

    kept = [tool for tool in now if tool.fingerprint in old.position]
    for tool in kept:
        i, j = new.position[tool.fingerprint], old.position[tool.fingerprint]
        assert np.array_equal(new["tool.weight"][:, i], old["tool.weight"][:, j])
        assert new["tool.bias"][i] == old["tool.bias"][j]
        assert new["defer.tool"][i] == old["defer.tool"][j]
        for other in kept:
            k, m = new.position[other.fingerprint], old.position[other.fingerprint]
            assert new["history.transition"][i, k] == old["history.transition"][j, m]
        assert new["history.transition"][i, -1] == old["history.transition"][j, -1]
    assert np.array_equal(new["tool.weight"][:, -1], old["tool.weight"][:, -1])
    shared = {"similarity.gain", "history.effect", "defer.weight", "defer.bias"}
    if dim:
        shared |= {"meaning.gain", "meaning.map", "defer.embedding"}
    for name in shared:
        assert np.array_equal(new[name], old[name])
    added = [new.position[t.fingerprint] for t in now if t not in kept]
    assert not new["tool.weight"][:, added].any()
    assert new.embedding_dim == dim
    if dim:
        to = [new.position[t.fingerprint] for t in kept]
        of = [old.position[t.fingerprint] for t in kept]
        assert np.array_equal(
            new["tool.embedding"][:, [*to, -1]], old["tool.embedding"][:, [*of, -1]]
        )
        assert not new["tool.embedding"][:, added].any()


def test_extending_by_a_tool_that_is_not_offered_changes_no_estimate(
    tools: tuple[Tool, ...], make_parameters: Callable[..., Parameters]
) -> None:
    old = make_parameters(tools, seed=1)
    more = (POOL[0], *reversed(tools), POOL[1])
    new = extend(old, tuple(t.fingerprint.hex() for t in more), tuple(t.name for t in more))
    hasher = TextHasher(b"key")
    catalogue, x = Catalogue(tools, hasher), hasher("refund my order please")
    history = [PastCall(tools[0].fingerprint, error=False)]

    first, second = (evaluate(policy, x, catalogue, history) for policy in (old, new))

    assert np.allclose(first.right, second.right, rtol=0, atol=1e-12)
    assert abs(first.alone - second.alone) < 1e-12
