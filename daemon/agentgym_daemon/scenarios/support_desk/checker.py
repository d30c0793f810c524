"""The judge of the support desk: which calls of a run were right, and was the request served."""

from __future__ import annotations

import hashlib
from collections import Counter

from agentgym_daemon.scenarios.support_desk.requests import Request

VISIBLE_FAILURE_SHARE = 0.6
"""How often a wrong call fails visibly; the other wrong calls look like successes."""


class Checker:
    """Judges the calls of one run against a request's tools, as a set with multiplicity.

    A request has one slot per tool it needs, in any order. The first call for a slot is its first
    attempt; the call after a first attempt that failed visibly is that slot's retry. A wrong call
    that did not fail visibly closes its slot all the same: nobody could know better.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._missing = Counter(request.tools)
        self._retrying = False
        self._all_right = True
        self._finished = False
        self._first_attempts: list[bool] = []

    @property
    def first_attempts(self) -> list[bool]:
        """Whether each first attempt was right, in the order of the calls; retries left out."""
        return list(self._first_attempts)

    @property
    def complete(self) -> bool:
        """Whether every needed tool was called."""
        return self._missing.total() == 0

    @property
    def success(self) -> bool:
        """Whether every call was right, nothing is missing and nothing was extra."""
        return self._all_right and self.complete

    def call(self, tool_name: str, *, failed: bool = False) -> bool:
        """Records one call, which `failed` visibly or not, and says whether it was needed."""
        if self._finished:
            raise RuntimeError(
                f"expected no call after finish(), got {tool_name!r} for request "
                f"{self._request.id}; use one checker per run"
            )
        right = self._missing[tool_name] > 0
        if right:
            self._missing[tool_name] -= 1
        else:
            self._all_right = False
        retry, self._retrying = self._retrying, failed and not self._retrying
        if not retry:
            self._first_attempts.append(right)
        return right

    def finish(self) -> None:
        """Ends the run: each slot that was never attempted counts as a wrong first attempt."""
        if not self._finished:
            self._finished = True
            never_attempted = len(self._request.tools) - len(self._first_attempts)
            self._first_attempts.extend([False] * never_attempted)


def tool_fails(request: Request, tool_name: str, *, attempt: int, rng_seed: int) -> bool:
    """Whether this call fails visibly: never a needed tool, a wrong one in a fixed share."""
    if tool_name in request.tools:
        return False
    key = f"{request.id}\x1f{tool_name}\x1f{attempt}\x1f{rng_seed}"
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return draw < VISIBLE_FAILURE_SHARE
