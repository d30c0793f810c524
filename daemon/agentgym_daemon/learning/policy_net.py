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

from agentgym.policy.evaluate import NAMED_ALIKE
from agentgym.policy.parameters import EFFECTS, Parameters
from agentgym_daemon.learning.arrays import ArmArrays, Floats, Ints, StepArrays, TaskArrays

Tensors = Mapping[str, Tensor]
_EFFECT = {name: i for i, name in enumerate(EFFECTS)}


def to_tensors(parameters: Parameters, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Copies of a policy's parameters."""
    return {
        name: torch.from_numpy(np.array(parameters[name], np.float64)).to(dtype)
        for name in sorted(parameters.tensors)
    }


def to_parameters(like: Parameters, tensors: Tensors) -> Parameters:
    """Float32 parameters with the tools of `like`."""
    values = {name: t.detach().numpy().astype(np.float32) for name, t in tensors.items()}
    return Parameters(like.tools, like.names, values)


@dataclass(frozen=True, slots=True)
class Estimates:
    """log p over offered tools and RESPOND (-inf elsewhere), and the logit of q.

    Tools that are down have no part in p; `working` is what they leave of q.
    """

    log_right: Tensor  # (N, U + 1)
    alone: Tensor  # (N,)
    alone_apart: Tensor  # (N,) the same number, without a gradient into p's parameters
    working: Tensor | None = None  # (N,); None: no tool is down at any step

    @property
    def right(self) -> Tensor:
        """p."""
        return self.log_right.exp()

    def take(self, rows: Tensor) -> Estimates:
        """The estimates of some rows."""
        working = None if self.working is None else self.working[rows]
        return Estimates(self.log_right[rows], self.alone[rows], self.alone_apart[rows], working)


class PolicyNet:
    """Evaluates any parameters on fixed steps; holds the steps as tensors, no parameters."""

    def __init__(
        self, steps: StepArrays, tasks: TaskArrays, dtype: torch.dtype = torch.float64
    ) -> None:
        def number(array: Floats) -> Tensor:
            return torch.from_numpy(array).to(dtype)

        self._dtype = dtype
        self._task, self._rows = steps.task, tasks.rows
        self._bucket, self._value = torch.from_numpy(tasks.bucket), number(tasks.value)
        self._embedding = number(tasks.embedding)
        self._tool_embedding = number(tasks.tool_embedding)
        every = torch.from_numpy(tasks.rows.start)
        grams = number(tasks.tool_grams)
        self._alike = grams.T @ grams  # (U, U)
        similar = _bags(grams, self._bucket, self._value, every)
        self._similar = functional.pad(similar, (0, 1))  # (K, U + 1)
        self._offered = torch.from_numpy(steps.offered)
        self._down, self._any_down = torch.from_numpy(steps.down), bool(steps.down.any())
        self._last = torch.from_numpy(steps.last)
        self._repeat_ok, self._repeat_error = number(steps.repeat_ok), number(steps.repeat_error)
        self._first, self._ok_calls = number(steps.first), number(steps.ok_calls)
        self._stage, self._after_error = torch.from_numpy(steps.stage), number(steps.after_error)
        self.columns = steps.columns

    def __call__(self, parameters: Tensors, chosen: Ints | None = None) -> Estimates:
        """Estimates for the chosen steps, or for all of them."""
        rows = np.arange(len(self._task)) if chosen is None else chosen
        tasks, inverse = np.unique(self._task[rows], return_inverse=True)
        row, of_task = torch.from_numpy(rows), torch.from_numpy(inverse.reshape(-1))
        learned, similar, own = (part[of_task] for part in self._linear(parameters, tasks))
        stage = self._stage[row]
        # before any call, whether one is needed at all is left to the bias
        learned = torch.cat((learned[:, :-1], learned[:, -1:] * stage[:, None]), 1)
        offered = self._offered[row]
        z = learned + similar + parameters["tool.bias"] + self._past(parameters, row)
        z = z + functional.pad(_mean(similar, offered)[:, None], (self.columns - 1, 0))
        log_all = z.masked_fill(~offered, -torch.inf).log_softmax(1)
        own = (
            own.gather(1, stage[:, None]).squeeze(1)
            + parameters["defer.bias"][stage]
            + parameters["history.effect"][_EFFECT["defer_after_error"]] * self._after_error[row]
        )
        right, preference = log_all.exp(), parameters["defer.tool"]
        log_right, working = log_all, None
        if self._any_down:
            down = self._down[row]
            lost = right.masked_fill(~down, 0.0)
            asked = lost @ self._substitutes(parameters)
            asked = asked + functional.pad(_mean(asked, offered)[:, None], (self.columns - 1, 0))
            log_right = (z + asked).masked_fill(down | ~offered, -torch.inf).log_softmax(1)
            working = 1.0 - (lost.sum(1) / right.max(1).values).clamp(max=1.0)
        alone, apart = own + right @ preference, own + right.detach() @ preference
        return Estimates(log_right, alone, apart, working)

    def _linear(self, parameters: Tensors, tasks: Ints) -> tuple[Tensor, Tensor, Tensor]:
        """Per task: what was learned (K, U + 1), similarity (K, U + 1), and defer (K, 2)."""
        entries, offset = self._rows.take(tasks)
        entry, start, task = (torch.from_numpy(a) for a in (entries, offset, tasks))
        bucket, value = self._bucket[entry], self._value[entry]
        tools = _bags(parameters["tool.weight"], bucket, value, start)
        similar = parameters["similarity.gain"] * self._similar[task]
        own = _bags(parameters["defer.weight"], bucket, value, start)
        if "meaning.map" not in parameters:
            return tools, similar, own
        embedding = self._embedding[task]
        meaning = self._meaning(parameters)
        tools = tools + embedding @ parameters["tool.embedding"]
        similar = similar + functional.pad(embedding @ meaning, (0, 1))
        return tools, similar, own + embedding @ parameters["defer.embedding"]

    def _meaning(self, parameters: Tensors) -> Tensor:
        """Similarity of every embedding to every tool's, as a matrix (E, U)."""
        return parameters["meaning.gain"] * (parameters["meaning.map"] @ self._tool_embedding)

    def _substitutes(self, parameters: Tensors) -> Tensor:
        """Similarity of every tool's text, taken for a task, to every tool: (U + 1, U + 1)."""
        similar = (parameters["similarity.gain"] + NAMED_ALIKE) * self._alike
        if "meaning.map" in parameters:
            meaning = self._meaning(parameters)
            similar = similar + self._tool_embedding.T @ meaning
        return functional.pad(similar, (0, 1, 0, 1))

    def _past(self, parameters: Tensors, row: Tensor) -> Tensor:
        transition, effect = parameters["history.transition"], parameters["history.effect"]
        none = torch.zeros((1, self.columns), dtype=self._dtype)
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


def _mean(similar: Tensor, offered: Tensor) -> Tensor:
    """Mean similarity of the offered tools, (N,); RESPOND's own entry of `similar` is 0."""
    return similar.masked_fill(~offered, 0.0).sum(1) / (offered.sum(1) - 1).clamp(min=1)


def _bags(weight: Tensor, bucket: Tensor, value: Tensor, start: Tensor) -> Tensor:
    """x . weight of sparse rows x, which begin at `start` and end at its last entry."""
    return functional.embedding_bag(
        bucket, weight, start, mode="sum", per_sample_weights=value, include_last_offset=True
    )


class ArmNet:
    """Probabilities of sampled arms, as `agentgym.policy.arms.distribution` gives them."""

    def __init__(self, arms: ArmArrays, dtype: torch.dtype = torch.float64) -> None:
        self._tools = torch.from_numpy(arms.tools)
        self._present = torch.from_numpy(arms.present)
        self._temperature = torch.from_numpy(arms.temperature).to(dtype)
        self._spread = torch.from_numpy(arms.spread).to(dtype)
        self._mass = torch.from_numpy(arms.mass).to(dtype)

    def scores(self, estimates: Estimates, rows: Tensor) -> Tensor:
        """q for defer, p of the tool for force, p of the set and RESPOND for show."""
        columns = self._tools[rows]
        right = functional.pad(estimates.right, (0, 1))  # its last column adds nothing
        tools = right.gather(1, columns.flatten(1)).view(columns.shape).sum(2)
        alone = estimates.alone.sigmoid()
        if estimates.working is not None:
            alone = alone * estimates.working
        return torch.cat((alone[:, None], tools[:, 1:]), 1)

    def probabilities(self, estimates: Estimates, rows: Tensor) -> Tensor:
        """pi over the support of each row; `estimates` are aligned with `rows`."""
        scaled = self.scores(estimates, rows) / self._temperature[rows, None]
        weights = scaled.masked_fill(~self._present[rows], -torch.inf).softmax(1)
        return self._mass[rows, None] * weights + self._spread[rows]
