"""Lets an `AgentGym` be handed to LangChain as a middleware and as a callback handler.

LangChain asks its middleware for `m.__class__.wrap_model_call` and checks handlers by isinstance.
Both questions are answered here without importing LangChain: whoever asks has imported it already.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from typing import Any

WRAPPERS = ("wrap_model_call", "awrap_model_call", "wrap_tool_call", "awrap_tool_call")
_MIDDLEWARE = {*WRAPPERS, "name", "tools", "state_schema", "transformers", "trace_policy"}
_HANDLER = {
    "raise_error",
    "run_inline",
    *(
        f"ignore_{what}"
        for what in ("llm", "retry", "chain", "agent", "retriever", "chat_model", "custom_event")
    ),
    *(
        f"on_{kind}_{what}"
        for kind in ("chain", "tool", "llm")
        for what in ("start", "end", "error")
    ),
    *("on_chat_model_start", "on_llm_new_token", "on_stream_event", "on_text", "on_retry"),
    *("on_agent_action", "on_agent_finish"),
}
_ANSWERED = frozenset(_MIDDLEWARE | _HANDLER)
_NOMINAL = (
    ("langchain.agents.middleware.types", "AgentMiddleware"),
    ("langchain_core.callbacks.base", "BaseCallbackHandler"),
)


class LangChainFace:
    """Base of `AgentGym` that answers LangChain's questions through its integration."""

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        """The class that isinstance sees: also LangChain's own bases, where they are imported."""
        bases = (getattr(sys.modules.get(module), name, None) for module, name in _NOMINAL)
        return _face(_own_class(self), *(base for base in bases if isinstance(base, type)))

    def __getattr__(self, name: str) -> Any:
        if name in _ANSWERED and "langchain_core" in sys.modules:
            return getattr(_bridge(self), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _bridge(gym: LangChainFace) -> Any:
    bridge = gym.__dict__.get("_langchain")
    if bridge is None:
        hooks = importlib.import_module("agentgym.integrations.langchain.gym_hooks")
        bridge = gym.__dict__.setdefault("_langchain", hooks.GymHooks(gym))
    return bridge


def _own_class(gym: LangChainFace) -> Any:
    return type(gym)


@cache
def _face(kind: type[Any], *bases: type[Any]) -> type[Any]:
    if not bases:
        return kind
    members = {name: _delegate(name) for name in WRAPPERS}
    labels = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    members |= {**labels, "__doc__": kind.__doc__}
    face: type[Any] = type(kind.__name__, (kind, *bases), members)
    return face


def _delegate(name: str) -> Any:
    def method(gym: LangChainFace, *args: Any) -> Any:
        return getattr(_bridge(gym), name)(*args)

    method.__name__ = name
    return method
