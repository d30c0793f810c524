"""The torch twin of `agentgym.policy.evaluate`: the same numbers for many steps, with gradients.

A tool that a policy does not know has the value 0 wherever a known one has a parameter, so a
policy is first extended to the universe of tools and then no case distinction is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from agentgym.policy.parameters import EFFECTS, Parameters
from agentgym_daemon.learning.arrays import ArmArrays, Ints, StepArrays, TaskArrays

Tensors = Mapping[str, Tensor]
_EFFECT = {name: i for i, name in enumerate(EFFECTS)}


def to_tensors(parameters: Parameters) -> dict[str, Tensor]:
    """Float64 copies of a policy's parameters."""
    return {
        name: torch.from_numpy(np.array(parameters[name], np.float64))
        for name in sorted(parameters.tensors)
    }


def to_parameters(like: Parameters, tensors: Tensors) -> Parameters:
    """Float32 parameters with the tools of `like`."""
    values = {name: t.detach().numpy().astype(np.float32) for name, t in tensors.items()}
    return Parameters(like.tools, like.names, values)


@dataclass(frozen=True, slots=True)
class Estimates:
    """log p over offered tools and RESPOND (-inf elsewhere), and the logit of q."""

    log_right: Tensor  # (N, U + 1)
    alone: Tensor  # (N,)
    alone_apart: Tensor  # (N,) the same number, without a gradient into p's parameters

    @property
    def right(self) -> Tensor:
        """p."""
        return self.log_right.exp()

    def take(self, rows: Tensor) -> Estimates:
        """The estimates of some rows."""
        return Estimates(self.log_right[rows], self.alone[rows], self.alone_apart[rows])


class PolicyNet:
    """Evaluates any parameters on fixed steps; holds the steps as tensors, no parameters."""

    def __init__(self, steps: StepArrays, tasks: TaskArrays) -> None:
        self._tasks = tasks
        self._task = steps.task
        self._offered = torch.from_numpy(steps.offered)
        self._last = torch.from_numpy(steps.last)
        self._repeat_ok = torch.from_numpy(steps.repeat_ok)
        self._repeat_error = torch.from_numpy(steps.repeat_error)
        self._first = torch.from_numpy(steps.first)
        self._ok_calls = torch.from_numpy(steps.ok_calls)
        self._stage = torch.from_numpy(steps.stage)
        self._after_error = torch.from_numpy(steps.after_error)
        self.columns = steps.columns

    def __call__(self, parameters: Tensors, chosen: Ints | None = None) -> Estimates:
        """Estimates for the chosen steps, or for all of them."""
        rows = np.arange(len(self._task)) if chosen is None else chosen
        tasks, inverse = np.unique(self._task[rows], return_inverse=True)
        row, of_task = torch.from_numpy(rows), torch.from_numpy(inverse.reshape(-1))
        linear = self._linear(parameters, tasks)[of_task]
        u = self.columns - 1
        stage = self._stage[row]
        # before any call, whether one is needed at all is left to the bias
        learned = torch.cat((linear[:, :u], linear[:, u : u + 1] * stage[:, None]), 1)
        z = (
            self._similar(parameters, tasks)[of_task]
            + learned
            + parameters["tool.bias"]
            + self._past(parameters, row)
        )
        log_right = z.masked_fill(~self._offered[row], -torch.inf).log_softmax(1)
        own = (
            linear[:, u + 1 :].gather(1, stage[:, None]).squeeze(1)
            + parameters["defer.bias"][stage]
            + parameters["history.effect"][_EFFECT["defer_after_error"]] * self._after_error[row]
        )
        right, preference = log_right.exp(), parameters["defer.tool"]
        return Estimates(log_right, own + right @ preference, own + right.detach() @ preference)

    def _linear(self, parameters: Tensors, tasks: Ints) -> Tensor:
        """x . [W, D] per task."""
        entries, offset = self._tasks.rows.take(tasks)
        weight = torch.cat((parameters["tool.weight"], parameters["defer.weight"]), 1)
        return functional.embedding_bag(
            torch.from_numpy(self._tasks.bucket[entries]),
            weight,
            torch.from_numpy(offset),
            mode="sum",
            per_sample_weights=torch.from_numpy(self._tasks.value[entries]),
            include_last_offset=True,
        )

    def _similar(self, parameters: Tensors, tasks: Ints) -> Tensor:
        """gain * sum_b g_b x_b c_tb per task and tool; 0 for RESPOND."""
        rows = self._tasks.similar_rows
        entries, offset = rows.take(tasks)
        task = np.repeat(np.arange(len(tasks)), np.diff(offset))
        cell = torch.from_numpy(task * self.columns + self._tasks.similar_tool[entries])
        bucket = torch.from_numpy(self._tasks.similar_bucket[entries])
        value = torch.from_numpy(self._tasks.similar_value[entries])
        flat = torch.zeros(len(tasks) * self.columns, dtype=torch.float64)
        flat = flat.index_add(0, cell, value * parameters["similarity.bucket"][bucket])
        return parameters["similarity.gain"] * flat.view(len(tasks), self.columns)

    def _past(self, parameters: Tensors, row: Tensor) -> Tensor:
        transition, effect = parameters["history.transition"], parameters["history.effect"]
        none = torch.zeros((1, self.columns), dtype=torch.float64)
        respond = (
            effect[_EFFECT["respond_first"]] * self._first[row]
            + effect[_EFFECT["respond_per_ok"]] * self._ok_calls[row]
            + effect[_EFFECT["respond_after_error"]] * self._after_error[row]
        )
        past = (
            torch.cat((transition, none))[self._last[row]]
            + effect[_EFFECT["repeat_ok"]] * self._repeat_ok[row]
            + effect[_EFFECT["repeat_error"]] * self._repeat_error[row]
        )
        return past + functional.pad(respond[:, None], (self.columns - 1, 0))


class ArmNet:
    """Probabilities of sampled arms, as `agentgym.policy.arms.distribution` gives them."""

    def __init__(self, arms: ArmArrays) -> None:
        self._member = torch.from_numpy(arms.member)
        self._present = torch.from_numpy(arms.present)
        self._temperature = torch.from_numpy(arms.temperature)
        self._spread = torch.from_numpy(arms.spread)
        self._mass = torch.from_numpy(arms.mass)

    def scores(self, estimates: Estimates, rows: Tensor) -> Tensor:
        """q for defer, p of the tool for force, p of the set and RESPOND for show."""
        tools = torch.einsum("pac,pc->pa", self._member[rows], estimates.right)
        return torch.cat((estimates.alone.sigmoid()[:, None], tools[:, 1:]), 1)

    def probabilities(self, estimates: Estimates, rows: Tensor) -> Tensor:
        """pi over the support of each row; `estimates` are aligned with `rows`."""
        scaled = self.scores(estimates, rows) / self._temperature[rows, None]
        weights = scaled.masked_fill(~self._present[rows], -torch.inf).softmax(1)
        return self._mass[rows, None] * weights + self._spread[rows]
