"""One table for all dialects: flat and nested names, kinds, fields."""

from __future__ import annotations

from typing import Any

import pytest

from agentgym_daemon.ingest import foreign
from agentgym_daemon.ingest.foreign import Kind

FLAT = {
    "llm.tools.0.tool.json_schema": "{}",
    "llm.tools.1.tool.json_schema": "[]",
    "llm.model_name": "gpt-4o",
    "session.id": "s",
}
NESTED = {
    "llm": {
        "tools": [{"tool": {"json_schema": "{}"}}, {"tool": {"json_schema": "[]"}}],
        "model_name": "gpt-4o",
    },
    "session": {"id": "s"},
}
MIXED = {
    "llm.tools": [{"tool.json_schema": "{}"}, {"tool.json_schema": "[]"}],
    "llm": {"model_name": "gpt-4o"},
    "session.id": "s",
}


@pytest.mark.parametrize("attributes", [FLAT, NESTED, MIXED], ids=["flat", "nested", "mixed"])
def test_flat_and_nested_names_read_alike(attributes: dict[str, Any]) -> None:
    assert foreign.tree(attributes) == NESTED


def test_more_than_ten_entries_keep_their_order() -> None:
    flat = {f"gen_ai.prompt.{i}.role": str(i) for i in reversed(range(12))}

    found = foreign.at(foreign.tree(flat), "gen_ai.prompt")

    assert [entry["role"] for entry in found] == [str(i) for i in range(12)]


def test_where_a_name_is_also_a_prefix_the_longer_one_wins() -> None:
    both = {"gen_ai.prompt": "plain", "gen_ai.prompt.0.role": "user"}

    assert foreign.at(foreign.tree(both), "gen_ai.prompt.0.role") == "user"


@pytest.mark.parametrize(
    ("path", "value"),
    [("llm.tools.1.tool.json_schema", "[]"), ("llm.tools.2", None), ("llm.none.x", None)],
)
def test_a_path_that_leads_nowhere_is_none(path: str, value: Any) -> None:
    assert foreign.at(NESTED, path) == value


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"gen_ai.operation.name": "chat"}, Kind.LLM),
        ({"gen_ai.operation.name": "execute_tool"}, Kind.TOOL),
        ({"gen_ai.operation.name": "embeddings"}, Kind.OTHER),
        ({"openinference.span.kind": "LLM"}, Kind.LLM),
        ({"openinference.span.kind": "CHAIN"}, Kind.OTHER),
        ({"openinference.span.kind": "CHAIN", "traceloop.span.kind": "workflow"}, Kind.WORKFLOW),
        ({"openinference.span.kind": "CHAIN", "llm.model_name": "gpt-4o"}, Kind.OTHER),
        ({"traceloop.span.kind": "tool"}, Kind.TOOL),
        ({"agentops.span.kind": "agent"}, Kind.AGENT),
        ({"langfuse.observation.type": "generation"}, Kind.LLM),
        ({"llm.request.type": "chat"}, Kind.LLM),
        ({"gen_ai.completion.0.role": "assistant"}, Kind.LLM),
        ({"gen_ai.tool.name": "refund"}, Kind.TOOL),
        ({"http.request.method": "GET"}, Kind.OTHER),
        ({"gen_ai.operation.name": 7}, Kind.OTHER),
    ],
)
def test_the_kind_of_a_span(attributes: dict[str, Any], kind: Kind) -> None:
    assert foreign.kind(foreign.tree(attributes)) is kind


@pytest.mark.parametrize(
    ("attributes", "field", "value"),
    [
        ({"gen_ai.usage.prompt_tokens": 3, "gen_ai.usage.input_tokens": 4}, "input_tokens", 4),
        ({"llm.token_count.prompt": 3}, "input_tokens", 3),
        ({"llm.usage.prompt_tokens": 3}, "input_tokens", 3),
        ({"gen_ai.system": "openai"}, "provider", "openai"),
        ({"tool.name": "refund"}, "tool", "refund"),
        ({"traceloop.entity.name": "refund"}, "tool", "refund"),
        ({"session.id": ""}, "conversation", None),
    ],
)
def test_fields_by_their_foreign_names(attributes: dict[str, Any], field: str, value: Any) -> None:
    assert foreign.first(foreign.tree(attributes), field) == value
