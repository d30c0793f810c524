"""The training losses: pure functions of tensors, one formula each (notation: `credit`)."""

from __future__ import annotations

import torch
from torch import Tensor

from agentgym_daemon.learning.settings import LearningSettings


def log_action(log_right: Tensor, action: Tensor) -> Tensor:
    """log p_i: of the executed tool, of all tools of a parallel step, or of RESPOND.

    Tools executed in parallel are taken for independent slots: the product of their probabilities.
    """
    return torch.where(action > 0, log_right, 0.0).sum(1)


def log_quiet(log_action_N: Tensor, visible_N: Tensor) -> Tensor:
    """log(1 - v (1 - p_i)): the probability that a step shows no error."""
    return torch.log1p(-visible_N * (1.0 - log_action_N.exp()))


def log_product(
    log_right_N: Tensor,
    wrong_N: Tensor,
    owner_N: Tensor,
    *,
    first_B: Tensor,
) -> Tensor:
    """log(tau^e prod r_i) per trajectory; `first_B` is what is known beforehand (tau, unscored)."""
    return first_B.index_add(0, owner_N, torch.where(wrong_N, 0.0, log_right_N))


def outcome_loss(
    log_product_B: Tensor, reward_B: Tensor, weight_B: Tensor, settings: LearningSettings
) -> Tensor:
    """w (-R log P(R = 1) - (1 - R) log P(R = 0)), P(R = 1) = f_s + c exp(log_product), summed."""
    honest = 1.0 - settings.false_success - settings.false_failure
    success = settings.false_success + honest * log_product_B.exp()
    loss_B = reward_B * success.log() + (1 - reward_B) * torch.log1p(-success)
    return -(weight_B * loss_B).sum()


def error_loss(log_right: Tensor, failed: Tensor, settings: LearningSettings) -> Tensor:
    """-log(1 - (1 - f_e) p_t) summed over visible errors; f_e bounds what one error can do."""
    doubt = 1.0 - settings.false_error
    right = torch.where(failed > 0, log_right, -torch.inf).exp()
    return -torch.log1p(-doubt * right).sum()


def defer_loss(alone: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy of q with the posterior that the step went right, summed."""
    loss = torch.nn.functional.binary_cross_entropy_with_logits(alone, target, reduction="none")
    return (loss * weight).sum()


def stop_loss(log_respond_N: Tensor, responded_N: Tensor, weight_N: Tensor) -> Tensor:
    """-log p of whether an agent left alone answered or went on, summed.

    A prior on RESPOND: agents mistake one tool for another more often than they mistake what is
    done for what is not. Without it a wrong second call reads as if no second call was needed.
    """
    # In float64: in float32 the greatest p below 1 is 1, and its loss infinite.
    went_on = torch.log1p(-log_respond_N.double().exp().clamp(max=1.0 - 1e-9)).to(log_respond_N)
    return -(weight_N * torch.where(responded_N, log_respond_N, went_on)).sum()


def ppo_loss(ratio: Tensor, advantage: Tensor, weight: Tensor, *, clip: float) -> Tensor:
    """-sum w min(r A, clip(r, 1 - eps, 1 + eps) A) (PPO, arXiv 1707.06347, Eq. 7).

    w = 1 / T broadcasts one advantage to the T decided steps of a trajectory (arXiv 2510.05592,
    Eq. 5).
    """
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -(weight * torch.minimum(ratio * advantage, clipped * advantage)).sum()
