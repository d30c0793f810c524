"""Items as protobuf: nothing is lost on the way, and nothing odd makes a message unsendable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from agentgym import semconv
from agentgym.encode import (
    features_message,
    resource_attributes,
    reward_message,
    span_message,
    spans_request,
    step_message,
    tool_message,
)
from agentgym.items import RewardItem, SpanItem
from agentgym.policy.features import Embedding, TextVector
from agentgym.proto.v1 import common_pb2, decision_pb2
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Tool

PRODUCER = bytes(range(16))


def span(**changes: Any) -> SpanItem:
    fields: dict[str, Any] = {
        "trajectory_id": b"t" * 16,
        "span_id": b"s" * 8,
        "parent_id": b"p" * 8,
        "name": "execute_tool find",
        "start_ns": 10,
        "end_ns": 20,
        "attributes": {},
        "error": "",
    }
    return SpanItem(**fields | changes)


def attributes(message: Span) -> dict[str, Any]:
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in message.attributes}


def test_a_span_keeps_ids_times_and_typed_attributes() -> None:
    given = {"text": "a", "yes": True, "n": 3, "p": 0.25, "list": [1]}

    message = span_message(span(attributes=given, error="ToolError"))

    assert (message.trace_id, message.span_id) == (b"t" * 16, b"s" * 8)
    assert message.parent_span_id == b"p" * 8
    assert (message.start_time_unix_nano, message.end_time_unix_nano) == (10, 20)
    assert attributes(message) == given | {"list": "[1]", semconv.ERROR_TYPE: "ToolError"}
    assert message.status.code == Status.STATUS_CODE_ERROR


@given(st.text(), st.one_of(st.text(), st.integers(), st.floats(), st.booleans()))
def test_any_attribute_can_be_sent(name: str, value: Any) -> None:
    odd = f"{name}\ud800"

    message = span_message(span(name=odd, attributes={odd: value, "big": 2**80}))

    assert attributes(Span.FromString(message.SerializeToString()))["big"] == str(2**80)


def test_a_request_names_schema_scope_and_resource() -> None:
    request = spans_request([span_message(span())], {"service.name": "desk"})

    [group] = request.resource_spans
    assert group.schema_url == semconv.SCHEMA_URL
    assert group.scope_spans[0].scope.name == "agentgym"
    assert group.resource.attributes[0].value.string_value == "desk"


@pytest.mark.parametrize(
    ("environ", "service"),
    [
        ({}, "agent"),
        ({"OTEL_SERVICE_NAME": "shop"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=desk,team = a=b , broken"}, "desk"),
        ({"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "service.name=x"}, "shop"),
    ],
)
def test_the_two_otel_labels_are_read(environ: dict[str, str], service: str) -> None:
    labels = resource_attributes("agent", PRODUCER, environ)

    assert labels["service.name"] == service
    assert labels[semconv.PRODUCER_ID] == PRODUCER.hex()
    assert ("team" in labels) == ("team" in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))


def test_an_observed_step_has_no_arm(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym(mode="observe")
    run = gym.recorder.start_run("The Agent", framework="test", task="t")
    run.turn(tools).finish([("find_order", ""), ("bad \ud800", "")])

    record = step_message(gym.sink.steps[0], 1)

    assert record.arm == -1
    assert not record.support
    assert list(record.called) == ["find_order", "bad ?"]
    assert record.mode == common_pb2.MODE_OBSERVE
    assert record.scope.agent_name == "the-agent"
    assert list(record.offered) == [tool.fingerprint for tool in tools]
    assert not record.allowed


def test_a_steered_step_has_its_whole_decision(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym(protected=["open_ticket"])
    gym.force(tools, "refund_order", "agent")
    run = gym.recorder.start_run("agent", framework="test", task="t")
    turn = run.turn(tools)
    turn.finish([("refund_order", "")])

    record = step_message(gym.sink.steps[0], 1)

    assert turn.decision is not None
    assert record.arm_propensity == turn.decision.propensity
    assert [arm.probability for arm in record.support] == [
        arm.probability for arm in turn.decision.support
    ]
    assert record.support[0].kind == decision_pb2.Arm.KIND_DEFER
    assert record.assignment == common_pb2.ASSIGNMENT_POLICY
    assert list(record.allowed) == [True, True, True, False]
    assert record.policy_version == "p-000001"
    assert record.completed


def test_a_step_names_its_own_feature_schema_else_the_one_in_force(
    tools: tuple[Tool, ...],
) -> None:
    gym = RecordingGym(mode="observe")
    gym.recorder.start_run("agent", framework="test", task="t").turn(tools).finish()
    step = gym.sink.steps[0]
    assert step.feature_schema == 0  # nothing is known before the handshake

    assert step_message(step, 2).scope.feature_schema == 2
    assert step_message(replace(step, feature_schema=3), 2).scope.feature_schema == 3


def test_a_decision_names_the_tools_that_it_left_out(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym()
    gym.force(tools, "refund_order", "agent")
    gym.recorder.start_run("agent", framework="test", task="t").turn(tools).finish()
    step = gym.sink.steps[0]
    assert step.decision is not None
    left_out = replace(step, decision=replace(step.decision, down=(0, 3)))

    assert list(step_message(left_out, 1).down) == [0, 3]
    assert list(step_message(step, 1).down) == []


@pytest.mark.parametrize("dim", [0, 3])
def test_features_travel_with_every_number(dim: int) -> None:
    embedding = Embedding(np.array([-127, 0, 5], np.int8), 0.5) if dim else None
    vector = TextVector(np.array([3, 9], np.uint32), np.array([1, 255], np.uint8), 0.25, embedding)

    sent = features_message(b"t" * 16, b"f" * 8, vector, 7)

    assert (list(sent.index), sent.quantised, sent.scale) == ([3, 9], b"\x01\xff", 0.25)
    assert (sent.embedding, sent.embedding_scale) == ((b"\x81\x00\x05", 0.5) if dim else (b"", 0.0))
    assert (sent.trajectory_id, sent.features_id, sent.feature_schema) == (b"t" * 16, b"f" * 8, 7)


def test_a_schema_that_is_no_json_travels_as_an_empty_one() -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless

    assert tool_message(Tool("t", "d", endless)).parameters_json == "{}"
    assert tool_message(Tool("t\ud800", "d", {"b": 1, "a": set()})).name == "t?"


def test_a_reward_keeps_its_words() -> None:
    item = RewardItem(b"t" * 16, "key", "agent", 0.5, "name", "source", "once", "why", 9)

    message = reward_message(item)

    assert message.value == 0.5
    assert (message.key, message.name, message.source) == ("key", "name", "source")
    assert (message.idempotency_key, message.reason) == ("once", "why")
    assert message.time_unix_nano == 9
