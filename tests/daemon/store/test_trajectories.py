"""How spans, decisions and closures become trajectories, and how these are read."""

from __future__ import annotations

from typing import Any

import pytest

from agentgym import semconv
from agentgym.proto.v1 import common_pb2
from agentgym_daemon.store import trajectories
from agentgym_daemon.store.catalogue import tools_of_agent, tools_of_scope
from agentgym_daemon.store.counters import counters, producers
from agentgym_daemon.store.rows import Scope

T0 = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


def summary_of(bench: Any, trajectory_id: bytes) -> trajectories.Summary:
    with bench.store.reading() as cursor:
        found = trajectories.summary(cursor, trajectory_id)
    assert found is not None
    return found


def test_a_trajectory_sums_up_its_spans(records: Any, bench: Any) -> None:
    chat = records.ours(
        1,
        2,
        semconv.CHAT,
        parent=1,
        attributes={semconv.INPUT_TOKENS: 10, semconv.OUTPUT_TOKENS: "3"},
    )
    batch = bench.apply(
        records.spans(
            records.call(1, 4, "mail", start=4.0, attributes={semconv.ERROR_TYPE: "Timeout"}),
            records.call(1, 3, "find", start=2.0),
            chat,
            records.root(
                1,
                **{
                    semconv.TRAJECTORY_KEY: "ticket",
                    semconv.MODE: "steer",
                    semconv.ASSIGNMENT: "control",
                    semconv.POLICY_VERSION: "p-1",
                    semconv.INPUT_TOKENS: 10,
                },
            ),
            at=20,
        )
    )

    found = summary_of(bench, records.trace(1))
    assert batch.closed == batch.touched == (records.trace(1),)
    assert (found.key, found.agent, found.framework) == ("ticket", "desk", "langchain")
    assert (found.mode, found.assignment) == (
        common_pb2.MODE_STEER,
        common_pb2.ASSIGNMENT_CONTROL,
    )
    assert found.policy_version == "p-1"
    assert (found.start_ns, found.end_ns) == (T0, T0 + 9 * SECOND)
    assert (found.state, found.closed_reason, found.closed_ns) == (
        "closed",
        "root",
        T0 + 20 * SECOND,
    )
    assert (found.spans, found.tool_calls, found.tool_errors) == (4, 2, 1)
    assert (found.input_tokens, found.output_tokens) == (10, 3)
    assert found.tools == ("find", "mail")
    assert found.reward is None


def test_late_spans_are_attached_to_a_closed_trajectory(records: Any, bench: Any) -> None:
    bench.apply(records.spans(records.root(1)))
    bench.apply(records.spans(records.call(1, 5, "find", start=-1.0)))

    found = summary_of(bench, records.trace(1))
    assert (found.state, found.spans, found.tools) == ("closed", 2, ("find",))
    assert found.start_ns == T0 - SECOND


def test_orphans_are_kept_and_their_trajectory_stays_open(records: Any, bench: Any) -> None:
    bench.apply(records.spans(records.call(1, 5, "find")))

    found = summary_of(bench, records.trace(1))
    assert (found.state, found.end_ns, found.closed_ns, found.spans) == ("open", 0, 0, 1)


def test_an_incomplete_root_leaves_an_incomplete_trajectory(records: Any, bench: Any) -> None:
    bench.apply(records.spans(records.root(1, **{semconv.INCOMPLETE: "cancelled"})))

    found = summary_of(bench, records.trace(1))
    assert (found.state, found.closed_reason) == ("incomplete", "cancelled")


def test_a_root_after_an_idle_closure_completes_the_trajectory(records: Any, bench: Any) -> None:
    bench.apply(records.spans(records.call(1, 5, "find")), records.closure(1, at=5))
    idle = summary_of(bench, records.trace(1))
    bench.apply(records.spans(records.root(1)), records.closure(1))

    found = summary_of(bench, records.trace(1))
    assert (idle.state, idle.closed_reason, idle.closed_ns) == (
        "incomplete",
        "idle",
        T0 + 5 * SECOND,
    )
    assert (found.state, found.closed_reason) == ("closed", "root")
    with bench.store.reading() as cursor:
        assert counters(cursor)["trajectories_closed"] == 1
        assert "trajectories_incomplete" not in counters(cursor)


def test_closing_an_unknown_trajectory_makes_none(records: Any, bench: Any) -> None:
    batch = bench.apply(records.closure(1))

    assert (batch.closed, batch.touched) == ((), ())


def test_a_foreign_trace_is_a_trajectory_of_its_service(records: Any, bench: Any) -> None:
    attributes = {semconv.OPERATION_NAME: "execute_tool", semconv.TOOL_NAME: "find"}
    bench.apply(
        records.spans(
            {"trace": 1, "span_id": 2, "parent": 1, "attributes": attributes},
            {"trace": 1, "span_id": 1, "attributes": {semconv.CONVERSATION_ID: "chat-7"}},
            {"trace": 1, "span_id": 3},
        )
    )

    found = summary_of(bench, records.trace(1))
    assert (found.agent, found.key, found.framework, found.mode) == ("shop", "chat-7", "", 0)
    assert (found.state, found.spans, found.tools) == ("closed", 3, ("find",))


def test_a_trajectory_is_read_with_all_its_contents(records: Any, bench: Any) -> None:
    bench.apply(records.catalogue(), *records.episode(1, reward=0.5))

    with bench.store.reading() as cursor:
        found = trajectories.trajectory(cursor, records.trace(1))
        assert trajectories.trajectory(cursor, records.trace(9)) is None
    assert found is not None
    assert [span.operation for span in found.spans] == ["invoke_agent", "execute_tool"]
    assert found.spans[1].parent_span_id == records.span_id(1)
    assert '"gen_ai.tool.name":"find"' in found.spans[1].attributes_json
    assert found.decisions == (records.decision(1, 10),)
    assert found.features == (records.features(1),)
    assert [tool.name for tool in found.tools] == ["find", "mail", "save"]
    assert [(reward.value, reward.revoked) for reward in found.rewards] == [(0.5, False)]
    assert found.summary.reward == 0.5


def test_a_decision_describes_a_trajectory_whose_spans_are_still_to_come(
    records: Any, bench: Any
) -> None:
    batch = bench.apply(records.decisions(records.decision(1, 10)))

    found = summary_of(bench, records.trace(1))
    assert batch.scopes == {Scope("desk", "helper", 1)}
    assert (found.state, found.agent, found.policy_version) == ("open", "desk", "p-1")
    assert (found.assignment, found.decisions) == (common_pb2.ASSIGNMENT_POLICY, 1)


def test_a_decision_is_found_by_its_id(records: Any, bench: Any) -> None:
    undecided = records.decision(1, 11, support=[], arm=-1, arm_propensity=0.0)
    bench.apply(records.decisions(records.decision(1, 10), undecided))

    with bench.store.reading() as cursor:
        assert trajectories.decision(cursor, records.span_id(11)) == undecided
        assert trajectories.decision(cursor, records.span_id(12)) is None
        kinds = cursor.execute("SELECT arm_kind FROM decisions ORDER BY decision_id").fetchall()
    assert kinds == [(2,), (0,)]


@pytest.mark.parametrize(
    "wrong", [{"decision_id": b"short"}, {"trajectory_id": b""}, {"time_unix_nano": 2**64 - 1}]
)
def test_an_impossible_decision_is_counted_and_its_neighbour_stored(
    records: Any, bench: Any, wrong: dict[str, Any]
) -> None:
    batch = bench.apply(
        records.decisions(records.decision(1, 10, **wrong), records.decision(1, 11))
    )

    assert batch.rejected == 1
    with bench.store.reading() as cursor:
        assert counters(cursor)["decisions"] == counters(cursor)["decisions_rejected"] == 1


def test_features_without_an_id_are_counted(records: Any, bench: Any) -> None:
    features = records.features(1)
    features.ClearField("features_id")

    assert bench.apply(records.decisions(features=[features])).rejected == 1


def test_unreadable_records_are_counted(records: Any, bench: Any) -> None:
    batch = bench.apply(b"\xff\xff", records.record(decisions=b"\xff"))

    assert (batch.records, batch.rejected) == (2, 2)


def test_what_retention_left_of_a_record_is_no_reject(records: Any, bench: Any) -> None:
    batch = bench.apply(records.record())

    assert (batch.records, batch.rejected) == (1, 0)


def test_trajectories_are_listed_newest_first_and_filtered(records: Any, bench: Any) -> None:
    bench.apply(
        records.spans(
            records.ours(1, 1, "chat", start=1.0),
            records.ours(2, 1, "chat", start=2.0, attributes={semconv.TRAJECTORY_KEY: "k"}),
            records.ours(3, 1, "chat", start=3.0, attributes={semconv.AGENT: "other"}),
        ),
        records.closure(1),
    )

    def listed(**filters: Any) -> list[int]:
        with bench.store.reading() as cursor:
            found = trajectories.list_summaries(cursor, **filters)
        return [int.from_bytes(summary.trajectory_id, "big") for summary in found]

    assert listed() == [3, 2, 1]
    assert listed(limit=1) == [3]
    assert listed(agent="desk") == [2, 1]
    assert listed(key="k") == [2]
    assert listed(state="incomplete") == [1]
    assert listed(before_ns=T0 + 2 * SECOND) == [1]
    assert listed(agent="nobody") == []


def test_idle_and_unrewarded_trajectories_are_found_by_age(records: Any, bench: Any) -> None:
    bench.apply(
        records.spans(records.call(1, 5, "find"), at=10),
        records.spans(records.call(2, 5, "find"), at=20),
        records.spans(records.root(3), at=10),
        records.spans(records.root(4), at=20),
        records.spans(records.root(5), at=10),
        records.spans(records.root(6, **{semconv.INCOMPLETE: "cancelled"}), at=10),
        records.reward(5, 1.0, reward_id="r"),
    )

    with bench.store.reading() as cursor:
        limit = T0 + 15 * SECOND
        assert trajectories.idle_open(cursor, before_ns=limit) == [records.trace(1)]
        assert trajectories.closed_unrewarded(cursor, before_ns=limit) == [records.trace(3)]


def test_tools_are_kept_once_per_agent(records: Any, bench: Any) -> None:
    bench.apply(records.catalogue(), records.catalogue(agent="other"), records.catalogue())
    bench.apply(
        records.catalogue(),
        records.decisions(records.decision(1, 10, offered=[records.tools[1].fingerprint])),
    )

    with bench.store.reading() as cursor:
        assert [t.name for t in tools_of_agent(cursor, "desk")] == ["find", "mail", "save"]
        assert [t.name for t in tools_of_scope(cursor, Scope("desk", "helper", 1))] == ["mail"]
        assert counters(cursor)["tools"] == 6
        assert producers(cursor) == {}
