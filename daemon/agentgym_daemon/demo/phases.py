"""The phases of the demo, in order."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """What a request is served for."""

    BEFORE = "before"
    """Without AgentGym: how reliable the agents are by themselves."""
    TRAIN = "train"
    """With AgentGym: the policy is learned from noisy rewards while the agents work."""
    UNSEEN = "unseen"
    """Requests that nobody trained on, greedy, with the last policy."""
