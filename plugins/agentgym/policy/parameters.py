"""The parameters of a tool-selection policy: names, shapes, first values."""

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

_FIRST_EFFECTS = (-2.0, -5.0, -2.0, 1.5, -1.0, 0.0)
_FIRST_GAIN = 10.0  # of common n-grams, without an embedding
_FIRST_GAIN_BESIDE = 3.0  # and beside one
_FIRST_MEANING = 20.0  # of the cosine of task and tool text
_FIRST_DEFER_BIAS = 0.6  # logit of .65: an agent before any evidence
_SHARED = frozenset(
    (
        "similarity.gain",
        "meaning.gain",
        "meaning.map",
        "history.effect",
        "defer.weight",
        "defer.embedding",
        "defer.bias",
    )
)
"""Tensors that are not per tool."""


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

    @property
    def embedding_dim(self) -> int:
        """Numbers of an embedding; 0 where the schema has none."""
        return len(self.tensors["meaning.map"]) if "meaning.map" in self.tensors else 0

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self.tensors[name]


def shapes(tools: int, embedding_dim: int = 0) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of a policy over `tools` tools."""
    grams: dict[str, tuple[int, ...]] = {
        "tool.weight": (DIM, tools + 1),
        "tool.bias": (tools + 1,),
        "similarity.gain": (1,),
        "history.transition": (tools, tools + 1),
        "history.effect": (len(EFFECTS),),
        "defer.weight": (DIM, 2),
        "defer.bias": (2,),
        "defer.tool": (tools + 1,),
    }
    if not embedding_dim:
        return grams
    return grams | {
        "meaning.gain": (1,),
        "meaning.map": (embedding_dim, embedding_dim),
        "tool.embedding": (embedding_dim, tools + 1),
        "defer.embedding": (embedding_dim, 2),
    }


def initial(tools: tuple[str, ...], names: tuple[str, ...], embedding_dim: int = 0) -> Parameters:
    """The prior: tools whose text resembles the task are likelier, nothing else is known."""
    tensors = {
        name: np.zeros(shape, np.float32)
        for name, shape in shapes(len(tools), embedding_dim).items()
    }
    tensors["similarity.gain"][:] = _FIRST_GAIN_BESIDE if embedding_dim else _FIRST_GAIN
    tensors["history.effect"][:] = _FIRST_EFFECTS
    tensors["defer.bias"][:] = _FIRST_DEFER_BIAS
    if embedding_dim:
        tensors["meaning.gain"][:] = _FIRST_MEANING
        np.fill_diagonal(tensors["meaning.map"], 1.0)
    return Parameters(tools, names, tensors)


def extend(old: Parameters, tools: tuple[str, ...], names: tuple[str, ...]) -> Parameters:
    """`old` over a changed set of tools: known ones keep what they learned, new ones start at 0."""
    new = initial(tools, names, old.embedding_dim)
    kept = [
        (i, old.position[bytes.fromhex(t)])
        for i, t in enumerate(tools)
        if bytes.fromhex(t) in old.position
    ]
    to = [i for i, _ in kept] + [len(tools)]
    of = [j for _, j in kept] + [len(old.tools)]
    for name in _SHARED & old.tensors.keys():
        new.tensors[name][:] = old[name]
    for name in ("tool.weight", "tool.embedding"):
        if name in old.tensors:
            new.tensors[name][:, to] = old[name][:, of]
    for name in ("tool.bias", "defer.tool"):
        new.tensors[name][to] = old[name][of]
    if kept:
        rows, columns = np.ix_(to[:-1], to), np.ix_(of[:-1], of)
        new.tensors["history.transition"][rows] = old["history.transition"][columns]
    return new
