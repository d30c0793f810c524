"""The public face: `AgentGym`, attached to an agent by one line.

create_agent(model, tools, middleware=[gym])      LangChain 1.x
create_react_agent(gym.wrap(llm), tools)          LangGraph prebuilt, AgentExecutor
agent.with_config(callbacks=[gym])                any compiled LangChain agent: watches only
AssistantAgent(..., model_client=gym.wrap(c))     AutoGen; or gym.attach(agent_or_team)
gym.attach(crew)                                  CrewAI
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from agentgym import semconv
from agentgym.config import Config, resolve
from agentgym.errors import UnsupportedError
from agentgym.export import Sender
from agentgym.guard import Guard
from agentgym.hooks import LangChainFace
from agentgym.kill import in_environment
from agentgym.live import LivePolicies
from agentgym.recorder import Recorder, Run, active

T = TypeVar("T")

_FRAMEWORKS = {
    # root package of a class in the object's MRO -> integration module
    "langchain_core": "langchain",
    "langchain": "langchain",
    "langchain_classic": "langchain",
    "langgraph": "langchain",
    "autogen_core": "autogen",
    "autogen_agentchat": "autogen",
    "crewai": "crewai",
}


class AgentGym(LangChainFace):
    """One agent's connection to AgentGym; construction does no I/O and never fails an agent.

    Settings are given here, or as AGENTGYM_* variables; docs/settings.md lists them all.
    """

    def __init__(
        self, agent: str | None = None, *, mode: str | None = None, **settings: Any
    ) -> None:
        self.config: Config = resolve({"agent": agent, "mode": mode, **settings})
        self.guard = Guard()
        self.live = LivePolicies()
        self.sender = Sender(self.config, self.live, self.guard)
        self.recorder = Recorder(self.config, self.live, self.sender, guard=self.guard)

    # ---- attaching

    def wrap(self, model: T) -> T:
        """A model or model client like `model` whose tools the policy may act on."""
        if self.config.disabled:
            return model
        return self._integration(model).wrap(self, model)  # type: ignore[no-any-return]

    def attach(self, target: T) -> T:
        """Attaches to an existing agent, team or crew; returns what to use from now on."""
        if self.config.disabled:
            return target
        return self._integration(target).attach(self, target)  # type: ignore[no-any-return]

    def _integration(self, target: Any) -> Any:
        for base in type(target).__mro__:
            name = _FRAMEWORKS.get(base.__module__.partition(".")[0])
            if name:
                self.sender.start()
                return importlib.import_module(f"agentgym.integrations.{name}")
        raise UnsupportedError(
            f"expected a LangChain, AutoGen or CrewAI object, got {type(target)!r}; "
            "docs/attaching/index.md lists what can be attached"
        )

    # ---- trajectories and rewards

    @contextmanager
    def trajectory(
        self, key: str = "", *, unit: str = "", name: str = "", explore: bool | None = None
    ) -> Iterator[Run]:
        """Makes everything inside one trajectory, with a key by which rewards find it later.

        `unit` (a customer, a session) keeps its assignment from one trajectory to the next.
        `explore=False` takes the best arm at every step and marks the trajectory pinned.
        """
        run = self.recorder.start_run(
            name or self.config.agent,
            framework="",
            operation=semconv.INVOKE_WORKFLOW,
            key=key,
            unit=str(unit),
            explore=explore,
        )
        try:
            with active(run):
                yield run
        except BaseException as error:
            with self.guard("trajectory"):
                run.finish(type(error).__name__)
            raise
        with self.guard("trajectory"):
            run.finish()

    def reward(
        self,
        value: float,
        *,
        trajectory: Any = None,
        key: str = "",
        name: str = "",
        source: str = "",
        idempotency_key: str = "",
        reason: str = "",
    ) -> None:
        """Says how a trajectory turned out, in [0, 1]; returns at once and never raises.

        Without `trajectory` (a run or its hex id) and `key` it means the latest trajectory of the
        calling context.
        """
        if self.config.disabled:
            return
        with self.guard("reward"):
            try:
                self.recorder.reward(
                    value,
                    trajectory=trajectory,
                    key=key,
                    name=name,
                    source=source,
                    idempotency_key=idempotency_key,
                    reason=reason,
                )
            except (ValueError, TypeError, LookupError) as error:
                self.guard.refuse("reward", error)

    def arm(self, experiment: str, *, unit: str = "") -> str:
        """The arm of an experiment: of the open trajectory, or else of a unit; '' if it has none.

        '' also before the first contact with the daemon, in the control group, and while a kill or
        a stage below canary holds. Returns at once and never raises.
        """
        if not self.on:
            return ""
        found = ""
        with self.guard("arm"):
            self.sender.start()
            try:
                found = self.recorder.arm(str(experiment), str(unit))
            except LookupError as error:
                self.guard.refuse("arm", error)
        return found

    # ---- life

    def ready(self, timeout_s: float = 10.0) -> bool:
        """Waits for the first contact with the daemon; for demos and tests, never needed."""
        self.sender.start()
        return self.sender.ready.wait(timeout_s)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Waits until the daemon acked everything recorded so far; False on timeout."""
        return self.sender.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Sends what is left and stops; happens by itself at exit."""
        self.sender.close(self.config.exit_timeout_s if timeout_s is None else timeout_s)

    @property
    def on(self) -> bool:
        """False when switched off, by the user or by the breaker on our own errors."""
        return not (self.config.disabled or self.guard.open)

    def status(self) -> dict[str, Any]:
        """Counters and versions of this process, for people and tests."""
        current = self.live.current
        return {
            "agent": self.config.agent,
            "mode": self.config.mode.value,
            "stage": current.stage.name.lower() if current else "",
            "killed": self.live.halted or bool(current and current.killed) or in_environment(),
            "policies": {n: s.version for n, s in current.policies.items()} if current else {},
            "experiment": current.experiment.name if current and current.experiment else "",
            "applied": list(self.live.applied),
            "refused": self.live.refused,
            "counters": self.sender.counters,
            "delivery": self.sender.status(),
            "errors": dict(self.guard.errors),
            "on": self.on,
        }
