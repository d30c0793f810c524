"""`gym.wrap` and `gym.attach` for LangChain's objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.runnables import Runnable

from agentgym.errors import UnsupportedError
from agentgym.integrations.langchain import offered
from agentgym.integrations.langchain.gym_hooks import Watcher
from agentgym.integrations.langchain.model import is_steered, steered

if TYPE_CHECKING:
    from agentgym.gym import AgentGym


def wrap(gym: AgentGym, model: Any) -> Any:
    """The chat model (or a binding of one) through which the policy acts."""
    wrapped = steered(gym, model)
    if not is_steered(wrapped):
        raise UnsupportedError(
            f"expected a chat model, got {type(model)!r}; wrap the chat models inside it, or use "
            "agent.with_config(callbacks=[gym]) to watch the agent"
        )
    return wrapped


def attach(gym: AgentGym, target: Any) -> Any:
    """A chat model wrapped, or an agent that is watched; an executor's tools are known then."""
    wrapped = steered(gym, target)
    if wrapped is not target:
        return wrapped
    if not isinstance(target, Runnable):
        raise UnsupportedError(
            f"expected a LangChain agent or chat model, got {type(target)!r}; "
            "docs/attaching/langchain.md lists what can be attached"
        )
    tools = getattr(target, "tools", None)
    watcher = Watcher(gym, offered.from_objects(tools) if isinstance(tools, list) else ())
    return target.with_config(callbacks=[watcher])
