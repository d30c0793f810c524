"""One training: a dataset and the parent's parameters in, a candidate's parameters out.

    loss = replay (outcomes + visible errors) + defer + pg_weight * PPO-clip + prior

Left out of the textbook PPO: the entropy bonus and the value network (neither helped when
measured), and fresh rollouts per update: the policy acts while it learns, so a gradient step sees
each decision several times and the clip holds it near the version that made it. The prior pulls
towards the untrained policy, not towards the parent: all data in the window are replayed, and the
trust region, not the prior, keeps a candidate near its parent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agentgym.policy.parameters import EFFECTS, Parameters, extend, initial
from agentgym_daemon.learning.arrays import Floats, Ints, step_arrays
from agentgym_daemon.learning.churn import Churn, allowed_matrix, churn
from agentgym_daemon.learning.crossfit import HALVES, Fitted, without
from agentgym_daemon.learning.dataset import Dataset, Trajectory
from agentgym_daemon.learning.phases import Phases
from agentgym_daemon.learning.policy_net import PolicyNet, to_parameters, to_tensors
from agentgym_daemon.learning.problem import Problem
from agentgym_daemon.learning.settings import LearningSettings

_GROUPS = {
    "tool.weight": "weight",
    "tool.bias": "bias",
    "similarity.gain": "gain",
    "meaning.gain": "gain",
    "meaning.map": "map",
    "tool.embedding": "weight",
    "defer.embedding": "defer",
    "history.transition": "bias",
    "history.effect": "effect",
    "defer.weight": "defer",
    "defer.bias": "defer",
    "defer.tool": "defer",
}
_LAST_RATE = 0.1  # the learning rate falls linearly to this share of itself
_SHRINK, _MAX_TRIES = 0.75, 16
_BETAS = (0.9, 0.98)


class RatioError(RuntimeError):
    """Recomputed propensities are far from the logged ones: the data or the code is broken."""


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training saw and did; every figure of it is recorded with the version."""

    trajectories: int  # trained on
    rewarded: int
    held_out: int
    steps: int
    gradient_steps: int
    gradient_steps_of_parent: int
    ratio_error: float | None  # max |ratio - 1| on the parent's steps; None: there are none
    tolerance: float
    visible_share: float
    loss_first: float
    loss_last: float
    beta: float
    churn: dict[str, float] | None  # None: there is no incumbent
    stale: int = 0  # left out: they tell of tools what is not true at present
    weight: float = 0.0  # of the rewarded ones, after the caps of their sources

    def plain(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


def train(
    dataset: Dataset,
    parent: Parameters | None,
    *,
    settings: LearningSettings,
    seed: int,
    phases: Phases | None = None,
) -> tuple[Parameters, TrainReport]:
    """The candidate learned from `dataset`; the same for the same arguments.

    `phases` gets the seconds of `featurise`: steps become arrays.

    Raises RatioError when decisions of the parent version cannot be recomputed.
    """
    candidate, report = train_with_twins(
        dataset, Fitted.of(parent), settings=settings, seed=seed, phases=phases, twins=0
    )
    return candidate.policy, report


def train_with_twins(
    dataset: Dataset,
    parent: Fitted | None,
    *,
    settings: LearningSettings,
    seed: int,
    phases: Phases | None = None,
    twins: int = HALVES,
) -> tuple[Fitted, TrainReport]:
    """The candidate with the twins that can say what it is worth (see `crossfit`)."""
    phases = phases or Phases()
    usable = [t for t in dataset.trajectories if t.steps and _informative(t)]
    kept = [t for t in usable if not t.held_out(settings.held_out_in)]
    with phases("featurise"):
        problem = Problem(dataset, kept, settings)
    ratio_error = None if parent is None else _check_ratio(problem, dataset, parent, settings)
    fit = partial(_fit, problem, dataset, settings=settings, seed=seed)
    found = fit(parent.policy if parent else None, np.arange(problem.count))
    with phases("twins"):
        fitted = Fitted(
            found.parameters,
            tuple(
                fit(parent.twin(half) if parent else None, without(kept, half)).parameters
                for half in range(twins)
            ),
        )
    report = TrainReport(
        trajectories=len(kept),
        rewarded=sum(t.reward is not None for t in kept),
        held_out=len(usable) - len(kept),
        steps=problem.size,
        gradient_steps=problem.gradient_size,
        gradient_steps_of_parent=len(problem.of_parent),
        ratio_error=ratio_error,
        tolerance=problem.tolerance,
        visible_share=problem.visible,
        loss_first=found.loss_first,
        loss_last=found.loss_last,
        beta=found.beta,
        churn=None if found.churn is None else asdict(found.churn),
        weight=sum(t.weight for t in kept if t.reward is not None),
    )
    return fitted, report


def _check_ratio(
    problem: Problem, dataset: Dataset, parent: Fitted, settings: LearningSettings
) -> float | None:
    """max |ratio - 1| on the parent's steps, and what follows from it."""
    error = problem.ratio_error(extend(parent.policy, dataset.tools, dataset.names))
    if error is not None and error > settings.ratio_limit:
        raise RatioError(
            f"expected |ratio - 1| <= {settings.ratio_limit:g} on the parent's steps before "
            f"the first update, got {error:g}; the stored features or the code do not match "
            f"version {dataset.parent!r}"
        )
    if error is not None and error > settings.ratio_tolerance:
        # Not what was done to the last digits: enough to replay, not enough for a gradient.
        problem.replay_only()
    return error


class _Fit(NamedTuple):
    parameters: Parameters
    loss_first: float
    loss_last: float
    beta: float
    churn: Churn | None


def _fit(
    problem: Problem,
    dataset: Dataset,
    parent: Parameters | None,
    members: Ints,
    *,
    settings: LearningSettings,
    seed: int,
) -> _Fit:
    """Parameters learned from some of the trajectories, inside the trust region of `parent`."""
    prior = initial(dataset.tools, dataset.names, dataset.features.embedding_dim)
    start = prior if parent is None else extend(parent, dataset.tools, dataset.names)
    tensors, first, last = _descend(problem, members, start, prior, settings=settings, seed=seed)
    candidate = to_parameters(start, tensors)
    if parent is None:
        return _Fit(candidate, first, last, 1.0, None)
    candidate, beta, change = _backtrack(dataset, start, candidate, settings)
    return _Fit(candidate, first, last, beta, change)


def _informative(trajectory: Trajectory) -> bool:
    # Without a reward only visible errors say something: their absence is not a success.
    return trajectory.reward is not None or trajectory.failed_visibly


def _descend(
    problem: Problem,
    members: Ints,
    start: Parameters,
    prior: Parameters,
    *,
    settings: LearningSettings,
    seed: int,
) -> tuple[dict[str, Tensor], float, float]:
    """Adam from `start` over seeded minibatches of `members`; also the first and the last loss."""
    tensors = {n: t.requires_grad_() for n, t in to_tensors(start, torch.float32).items()}
    anchor = to_tensors(prior, torch.float32)
    if not len(members):
        return tensors, 0.0, 0.0
    rates = {name: getattr(settings, f"rate_{_GROUPS[name]}") for name in tensors}
    strengths = {name: getattr(settings, f"l2_{_GROUPS[name]}") for name in tensors}
    optimiser = torch.optim.Adam(
        [{"params": [tensors[n]], "lr": rates[n]} for n in tensors],
        betas=_BETAS,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimiser, 1.0, _LAST_RATE, total_iters=settings.rounds
    )
    values = []
    for batch in _batches(members, problem.count, settings, np.random.default_rng(seed)):
        optimiser.zero_grad()
        loss = problem.loss(tensors, batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation lacks one
        with torch.no_grad():
            _keep_repeats(tensors["history.effect"].grad)
            for name, tensor in tensors.items():
                if tensor.grad is not None:
                    tensor.grad.add_(tensor - anchor[name], alpha=strengths[name] / len(members))
        optimiser.step()
        schedule.step()
        values.append(float(loss.detach()))
        if not math.isfinite(values[-1]):
            raise FloatingPointError(f"the loss became {values[-1]} in round {len(values)}")
    return tensors, values[0], values[-1]


def _keep_repeats(gradient: Tensor | None) -> None:
    """Leaves the effect of a visible error on repeating its call at its prior.

    A training sees the same tasks again: it remembers on which of them a call was wrong, and finds
    that repeating the others is fine. On a new task it cannot know, and the error is the evidence.
    """
    if gradient is not None:
        gradient[EFFECTS.index("repeat_error")] = 0.0


def _batches(
    members: Ints, count: int, settings: LearningSettings, rng: np.random.Generator
) -> Sequence[Ints]:
    """`rounds` batches, drawn in proportion to how recent a trajectory is (the newest is last)."""
    size = min(settings.batch, len(members))
    age = (count - 1 - members) / settings.half_life
    weight = settings.least_weight + (1.0 - settings.least_weight) * 0.5**age
    chance = weight / weight.sum()
    return [
        np.sort(rng.choice(members, size, replace=False, p=chance)) for _ in range(settings.rounds)
    ]


def _backtrack(
    dataset: Dataset, parent: Parameters, candidate: Parameters, settings: LearningSettings
) -> tuple[Parameters, float, Churn]:
    """parent + beta (candidate - parent), beta the first of 1, 3/4, 9/16 ... inside the limits."""
    steps = [step for t in dataset.trajectories for step in t.steps][-settings.recent_steps :]
    trajectory = Trajectory(b"", None, tuple(steps), 0)
    arrays, tasks, _ = step_arrays([trajectory], dataset.universe)
    net, allowed = PolicyNet(arrays, tasks), allowed_matrix(steps, len(dataset.tools))
    before = _estimates(net, parent)
    beta = 1.0
    for _ in range(_MAX_TRIES):
        mixed = _interpolate(parent, candidate, beta)
        change = churn(before, _estimates(net, mixed), allowed, settings.exploration)
        if change.within(max_changed=settings.max_changed, max_kl=settings.max_kl):
            return mixed, beta, change
        beta *= _SHRINK
    return parent, 0.0, churn(before, before, allowed, settings.exploration)


def _estimates(net: PolicyNet, parameters: Parameters) -> tuple[Floats, Floats]:
    with torch.no_grad():
        result = net(to_tensors(parameters))
    return result.right.numpy(), result.alone.sigmoid().numpy()


def _interpolate(parent: Parameters, candidate: Parameters, beta: float) -> Parameters:
    tensors = {
        name: (parent[name] + beta * (candidate[name].astype(np.float64) - parent[name])).astype(
            np.float32
        )
        for name in parent.tensors
    }
    return Parameters(parent.tools, parent.names, tensors)
