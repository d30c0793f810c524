"""What runs now: the innermost CrewAI run of this context, and the calls its model asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentgym.gym import AgentGym
    from agentgym.recorder import Run


@dataclass(frozen=True, slots=True)
class Asked:
    """A tool call that the model asked for and that has not started yet."""

    name: str
    call_id: str
    arguments: Any


@dataclass(eq=False, slots=True)
class Scope:
    """A run of a crew or agent; `owner` and `task` tell a retry of it from a new run."""

    gym: AgentGym
    run: Run
    owner: Any
    task: Any = None
    _asked: list[Asked] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, calls: Sequence[Asked]) -> list[Asked]:
        """Notes the calls of a turn; returns those of the turn before that never started."""
        with self._lock:
            left, self._asked = self._asked, list(calls)
        return left

    def take(self, name: str, arguments: Any) -> Asked | None:
        """The call that starts now: hooks know its name and arguments, not its id."""
        with self._lock:
            same = [asked for asked in self._asked if asked.name == name]
            exact = [asked for asked in same if asked.arguments == arguments]
            taken = next(iter(exact or same), None)
            if taken is not None:
                self._asked.remove(taken)
        return taken

    def close(self, error: BaseException | None) -> None:
        """Ends the run the way its block ended."""
        if error is None:
            self.run.finish()
        elif not isinstance(error, Exception):
            self.run.abandon("cancelled")
        else:
            self.run.finish(type(error).__name__)


_scope: ContextVar[Scope | None] = ContextVar("agentgym_crewai_scope", default=None)


def current_scope() -> Scope | None:
    """The innermost open CrewAI run of this context."""
    scope = _scope.get()
    return None if scope is None or scope.run.ended else scope


@contextmanager
def entered(scope: Scope) -> Iterator[None]:
    """Makes `scope` the current one inside the block."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)
