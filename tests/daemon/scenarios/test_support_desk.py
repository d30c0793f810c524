from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from agentgym_daemon.scenarios.support_desk import requests, results
from agentgym_daemon.scenarios.support_desk.checker import Checker, tool_fails
from agentgym_daemon.scenarios.support_desk.requests import Request
from agentgym_daemon.scenarios.support_desk.tools import TOOLS, DeskTool, call

NAMES = [tool.name for tool in TOOLS]
ONE = Request(id="a", text="Where is it?", tools=("track_order",))
TWO = Request(id="b", text="Stop it, pay me back.", tools=("cancel_order", "issue_refund"))
THREE = Request(
    id="c",
    text="Two seats and a bill.",
    tools=("add_team_member", "add_team_member", "invoice_copy"),
)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[\w']+", text.lower()))


def _judged(request: Request, *calls: str) -> Checker:
    checker = Checker(request)
    for name in calls:
        checker.call(name)
    checker.finish()
    return checker


# --- tools


def test_the_desk_has_26_distinct_described_tools() -> None:
    assert len(TOOLS) == 26
    assert len(set(NAMES)) == len({tool.description for tool in TOOLS}) == 26
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in NAMES)


@pytest.mark.parametrize("tool", TOOLS, ids=NAMES)
def test_a_tool_declares_one_to_three_required_strings(tool: DeskTool) -> None:
    schema = tool.schema
    assert 1 <= len(tool.parameters) <= 3
    assert schema["required"] == list(schema["properties"])
    assert {entry["type"] for entry in schema["properties"].values()} == {"string"}


@pytest.mark.parametrize("tool", TOOLS, ids=NAMES)
def test_a_tool_answers_the_same_again_and_differs_for_other_arguments(tool: DeskTool) -> None:
    arguments = {name: f"{name}-1" for name in tool.parameters}
    others = {name: f"{name}-2" for name in tool.parameters}
    answer = call(tool.name, arguments)
    assert answer == call(tool.name, arguments)
    assert answer != call(tool.name, others)
    assert 10 < len(answer) < 400


def test_stock_and_warranty_know_both_outcomes() -> None:
    products = [f"product {number}" for number in range(60)]
    stock = {"sold out" in call("stock_check", {"product": product}) for product in products}
    warranty = {"expired" in call("warranty_check", {"product": product}) for product in products}
    assert stock == warranty == {True, False}


def test_every_declared_tool_has_a_function_and_no_other_has() -> None:
    assert set(results.FUNCTIONS) == set(NAMES)


def test_an_unknown_tool_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"expected a tool of the support desk, got 'sing'"):
        call("sing", {})


@pytest.mark.parametrize("arguments", [{}, {"order_number": "1", "song": "x"}])
def test_wrong_arguments_are_refused_with_the_expected_ones(arguments: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"expected the arguments \['order_number'\] for track"):
        call("track_order", arguments)


# --- requests


def test_there_are_enough_requests_of_one_two_and_three_steps() -> None:
    train, unseen = requests.train(), requests.unseen()
    assert len(train) >= 760
    assert len(unseen) >= 225
    for split in (train, unseen):
        steps = Counter(len(request.tools) for request in split)
        assert set(steps) == {1, 2, 3}
        assert 0.18 <= (steps[2] + steps[3]) / len(split) <= 0.26
        assert steps[2] > steps[3]


def test_ids_and_texts_are_unique_over_both_splits() -> None:
    both = requests.train() + requests.unseen()
    assert len({request.id for request in both}) == len(both)
    assert len({request.text.casefold() for request in both}) == len(both)


def test_no_unseen_request_is_a_near_duplicate_of_a_train_request() -> None:
    train = [_words(request.text) for request in requests.train()]
    for request in requests.unseen():
        words = _words(request.text)
        nearest = max(len(words & other) / len(words | other) for other in train)
        assert nearest <= 0.8, request.text


def test_every_tool_is_needed_often_enough_in_both_splits() -> None:
    for split, least in ((requests.train(), 15), (requests.unseen(), 5)):
        counts = Counter(name for request in split for name in request.tools)
        assert set(counts) == set(NAMES)
        assert min(counts.values()) >= least


def test_requests_are_loaded_once() -> None:
    assert requests.train() is requests.train()
    assert requests.unseen() is requests.unseen()


def test_blank_lines_are_skipped() -> None:
    row = json.dumps({"id": "x", "text": "Where is it?", "tools": ["track_order"]})
    assert requests.parse(f"\n{row}\n\n", source="s") == (
        Request(id="x", text="Where is it?", tools=("track_order",)),
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "s: expected at least one request, got none"),
        ("{", "s, line 1: expected one JSON object"),
        ("[1]", "s, line 1: expected an object with"),
        ('{"id": "x", "text": "y"}', "s, line 1: expected an object with"),
        ('{"id": 1, "text": "y", "tools": ["track_order"]}', "a filled string as id, got 1"),
        ('{"id": "x", "text": " ", "tools": ["track_order"]}', "a filled string as text"),
        ('{"id": "x", "text": "y", "tools": []}', "a list of at least one tool"),
        ('{"id": "x", "text": "y", "tools": "track_order"}', "a list of at least one tool"),
        ('{"id": "x", "text": "y", "tools": ["sing"]}', "tools of the support desk, got 'sing'"),
        ('{"id": "x", "text": "y", "tools": [3]}', "tools of the support desk, got 3"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(lines: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        requests.parse(lines, source="s")


@pytest.mark.parametrize(("second_id", "second_text"), [("x", "other"), ("z", "Y")])
def test_a_repeated_id_or_text_is_refused(second_id: str, second_text: str) -> None:
    first = {"id": "x", "text": "y", "tools": ["track_order"]}
    second = {"id": second_id, "text": second_text, "tools": ["track_order"]}
    with pytest.raises(ValueError, match="line 2: expected an id and a text used only once"):
        requests.parse(f"{json.dumps(first)}\n{json.dumps(second)}", source="s")


# --- checker


def test_one_right_call_serves_a_one_step_request() -> None:
    checker = _judged(ONE, "track_order")
    assert checker.first_attempts == [True]
    assert checker.success
    assert checker.complete


@pytest.mark.parametrize(
    "calls", [("cancel_order", "issue_refund"), ("issue_refund", "cancel_order")]
)
def test_two_steps_may_come_in_any_order(calls: tuple[str, ...]) -> None:
    checker = _judged(TWO, *calls)
    assert checker.first_attempts == [True, True]
    assert checker.success


def test_a_tool_needed_twice_must_be_called_twice() -> None:
    served = _judged(THREE, "add_team_member", "invoice_copy", "add_team_member")
    assert served.first_attempts == [True, True, True]
    assert served.success
    short = _judged(THREE, "add_team_member", "invoice_copy")
    assert short.first_attempts == [True, True, False]
    assert not short.complete


def test_a_right_retry_completes_the_request_without_making_it_a_success() -> None:
    checker = Checker(TWO)
    assert not checker.call("refund_status", failed=True)
    assert checker.call("issue_refund")
    assert checker.call("cancel_order")
    checker.finish()
    assert checker.first_attempts == [False, True]
    assert checker.complete
    assert not checker.success


def test_a_slot_has_one_retry() -> None:
    checker = Checker(TWO)
    checker.call("refund_status", failed=True)
    checker.call("start_return", failed=True)
    checker.call("issue_refund")
    checker.finish()
    assert checker.first_attempts == [False, True]


def test_a_wrong_call_without_a_visible_failure_closes_its_slot() -> None:
    checker = _judged(TWO, "refund_status", "issue_refund")
    assert checker.first_attempts == [False, True]
    assert not checker.complete


def test_a_repeated_right_call_is_wrong_while_another_tool_is_missing() -> None:
    checker = _judged(TWO, "cancel_order", "cancel_order", "issue_refund")
    assert checker.first_attempts == [True, False, True]
    assert not checker.success


def test_every_extra_call_is_a_wrong_first_attempt() -> None:
    checker = _judged(ONE, "track_order", "order_details", "track_order")
    assert checker.first_attempts == [True, False, False]
    assert checker.complete
    assert not checker.success


def test_missing_calls_are_wrong_first_attempts() -> None:
    assert _judged(ONE).first_attempts == [False]
    assert _judged(TWO, "cancel_order").first_attempts == [True, False]
    assert _judged(TWO, "refund_status").first_attempts == [False, False]


def test_an_attempted_slot_is_not_counted_again_at_the_end() -> None:
    checker = Checker(ONE)
    checker.call("order_details", failed=True)
    checker.call("refund_status")
    checker.finish()
    checker.finish()
    assert checker.first_attempts == [False]
    assert not checker.complete
    assert not checker.success


def test_a_call_after_the_end_is_refused() -> None:
    checker = _judged(ONE, "track_order")
    with pytest.raises(RuntimeError, match=r"expected no call after finish\(\), got 'track_order'"):
        checker.call("track_order")


def test_first_attempts_cannot_be_changed_from_outside() -> None:
    checker = _judged(ONE, "track_order")
    checker.first_attempts.append(False)
    assert checker.first_attempts == [True]


# --- visible failures


def test_a_needed_tool_never_fails() -> None:
    assert not any(
        tool_fails(request, name, attempt=attempt, rng_seed=seed)
        for request in requests.unseen()[:40]
        for name in request.tools
        for attempt in range(3)
        for seed in range(3)
    )


def test_about_sixty_percent_of_wrong_calls_fail_visibly_and_always_the_same_ones() -> None:
    draws = [
        [
            tool_fails(request, name, attempt=attempt, rng_seed=3)
            for request in requests.train()[:100]
            for name in NAMES
            if name not in request.tools
            for attempt in range(2)
        ]
        for _ in range(2)
    ]
    assert draws[0] == draws[1]
    assert sum(draws[0]) / len(draws[0]) == pytest.approx(0.6, abs=0.03)


def test_failures_depend_on_the_seed_and_the_attempt() -> None:
    wrong = [name for name in NAMES if name not in ONE.tools]
    base = [tool_fails(ONE, name, attempt=0, rng_seed=0) for name in wrong]
    assert base != [tool_fails(ONE, name, attempt=1, rng_seed=0) for name in wrong]
    assert base != [tool_fails(ONE, name, attempt=0, rng_seed=1) for name in wrong]
