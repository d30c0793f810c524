"""The parameters of a tool-selection policy (feature schema 1): names, shapes, first values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agentgym.policy.features import DIM

EFFECTS = (
    "repeat_ok",  # on a tool that already succeeded in this run
    "repeat_error",  # on a tool that already failed visibly in this run
    "respond_first",  # on RESPOND before any call
    "respond_per_ok",  # on RESPOND, times the number of successful calls (at most MAX_OK)
    "respond_after_error",  # on RESPOND right after a visible error
    "defer_after_error",  # on leaving the agent alone right after a visible error
)
"""Entries of the tensor `history.effect`."""
MAX_OK = 3

_FIRST_EFFECTS = (-2.0, -3.0, -2.0, 1.5, -1.0, 0.0)
_FIRST_GAIN = 10.0
_FIRST_DEFER_BIAS = 0.6  # logit of .65: an agent before any evidence


@dataclass(frozen=True)
class Parameters:
    """Float32 tensors over T known tools; class T is RESPOND (no tool is needed now).

    Tools are known by fingerprint (hex), never by position in a catalogue.
    """

    tools: tuple[str, ...]
    names: tuple[str, ...]
    tensors: Mapping[str, NDArray[np.float32]]

    @cached_property
    def position(self) -> dict[bytes, int]:
        """Fingerprint -> column of the tool."""
        return {bytes.fromhex(tool): i for i, tool in enumerate(self.tools)}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self.tensors[name]


def shapes(tools: int) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of a policy over `tools` tools."""
    return {
        "tool.weight": (DIM, tools + 1),
        "tool.bias": (tools + 1,),
        "similarity.gain": (1,),
        "similarity.bucket": (DIM,),
        "history.transition": (tools, tools + 1),
        "history.effect": (len(EFFECTS),),
        "defer.weight": (DIM, 2),
        "defer.bias": (2,),
        "defer.tool": (tools + 1,),
    }


def initial(tools: tuple[str, ...], names: tuple[str, ...]) -> Parameters:
    """The prior: tools whose text resembles the task are likelier, nothing else is known."""
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes(len(tools)).items()}
    tensors["similarity.gain"][:] = _FIRST_GAIN
    tensors["similarity.bucket"][:] = 1.0
    tensors["history.effect"][:] = _FIRST_EFFECTS
    tensors["defer.bias"][:] = _FIRST_DEFER_BIAS
    return Parameters(tools, names, tensors)


def extend(old: Parameters, tools: tuple[str, ...], names: tuple[str, ...]) -> Parameters:
    """`old` over a changed set of tools: known ones keep what they learned, new ones start at 0."""
    new = initial(tools, names)
    kept = [
        (i, old.position[bytes.fromhex(t)])
        for i, t in enumerate(tools)
        if bytes.fromhex(t) in old.position
    ]
    to = [i for i, _ in kept] + [len(tools)]
    of = [j for _, j in kept] + [len(old.tools)]
    for name in (
        "similarity.gain",
        "similarity.bucket",
        "history.effect",
        "defer.weight",
        "defer.bias",
    ):
        new.tensors[name][:] = old[name]
    new.tensors["tool.weight"][:, to] = old["tool.weight"][:, of]
    for name in ("tool.bias", "defer.tool"):
        new.tensors[name][to] = old[name][of]
    if kept:
        rows, columns = np.ix_(to[:-1], to), np.ix_(of[:-1], of)
        new.tensors["history.transition"][rows] = old["history.transition"][columns]
    return new
