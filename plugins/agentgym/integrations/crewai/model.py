"""The view of a model that reports its calls and applies decisions to the tools of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

from crewai.agents.parser import AgentAction, parse
from crewai.types.usage_metrics import UsageMetrics
from crewai.utilities.agent_utils import extract_tool_call_info
from crewai.utilities.string_utils import sanitize_tool_name

from agentgym.errors import UnsupportedError
from agentgym.integrations.crewai.classes import Derived, gym_of
from agentgym.integrations.crewai.offers import destructive, native_offer, text_offer
from agentgym.integrations.crewai.scope import Asked, Scope, current_scope
from agentgym.recorder import Turn
from agentgym.trajectory import Tool

_TOOLS = (1, "tools")
_MESSAGES = (0, "messages")
_FUNCTIONS = (3, "available_functions")
"""Positions and names of parameters of `BaseLLM.call` that we read or change."""

_UNATTACHED = (
    "expected a model of an attached agent, got one of an agent that AgentGym does not know, so "
    "nothing is recorded; call gym.attach(crew) or gym.attach(agent) before the kickoff"
)

_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class AttachedModel(Derived):
    """Mixin over a class of models; what no decision touches passes through as it came."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        step = _begin(self, args, kwargs)
        if step is None:
            return super().call(*args, **kwargs)  # type: ignore[misc]
        token = _step.set(step)
        try:
            answer = super().call(*step.args, **step.kwargs)  # type: ignore[misc]
        except BaseException as error:
            step.fail(error)
            raise
        finally:
            _step.reset(token)
        step.finish(answer)
        return answer

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        step = _begin(self, args, kwargs)
        if step is None:
            return await super().acall(*args, **kwargs)  # type: ignore[misc]
        token = _step.set(step)
        try:
            answer = await super().acall(*step.args, **step.kwargs)  # type: ignore[misc]
        except BaseException as error:
            step.fail(error)
            raise
        finally:
            _step.reset(token)
        step.finish(answer)
        return answer

    def _track_token_usage_internal(self, usage_data: Any) -> None:
        super()._track_token_usage_internal(usage_data)  # type: ignore[misc]
        step = _step.get()
        if step is not None:
            with step.scope.gym.guard("crewai.usage"):
                step.count(usage_data)


@dataclass(eq=False, slots=True)
class _Step:
    """One call of the model on its way."""

    scope: Scope
    turn: Turn
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    executed: list[Asked]
    text_agent: bool
    input_tokens: int = 0
    output_tokens: int = 0

    def count(self, usage_data: Any) -> None:
        """Adds what the provider reported; retries of one call add up."""
        usage = UsageMetrics.from_provider_dict(usage_data)
        if usage is not None:
            self.input_tokens += usage.prompt_tokens
            self.output_tokens += usage.completion_tokens

    def fail(self, error: BaseException) -> None:
        """Ends the turn with the error that goes on to the agent."""
        with self.scope.gym.guard("crewai.model"):
            if not isinstance(error, Exception):
                self.turn.abandon("cancelled")
            else:
                self.turn.finish(error=type(error).__name__)

    def finish(self, answer: Any) -> None:
        """Ends the turn with what the model asked for."""
        with self.scope.gym.guard("crewai.model"):
            try:
                calls = self.executed + self._asked(answer)
            finally:
                self.turn.finish(
                    [(asked.name, asked.call_id) for asked in calls],
                    input_tokens=self.input_tokens,
                    output_tokens=self.output_tokens,
                )

    def _asked(self, answer: Any) -> list[Asked]:
        if self.text_agent:
            calls = _asked_in_text(answer)
        elif isinstance(answer, list):
            infos = [extract_tool_call_info(call) for call in answer]
            calls = [_asked_natively(*info) for info in infos if info]
        else:
            calls = []
        if self.turn.offered:
            self.scope.ask(calls)
        return calls


_step: ContextVar[_Step | None] = ContextVar("agentgym_crewai_step", default=None)


def _begin(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Step | None:
    scope, gym = current_scope(), gym_of(model)
    if not gym.on:
        return None
    if scope is None:
        agent = kwargs.get("from_agent")
        if agent is not None and not isinstance(agent, Derived):
            gym.guard.refuse("wrapped model", UnsupportedError(_UNATTACHED))
        return None
    return scope.gym.guard.call("crewai.model", None, _decided, scope, model, (args, kwargs))


def _decided(scope: Scope, model: Any, arguments: _Arguments) -> _Step:
    specs = _get(arguments, _TOOLS)
    agent = arguments[1].get("from_agent")
    text_agent = not specs and agent is scope.owner and not model.supports_function_calling()
    if specs:
        offered = native_offer(specs, scope.owner, scope.task)
    else:
        offered = text_offer(agent, scope.task) if text_agent else []
    if offered:
        scope.gym.recorder.protect(destructive(agent if text_agent else scope.owner, scope.task))
        _close_unstarted(scope)
    turn = scope.run.turn(
        offered,
        model=model.model,
        provider=model.provider,
        force="soft",
        text_agent=text_agent,
    )
    executed: list[Asked] = []
    try:
        arguments = _applied(turn, arguments)
        functions = _get(arguments, _FUNCTIONS)
        if functions:
            watched = {name: _watched(name, call, executed) for name, call in functions.items()}
            arguments = _put(arguments, _FUNCTIONS, watched)
    except BaseException:
        turn.abandon("error")
        raise
    return _Step(scope, turn, *arguments, executed, text_agent)


def _close_unstarted(scope: Scope) -> None:
    # CrewAI tells the model that its arguments do not parse before any hook is asked.
    for asked in scope.ask(()):
        scope.run.call(asked.name, call_id=asked.call_id).finish("invalid_arguments")


def _applied(turn: Turn, arguments: _Arguments) -> _Arguments:
    """The arguments with the decision in them; the very same ones if there is none to apply."""
    if turn.shown is not None:
        specs = _get(arguments, _TOOLS)
        arguments = _put(arguments, _TOOLS, [specs[i] for i in turn.shown])
    wanted = turn.forced or turn.hint
    if wanted is not None:
        messages = with_hint(_get(arguments, _MESSAGES), wanted)
        arguments = _put(arguments, _MESSAGES, messages)
    return arguments


def with_hint(messages: Any, tool: Tool) -> Any:
    """A copy of the messages whose last request names the tool; the executor's stay as they are.

    The hint joins a last user message, because some models refuse two of them in a row.
    """
    hint = f"Use the tool {tool.name} for your next step."
    if isinstance(messages, str):
        return f"{messages}\n\n{hint}"
    *before, last = messages
    if last.get("role") == "user" and isinstance(last.get("content"), str):
        return [*before, {**last, "content": f"{last['content']}\n\n{hint}"}]
    return [*before, last, {"role": "user", "content": hint}]


def _asked_natively(call_id: str, name: str, arguments: Any) -> Asked:
    return Asked(sanitize_tool_name(name), call_id, _parsed(arguments))


def _parsed(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _asked_in_text(answer: Any) -> list[Asked]:
    try:
        action = parse(str(answer))
    except Exception:  # noqa: BLE001 - the executor parses it again and tells the model
        return []
    if not isinstance(action, AgentAction):
        return []
    return [Asked(sanitize_tool_name(action.tool), "", _parsed(action.tool_input))]


def _watched(name: str, function: Callable[..., Any], executed: list[Asked]) -> Callable[..., Any]:
    """A tool that the provider itself executes, noting that it was called."""

    @wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        executed.append(Asked(name, "", kwargs))
        return function(*args, **kwargs)

    return watched


def _get(arguments: _Arguments, parameter: tuple[int, str]) -> Any:
    (args, kwargs), (position, name) = arguments, parameter
    return args[position] if len(args) > position else kwargs.get(name)


def _put(arguments: _Arguments, parameter: tuple[int, str], value: Any) -> _Arguments:
    (args, kwargs), (position, name) = arguments, parameter
    if len(args) > position:
        return (*args[:position], value, *args[position + 1 :]), kwargs
    return args, {**kwargs, name: value}
