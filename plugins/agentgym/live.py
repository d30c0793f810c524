"""The policies that run now, behind one atomic reference.

A trajectory captures the whole `PolicySet` at its root, so a hot swap never splits a run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentgym.policy.policy_set import PolicySet


class LivePolicies:
    """Holder of the current `PolicySet`; one writer (the subscriber), any number of readers."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._current: PolicySet | None = None
        self._last_contact_s = monotonic()
        self._following = False
        self._holds_until_s = math.inf
        self.applied: list[str] = []
        self.refused = 0
        """Updates and files of policies that failed verification, since the start."""
        self.halted = False
        """Whether the kill file of this home names the agent; written by the sender alone."""

    @property
    def current(self) -> PolicySet | None:
        """The set in force, or None before the first contact with the daemon."""
        return self._current

    def swap(self, new: PolicySet, *, age_s: float = 0.0) -> None:
        """Replaces the set in one assignment; it was the daemon's word `age_s` ago."""
        before = {s.version for s in self._current.policies.values()} if self._current else set()
        if self._current is None:
            self._last_contact_s = self._monotonic() - age_s  # until now it was only a start
        self._current = new
        self.touch(age_s=age_s)
        self.applied += sorted({s.version for s in new.policies.values()} - before)

    def forget(self) -> None:
        """Drops the set: every step falls back until a new one arrives."""
        self._current, self._following = None, False

    def hold(self, seconds: float) -> None:
        """Notes until when the set in force may be used, whatever is heard meanwhile."""
        self._holds_until_s = self._monotonic() + seconds

    def follow(self, following: bool) -> None:
        """Notes that the stream of policies came up or broke."""
        self.touch()
        self._following = following

    def touch(self, *, age_s: float = 0.0) -> None:
        """Notes that the daemon was heard of, `age_s` ago."""
        self._last_contact_s = max(self._last_contact_s, self._monotonic() - age_s)

    @property
    def silent_s(self) -> float:
        """Seconds since the daemon was last heard of; none while its stream is up.

        Endless once the set in force has expired: repeating it keeps nothing fresh.
        """
        if self._monotonic() > self._holds_until_s:
            return math.inf
        return 0.0 if self._following else self._monotonic() - self._last_contact_s
