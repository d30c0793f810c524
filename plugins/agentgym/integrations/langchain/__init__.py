"""LangChain and LangGraph: middleware, wrapped models and callbacks.

frames     which run of LangChain belongs to which run of ours
model      a chat model through which the policy acts
gym_hooks  what an `AgentGym` answers as a middleware and as a callback handler
offered    tools as they stand in a request or a prompt
"""

from __future__ import annotations

from agentgym.integrations.langchain.attaching import attach, wrap

__all__ = ["attach", "wrap"]
