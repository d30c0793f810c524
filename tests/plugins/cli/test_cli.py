"""`agentgym`: one JSON object with --json, tables otherwise, and exit codes to script by."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentgym.cli import main
from agentgym.proto.v1 import (
    admin_pb2,
    common_pb2,
    decision_pb2,
    policy_pb2,
    producer_pb2,
    reward_pb2,
    trajectory_pb2,
)
from agentgym.testing.daemon import FakeDaemon

TRAJECTORY = bytes(range(16))
SCOPE = common_pb2.Scope(agent="desk", agent_name="support-desk", feature_schema=1)
SUMMARY = trajectory_pb2.TrajectorySummary(
    trajectory_id=TRAJECTORY,
    agent="desk",
    framework="langchain",
    start_unix_nano=1_700_000_000_000_000_000,
    state="closed",
    mode=common_pb2.MODE_STEER,
    assignment=common_pb2.ASSIGNMENT_CONTROL,
    tool_calls=2,
    tool_errors=1,
    input_tokens=1234,
    reward=0.5,
    tools=["find_order", "refund_order"],
)


@pytest.fixture
def agentgym(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command against the fake daemon: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--home", str(daemon.home), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


Run = Callable[..., tuple[int, str, str]]


def test_status_is_one_object_with_every_field(daemon: FakeDaemon, agentgym: Run) -> None:
    scope = admin_pb2.ScopeStatus(
        scope=SCOPE,
        live="p-000003",
        trajectories=120,
        reliability_policy=0.9,
        n_policy=60,
        reliability_control=math.nan,
    )
    daemon.reply(
        "Status",
        admin_pb2.StatusResponse(
            daemon_version="0.1.0", pid=7, counters={"spans": 2**60}, scopes=[scope], log_end=12
        ),
    )

    code, out, _ = agentgym("status", "--json")

    assert code == 0
    assert out.count("\n") == 1
    status = json.loads(out)
    assert status["counters"] == {"spans": 2**60}
    assert (status["log_end"], status["log_applied"], status["listeners"]) == (12, 0, [])
    [shown] = status["scopes"]
    assert shown["scope"] == {"agent": "desk", "agent_name": "support-desk", "feature_schema": 1}
    assert shown["n_policy"] == 60
    assert shown["reliability_control"] is None

    code, out, _ = agentgym("status")
    assert code == 0
    assert "p-000003" in out
    assert "0.900 (n=60)" in out


def test_status_shows_where_every_plugins_items_are(daemon: FakeDaemon, agentgym: Run) -> None:
    counters = {
        "produced.spans": 10,
        "acked.spans": 6,
        "spooled.spans": 1,
        "dropped.spans.cap": 2,
        "dropped.spans.refused": 1,
    }
    report = producer_pb2.ProducerReport(agent="desk", pid=77, counters=counters, on=True)
    damage = admin_pb2.Damage(path="spool/damaged/x", reason="torn", lost_bytes=5)
    reply = admin_pb2.StatusResponse(
        not_ready="the disk is full",
        damages=[damage],
        producers=[admin_pb2.ProducerStatus(report=report, received_unix_nano=10**18)],
    )
    daemon.reply("Status", reply)

    code, out, _ = agentgym("status")

    [row] = [line.split() for line in out.splitlines() if line.startswith("desk")]
    assert code == 0
    assert row[:7] == ["desk", "77", "10", "6", "0", "1", "3"]
    assert "cap 2, refused 1" in out
    assert "NOT READY: the disk is full" in out
    assert "spool/damaged/x" in out


def test_trajectories_are_listed_with_ids_in_hex(daemon: FakeDaemon, agentgym: Run) -> None:
    bare = trajectory_pb2.TrajectorySummary(trajectory_id=TRAJECTORY)
    reply = trajectory_pb2.ListTrajectoriesResponse(trajectories=[SUMMARY, bare])
    daemon.reply("ListTrajectories", reply)

    code, out, _ = agentgym("trajectories", "--agent", "desk", "--state", "closed", "--json")

    assert code == 0
    first, second = json.loads(out)["trajectories"]
    assert first["trajectory_id"] == TRAJECTORY.hex()
    assert (first["assignment"], first["mode"]) == ("control", "steer")
    assert (first["reward"], second["reward"]) == (0.5, None)
    assert first["input_tokens"] == 1234
    request = daemon.taken("ListTrajectories")[0].request
    assert (request.agent, request.state, request.limit) == ("desk", "closed", 20)

    code, out, _ = agentgym("trajectories")
    assert code == 0
    assert TRAJECTORY.hex()[:8] in out


def test_tail_prints_one_line_per_trajectory(daemon: FakeDaemon, agentgym: Run) -> None:
    daemon.script.replies["Tail"] = [SUMMARY] * 3

    assert [json.loads(line)["state"] for line in agentgym("tail", "--json")[1].splitlines()] == [
        "closed"
    ] * 3
    code, out, _ = agentgym("tail", "--limit", "2")

    assert code == 0
    assert len(out.splitlines()) == 2
    assert "find_order > refund_order" in out


@pytest.mark.parametrize("recomputed", [0.0, -1.0])
def test_explain_shows_the_arms_and_their_parts(
    recomputed: float, daemon: FakeDaemon, agentgym: Run
) -> None:
    arm = trajectory_pb2.ExplainedArm(
        arm="force find_order", score=0.8, probability=0.7, taken=True, parts={"learned": 1.5}
    )
    defer = trajectory_pb2.ExplainedArm(arm="defer", score=0.4, probability=0.3)
    explanation = trajectory_pb2.Explanation(
        decision=decision_pb2.DecisionRecord(decision_id=b"12345678"),
        arms=[defer, arm],
        offered=["find_order"],
        summary="find_order was forced",
        recomputed_error=recomputed,
        masked=["refund (protected)", "mail (fails at present)"],
    )
    outcome = trajectory_pb2.RunOutcome(
        trajectory_id=TRAJECTORY, state="closed", outcome=1.0, training_reward=0.9, weight=0.5,
        cost=0.1, tokens=4200, seconds=2.5, calls=3,
    )  # fmt: skip
    reply = trajectory_pb2.ExplainResponse(explanations=[explanation], outcome=outcome)
    daemon.reply("Explain", reply)

    code, out, _ = agentgym("explain", b"12345678".hex(), "--json")

    assert code == 0
    [shown] = json.loads(out)["explanations"]
    assert shown["decision"]["decision_id"] == b"12345678".hex()
    assert shown["arms"][1]["parts"] == {"learned": 1.5}
    assert daemon.taken("Explain")[0].request.id == b"12345678"

    code, out, _ = agentgym("explain", TRAJECTORY.hex())
    assert code == 0
    assert "find_order was forced" in out
    assert f"trajectory {TRAJECTORY.hex()}, closed" in out
    assert "outcome 1.000; learned: reward 0.900 with weight 0.500" in out
    assert "cost 4,200 tokens, 2.5 s, tool calls 3, which takes 10.0% of the outcome" in out
    assert "no arm: refund (protected), mail (fails at present)" in out
    assert ("not recomputable" in out) is (recomputed < 0)


def test_policies_are_listed(daemon: FakeDaemon, agentgym: Run) -> None:
    version = policy_pb2.PolicyVersion(
        scope=SCOPE, version="p-000002", status="live", pinned=True, sha256="ab" * 32, size=4096
    )
    daemon.reply("ListPolicies", policy_pb2.ListPoliciesResponse(policies=[version]))

    code, out, _ = agentgym("policy", "list", "--json")

    assert code == 0
    assert json.loads(out)["policies"][0]["version"] == "p-000002"
    assert "p-000002" in agentgym("policy", "list")[1]


@pytest.mark.parametrize(
    ("arguments", "method", "expected"),
    [
        (("promote", "p-000002", "--reason", "r"), "Promote", {"version": "p-000002"}),
        (("rollback", "desk", "--agent-name", "Support Desk"), "Rollback", {}),
        (("pin", "p-000002"), "Pin", {"version": "p-000002", "unpin": False}),
        (("pin", "--unpin", "desk"), "Pin", {"version": "", "unpin": True}),
    ],
)
def test_a_live_policy_is_changed(
    arguments: tuple[str, ...],
    method: str,
    expected: dict[str, Any],
    daemon: FakeDaemon,
    agentgym: Run,
) -> None:
    daemon.reply(method, policy_pb2.ChangeResponse(version="p-000002", previous="p-000001"))

    code, out, _ = agentgym("policy", *arguments)

    assert code == 0
    assert out == "live: p-000002 (before: p-000001)\n"
    request = daemon.taken(method)[0].request
    assert {name: getattr(request, name) for name in expected} == expected
    if method == "Rollback":
        assert request.scope.agent_name == "support-desk"
    as_json = json.loads(agentgym("policy", *arguments, "--json")[1])
    assert as_json == {"version": "p-000002", "previous": "p-000001"}


def test_a_reward_names_its_trajectory(daemon: FakeDaemon, agentgym: Run) -> None:
    result = reward_pb2.ReportResult(trajectory_ids=[TRAJECTORY], reward_id="r-1", duplicate=True)
    daemon.reply("Report", reward_pb2.ReportResponse(results=[result]))

    code, out, _ = agentgym("reward", "1", "--key", "ticket-7", "--all", "--name", "csat")

    assert code == 0
    assert TRAJECTORY.hex() in out
    assert "already known" in out
    [reward] = daemon.rewards
    assert (reward.value, reward.key, reward.name, reward.source) == (1, "ticket-7", "csat", "cli")
    assert reward.all
    shown = json.loads(agentgym("reward", "0", "--trajectory", TRAJECTORY.hex(), "--json")[1])
    assert shown["trajectory_ids"] == [TRAJECTORY.hex()]


def test_a_reward_is_revoked(daemon: FakeDaemon, agentgym: Run) -> None:
    daemon.reply("Revoke", reward_pb2.RevokeResponse(trajectory_id=TRAJECTORY))

    code, out, _ = agentgym("reward", "0", "--revoke", "r-1", "--reason", "mistake")

    assert code == 0
    assert out == f"revoked r-1 of trajectory {TRAJECTORY.hex()}\n"


# ---- exit codes


def test_what_the_daemon_refuses_exits_1_with_its_words(daemon: FakeDaemon, agentgym: Run) -> None:
    daemon.refuse("Status", grpc.StatusCode.PERMISSION_DENIED, details="needs the scope read")
    result = reward_pb2.ReportResult(error="no trajectory has the key 'x'", code="NOT_FOUND")
    daemon.reply("Report", reward_pb2.ReportResponse(results=[result]))

    for arguments, words in (
        (("status", "--json"), "needs the scope read (PERMISSION_DENIED)"),
        (("reward", "1", "--key", "x"), "no trajectory has the key 'x' (NOT_FOUND)"),
        (("explain", "xyz"), "expected an id of 16 or 32 hex digits, got 'xyz'"),
        (("policy", "pin"), "expected either a version to pin or --unpin AGENT"),
    ):
        code, out, error = agentgym(*arguments)
        assert (code, out) == (1, "")
        assert words in error


def test_a_stream_that_is_refused_exits_1(daemon: FakeDaemon, agentgym: Run) -> None:
    daemon.refuse("Tail", grpc.StatusCode.PERMISSION_DENIED)

    assert agentgym("tail")[0] == 1


@pytest.mark.parametrize("arguments", [(), ("fly",), ("reward",), ("reward", "1")])
def test_wrong_usage_exits_2(arguments: tuple[str, ...], agentgym: Run) -> None:
    with pytest.raises(SystemExit) as stop:
        agentgym(*arguments)

    assert stop.value.code == 2


def test_a_wrong_setting_exits_2(agentgym: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTGYM_MODE", "fly")

    code, _, error = agentgym("status")

    assert code == 2
    assert "AGENTGYM_MODE" in error


def test_an_absent_daemon_exits_69(daemon: FakeDaemon, agentgym: Run, home: Path) -> None:
    daemon.stop()
    code, _, error = agentgym("status", "--json")
    assert code == 69
    assert "agentgym-daemon serve" in error

    (home / "token").unlink()
    code, _, error = agentgym("status")
    assert code == 69
    assert "start the daemon once" in error


def test_a_reader_that_has_seen_enough_is_no_error(daemon: FakeDaemon) -> None:
    daemon.script.replies["Tail"] = [SUMMARY] * 5_000
    command = [sys.executable, "-m", "agentgym.cli", "--home", str(daemon.home), "tail"]

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        tail.stdout.readline()
        tail.stdout.close()
        error = tail.stderr.read()

    assert tail.returncode == 0
    assert error == ""


def test_ctrl_c_ends_quietly(agentgym: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agentgym.cli.verbs.tables.show", interrupted)

    assert agentgym("status")[0] == 0
