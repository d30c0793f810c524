"""Runs of crews and agents: the derived classes that open and close them, and `attach`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from crewai import Agent, Crew
from crewai.llms.base_llm import BaseLLM
from crewai.utilities.agent_utils import is_inside_event_loop

from agentgym import semconv
from agentgym.errors import UnsupportedError
from agentgym.integrations.crewai.calls import hooked
from agentgym.integrations.crewai.classes import Derived, become, belongs, gym_of, view
from agentgym.integrations.crewai.model import AttachedModel
from agentgym.integrations.crewai.scope import Scope, current_scope, entered
from agentgym.recorder import active, current, reserve

if TYPE_CHECKING:
    from agentgym.gym import AgentGym

T = TypeVar("T")

FRAMEWORK = "crewai"


def wrap(gym: AgentGym, model: T) -> T:
    """A view of a model that acts inside the runs of attached crews and agents."""
    if not isinstance(model, BaseLLM):
        raise UnsupportedError(
            f"expected a crewai.LLM or another BaseLLM, got {type(model)!r}; "
            "attach crews and agents with gym.attach(crew)"
        )
    return model if belongs(model, gym) else view(gym, model, AttachedModel)


def attach(gym: AgentGym, target: T) -> T:
    """Attaches a crew with its agents, or one agent, in place, and returns it."""
    if isinstance(target, Crew):
        if not belongs(target, gym):
            become(gym, target, AttachedCrew)
        _attach_members(gym, target)
    elif isinstance(target, Agent):
        _attach_agent(gym, target)
    else:
        raise UnsupportedError(
            f"expected a crewai.Crew or crewai.Agent, got {type(target)!r}; "
            "attach the crews that a flow uses, and wrap models with gym.wrap(llm)"
        )
    return target


def _attach_members(gym: AgentGym, crew: Crew) -> None:
    tasks = [task.agent for task in crew.tasks]
    for agent in (*crew.agents, *tasks, crew.manager_agent):
        if isinstance(agent, Agent):
            _attach_agent(gym, agent)


def _attach_agent(gym: AgentGym, agent: Agent) -> None:
    if not belongs(agent, gym):
        become(gym, agent, AttachedAgent)
    if isinstance(agent.llm, BaseLLM) and not belongs(agent.llm, gym):
        agent.llm = wrap(gym, agent.llm)


class AttachedCrew(Derived):
    """Mixin over `Crew`: each kickoff is a run, the outermost one a trajectory."""

    def kickoff(self, *args: Any, **kwargs: Any) -> Any:
        if self.stream:  # type: ignore[attr-defined]
            _reserve()  # a thread will call this again without `stream`
            return super().kickoff(*args, **kwargs)  # type: ignore[misc]
        with _running(gym_of(self), lambda: _crew_scope(self)):
            return super().kickoff(*args, **kwargs)  # type: ignore[misc]

    async def kickoff_async(self, *args: Any, **kwargs: Any) -> Any:
        _reserve()  # it calls `kickoff` in a thread
        return await super().kickoff_async(*args, **kwargs)  # type: ignore[misc]

    async def akickoff(self, *args: Any, **kwargs: Any) -> Any:
        if self.stream:  # type: ignore[attr-defined]
            _reserve()
            return await super().akickoff(*args, **kwargs)  # type: ignore[misc]
        with _running(gym_of(self), lambda: _crew_scope(self)):
            return await super().akickoff(*args, **kwargs)  # type: ignore[misc]

    def copy(self) -> Any:
        copied = super().copy()  # type: ignore[misc]
        gym = gym_of(self)
        return gym.guard.call("crewai.copy", copied, attach, gym, copied)

    def _create_manager_agent(self) -> None:
        super()._create_manager_agent()  # type: ignore[misc]
        gym = gym_of(self)
        with gym.guard("crewai.manager"):
            _attach_members(gym, self)  # type: ignore[arg-type]


class AttachedAgent(Derived):
    """Mixin over `Agent`: each execution of a task, and each kickoff, is a run."""

    def execute_task(self, task: Any, *args: Any, **kwargs: Any) -> Any:
        with _running(gym_of(self), lambda: _task_scope(self, task)):
            return super().execute_task(task, *args, **kwargs)  # type: ignore[misc]

    async def aexecute_task(self, task: Any, *args: Any, **kwargs: Any) -> Any:
        with _running(gym_of(self), lambda: _task_scope(self, task)):
            return await super().aexecute_task(task, *args, **kwargs)  # type: ignore[misc]

    def kickoff(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        if is_inside_event_loop():  # the result is the coroutine of `kickoff_async`
            return super().kickoff(messages, *args, **kwargs)  # type: ignore[misc]
        with _running(gym_of(self), lambda: _message_scope(self, messages)):
            return super().kickoff(messages, *args, **kwargs)  # type: ignore[misc]

    async def kickoff_async(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        with _running(gym_of(self), lambda: _message_scope(self, messages)):
            return await super().kickoff_async(messages, *args, **kwargs)  # type: ignore[misc]


def _crew_scope(crew: Any) -> Scope:
    gym = gym_of(crew)
    _attach_members(gym, crew)  # agents or models may have changed since the last kickoff
    named = "name" in crew.model_fields_set and crew.name
    run = gym.recorder.start_run(
        crew.name if named else gym.config.agent,
        framework=FRAMEWORK,
        operation=semconv.INVOKE_WORKFLOW,
    )
    return Scope(gym, run, crew)


def _task_scope(agent: Any, task: Any) -> Scope | None:
    scope = current_scope()
    if scope is not None and scope.owner is agent and scope.task is task:
        return None  # CrewAI retries the task below the first attempt
    return _agent_scope(agent, str(task.description), task)


def _message_scope(agent: Any, messages: Any) -> Scope:
    return _agent_scope(agent, _request(messages), None)


def _agent_scope(agent: Any, text: str, task: Any) -> Scope:
    gym = gym_of(agent)
    _attach_agent(gym, agent)
    run = gym.recorder.start_run(str(agent.role), framework=FRAMEWORK, task=text)
    return Scope(gym, run, agent, task)


def _request(messages: Any) -> str:
    if isinstance(messages, str):
        return messages
    texts = [m.get("content") for m in messages if m.get("role") == "user"]
    return next((text for text in reversed(texts) if isinstance(text, str)), "")


def _reserve() -> None:
    if current() is None:
        reserve()


@contextmanager
def _running(gym: AgentGym, start: Callable[[], Scope | None]) -> Iterator[None]:
    """Runs a block as one run; if ours fails, the block runs as if we were not there."""
    scope = gym.guard.call("crewai.start", None, start) if gym.on else None
    if scope is None:
        yield
        return
    with ExitStack() as stack:
        with gym.guard("crewai.start"):
            for context in (active(scope.run), entered(scope), hooked()):
                stack.enter_context(context)
        try:
            yield
        except BaseException as error:
            with gym.guard("crewai.end"):
                scope.close(error)
            raise
        with gym.guard("crewai.end"):
            scope.close(None)
