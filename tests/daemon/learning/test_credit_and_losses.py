"""What outcomes say about steps: formulas against brute force and against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.policy.features import TextVector
from agentgym_daemon.learning import credit, losses
from agentgym_daemon.learning.dataset import Step, Trajectory
from agentgym_daemon.learning.settings import LearningSettings

SETTINGS = LearningSettings()
X = TextVector(np.zeros(0, np.uint32), np.zeros(0, np.uint8), 0.0)
unit = st.floats(0.01, 0.99)


def trajectory(reward: float | None, *, error: bool) -> Trajectory:
    failed = (0,) if error else ()
    step = Step(X, (0,), (True,), (), (0,), failed, responded=False, alone=True, gradient=None)
    return Trajectory(b"", reward, (step,), 0)


def test_advantages_are_centred_and_scaled_over_the_batch() -> None:
    found = credit.advantages(np.array([1.0, 0.0, 0.0, 1.0]))

    np.testing.assert_allclose(found, [1, -1, -1, 1])


@pytest.mark.parametrize("rewards", [[], [1.0], [0.5, 0.5]])
def test_without_a_difference_in_rewards_there_is_no_advantage(rewards: list[float]) -> None:
    assert not credit.advantages(np.array(rewards)).any()


@settings(deadline=None)
@given(right=st.lists(unit, min_size=1, max_size=4), reward=st.sampled_from([0.0, 1.0]))
def test_posteriors_equal_an_enumeration_of_all_ways_to_go_right(
    right: list[float], reward: float
) -> None:
    n = len(right)
    joint = {}
    for ways in np.ndindex(*(2,) * n):
        probability = np.prod([p if w else 1 - p for p, w in zip(right, ways, strict=True)])
        success = 1 - SETTINGS.false_failure if all(ways) else SETTINGS.false_success
        joint[ways] = probability * (success if reward else 1 - success)
    total = sum(joint.values())
    want = [sum(v for k, v in joint.items() if k[i]) / total for i in range(n)]
    product = np.full(n, np.prod(right))

    got = credit.posterior_right(np.array(right), product, np.full(n, reward), SETTINGS)

    np.testing.assert_allclose(got, want, atol=1e-9)
    surprise = credit.surprise(product[:1], np.array([reward]), SETTINGS)
    assert surprise[0] == pytest.approx(-np.log(total))


@settings(deadline=None)
@given(right=st.lists(unit, min_size=1, max_size=4), reward=st.floats(0, 1))
def test_the_torch_loss_equals_the_numpy_surprise(right: list[float], reward: float) -> None:
    logs = torch.tensor(right, dtype=torch.float64).log()
    owner = torch.zeros(len(right), dtype=torch.int64)
    none = torch.zeros(len(right), dtype=torch.bool)
    first = torch.zeros(1, dtype=torch.float64)

    product = losses.log_product(logs, none, owner, first_B=first)
    got = losses.outcome_loss(
        product, torch.tensor([reward], dtype=torch.float64), torch.ones(1), SETTINGS
    )

    want = credit.surprise(np.array([np.prod(right)]), np.array([reward]), SETTINGS)
    assert float(got) == pytest.approx(want[0])


def test_a_visible_error_explains_a_failure_away() -> None:
    logs = torch.tensor([-0.5, -0.7], dtype=torch.float64, requires_grad=True)
    wrong = torch.tensor([True, False])
    first = torch.tensor([-1e9], dtype=torch.float64)  # tau = 0
    owner = torch.zeros(2, dtype=torch.int64)

    product = losses.log_product(logs, wrong, owner, first_B=first)
    losses.outcome_loss(
        product, torch.zeros(1, dtype=torch.float64), torch.ones(1), SETTINGS
    ).backward()  # type: ignore[no-untyped-call]

    assert logs.grad is not None
    assert not logs.grad.any()


def test_a_visible_error_lowers_the_tool_that_failed_and_bounds_its_effect() -> None:
    log_right = torch.tensor([[0.999999, 0.0000005, 0.0000005]], dtype=torch.float64).log()
    failed = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)

    loss = losses.error_loss(log_right, failed, SETTINGS)

    assert 0 < float(loss) <= -np.log(SETTINGS.false_error) + 1e-6
    assert float(losses.error_loss(log_right, 0 * failed, SETTINGS)) == 0


def test_parallel_calls_all_have_to_be_right() -> None:
    log_right = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    action = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)

    assert float(losses.log_action(log_right, action).exp()) == pytest.approx(0.125)


def test_a_quiet_step_is_evidence_only_as_far_as_wrong_calls_fail_visibly() -> None:
    logs = torch.tensor([0.25], dtype=torch.float64).log()

    assert float(losses.log_quiet(logs, torch.zeros(1, dtype=torch.float64))) == 0
    half = losses.log_quiet(logs, torch.tensor([0.5], dtype=torch.float64))
    assert float(half.exp()) == pytest.approx(1 - 0.5 * 0.75)


def test_a_step_that_was_not_left_alone_does_not_train_the_defer_head() -> None:
    logit, target = torch.tensor([0.3, 2.0]), torch.tensor([0.0, 1.0])

    loss = losses.defer_loss(logit, target, torch.tensor([1.0, 0.0]))

    assert float(loss) == pytest.approx(float(torch.nn.functional.softplus(logit[0])))


def test_the_clip_takes_the_gain_of_a_ratio_outside_but_not_its_loss() -> None:
    weight = torch.ones(1)

    def loss(ratio: float, advantage: float) -> float:
        tensors = torch.tensor([ratio]), torch.tensor([advantage])
        return float(losses.ppo_loss(*tensors, weight, clip=0.2))

    assert loss(1.0, 1.0) == pytest.approx(-1.0)
    assert loss(2.0, 1.0) == pytest.approx(-1.2)
    assert loss(2.0, -1.0) == pytest.approx(2.0)
    assert loss(0.5, -1.0) == pytest.approx(0.8)


def test_tolerance_is_zero_where_errors_spoil_runs_and_high_where_they_do_not() -> None:
    spoilt = [trajectory(float(i % 50 == 0), error=True) for i in range(100)]
    recovered = [trajectory(float(i % 10 > 0), error=True) for i in range(100)]
    unrewarded = [trajectory(None, error=True)] * 10

    assert credit.tolerance(spoilt, SETTINGS) == 0
    assert credit.tolerance([], SETTINGS) == 0
    assert credit.tolerance(unrewarded, SETTINGS) == 0
    assert credit.tolerance(recovered, SETTINGS) > 0.75


def test_the_visible_share_counts_errors_among_spoilt_runs() -> None:
    runs = [trajectory(0.0, error=i < 60) for i in range(100)]
    runs += [trajectory(1.0, error=False)] * 50

    assert credit.visible_share(runs) == pytest.approx(60 / 105)
    assert credit.visible_share([]) == 0


def test_an_agent_that_goes_on_speaks_against_respond_and_one_that_stops_for_it() -> None:
    log_respond = torch.tensor([0.2, 0.2, 0.2]).log().requires_grad_()
    responded, weight = torch.tensor([True, False, True]), torch.tensor([1.0, 1.0, 0.0])

    loss = losses.stop_loss(log_respond, responded, weight)
    loss.backward()

    assert float(loss.detach()) == pytest.approx(-np.log(0.2) - np.log(0.8))
    assert log_respond.grad is not None
    stopping, going_on, decided = log_respond.grad.tolist()
    assert stopping < 0 < going_on
    assert decided == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_answer_that_did_not_come_costs_much_and_not_everything(
    dtype: torch.dtype,
) -> None:
    logits = torch.tensor([[0.0, 90.0], [0.0, 90.0]], dtype=dtype, requires_grad=True)
    log_respond = logits.log_softmax(1)[:, -1]
    alone = torch.tensor([1.0, 0.0], dtype=dtype)

    loss = losses.stop_loss(log_respond, torch.tensor([False, False]), alone)
    loss.backward()  # type: ignore[no-untyped-call]

    assert loss.dtype == dtype
    assert float(loss.detach()) == pytest.approx(20.7, abs=0.1)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
