"""Evaluation of a policy at one step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.policy.evaluate import Catalogue, CatalogueCache, evaluate, sigmoid, softmax
from agentgym.policy.features import TextHasher
from agentgym.policy.parameters import EFFECTS, Parameters, initial
from agentgym.trajectory import PastCall, Tool

HASHER = TextHasher(b"key")


def prior(tools: tuple[Tool, ...]) -> Parameters:
    return initial(tuple(t.fingerprint.hex() for t in tools), tuple(t.name for t in tools))


def test_estimates_are_probabilities(parameters: Parameters, tools: tuple[Tool, ...]) -> None:
    result = evaluate(parameters, HASHER("cancel it"), Catalogue(tools, HASHER), [])

    assert len(result.right) == len(tools) + 1
    assert math.isclose(result.right.sum(), 1.0, abs_tol=1e-12)
    assert 0.0 < result.alone < 1.0


def test_parts_add_up_to_the_logits(parameters: Parameters, tools: tuple[Tool, ...]) -> None:
    history = [PastCall(tools[1].fingerprint, error=True)]

    result = evaluate(parameters, HASHER("cancel it"), Catalogue(tools, HASHER), history)

    assert np.array_equal(softmax(sum(result.parts.values(), np.zeros(5))), result.right)


def test_before_any_learning_the_resembling_tool_is_likeliest(tools: tuple[Tool, ...]) -> None:
    task = HASHER("please cancel the order, it was not shipped")

    result = evaluate(prior(tools), task, Catalogue(tools, HASHER), [])

    assert int(np.argmax(result.right[:-1])) == 2


def test_a_tool_that_succeeded_or_failed_is_less_likely_again(tools: tuple[Tool, ...]) -> None:
    policy, task = prior(tools), HASHER("order")
    catalogue = Catalogue(tools, HASHER)
    first = evaluate(policy, task, catalogue, []).parts["history"]

    for error, effect in ((False, "repeat_ok"), (True, "repeat_error")):
        past = evaluate(policy, task, catalogue, [PastCall(tools[0].fingerprint, error)])

        assert (
            past.parts["history"][0] - first[0] == policy["history.effect"][EFFECTS.index(effect)]
        )


def test_a_tool_that_the_policy_does_not_know_is_judged_by_its_text(
    tools: tuple[Tool, ...],
) -> None:
    stranger = Tool("track_parcel", "Says where a parcel is.")
    catalogue = Catalogue((*tools, stranger), HASHER)

    result = evaluate(prior(tools), HASHER("track the parcel"), catalogue, [])

    assert result.parts["learned"][4] == 0.0
    assert int(np.argmax(result.right[:-1])) == 4


def test_a_call_of_a_tool_that_was_never_offered_is_no_error(
    parameters: Parameters, tools: tuple[Tool, ...]
) -> None:
    history = [PastCall(b"", error=False), PastCall(b"12345678", error=True)]

    result = evaluate(parameters, HASHER("x"), Catalogue(tools, HASHER), history)

    assert np.isfinite(result.right).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_softmax_sums_to_one(values: list[float]) -> None:
    assert math.isclose(softmax(np.array(values)).sum(), 1.0, abs_tol=1e-12)


@given(st.floats(allow_nan=False))
def test_sigmoid_never_overflows(z: float) -> None:
    assert 0.0 <= sigmoid(z) <= 1.0
    assert sigmoid(z) == pytest.approx(1.0 - sigmoid(-z), abs=1e-12)


def test_catalogues_are_made_once_and_bounded(tools: tuple[Tool, ...]) -> None:
    cache = CatalogueCache(HASHER)

    first = cache(tools)

    assert cache(list(tools)) is first
    for i in range(64):
        cache((Tool(f"t{i}"),))
    assert cache(tools) is not first
