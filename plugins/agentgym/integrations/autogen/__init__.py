"""AutoGen agentchat: `wrap` a model client, or `attach` to an agent or a team.

client.py   the model's side: decides a step, forces, narrows and reorders its tools
runs.py     the agent's side: where the runs of agents and teams begin and end
calls.py    the tools' side: executions, visible errors, vetoes
tools.py    tools as they are offered, and a stand-in for the one that is forced
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, TypeVar

from autogen_core.models import ChatCompletionClient

from agentgym.errors import MissingExtraError, UnsupportedError
from agentgym.integrations.autogen.client import GymClient

if TYPE_CHECKING:
    from agentgym.gym import AgentGym

__all__ = ["GymClient", "attach", "wrap"]

T = TypeVar("T")


def wrap(gym: AgentGym, model: T) -> T:
    """A model client that lets the policy act; agents that are built with it record their runs."""
    if isinstance(model, GymClient):
        return model
    if not isinstance(model, ChatCompletionClient):
        raise UnsupportedError(
            f"expected a ChatCompletionClient to wrap, got {type(model)!r}; "
            "agents and teams are attached with gym.attach(agent_or_team)"
        )
    if _agentchat_installed():
        from agentgym.integrations.autogen import runs

        runs.adopt_new_agents()
    return GymClient(gym, model)  # type: ignore[return-value]  # stands in for T


def attach(gym: AgentGym, target: T) -> T:
    """Records the runs of an agent, or of a team and all its members, and lets the policy act."""
    if not _agentchat_installed():
        raise MissingExtraError("autogen-agentchat", "autogen")
    from agentgym.integrations.autogen import runs

    if not runs.watch(gym, target):
        raise UnsupportedError(
            f"expected an AutoGen agent or team to attach to, got {type(target)!r}; "
            "model clients are wrapped with gym.wrap(client)"
        )
    return target


def _agentchat_installed() -> bool:
    return importlib.util.find_spec("autogen_agentchat") is not None
