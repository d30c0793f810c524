"""The model's side: a client that decides each step and applies what was decided."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from autogen_core import ComponentModel
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    ModelCapabilities,
    ModelInfo,
    RequestUsage,
    UserMessage,
)

from agentgym.integrations.autogen.calls import CANCELLED, ask, failure, record_results
from agentgym.integrations.autogen.tools import Offer, ToolCache, as_choice
from agentgym.recorder import Run, Turn, current

if TYPE_CHECKING:
    from agentgym.gym import AgentGym
    from agentgym.integrations.autogen.runs import Watch

MAX_WAITING = 256
"""Calls of bare loops whose results are waited for, per client."""


class GymClient(ChatCompletionClient):
    """Delegates to a client; inside a run each call is a turn, outside the run is inferred.

    Agents that are built with it are adopted (see `runs`), so that only bare loops over a client
    need inference: a run begins with a new message and ends with the first answer without calls.
    """

    def __init__(self, gym: AgentGym, inner: ChatCompletionClient, home: Watch | None = None):
        self.gym = gym
        self.inner = inner
        self._home = home  # whose run a call without a context belongs to
        self._tools = ToolCache()
        self._waiting: dict[str, Run] = {}
        self.model = _model_name(inner)
        self.provider = _provider(inner)
        self.force = "hard" if _takes_tool_choice(inner) else "soft"

    # Options are passed on as they came: what is not given must not appear in the request.

    async def create(self, messages: Sequence[LLMMessage], **options: Any) -> CreateResult:
        exchange = Exchange.begin(self, messages, options)
        try:
            result = await self.inner.create(messages, **exchange.options)
        except BaseException as error:
            exchange.fail(error)
            raise
        exchange.finish(result)
        return result

    async def create_stream(
        self, messages: Sequence[LLMMessage], **options: Any
    ) -> AsyncGenerator[str | CreateResult, None]:
        exchange = Exchange.begin(self, messages, options)
        try:
            chunks = self.inner.create_stream(messages, **exchange.options)
            async with aclosing(chunks):
                async for item in chunks:
                    if isinstance(item, CreateResult):
                        exchange.finish(item)
                    yield item
        except BaseException as error:
            exchange.fail(error)
            raise
        exchange.finish(None)

    def run_of(self, messages: Sequence[LLMMessage]) -> tuple[Run, bool]:
        """The run that a call belongs to, and whether it was inferred."""
        above = current()
        if isinstance(above, Run):
            return above, False
        if above is None and self._home is not None and self._home.run is not None:
            return self._home.run, False
        last = messages[-1] if messages else None
        if isinstance(last, FunctionExecutionResultMessage):
            waiting = [self._waiting.pop(result.call_id, None) for result in last.content]
            for run in waiting:
                if run is not None and not run.ended:
                    return run, True
        name, task = self.gym.config.agent, last_user_text(messages)
        return self.gym.recorder.start_run(name, framework="autogen", task=task), True

    def wait(self, run: Run, call_ids: Sequence[str]) -> None:
        """Keeps an inferred run open until the results of its calls come back."""
        for call_id in call_ids:
            previous = self._waiting.pop(call_id, run)  # some models reuse the ids of calls
            if previous is not run:
                previous.abandon("abandoned")
            self._waiting[call_id] = run
        while len(self._waiting) > MAX_WAITING:
            self._waiting.pop(next(iter(self._waiting))).abandon("abandoned")

    # ---- delegation

    async def close(self) -> None:
        await self.inner.close()

    def actual_usage(self) -> RequestUsage:
        return self.inner.actual_usage()

    def total_usage(self) -> RequestUsage:
        return self.inner.total_usage()

    def count_tokens(self, messages: Sequence[LLMMessage], *, tools: Sequence[Offer] = ()) -> int:
        return self.inner.count_tokens(messages, tools=tools)

    def remaining_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Offer] = ()
    ) -> int:
        return self.inner.remaining_tokens(messages, tools=tools)

    @property
    def capabilities(self) -> ModelCapabilities:
        return self.inner.capabilities

    @property
    def model_info(self) -> ModelInfo:
        return self.inner.model_info

    def dump_component(self) -> ComponentModel:
        return self.inner.dump_component()

    def _to_config(self) -> Any:
        return self.inner._to_config()

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not yet there while being copied
            raise AttributeError(name)
        return getattr(self.inner, name)


class Exchange:
    """One call of the client; without a turn it is passed through as it came."""

    def __init__(self, client: GymClient, options: Mapping[str, Any]) -> None:
        self.client = client
        self.options = options
        self._run: Run | None = None
        self._turn: Turn | None = None
        self._inferred = False

    @classmethod
    def begin(
        cls, client: GymClient, messages: Sequence[LLMMessage], options: Mapping[str, Any]
    ) -> Exchange:
        """Opens the turn and puts what was decided into the options."""
        exchange = cls(client, options)
        if client.gym.on:
            with client.gym.guard("autogen.chat"):
                exchange._begin(messages)
        return exchange

    def _begin(self, messages: Sequence[LLMMessage]) -> None:
        client = self.client
        run, self._inferred = client.run_of(messages)
        self._run = run
        if messages and isinstance(messages[-1], FunctionExecutionResultMessage):
            record_results(run, messages[-1].content)
        choice = self.options.get("tool_choice", "auto")
        free = isinstance(choice, str) and choice in ("auto", "required")
        offers: Sequence[Offer] = self.options.get("tools", ()) if free else ()
        self._turn = run.turn(
            client._tools.describe(offers),
            model=client.model,
            provider=client.provider,
            task=None if run.task else last_user_text(messages),
            force=client.force,
        )
        self.options = _applied(self._turn, offers, self.options)

    def finish(self, result: CreateResult | None) -> None:
        """Ends the turn with what the model asked for; later ends are ignored."""
        run, turn = self._run, self._turn
        if run is None or turn is None or turn.ended:
            return
        with self.client.gym.guard("autogen.chat"):
            called = [] if result is None or isinstance(result.content, str) else result.content
            turn.finish(
                [(call.name, call.id) for call in called],
                input_tokens=result.usage.prompt_tokens if result else 0,
                output_tokens=result.usage.completion_tokens if result else 0,
                error="" if result else "no_result",
            )
            ask(run, [call.id for call in called if call.id])
            if self._inferred and called:
                self.client.wait(run, [call.id for call in called])
            elif self._inferred:
                run.finish()

    def fail(self, error: BaseException) -> None:
        """Ends the turn, and the run if it was inferred, with a failure; later ones are ignored."""
        with self.client.gym.guard("autogen.chat"):
            reason = failure(error)
            inferred = self._run if self._inferred else None
            for node in (self._turn, inferred):
                if node is not None and reason == CANCELLED:
                    node.abandon(reason)
                elif node is not None:
                    node.finish(error=reason)


def _applied(turn: Turn, offers: Sequence[Offer], options: Mapping[str, Any]) -> Mapping[str, Any]:
    changed: dict[str, Any] = {}
    if turn.shown is not None:
        changed["tools"] = [offers[index] for index in turn.shown]
    elif turn.forced is not None:
        changed["tool_choice"] = as_choice(offers[turn.offered.index(turn.forced)])
    return {**options, **changed}


def last_user_text(messages: Sequence[LLMMessage]) -> str:
    """Text of the last user message, or the empty string."""
    for message in reversed(messages):
        if isinstance(message, UserMessage):
            if isinstance(message.content, str):
                return message.content
            return "\n".join(part for part in message.content if isinstance(part, str))
    return ""


def _model_name(client: ChatCompletionClient) -> str:
    arguments = getattr(client, "_create_args", None)
    return str(arguments.get("model", "")) if isinstance(arguments, Mapping) else ""


def _provider(client: ChatCompletionClient) -> str:
    package, _, rest = type(client).__module__.partition(".models.")
    return rest.partition(".")[0] if package == "autogen_ext" else ""


def _takes_tool_choice(client: ChatCompletionClient) -> bool:
    parameters = inspect.signature(client.create).parameters
    return "tool_choice" in parameters or any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()
    )
