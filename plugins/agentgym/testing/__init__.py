"""Fakes that users and our own tests share; nothing is imported before its name is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentgym.testing.daemon import FakeDaemon
    from agentgym.testing.llm_brain import (
        Brain,
        ChatReply,
        ChatRequest,
        EchoToolBrain,
        ScriptedBrain,
        ToolCall,
        ToolSpec,
        call_tool,
        conversational,
        conversational_final,
        fill_arguments,
        react,
        react_final,
        say,
        structured_chat,
        structured_chat_final,
    )
    from agentgym.testing.llm_desk import DeskBrain, load_desk_brain
    from agentgym.testing.llm_preferences import make_preferences
    from agentgym.testing.llm_server import LLMServer, RecordedRequest
    from agentgym.testing.llm_wire import ApiError
    from agentgym.testing.recording import RecordingGym, RecordingSink

__all__ = [
    "ApiError",
    "Brain",
    "ChatReply",
    "ChatRequest",
    "DeskBrain",
    "EchoToolBrain",
    "FakeDaemon",
    "LLMServer",
    "RecordedRequest",
    "RecordingGym",
    "RecordingSink",
    "ScriptedBrain",
    "ToolCall",
    "ToolSpec",
    "call_tool",
    "conversational",
    "conversational_final",
    "fill_arguments",
    "load_desk_brain",
    "make_preferences",
    "react",
    "react_final",
    "say",
    "structured_chat",
    "structured_chat_final",
]

_MODULES = {
    "ApiError": "llm_wire",
    "DeskBrain": "llm_desk",
    "FakeDaemon": "daemon",
    "LLMServer": "llm_server",
    "RecordedRequest": "llm_server",
    "RecordingGym": "recording",
    "RecordingSink": "recording",
    "load_desk_brain": "llm_desk",
    "make_preferences": "llm_preferences",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'llm_brain')}")
    return getattr(module, name)
