"""One training: a dataset and the parent's parameters in, a candidate's parameters out.

    loss = replay (outcomes + visible errors) + defer + pg_weight * PPO-clip + prior

Left out of the textbook PPO: the entropy bonus and the value network (neither helped when
measured), and fresh rollouts per update: the policy acts while it learns, so a gradient step sees
each decision several times and the clip holds it near the version that made it. The prior pulls
towards the untrained policy, not towards the parent: all data in the window are replayed, and the
trust region, not the prior, keeps a candidate near its parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentgym.policy.parameters import Parameters, extend, initial
from agentgym_daemon.learning import credit, losses
from agentgym_daemon.learning.arrays import Floats, Ints, Ragged, arm_arrays, step_arrays
from agentgym_daemon.learning.churn import Churn, allowed_matrix, churn
from agentgym_daemon.learning.dataset import Dataset, Trajectory
from agentgym_daemon.learning.policy_net import ArmNet, Estimates, PolicyNet, to_parameters, to_tensors
from agentgym_daemon.learning.settings import LearningSettings

_GROUPS = {
    "tool.weight": "weight",
    "tool.bias": "bias",
    "similarity.gain": "similarity",
    "similarity.bucket": "similarity",
    "history.transition": "bias",
    "history.effect": "bias",
    "defer.weight": "defer",
    "defer.bias": "defer",
    "defer.tool": "defer",
}
_LAST_RATE = 0.1  # the learning rate falls linearly to this share of itself
_MAX_HALVINGS = 8
_NO_CHANCE = -1e9  # log of a product that is 0


class RatioError(RuntimeError):
    """Recomputed propensities differ from the logged ones: the data or the code is broken."""


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
    loss_first: float
    loss_last: float
    beta: float
    churn: dict[str, float] | None  # None: there is no incumbent

    def plain(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


def train(
    dataset: Dataset, parent: Parameters | None, *, settings: LearningSettings, seed: int
) -> tuple[Parameters, TrainReport]:
    """The candidate learned from `dataset`; the same for the same arguments.

    Raises RatioError when decisions of the parent version cannot be recomputed.
    """
    prior = initial(dataset.tools, dataset.names)
    start = prior if parent is None else extend(parent, dataset.tools, dataset.names)
    usable = [t for t in dataset.trajectories if t.steps and _informative(t)]
    kept = [t for t in usable if not t.held_out(settings.held_out_in)]
    problem = _Problem(dataset, kept, settings)
    ratio_error = problem.ratio_error(start) if parent is not None else None
    if ratio_error is not None and ratio_error > settings.ratio_tolerance:
        raise RatioError(
            f"expected |ratio - 1| <= {settings.ratio_tolerance:g} on the parent's steps before the "
            f"first update, got {ratio_error:g}; the stored features or the code do not match "
            f"version {dataset.parent!r}"
        )
    tensors, first, last = _descend(problem, start, prior, settings=settings, seed=seed)
    candidate = to_parameters(start, tensors)
    beta, change = 1.0, None
    if parent is not None:
        candidate, beta, change = _backtrack(dataset, start, candidate, settings)
    report = TrainReport(
        trajectories=len(kept),
        rewarded=sum(t.reward is not None for t in kept),
        held_out=len(usable) - len(kept),
        steps=problem.size,
        gradient_steps=problem.gradient_size,
        gradient_steps_of_parent=len(problem.of_parent),
        ratio_error=ratio_error,
        tolerance=problem.tolerance,
        loss_first=first,
        loss_last=last,
        beta=beta,
        churn=None if change is None else asdict(change),
    )
    return candidate, report


def _informative(trajectory: Trajectory) -> bool:
    # Without a reward only visible errors say something: their absence is not a success.
    return trajectory.reward is not None or trajectory.failed_visibly


class _Problem:
    """The training data as tensors, and the loss of any parameters on any trajectories."""

    def __init__(
        self, dataset: Dataset, trajectories: Sequence[Trajectory], settings: LearningSettings
    ) -> None:
        self._settings = settings
        arrays, tasks, steps = step_arrays(trajectories, dataset.universe)
        self.size, self.count = len(steps), len(trajectories)
        self._rows = Ragged(np.searchsorted(arrays.trajectory, np.arange(self.count + 1)))
        self._net = PolicyNet(arrays, tasks)
        self._owner = arrays.trajectory
        self._action = torch.from_numpy(arrays.action)
        self._failed = torch.from_numpy(arrays.failed)
        self._wrong = torch.from_numpy(arrays.wrong)
        self._alone = torch.from_numpy(arrays.alone)

        rewarded = np.array([t.reward is not None for t in trajectories], np.bool_)
        rewards = np.array([t.reward or 0.0 for t in trajectories])
        self._rewarded, self._rewards = torch.from_numpy(rewarded), torch.from_numpy(rewards)
        self.tolerance = credit.tolerance(trajectories, settings)
        self._known = torch.from_numpy(self._known_factors(trajectories))

        ages = {version: dataset.age(version) for version in dataset.versions}
        chosen = [
            i
            for i, step in enumerate(steps)
            if step.gradient is not None
            and rewarded[self._owner[i]]
            and (age := ages.get(step.gradient.version)) is not None
            and age <= settings.max_age
        ]
        arms = arm_arrays(steps, chosen, arrays.columns)
        self.gradient_size = len(chosen)
        self.of_parent = np.array(
            [
                k
                for k, i in enumerate(chosen)
                if (g := steps[i].gradient) is not None and g.version == dataset.parent
            ],
            np.int64,
        )
        self._arms, self._arm_step = ArmNet(arms), arms.step
        self._arm = torch.from_numpy(arms.arm)
        self._propensity = torch.from_numpy(arms.propensity)
        self._position = np.full(self.size, -1, np.int64)
        self._position[arms.step] = np.arange(len(chosen))
        advantage, weight = self._broadcast(rewards)
        self._advantage, self._weight = torch.from_numpy(advantage), torch.from_numpy(weight)

    def _known_factors(self, trajectories: Sequence[Trajectory]) -> Floats:
        """log of the factors of P(R = 1) that no parameter changes: tau^e, and unscored steps."""
        error = np.log(self.tolerance) if self.tolerance > 0 else _NO_CHANCE
        unscored = np.log(self._settings.unscored_right)
        return np.array(
            [error * sum(bool(s.failed) for s in t.steps) + unscored * t.unscored for t in trajectories]
        )

    def _broadcast(self, rewards: Floats) -> tuple[Floats, Floats]:
        """One advantage per trajectory for each of its T decided steps, with the weight 1 / T."""
        owners, inverse, decided = np.unique(
            self._owner[self._arm_step], return_inverse=True, return_counts=True
        )
        advantage = credit.advantages(rewards[owners])
        return advantage[inverse], (1.0 / decided)[inverse]

    def ratio_error(self, parameters: Parameters) -> float | None:
        """max |pi(arm) / logged propensity - 1| over the parent's steps."""
        if not len(self.of_parent):
            return None
        with torch.no_grad():
            estimates = self._net(to_tensors(parameters), self._arm_step[self.of_parent])
            ratio = self._ratio(estimates, torch.from_numpy(self.of_parent))
        return float((ratio - 1.0).abs().max())

    def _ratio(self, estimates: Estimates, positions: Tensor) -> Tensor:
        probabilities = self._arms.probabilities(estimates, positions)
        taken = probabilities.gather(1, self._arm[positions, None]).squeeze(1)
        return taken / self._propensity[positions]

    def loss(self, parameters: Mapping[str, Tensor], trajectories: Ints) -> Tensor:
        """Mean loss of some trajectories, without the prior."""
        rows, offset = self._rows.take(trajectories)
        owner = torch.from_numpy(np.repeat(np.arange(len(trajectories)), np.diff(offset)))
        row, run = torch.from_numpy(rows), torch.from_numpy(trajectories)
        estimates = self._net(parameters, rows)
        total = self._replay(estimates, row, run, owner)
        positions = self._position[rows]
        if self._settings.pg_weight > 0 and (positions >= 0).any():
            position = torch.from_numpy(positions[positions >= 0])
            decided = estimates.take(torch.from_numpy(positions >= 0))
            total = total + self._settings.pg_weight * losses.ppo_loss(
                self._ratio(decided, position),
                self._advantage[position],
                self._weight[position],
                clip=self._settings.clip,
            )
        return total / len(trajectories)

    def _replay(self, estimates: Estimates, row: Tensor, run: Tensor, owner: Tensor) -> Tensor:
        wrong, rewarded = self._wrong[row], self._rewarded[run]
        log_action = losses.log_action(estimates.log_right, self._action[row])
        log_product = losses.log_product(log_action, wrong, owner, first_B=self._known[run])
        outcome = losses.outcome_loss(
            log_product[rewarded], self._rewards[run][rewarded], self._settings
        )
        errors = losses.error_loss(estimates.log_right, self._failed[row], self._settings)
        target = credit.posterior_right(
            log_action.detach().exp().numpy(),
            log_product.detach().exp()[owner].numpy(),
            self._rewards[run][owner].numpy(),
            self._settings,
        )
        labelled = self._alone[row] & (rewarded[owner] | wrong)
        defer = losses.defer_loss(
            estimates.alone_apart,
            torch.where(wrong, 0.0, torch.from_numpy(target)),
            labelled.to(torch.float64),
        )
        return outcome + errors + defer


def _descend(
    problem: _Problem,
    start: Parameters,
    prior: Parameters,
    *,
    settings: LearningSettings,
    seed: int,
) -> tuple[dict[str, Tensor], float, float]:
    """Adam from `start` over seeded minibatches; also the first and the last loss."""
    tensors = {name: t.requires_grad_() for name, t in to_tensors(start).items()}
    anchor = to_tensors(prior)
    if not problem.count:
        return tensors, 0.0, 0.0
    rates = {name: getattr(settings, f"rate_{group}") for name, group in _GROUPS.items()}
    strengths = {name: getattr(settings, f"l2_{group}") for name, group in _GROUPS.items()}
    optimiser = torch.optim.Adam([{"params": [tensors[n]], "lr": rates[n]} for n in _GROUPS])
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimiser, 1.0, _LAST_RATE, total_iters=settings.rounds
    )
    values = []
    for batch in _batches(problem.count, settings, np.random.default_rng(seed)):
        optimiser.zero_grad()
        loss = problem.loss(tensors, batch)
        for name, tensor in tensors.items():
            pull = 0.5 * strengths[name] / problem.count
            loss = loss + pull * (tensor - anchor[name]).square().sum()
        loss.backward()
        optimiser.step()
        schedule.step()
        values.append(float(loss.detach()))
    return tensors, values[0], values[-1]


def _batches(count: int, settings: LearningSettings, rng: np.random.Generator) -> Sequence[Ints]:
    """`rounds` batches that go through all trajectories again and again, each time reshuffled."""
    size = min(settings.batch, count)
    passes = -(-settings.rounds * size // count)
    order = np.concatenate([rng.permutation(count) for _ in range(passes)])
    return [np.sort(order[i * size : (i + 1) * size]) for i in range(settings.rounds)]


def _backtrack(
    dataset: Dataset, parent: Parameters, candidate: Parameters, settings: LearningSettings
) -> tuple[Parameters, float, Churn]:
    """parent + beta (candidate - parent) with the first beta of 1, 1/2, 1/4 ... inside the limits."""
    steps = [step for t in dataset.trajectories for step in t.steps][-settings.recent_steps :]
    trajectory = Trajectory(b"", None, tuple(steps), 0)
    arrays, tasks, _ = step_arrays([trajectory], dataset.universe)
    net, allowed = PolicyNet(arrays, tasks), allowed_matrix(steps, len(dataset.tools))
    before = _estimates(net, parent)
    beta = 1.0
    for _ in range(_MAX_HALVINGS):
        mixed = _interpolate(parent, candidate, beta)
        change = churn(before, _estimates(net, mixed), allowed, settings.exploration)
        if change.within(max_changed=settings.max_changed, max_kl=settings.max_kl):
            return mixed, beta, change
        beta /= 2
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
