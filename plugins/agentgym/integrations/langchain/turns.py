"""One call of a model as a turn: what is decided, how it changes the request, what came back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage, SystemMessage

from agentgym.integrations.langchain import offered
from agentgym.integrations.langchain.frames import (
    CANCELLED,
    FRAMES,
    FRAMEWORK,
    Frame,
    settle,
    task_of,
)
from agentgym.tree import Run, Turn

if TYPE_CHECKING:
    from agentgym.gym import AgentGym

own_tools: ContextVar[frozenset[str] | None] = ContextVar("agentgym_own_tools", default=None)
"""Names of the agent's tools where the request also holds tools that only shape the answer."""

_REFUSED = (400, 404, 422)
_HINT = "For the next step the tool {name!r} is likely to be the right one."


@dataclass(slots=True)
class Step:
    """An open turn and the request that it turned into."""

    gym: AgentGym
    turn: Turn
    lone: Run | None  # the run of a model called outside any agent; it ends with the turn
    text_agent: Frame | None  # whose answer is parsed later, by its executor
    messages: list[BaseMessage]
    kwargs: dict[str, Any]
    changed: bool = field(default=False, init=False)

    def done(self, message: BaseMessage | None) -> None:
        """The model answered."""
        self.gym.guard.call("langchain.answer", None, self._done, message)

    def failed(self, error: BaseException) -> None:
        """The model failed, or the call was cancelled."""
        self.gym.guard.call("langchain.error", None, self._failed, error)

    def refused(self, error: BaseException) -> bool:
        """Whether the provider refused a request that we changed; it is then sent as it was.

        A model that keeps refusing (no forced tools while it thinks) opens the guard.
        """
        refused = self.changed and getattr(error, "status_code", None) in _REFUSED
        if refused and isinstance(error, Exception):
            self.gym.guard.record("langchain.refused", error)
        return refused

    @contextmanager
    def again(self) -> Iterator[Callable[[BaseMessage | None], None]]:
        """A turn for the request as it was; nothing is decided in it."""
        turn = self.gym.guard.call("langchain.again", None, self._again)
        if turn is None:
            yield lambda message: None
            return
        step = Step(self.gym, turn, None, None, self.messages, self.kwargs)
        try:
            yield step.done
        except BaseException as error:
            step.failed(error)
            raise

    def _again(self) -> Turn | None:
        return None if self.turn.run.ended else self.turn.run.turn((), model=self.turn.model)

    def _done(self, message: BaseMessage | None) -> None:
        usage = usage_of(message)
        if self.text_agent is not None:
            self.text_agent.pending.append((self.turn, usage))
            return
        self.turn.finish(calls_of(message), **usage)
        if self.lone is not None:
            self.lone.finish()

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, CANCELLED):
            (self.lone or self.turn).abandon("cancelled")
            return
        self.turn.finish(error=type(error).__name__)
        if self.lone is not None:
            self.lone.finish(type(error).__name__)


def begin(
    gym: AgentGym,
    model: BaseChatModel,
    messages: list[BaseMessage],
    callbacks: Any,
    kwargs: dict[str, Any],
) -> Step | None:
    """Starts the turn of a wrapped model; None means: go on as if we were not here."""
    if not gym.on:
        return None
    return gym.guard.call("langchain.turn", None, _begin, gym, model, messages, callbacks, kwargs)


def _begin(
    gym: AgentGym,
    model: BaseChatModel,
    messages: list[BaseMessage],
    callbacks: Any,
    kwargs: dict[str, Any],
) -> Step:
    parent_id = callbacks.parent_run_id if isinstance(callbacks, BaseCallbackManager) else None
    place = FRAMES.run_of(gym, parent_id, messages, applies=True)
    if place is None:
        run = lone = gym.recorder.start_run(
            gym.config.agent,
            framework=FRAMEWORK,
            task=task_of(None, messages),
            parent=FRAMES.node_at(gym, parent_id),
        )
        agent = None
    else:
        (run, agent), lone = place, None
    try:
        return _decide(gym, run, lone, agent, model, messages, kwargs)
    except BaseException:
        if lone is not None:
            lone.abandon("error")
        raise


def _decide(
    gym: AgentGym,
    run: Run,
    lone: Run | None,
    agent: Frame | None,
    model: BaseChatModel,
    messages: list[BaseMessage],
    kwargs: dict[str, Any],
) -> Step:
    positions, tools = offered_in(kwargs)
    text_agent = text_agent_of(agent, kwargs)
    if text_agent is not None:
        settle(text_agent)
        tools = text_agent.tools
    name, provider = identity(model)
    turn = run.turn(tools, model=name, provider=provider, text_agent=text_agent is not None)
    step = Step(gym, turn, lone, text_agent, messages, kwargs)
    if turn.hint is not None:
        hint = SystemMessage(_HINT.format(name=turn.hint.name))
        step.messages, step.changed = [hint, *messages], True
    elif turn.forced is not None or turn.shown is not None:
        step.kwargs, step.changed = _applied(turn, model, kwargs, positions), True
    return step


def offered_in(kwargs: dict[str, Any]) -> offered.Offered:
    """The tools among which a request leaves the choice."""
    if not offered.is_free(kwargs.get("tool_choice")):
        return offered.NOTHING
    found = offered.from_request(kwargs.get("tools"))
    own = own_tools.get()
    if own is None:
        return found
    shaping = frozenset(tool.name for tool in found.tools) - own
    return found._replace(tools=offered.protect(found.tools, shaping)) if shaping else found


def text_agent_of(agent: Frame | None, kwargs: dict[str, Any]) -> Frame | None:
    """The agent's frame if its tools stand in the prompt and not in the request."""
    return agent if agent is not None and agent.tools and not kwargs.get("tools") else None


def _applied(
    turn: Turn, model: BaseChatModel, kwargs: dict[str, Any], positions: Sequence[int]
) -> dict[str, Any]:
    entries = kwargs["tools"]
    if turn.forced is not None:
        entry = entries[positions[turn.offered.index(turn.forced)]]
        choice = _tool_choice(model, entry, turn.forced.name)
        if choice:
            return {**kwargs, **choice}
        turn.force = "soft"  # this provider cannot force: it is shown nothing else
        return {**kwargs, "tools": [entry]}
    others = [entry for at, entry in enumerate(entries) if at not in positions]
    shown = [entries[positions[index]] for index in turn.shown or ()]
    return {**kwargs, "tools": [*shown, *others]}


def _tool_choice(model: BaseChatModel, entry: Any, name: str) -> dict[str, Any]:
    """What the provider's own `bind_tools` adds to a request in which one tool is forced."""
    try:
        free = getattr(model.bind_tools([entry]), "kwargs", {})
        forced = getattr(model.bind_tools([entry], tool_choice=name), "kwargs", {})
    except (NotImplementedError, TypeError, ValueError):
        return {}
    return {k: v for k, v in forced.items() if k != "tools" and free.get(k) != v}


def identity(model: BaseChatModel) -> tuple[str, str]:
    """Name and provider of a model."""
    params = model._get_ls_params()
    return str(params.get("ls_model_name") or ""), str(params.get("ls_provider") or "")


def calls_of(message: BaseMessage | None) -> list[tuple[str, str]]:
    """The tool calls that a model asks for, as (name, id)."""
    return [(call["name"], call["id"] or "") for call in getattr(message, "tool_calls", ())]


def usage_of(message: BaseMessage | None) -> dict[str, Any]:
    """Token counts and the model's own name, as `Turn.finish` takes them."""
    usage = getattr(message, "usage_metadata", None) or {}
    metadata = getattr(message, "response_metadata", None) or {}
    return {
        "input_tokens": usage.get("input_tokens", 0),
        "output_tokens": usage.get("output_tokens", 0),
        "response_model": str(metadata.get("model_name") or ""),
    }
