"""How tools are read from requests and prompts."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.tools import BaseTool
from langchain_core.tools.render import render_text_description, render_text_description_and_args

from agentgym.integrations.langchain import offered
from agentgym.trajectory import Tool

SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}},
        {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA},
        {"name": "f", "description": "d", "input_schema": SCHEMA},
        {"toolSpec": {"name": "f", "description": "d", "inputSchema": {"json": SCHEMA}}},
    ],
    ids=["openai chat", "openai responses", "anthropic", "bedrock"],
)
def test_the_formats_of_providers_name_the_same_tool(entry: Any) -> None:
    positions, [tool] = offered.from_request([{"type": "web_search"}, entry])

    assert positions == (1,)
    assert tool.fingerprint == Tool("f", "d", SCHEMA).fingerprint


@pytest.mark.parametrize("tools", [None, "text", [], ["text"], [{"type": "function"}]])
def test_what_holds_no_tools_offers_none(tools: Any) -> None:
    assert offered.from_request(tools) == offered.NOTHING


def test_an_equal_list_gives_the_same_tools_and_a_changed_one_others() -> None:
    def request(text: str = "d") -> list[dict[str, Any]]:
        return [{"type": "function", "function": {"name": "f", "description": text}}]

    entries = request()
    first = offered.from_request(entries)
    assert offered.from_request(request()) is first

    entries[0]["function"]["description"] = "other"  # the very list that was read before

    assert offered.from_request(entries).tools == (Tool("f", "other"),)
    assert offered.from_request(request()).tools == first.tools


def test_a_list_that_holds_more_than_plain_data_is_read_every_time() -> None:
    entry = {"name": "f", "description": "d", "input_schema": {"default": object()}}

    assert offered.from_request([entry]).tools == offered.from_request([entry]).tools
    assert offered.from_request([entry]) is not offered.from_request([entry])


@pytest.mark.parametrize(
    ("choice", "free"),
    [
        (None, True),
        ("auto", True),
        ("any", True),
        ("required", True),
        (True, True),
        ({"type": "auto"}, True),
        ("none", False),
        (False, False),
        ("refund", False),
        ({"type": "function", "function": {"name": "f"}}, False),
        (["f"], False),
    ],
)
def test_a_choice_is_free_unless_the_user_made_it(choice: Any, free: bool) -> None:
    assert offered.is_free(choice) is free


@pytest.mark.parametrize("render", [render_text_description, render_text_description_and_args])
def test_a_prompts_list_names_tools_with_their_descriptions(
    tools: list[BaseTool], render: Any
) -> None:
    variables = {"tools": render(tools), "tool_names": "look_up, refund"}

    assert offered.from_prompt(variables) == (
        Tool("look_up", "Looks an order up."),
        Tool("refund", "Pays money back."),
    )


def test_a_prompt_without_a_list_offers_nothing() -> None:
    assert offered.from_prompt({"tools": ["a"], "tool_names": "a"}) == ()
    assert offered.from_prompt({"tools": "b - text", "tool_names": "a"}) == ()
