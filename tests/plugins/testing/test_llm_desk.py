"""The demo's model: fixed opinions, retries, hidden tools, and how its opinions are made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentgym.testing import (
    ChatRequest,
    DeskBrain,
    LLMServer,
    ToolSpec,
    call_tool,
    conversational,
    conversational_final,
    fill_arguments,
    load_desk_brain,
    make_preferences,
    react,
    react_final,
    structured_chat,
    structured_chat_final,
)

REFUND = "Please refund my last order and tell me when the money arrives"
PREFERENCES = {
    REFUND: (("refund_order", "cancel_order"), ("track_payment", "track_parcel")),
    "Please refund my last order": (("cancel_order",),),
    "Where is my parcel?": (("track_parcel", "track_payment"),),
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"query": {"type": "string"}},
    "required": ["query"],
}
NAMES = ("refund_order", "cancel_order", "track_payment", "track_parcel")


def specs(*names: str) -> tuple[ToolSpec, ...]:
    return tuple(ToolSpec(name, name.replace("_", " "), SCHEMA) for name in names)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def turn(name: str, result: str = "ok", *, call_id: str = "c") -> list[dict[str, Any]]:
    call = {"id": call_id, "function": {"name": name, "arguments": "{}"}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": result},
    ]


def ask(
    *messages: dict[str, Any],
    shown: tuple[str, ...] = NAMES,
    forced: str | None = None,
    choice: str = "auto",
) -> str:
    """The tool that the brain calls, or the text that it answers."""
    request = ChatRequest(
        messages,
        specs(*shown),
        "function" if forced else choice,  # type: ignore[arg-type]
        "gpt-4o",
        {},
        forced,
    )
    reply = DeskBrain(PREFERENCES).reply(request)
    return reply.tool_calls[0].name if reply.tool_calls else reply.text or ""


class TestDeskBrain:
    def test_it_calls_the_first_choice_of_each_slot_and_then_answers(self) -> None:
        assert ask(user(REFUND)) == "refund_order"
        assert ask(user(REFUND), *turn("refund_order")) == "track_payment"
        done = ask(user(REFUND), *turn("refund_order"), *turn("track_payment"))
        assert done == "Done. I used refund_order, track_payment."

    def test_a_visible_error_is_retried_once_with_the_next_choice(self) -> None:
        failed = turn("refund_order", "Error: no such order")

        assert ask(user(REFUND), *failed) == "cancel_order"
        again = turn("cancel_order", "tool error: closed")
        assert ask(user(REFUND), *failed, *again) == "track_payment"

    def test_an_answer_after_errors_says_so(self) -> None:
        failed = turn("track_parcel", "Error") + turn("track_payment", "Error")

        assert ask(user("Where is my parcel?"), *failed).startswith("I could not finish")

    def test_a_call_without_a_visible_error_closes_the_slot_even_if_wrong(self) -> None:
        done = ask(user(REFUND), *turn("track_parcel"), *turn("refund_order"))
        assert done == "Done. I used track_parcel, refund_order."

    def test_a_forced_call_for_a_later_slot_leaves_it_the_earlier_one(self) -> None:
        assert ask(user(REFUND), *turn("track_payment")) == "refund_order"

    def test_a_failed_forced_call_leaves_it_its_own_first_choice(self) -> None:
        assert ask(user(REFUND), *turn("track_parcel", "Error")) == "refund_order"

    def test_a_hidden_first_choice_gives_way_to_the_next_one_shown(self) -> None:
        assert ask(user(REFUND), shown=("track_parcel", "cancel_order")) == "cancel_order"

    def test_without_any_choice_shown_the_wording_decides(self) -> None:
        shown = ("weather", "order_status", "parcel_label")

        assert ask(user(REFUND), shown=shown) == "order_status"
        assert ask(user("Where is my parcel?"), shown=shown) == "parcel_label"

    def test_a_single_tool_is_called_while_something_is_open(self) -> None:
        shown = ("weather",)

        assert ask(user("Where is my parcel?"), shown=shown) == "weather"
        failed = turn("weather", "Error")
        assert ask(user("Where is my parcel?"), *failed, shown=shown) == "weather"
        assert ask(user("Where is my parcel?"), *turn("weather"), shown=shown).startswith("Done")

    def test_a_forced_tool_is_called_even_when_all_is_done(self) -> None:
        messages = (user("Where is my parcel?"), *turn("track_parcel"))

        assert ask(*messages, forced="cancel_order") == "cancel_order"

    def test_without_tools_it_answers(self) -> None:
        assert ask(user(REFUND), shown=()) == "Nothing had to be done."
        assert ask(user(REFUND), choice="none") == "Nothing had to be done."

    def test_it_finds_the_request_inside_a_longer_prompt(self) -> None:
        prompt = f"\nCurrent Task: {REFUND}\n\nThis is the expected criteria: an answer."

        assert ask(user(prompt)) == "refund_order"
        assert ask(user(f"Hello.  {REFUND.replace(' ', '  ')}")) == "refund_order"

    def test_the_longest_request_wins_where_one_begins_like_another(self) -> None:
        assert ask(user("Please refund my last order, now")) == "cancel_order"

    def test_only_results_after_the_last_known_request_count(self) -> None:
        earlier = [user(REFUND), *turn("refund_order"), {"role": "assistant", "content": "Done."}]

        assert ask(*earlier, user("Where is my parcel?")) == "track_parcel"
        hint = user("Think about the result.")
        assert ask(user(REFUND), *turn("refund_order"), hint) == "track_payment"

    def test_old_function_messages_count_as_results(self) -> None:
        result = {"role": "function", "name": "refund_order", "content": "Error"}

        assert ask(user(REFUND), result) == "cancel_order"

    def test_an_unknown_request_is_not_guessed_at(self) -> None:
        assert ask(user("Sing a song")) == "I do not know what to do about that."

    def test_arguments_carry_the_request(self) -> None:
        request = ChatRequest((user(REFUND),), specs(*NAMES), "auto", "gpt-4o", {})
        call = DeskBrain(PREFERENCES).reply(request).tool_calls[0]

        assert json.loads(call.arguments_json) == {"query": REFUND}

    def test_an_empty_desk_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one request"):
            DeskBrain({})

    def test_it_is_loaded_from_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "preferences.json"
        path.write_text(json.dumps(PREFERENCES), encoding="utf-8")
        request = ChatRequest((user(REFUND),), specs(*NAMES), "auto", "gpt-4o", {})

        assert load_desk_brain(str(path)).reply(request) == DeskBrain(PREFERENCES).reply(request)

    def test_a_langchain_agent_is_driven_through_retry_and_answer(self) -> None:
        from langchain.agents import create_agent
        from langchain_core.tools import StructuredTool
        from langchain_openai import ChatOpenAI
        from pydantic import SecretStr

        results = dict.fromkeys(NAMES, "ok") | {"refund_order": "Error: locked"}
        tools = [
            StructuredTool.from_function(
                lambda query, name=name: results[name],
                name=name,
                description=name,
                args_schema=SCHEMA,
            )
            for name in NAMES
        ]
        with LLMServer(DeskBrain(PREFERENCES)) as server:
            model = ChatOpenAI(model="gpt-4o", base_url=server.base_url, api_key=SecretStr("test"))
            state = create_agent(model, tools).invoke({"messages": [user(REFUND)]})

        used = [message.name for message in state["messages"] if message.type == "tool"]
        assert used == ["refund_order", "cancel_order", "track_payment"]


class TestFillArguments:
    def test_only_required_fields_are_filled_by_type(self) -> None:
        schema: dict[str, Any] = {
            "properties": {
                "text": {"type": "string"},
                "count": {"type": "integer"},
                "price": {"type": "number"},
                "urgent": {"type": "boolean"},
                "size": {"enum": ["s", "m"]},
                "kind": {"const": "k"},
                "unit": {"type": "string", "default": "kg"},
                "ids": {"type": "array", "items": {"type": "integer"}},
                "place": {"$ref": "#/$defs/Place"},
                "maybe": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
                "void": {"anyOf": [{"type": "null"}]},
                "either": {"type": ["null", "integer"]},
                "left_out": {"type": "string"},
            },
            "$defs": {
                "Place": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                }
            },
        }
        schema["required"] = [name for name in schema["properties"] if name != "left_out"]

        assert json.loads(fill_arguments(schema, "a  b\n" + "c" * 100)) == {
            "text": "a b " + "c" * 76,
            "count": 1,
            "price": 1.0,
            "urgent": True,
            "size": "s",
            "kind": "k",
            "unit": "kg",
            "ids": [1],
            "place": {"city": "a b " + "c" * 76},
            "maybe": 1,
            "void": None,
            "either": 1,
        }

    def test_no_text_becomes_a_letter_and_no_schema_nothing(self) -> None:
        assert json.loads(fill_arguments(SCHEMA, "  ")) == {"query": "x"}
        assert fill_arguments({}, "text") == "{}"


class TestTextFormats:
    def test_langchain_parses_each_of_them(self) -> None:
        from langchain_classic.agents.conversational.output_parser import ConvoOutputParser
        from langchain_classic.agents.output_parsers import ReActSingleInputOutputParser
        from langchain_classic.agents.structured_chat.output_parser import (
            StructuredChatOutputParser,
        )

        parser: Any
        for parser, act, end in (
            (ReActSingleInputOutputParser(), react("I look", "add", "1"), react_final("done")),
            (ConvoOutputParser(), conversational("add", "1"), conversational_final("done")),
            (
                StructuredChatOutputParser(),
                structured_chat("I look", "add", {"a": 1}),
                structured_chat_final("done"),
            ),
        ):
            action, finish = parser.parse(act.text), parser.parse(end.text)
            assert action.tool == "add"
            assert action.tool_input in ("1", {"a": 1})
            assert finish.return_values["output"] == "done"

    def test_a_native_call_may_have_no_arguments(self) -> None:
        assert call_tool("add").tool_calls[0].arguments_json == "{}"


@dataclass(frozen=True)
class Tool:
    name: str
    description: str


@dataclass(frozen=True)
class Request:
    text: str
    tools: tuple[str, ...]


VERBS = ("create", "cancel", "refund", "track", "change", "explain")
NOUNS = ("order", "parcel", "invoice", "account")
CATALOGUE = [
    Tool(f"{v}_{n}", f"Use this to {v} the {n} of a customer.") for v in VERBS for n in NOUNS
]


def synthetic_requests(count: int, *, kind: str) -> list[Request]:
    """Requests of one to three different tools, spread unevenly over the catalogue."""
    requests = []
    for i in range(count):
        wanted = [CATALOGUE[(i * i + step * 5) % len(CATALOGUE)].name for step in range(1 + i % 3)]
        requests.append(Request(f"{kind} request {i}", tuple(dict.fromkeys(wanted))))
    return requests


class TestPreferences:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("reliability", [0.5, 0.65, 0.9])
    def test_first_choices_are_right_as_often_as_asked(self, seed: int, reliability: float) -> None:
        requests = synthetic_requests(300, kind="a")
        made = make_preferences(requests, CATALOGUE, seed=seed, reliability=reliability)

        right = [
            ranking[0] == tool
            for request in requests
            for ranking, tool in zip(made[request.text], request.tools, strict=True)
        ]
        assert abs(sum(right) / len(right) - reliability) <= 0.01

    def test_second_choices_are_right_half_the_time_after_a_wrong_one(self) -> None:
        requests = synthetic_requests(600, kind="a")
        made = make_preferences(requests, CATALOGUE, seed=1)

        second = [
            ranking[1] == tool
            for request in requests
            for ranking, tool in zip(made[request.text], request.tools, strict=True)
            if ranking[0] != tool
        ]
        assert 0.4 < sum(second) / len(second) < 0.6

    def test_the_same_tools_are_misunderstood_in_two_sets_of_requests(self) -> None:
        def misunderstood(kind: str) -> set[str]:
            requests = synthetic_requests(300, kind=kind)
            made = make_preferences(requests, CATALOGUE, seed=3)
            wrong: dict[str, list[bool]] = {}
            for request in requests:
                for ranking, tool in zip(made[request.text], request.tools, strict=True):
                    wrong.setdefault(tool, []).append(ranking[0] != tool)
            return {tool for tool, seen in wrong.items() if sum(seen) > len(seen) / 2}

        assert misunderstood("train") == misunderstood("unseen") != set()

    def test_a_misunderstood_tool_is_taken_for_a_neighbour_of_similar_wording(self) -> None:
        requests = [Request(f"request {i}", (tool.name,)) for i, tool in enumerate(CATALOGUE)]
        made = make_preferences(requests, CATALOGUE, seed=2)

        pairs = [(r.tools[0], made[r.text][0][0]) for r in requests]
        confused = [(right, first) for right, first in pairs if right != first]
        assert confused
        assert all(set(right.split("_")) & set(first.split("_")) for right, first in confused)

    def test_a_wrong_choice_is_never_what_another_slot_needs(self) -> None:
        requests = synthetic_requests(300, kind="a")
        made = make_preferences(requests, CATALOGUE, seed=4)

        for request in requests:
            for ranking, tool in zip(made[request.text], request.tools, strict=True):
                assert tool in ranking
                assert len(set(ranking)) == len(ranking) == 3
                assert not set(ranking) & (set(request.tools) - {tool})

    def test_a_seed_repeats_and_another_one_differs(self) -> None:
        requests = synthetic_requests(50, kind="a")
        made = make_preferences(requests, CATALOGUE, seed=1)

        assert made == make_preferences(requests, CATALOGUE, seed=1)
        assert made != make_preferences(requests, CATALOGUE, seed=2)

    @pytest.mark.parametrize(
        ("requests", "message"),
        [
            ([Request("a", ("track_order",)), Request("a", ())], "distinct requests"),
            ([Request("a", ("fly",))], r"got \['fly'\]"),
            ([Request("a", tuple(tool.name for tool in CATALOGUE))], "to be confused with"),
        ],
    )
    def test_a_catalogue_that_cannot_serve_is_refused(
        self, requests: list[Request], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            make_preferences(requests, CATALOGUE, seed=0)
