"""The agent's side: where runs of agents and teams begin and end.

AutoGen has no hooks, so methods are wrapped on the instances that are attached; classes are left
alone, but for one: the constructor of AssistantAgent, once a client was wrapped. It tells which
agents hold a wrapped client, which a client cannot find out by itself.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
from autogen_agentchat.base import Response, TaskResult
from autogen_agentchat.messages import BaseChatMessage, ToolCallExecutionEvent
from autogen_agentchat.teams import BaseGroupChat
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core.models import ChatCompletionClient
from autogen_core.tools import StaticWorkbench, Workbench

from agentgym import semconv
from agentgym.integrations.autogen.calls import (
    CANCELLED,
    failure,
    record_results,
    stepwise,
    watch_workbench,
)
from agentgym.integrations.autogen.client import GymClient
from agentgym.recorder import Call, Run, active, current, reserve

if TYPE_CHECKING:
    from autogen_core import CancellationToken

    from agentgym.gym import AgentGym

_MARK = "_agentgym"
_adopting = threading.Lock()


def watch(gym: AgentGym, target: Any) -> bool:
    """Attaches to an agent or a team and everything below it; False if it is neither."""
    if isinstance(target, BaseChatAgent):
        _watch_agent(gym, target).deepen()
    elif isinstance(target, BaseGroupChat):
        _watch_team(gym, target).deepen()
    else:
        return False
    return True


def adopt_new_agents() -> None:
    """From now on an AssistantAgent that is built with a wrapped client records its runs."""
    with _adopting:
        build = AssistantAgent.__init__
        if _MARK in vars(build):
            return

        @functools.wraps(build)
        def build_and_adopt(self: AssistantAgent, *args: Any, **kwargs: Any) -> None:
            build(self, *args, **kwargs)
            client = vars(self).get("_model_client")
            if isinstance(client, GymClient):
                client.gym.guard.call("autogen.adopt", None, _watch_agent, client.gym, self)

        vars(build_and_adopt)[_MARK] = True
        AssistantAgent.__init__ = build_and_adopt  # type: ignore[method-assign]


class Watch:
    """What is known of one attached agent or team, kept on the instance itself."""

    def __init__(self, gym: AgentGym, target: BaseChatAgent | BaseGroupChat) -> None:
        self.gym = gym
        self.target = target
        self.homes: list[Watch] = []  # the teams that it is a member of
        self.run: Run | None = None  # the one begun last, while it is open
        self.deep = False
        self._runs: WeakSet[Run] = WeakSet()

    def deepen(self) -> None:
        """Attaches to what is below, too: model clients, members, agents behind tools."""
        self.deep = True
        self.refresh()

    def refresh(self) -> None:
        """Catches up with clients, tools and members that were put in place later."""
        state = vars(self.target)
        for workbench in _listed(state.get("_workbench"), Workbench):
            watch_workbench(self.gym, workbench)
        if not self.deep:
            return
        client = state.get("_model_client")
        if isinstance(client, ChatCompletionClient) and not isinstance(client, GymClient):
            home = self if isinstance(self.target, BaseGroupChat) else None
            state["_model_client"] = GymClient(self.gym, client, home)
        for member in _listed(state.get("_participants"), (BaseChatAgent, BaseGroupChat)):
            watch(self.gym, member)
            homes = vars(member)[_MARK].homes
            if self not in homes:
                homes.append(self)
        for below in _below(state):
            watch(self.gym, below)

    # ---- runs

    def begin(self, task: Any) -> Run | None:
        """Starts a run; None if it is one already, or if AgentGym is off or fails."""
        if not self.gym.on:
            return None
        return self.gym.guard.call("autogen.run", None, self._begin, task)

    def _begin(self, task: Any) -> Run | None:
        above = current()
        if isinstance(above, Run) and above in self._runs:
            return None
        self.refresh()
        run = self._start(self._parent(above), _words(task))
        self._runs.add(run)
        self.run = run
        return run

    def _start(self, parent: Run | Call | None, task: str) -> Run:
        team = isinstance(self.target, BaseGroupChat)
        # Members are asked what the team was asked.
        asked = parent.task if isinstance(parent, Run) and _is_workflow(parent) else None
        return self.gym.recorder.start_run(
            self._name(),
            framework="autogen",
            task=asked or task,
            operation=semconv.INVOKE_WORKFLOW if team else semconv.INVOKE_AGENT,
            parent=parent,
        )

    def _name(self) -> str:
        default = getattr(self.target, "DEFAULT_NAME", None)
        return self.gym.config.agent if self.target.name == default else self.target.name

    def _parent(self, above: Run | Call | None) -> Run | Call | None:
        """The context's node, or the team's run where a runtime of the user's own lost it."""
        for home in self.homes:
            run = home.run
            if run is not None and (above is None or above.trajectory is not run.trajectory):
                return run
        return above

    def saw(self, run: Run, item: Any) -> None:
        """Reads what passes by in the agent's stream."""
        with self.gym.guard("autogen.run"):
            if isinstance(item, ToolCallExecutionEvent):
                record_results(run, item.content)
            elif isinstance(item, (Response, TaskResult)):
                # Readers often stop here, which would leave the generator open until it is freed.
                self._close(run)
                run.finish()

    def end(self, run: Run, error: BaseException | None = None) -> None:
        """Ends the run, if its result did not end it before."""
        with self.gym.guard("autogen.run"):
            self._close(run)
            reason = failure(error) if error is not None else ""
            if reason == CANCELLED and not run.ended:
                run.abandon(reason)
            else:
                run.finish(reason)

    def _close(self, run: Run) -> None:
        if self.run is run:
            self.run = None


def _watch_agent(gym: AgentGym, agent: BaseChatAgent) -> Watch:
    known: Watch | None = vars(agent).get(_MARK)
    if known is not None:
        return known
    watch = Watch(gym, agent)
    on_messages, on_messages_stream = agent.on_messages, agent.on_messages_stream

    async def watched_messages(
        messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        run = watch.begin(messages)
        if run is None:
            return await on_messages(messages, cancellation_token)
        try:
            with active(run):
                response = await on_messages(messages, cancellation_token)
        except BaseException as error:
            watch.end(run, error)
            raise
        watch.end(run)
        return response

    def watched_stream(
        messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> AsyncGenerator[Any, None]:
        inner = on_messages_stream(messages, cancellation_token)
        return _recorded(watch, messages, inner)

    vars(agent).update(
        {
            _MARK: watch,
            "on_messages": watched_messages,
            "on_messages_stream": watched_stream,
            "run": _reserving(agent.run),
            "run_stream": _reserving(agent.run_stream),
        }
    )
    watch.refresh()
    return watch


def _watch_team(gym: AgentGym, team: BaseGroupChat) -> Watch:
    known: Watch | None = vars(team).get(_MARK)
    if known is not None:
        return known
    watch = Watch(gym, team)
    run_stream = team.run_stream

    def watched_stream(*, task: Any = None, **options: Any) -> AsyncGenerator[Any, None]:
        return _recorded(watch, task, run_stream(task=task, **options))

    vars(team).update(
        {_MARK: watch, "run": _reserving(team.run), "run_stream": _reserving(watched_stream)}
    )
    return watch


async def _recorded(
    watch: Watch, task: Any, inner: AsyncGenerator[Any, None]
) -> AsyncGenerator[Any, None]:
    """What `inner` yields, as one run."""
    run = watch.begin(task)
    try:
        async with aclosing(stepwise(run, inner)) as items:
            async for item in items:
                if run is not None:
                    watch.saw(run, item)
                yield item
    except BaseException as error:
        if run is not None:
            watch.end(run, error)
        raise
    if run is not None:
        watch.end(run)


def _reserving(method: Callable[..., Any]) -> Callable[..., Any]:
    """Lets `gym.reward` find the run afterwards, also after asyncio.run(agent.run(...)).

    Not a coroutine function: it runs in the caller's context, the coroutine perhaps in a copy.
    """

    @functools.wraps(method)
    def reserving(*args: Any, **kwargs: Any) -> Any:
        if current() is None:
            reserve()
        return method(*args, **kwargs)

    return reserving


def _words(task: Any) -> str:
    """The user's own words in what a run was started with."""
    if isinstance(task, str):
        return task
    messages = [task] if isinstance(task, BaseChatMessage) else list(task or ())
    for message in reversed(messages):
        if message.source == "user":
            return str(message.to_model_text())
    return str(messages[-1].to_model_text()) if messages else ""


def _is_workflow(run: Run) -> bool:
    return run.operation == semconv.INVOKE_WORKFLOW


def _listed(value: Any, kind: type | tuple[type, ...]) -> list[Any]:
    return [item for item in value if isinstance(item, kind)] if isinstance(value, Sequence) else []


def _below(state: dict[str, Any]) -> list[Any]:
    """Agents and teams behind tools, and the inner team of a SocietyOfMindAgent."""
    found = [state["_team"]] if isinstance(state.get("_team"), BaseGroupChat) else []
    for workbench in _listed(state.get("_workbench"), StaticWorkbench):
        tools = _listed(workbench._tools, (AgentTool, TeamTool))
        found += [tool._task_runner for tool in tools]
    return found
