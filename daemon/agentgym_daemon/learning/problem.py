"""The training data as tensors, and the loss of any parameters on any of its trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from agentgym.policy.parameters import Parameters
from agentgym_daemon.learning import credit, losses
from agentgym_daemon.learning.arrays import Floats, Ints, Ragged, arm_arrays, step_arrays
from agentgym_daemon.learning.dataset import Dataset, Trajectory
from agentgym_daemon.learning.policy_net import ArmNet, Estimates, PolicyNet, to_tensors
from agentgym_daemon.learning.settings import LearningSettings

_NO_CHANCE = -1e9  # log of a product that is 0


_DTYPE = torch.float32
"""Of the gradient steps; what must be exact (`ratio_error`) is computed in float64."""


def _number(array: Floats) -> Tensor:
    return torch.from_numpy(array).to(_DTYPE)


class Problem:
    """The training data as tensors, and the loss of any parameters on any trajectories."""

    def __init__(
        self, dataset: Dataset, trajectories: Sequence[Trajectory], settings: LearningSettings
    ) -> None:
        self._settings = settings
        arrays, tasks, steps = step_arrays(trajectories, dataset.universe)
        self.size, self.count = len(steps), len(trajectories)
        self._rows = Ragged(np.searchsorted(arrays.trajectory, np.arange(self.count + 1)))
        self._net = PolicyNet(arrays, tasks, _DTYPE)
        self._exactly = (arrays, tasks)
        self._owner = arrays.trajectory
        self._action = torch.from_numpy(arrays.action).to(_DTYPE)
        self._failed = torch.from_numpy(arrays.failed).to(_DTYPE)
        self._wrong = torch.from_numpy(arrays.wrong)
        self._alone = torch.from_numpy(arrays.alone)

        rewarded = np.array([t.reward is not None for t in trajectories], np.bool_)
        rewards = np.array([t.reward or 0.0 for t in trajectories])
        self._rewarded, self._rewards = torch.from_numpy(rewarded), _number(rewards)
        weights = np.array([t.weight for t in trajectories])
        self._weights = _number(weights)
        self.tolerance = credit.tolerance(trajectories, settings)
        self.visible = credit.visible_share(trajectories) * settings.quiet_evidence
        acted = 1.0 - arrays.action[:, -1]  # a RESPOND cannot fail visibly
        self._visible = _number(acted * self.visible)
        self._known = _number(self._known_factors(trajectories))

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
        self._arm_arrays, self._arms, self._arm_step = arms, ArmNet(arms, _DTYPE), arms.step
        self._arm = torch.from_numpy(arms.arm)
        self._propensity = _number(arms.propensity)
        self._position = np.full(self.size, -1, np.int64)
        self._position[arms.step] = np.arange(len(chosen))
        advantage, weight = self._broadcast(rewards, weights)
        self._advantage, self._weight = _number(advantage), _number(weight)

    def _known_factors(self, trajectories: Sequence[Trajectory]) -> Floats:
        """log of the factors of P(R = 1) that no parameter changes: tau^e, and unscored steps."""
        error = np.log(self.tolerance) if self.tolerance > 0 else _NO_CHANCE
        unscored = np.log(self._settings.unscored_right)
        return np.array(
            [
                error * sum(bool(step.failed) for step in t.steps) + unscored * t.unscored
                for t in trajectories
            ]
        )

    def _broadcast(self, rewards: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """One advantage per trajectory for each of its T decided steps, with the weight w / T."""
        owners, inverse, decided = np.unique(
            self._owner[self._arm_step], return_inverse=True, return_counts=True
        )
        advantage = credit.advantages(rewards[owners], weights[owners])
        return advantage[inverse], (weights[owners] / decided)[inverse]

    def replay_only(self) -> None:
        """Leaves the policy gradient out."""
        self.gradient_size = 0
        self._position[:] = -1

    def ratio_error(self, parameters: Parameters) -> float | None:
        """max |pi(arm) / logged propensity - 1| over the parent's steps."""
        if not len(self.of_parent):
            return None
        positions = torch.from_numpy(self.of_parent)
        with torch.no_grad():
            estimates = PolicyNet(*self._exactly)(
                to_tensors(parameters), self._arm_step[self.of_parent]
            )
            probabilities = ArmNet(self._arm_arrays).probabilities(estimates, positions)
            taken = probabilities.gather(1, self._arm[positions, None]).squeeze(1)
            propensity = torch.from_numpy(self._arm_arrays.propensity)[positions]
        return float((taken / propensity - 1.0).abs().max())

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
        wrong, rewarded, weight = self._wrong[row], self._rewarded[run], self._weights[run]
        log_action = losses.log_action(estimates.log_right, self._action[row])
        # Whether a call without an error is evidence at all, only rewards tell.
        visible = self._visible[row] * rewarded[owner]
        log_quiet = losses.log_quiet(log_action, visible)
        log_right = log_action - log_quiet
        log_product = losses.log_product(log_right, wrong, owner, first_B=self._known[run])
        outcome = losses.outcome_loss(
            log_product[rewarded], self._rewards[run][rewarded], weight[rewarded], self._settings
        )
        errors = losses.error_loss(estimates.log_right, self._failed[row], self._settings)
        target = credit.posterior_right(
            log_right.detach().exp().numpy(),
            log_product.detach().exp()[owner].numpy(),
            self._rewards[run][owner].numpy(),
            self._settings,
        )
        # A visible error is seen, not said: whoever judged the run, it counts in full.
        labelled = torch.where(wrong, 1.0, weight[owner] * rewarded[owner]) * self._alone[row]
        defer = losses.defer_loss(
            estimates.alone_apart,
            torch.where(wrong, 0.0, _number(target)),
            labelled.to(_DTYPE),
        )
        stop = losses.stop_loss(
            estimates.log_right[:, -1],
            self._action[row, -1] > 0,
            self._alone[row].to(_DTYPE),
        )
        quiet = (weight[owner] * log_quiet)[~wrong].sum()
        replay = outcome + errors + defer - quiet
        return replay + self._settings.stop_weight * stop
