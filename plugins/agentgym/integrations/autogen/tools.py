"""Tools as AutoGen offers them to a model, and a stand-in for the one that is forced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autogen_core import CancellationToken, ComponentModel
from autogen_core.tools import BaseTool, ToolSchema
from autogen_core.tools import Tool as AutoGenTool

from agentgym.trajectory import Tool

Offer = AutoGenTool | ToolSchema
"""A tool in the list that a client gets: agents send schemas, handoffs are objects."""


class ToolCache:
    """Keeps the description of a tool, with its fingerprint, for as long as it does not change."""

    def __init__(self) -> None:
        self._known: dict[str, Tool] = {}

    def describe(self, offers: Sequence[Offer]) -> list[Tool]:
        """The offered tools, described as they go to the model."""
        return [self._describe(offer) for offer in offers]

    def _describe(self, offer: Offer) -> Tool:
        schema = offer.schema if isinstance(offer, AutoGenTool) else offer
        name, description = schema["name"], schema.get("description", "")
        parameters: Any = schema.get("parameters", {})
        known = self._known.get(name)
        if known and known.description == description and known.parameters == parameters:
            return known
        tool = self._known[name] = Tool(name, description, parameters)
        return tool


def as_choice(offer: Offer) -> AutoGenTool:
    """What `tool_choice` takes: agents offer schemas, but clients force objects only."""
    return offer if isinstance(offer, AutoGenTool) else _StandIn(offer)


class _StandIn(BaseTool[ComponentModel, ComponentModel]):
    """A tool that exists to be named; the agent runs the one that it stands for."""

    def __init__(self, schema: ToolSchema) -> None:
        # The types of arguments and result are asked for but never used: any model will do.
        types = ComponentModel, ComponentModel
        super().__init__(*types, schema["name"], schema.get("description", ""))
        self._schema = schema

    @property
    def schema(self) -> ToolSchema:
        return self._schema

    async def run(
        self, args: ComponentModel, cancellation_token: CancellationToken
    ) -> ComponentModel:
        raise NotImplementedError("a stand-in is never run")
