"""A chat model through which the policy acts, in place of the model that it came from.

`steered(gym, model)` gives a second view of the same model: same state, and a class that differs
only in that its calls pass through a turn. So isinstance, settings, `bind_tools` and tracing
answer as before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableBinding
from langchain_core.runnables.config import ensure_config

from agentgym.integrations.langchain.callbacks import install
from agentgym.integrations.langchain.turns import Step, begin
from agentgym.integrations.marks import is_destructive

if TYPE_CHECKING:
    from agentgym.gym import AgentGym

Prompts = list[list[BaseMessage]]

_STATE = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


class Steered:
    """What a steered class has in place of the model's own methods; every call is a turn."""

    agentgym: ClassVar[Any]
    agentgym_plain: ClassVar[type[BaseChatModel]]

    def generate(
        self, messages: Prompts, stop: Any = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """As the model does it, inside a turn."""
        plain = _view(self, self.agentgym_plain)
        step = _begin_batch(self.agentgym, plain, messages, callbacks, kwargs)
        if step is None:
            return plain.generate(messages, stop, callbacks, **kwargs)
        try:
            result = plain.generate([step.messages], stop, callbacks, **step.kwargs)
        except BaseException as error:
            step.failed(error)
            if not step.refused(error):
                raise
        else:
            step.done(answer(result))
            return result
        with step.again() as answered:
            result = plain.generate(messages, stop, callbacks, **kwargs)
            answered(answer(result))
        return result

    async def agenerate(
        self, messages: Prompts, stop: Any = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """As the model does it, inside a turn."""
        plain = _view(self, self.agentgym_plain)
        step = _begin_batch(self.agentgym, plain, messages, callbacks, kwargs)
        if step is None:
            return await plain.agenerate(messages, stop, callbacks, **kwargs)
        try:
            result = await plain.agenerate([step.messages], stop, callbacks, **step.kwargs)
        except BaseException as error:
            step.failed(error)
            if not step.refused(error):
                raise
        else:
            step.done(answer(result))
            return result
        with step.again() as answered:
            result = await plain.agenerate(messages, stop, callbacks, **kwargs)
            answered(answer(result))
        return result

    def stream(
        self, input: Any, config: Any = None, *, stop: Any = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """As the model does it, token by token, inside a turn."""
        plain = _view(self, self.agentgym_plain)
        step = _begin_stream(self.agentgym, plain, input, config, kwargs)
        if step is None:
            yield from plain.stream(input, config, stop=stop, **kwargs)
            return
        chunks: list[AIMessageChunk] = []
        try:
            for chunk in plain.stream(_input(step, input), config, stop=stop, **step.kwargs):
                chunks.append(chunk)
                yield chunk
        except BaseException as error:
            step.failed(error)
            if chunks or not step.refused(error):
                raise
        else:
            step.done(_merged(chunks))
            return
        with step.again() as answered:
            for chunk in plain.stream(input, config, stop=stop, **kwargs):
                chunks.append(chunk)
                yield chunk
            answered(_merged(chunks))

    async def astream(
        self, input: Any, config: Any = None, *, stop: Any = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """As the model does it, token by token, inside a turn."""
        plain = _view(self, self.agentgym_plain)
        step = _begin_stream(self.agentgym, plain, input, config, kwargs)
        if step is None:
            async for chunk in plain.astream(input, config, stop=stop, **kwargs):
                yield chunk
            return
        chunks: list[AIMessageChunk] = []
        try:
            async for chunk in plain.astream(_input(step, input), config, stop=stop, **step.kwargs):
                chunks.append(chunk)
                yield chunk
        except BaseException as error:
            step.failed(error)
            if chunks or not step.refused(error):
                raise
        else:
            step.done(_merged(chunks))
            return
        with step.again() as answered:
            async for chunk in plain.astream(input, config, stop=stop, **kwargs):
                chunks.append(chunk)
                yield chunk
            answered(_merged(chunks))


# Not a base class: a model may be steered twice, by two gyms.
_METHODS = {name: vars(Steered)[name] for name in ("generate", "agenerate", "stream", "astream")}


def is_steered(model: Any) -> bool:
    """Whether a model, or the one inside a binding, is seen through an AgentGym."""
    while isinstance(model, RunnableBinding):
        model = model.bound
    return isinstance(getattr(model, "agentgym_plain", None), type)


def steered(gym: AgentGym, model: Any) -> Any:
    """The model, or the binding of one, seen through AgentGym; anything else as it is."""
    if isinstance(model, RunnableBinding):
        bound = steered(gym, model.bound)
        return model if bound is model.bound else model.model_copy(update={"bound": bound})
    if not isinstance(model, BaseChatModel):
        return model
    if getattr(model, "agentgym", None) is gym:
        return model
    install()
    return _view(model, _steered_class(gym, type(model)))


def _steered_class(gym: AgentGym, plain: type[BaseChatModel]) -> type[BaseChatModel]:
    classes = gym.__dict__.setdefault("_langchain_models", {})
    if plain not in classes:
        # Tracers and serialisers go by a model's name and module, which are to stay the same.
        labels = {"__module__": plain.__module__, "__qualname__": plain.__qualname__}
        meta: Any = type(plain)
        members = {**labels, **_METHODS, **_binding(gym, plain), "__doc__": plain.__doc__}
        made = meta(plain.__name__, (plain,), members)
        made.agentgym, made.agentgym_plain = gym, plain
        classes[plain] = made
    return classes[plain]  # type: ignore[no-any-return]


def _binding(gym: AgentGym, plain: type[BaseChatModel]) -> dict[str, Any]:
    """Notes which tools are marked as destructive: the request that comes of them does not say."""
    if plain.bind_tools is BaseChatModel.bind_tools:
        return {}  # a model that binds no tools is known by not having the method

    def bind_tools(self: Any, tools: Any, **kwargs: Any) -> Any:
        with gym.guard("langchain.tools"):
            gym.recorder.protect(str(tool.name) for tool in tools if _is_marked(tool))
        return plain.bind_tools(self, tools, **kwargs)

    return {"bind_tools": bind_tools}


def _is_marked(tool: Any) -> bool:
    return hasattr(tool, "name") and is_destructive(tool)


def _view(model: Any, kind: type[BaseChatModel]) -> BaseChatModel:
    """An object of another class on the very same state."""
    view = kind.__new__(kind)
    for name in _STATE:
        object.__setattr__(view, name, getattr(model, name))
    return view


def _begin_batch(
    gym: AgentGym,
    plain: BaseChatModel,
    messages: Prompts,
    callbacks: Any,
    kwargs: dict[str, Any],
) -> Step | None:
    # Several prompts at once are no agent's turn.
    return begin(gym, plain, messages[0], callbacks, kwargs) if len(messages) == 1 else None


def _begin_stream(
    gym: AgentGym, plain: BaseChatModel, given: Any, config: Any, kwargs: dict[str, Any]
) -> Step | None:
    return gym.guard.call("langchain.stream", None, _stream_step, gym, plain, given, config, kwargs)


def _stream_step(
    gym: AgentGym, plain: BaseChatModel, given: Any, config: Any, kwargs: dict[str, Any]
) -> Step | None:
    messages = plain._convert_input(given).to_messages()
    return begin(gym, plain, messages, ensure_config(config).get("callbacks"), kwargs)


def _input(step: Step, given: Any) -> Any:
    return step.messages if step.turn.hint is not None else given


def answer(result: LLMResult) -> BaseMessage | None:
    """The message of a result, or None if it holds only text."""
    for generation in result.generations[0][:1]:
        if isinstance(generation, ChatGeneration):
            return generation.message
    return None


def _merged(chunks: list[AIMessageChunk]) -> BaseMessage | None:
    return chunks[0] + chunks[1:] if len(chunks) > 1 else chunks[0] if chunks else None
