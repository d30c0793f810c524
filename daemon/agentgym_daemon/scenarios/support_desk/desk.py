"""One run at the support desk: executes tool calls, lets wrong ones fail, and judges the run."""

from __future__ import annotations

from agentgym_daemon.scenarios.support_desk.checker import Checker, tool_fails
from agentgym_daemon.scenarios.support_desk.requests import Request
from agentgym_daemon.scenarios.support_desk.tools import call


class DeskError(Exception):
    """A tool refused a call in a way that its caller sees."""


class Desk:
    """The desk serves one request at a time; the agents' tools call `execute`."""

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self._request: Request | None = None
        self._calls = 0
        self.checker: Checker | None = None

    def open(self, request: Request) -> Checker:
        """Starts a run of one request."""
        self._request = request
        self._calls = 0
        self.checker = Checker(request)
        return self.checker

    def execute(self, tool: str, arguments: dict[str, str]) -> str:
        """Runs a tool; raises DeskError for the wrong calls that fail visibly."""
        if self._request is None or self.checker is None:
            raise RuntimeError("expected an open request; call Desk.open first")
        attempt, self._calls = self._calls, self._calls + 1
        failed = tool_fails(self._request, tool, attempt=attempt, rng_seed=self._seed)
        self.checker.call(tool, failed=failed)
        if failed:
            raise DeskError(f"Error: {tool} found nothing that fits this request.")
        return call(tool, arguments)
