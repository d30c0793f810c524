"""What an `AgentGym` answers when LangChain uses it as a middleware or as a callback handler."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from agentgym.config import Mode
from agentgym.integrations.langchain.callbacks import FrameHandler, install
from agentgym.integrations.langchain.frames import (
    CANCELLED,
    FRAMES,
    is_interrupt,
    settle,
    status_error,
)
from agentgym.integrations.langchain.model import answer, steered
from agentgym.integrations.langchain.turns import (
    Step,
    offered_in,
    own_tools,
    text_agent_of,
)
from agentgym.trajectory import Tool
from agentgym.tree import Call, active

if TYPE_CHECKING:
    from agentgym.gym import AgentGym

logger = logging.getLogger(__name__)


class Watcher(FrameHandler):
    """Records what an agent does that no wrapped model or middleware records; decides nothing."""

    def __init__(self, gym: AgentGym, tools: tuple[Tool, ...] = ()) -> None:
        super().__init__(FRAMES, gym.guard, tools)
        self.gym = gym
        # Shared, so that two watchers of one agent do not record a call twice.
        self.steps: dict[UUID, Step] = gym.__dict__.setdefault("_langchain_steps", {})
        self.warned = False

    @property
    def ignore_llm(self) -> bool:
        """Here model calls are seen by callbacks."""
        return False

    @property
    def ignore_chat_model(self) -> bool:
        """Here model calls are seen by callbacks."""
        return False

    def on_chat_model_start(
        self,
        serialized: Any,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A chat model is called."""
        if self.gym.on and len(messages) == 1:
            with self.guard("langchain.watch"):
                request = kwargs.get("invocation_params") or {}
                self._begin(run_id, parent_run_id, messages[0], request, metadata or {})

    def on_llm_start(
        self,
        serialized: Any,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A completion model is called."""
        if self.gym.on and len(prompts) == 1:
            with self.guard("langchain.watch"):
                prompt: list[BaseMessage] = [HumanMessage(prompts[0])]
                self._begin(run_id, parent_run_id, prompt, {}, metadata or {})

    def _begin(
        self,
        run_id: UUID,
        parent_id: UUID | None,
        messages: list[BaseMessage],
        request: dict[str, Any],
        metadata: dict[str, Any],
    ) -> None:
        place = self.frames.run_of(self.gym, parent_id, messages, applies=False)
        if place is None or place[0].applies or run_id in self.steps:
            return
        run, agent = place
        self._warn()
        text_agent = text_agent_of(agent, request)
        if text_agent is not None:
            settle(text_agent)
        tools = text_agent.tools if text_agent else offered_in(request).tools
        turn = run.turn(
            tools,
            model=metadata.get("ls_model_name") or "",
            provider=metadata.get("ls_provider") or "",
            text_agent=text_agent is not None,
        )
        self.steps[run_id] = Step(self.gym, turn, None, text_agent, messages, request)

    def _warn(self) -> None:
        mode = self.gym.config.mode
        if mode in (Mode.ADVISE, Mode.STEER) and not self.warned:
            self.warned = True
            logger.warning(
                "callbacks=[gym] can only watch: mode %s becomes shadow; to let the policy act use "
                "create_agent(middleware=[gym]) or gym.wrap(llm)",
                mode.value,
            )

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A model answered."""
        step = self.steps.pop(run_id, None)
        if step is not None:
            with self.guard("langchain.watch"):
                step.done(answer(response))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A model failed."""
        step = self.steps.pop(run_id, None)
        if step is not None:
            step.failed(error)


class GymHooks(Watcher):
    """Both faces of one `AgentGym`: `middleware=[gym]` and `callbacks=[gym]`."""

    tools: Any = ()  # a middleware's additional tools: none
    transformers: Any = ()
    trace_policy = None

    def __init__(self, gym: AgentGym) -> None:
        super().__init__(gym)
        install()
        gym.sender.start()

    @property
    def name(self) -> str:
        """Unique, because two middlewares of one agent may not share a name."""
        return f"AgentGym({self.gym.config.agent})-{id(self.gym):x}"

    @property
    def state_schema(self) -> Any:
        """No state of its own."""
        types: Any = importlib.import_module("langchain.agents.middleware.types")
        return types.AgentMiddleware.state_schema

    # ---- model

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Lets the agent call its model through AgentGym."""
        request = self._steered(request)
        with _naming_tools(request):
            return handler(request)

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Lets the agent call its model through AgentGym."""
        request = self._steered(request)
        with _naming_tools(request):
            return await handler(request)

    def _steered(self, request: Any) -> Any:
        if not self.gym.on:
            return request
        return self.gym.guard.call("langchain.model", request, self._swap, request)

    def _swap(self, request: Any) -> Any:
        return request.override(model=steered(self.gym, request.model))

    # ---- tools

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Records one execution of a tool; blocks it only if the user wants that."""
        call = self._call(request)
        if call is None:
            return handler(request)
        veto = self.gym.guard.call("langchain.veto", None, _veto, call, request.tool_call)
        if veto is not None:
            return veto
        with active(call):
            try:
                result = handler(request)
            except BaseException as error:
                self._failed(call, error)
                raise
        self._done(call, result)
        return result

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Records one execution of a tool; blocks it only if the user wants that."""
        call = self._call(request)
        if call is None:
            return await handler(request)
        veto = self.gym.guard.call("langchain.veto", None, _veto, call, request.tool_call)
        if veto is not None:
            return veto
        with active(call):
            try:
                result = await handler(request)
            except BaseException as error:
                self._failed(call, error)
                raise
        self._done(call, result)
        return result

    def _call(self, request: Any) -> Call | None:
        if not self.gym.on:
            return None
        return self.gym.guard.call("langchain.tool", None, self._start_call, request)

    def _start_call(self, request: Any) -> Call | None:
        callbacks = (getattr(request.runtime, "config", None) or {}).get("callbacks")
        parent_id = getattr(callbacks, "parent_run_id", None)
        state = request.state
        messages = state.get("messages", []) if isinstance(state, dict) else []
        place = self.frames.run_of(self.gym, parent_id, messages, applies=True)
        if place is None:
            return None
        run, agent = place
        asked = request.tool_call
        call = run.call(asked["name"], call_id=asked["id"] or "", arguments=asked["args"])
        agent.calls.setdefault(asked["id"] or "", []).append(call)
        return call

    def _done(self, call: Call, result: Any) -> None:
        self.gym.guard.call("langchain.tool", None, _finish, call, result)

    def _failed(self, call: Call, error: BaseException) -> None:
        self.gym.guard.call("langchain.tool", None, _fail, call, error)


def _finish(call: Call, result: Any) -> None:
    call.finish(status_error(result), result=result)


def _fail(call: Call, error: BaseException) -> None:
    if isinstance(error, CANCELLED) or is_interrupt(error):
        call.abandon("cancelled")
    else:
        call.finish(type(error).__name__)


@contextmanager
def _naming_tools(request: Any) -> Iterator[None]:
    """Tells the agent's tools from those that only shape a structured answer."""
    if request.response_format is None:
        yield
        return
    names = frozenset(tool.name for tool in request.tools if not isinstance(tool, dict))
    token = own_tools.set(names)
    try:
        yield
    finally:
        own_tools.reset(token)


def _veto(call: Call, asked: Any) -> ToolMessage | None:
    if not call.blocked:
        return None
    text = call.veto(f"The tool {call.tool} is not available for this step; use another one.")
    return ToolMessage(text, name=call.tool, tool_call_id=asked["id"], status="error")
