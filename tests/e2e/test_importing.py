"""Past traces through a real daemon: imported once, marked, learned from, never experiments."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span

from agentgym import AgentGym, semconv
from agentgym.config import resolve
from agentgym.connection import credentials, open_channel, read_token
from agentgym.encode import export_request, resource_head
from agentgym.errors import DaemonError
from agentgym.proto.v1 import common_pb2
from agentgym.trajectory import Tool
from agentgym_daemon.importing import cli, files, plan, send
from agentgym_daemon.importing.model import Loaded
from agentgym_daemon.importing.times import unix_ns

pytestmark = pytest.mark.e2e

NOT_LEARNED = {"gradient_steps": 0, "gradient_steps_of_parent": 0}


def definition(tool: Tool) -> dict[str, Any]:
    """A tool as it is recorded beside the messages."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def trace(
    number: int,
    tools: Sequence[Tool],
    *,
    task: str = "Where is order 7?",
    tool: str = "look_up",
    score: float | None = None,
    failed: bool = False,
) -> dict[str, Any]:
    """A run as Langfuse's API gives it: a turn, a call, a turn, and a score."""

    def observation(position: int, **fields: Any) -> dict[str, Any]:
        return {
            "id": f"{number}-{position}",
            "startTime": f"2024-05-29T13:{number % 60:02d}:{position:02d}.000Z",
            "endTime": f"2024-05-29T13:{number % 60:02d}:{position:02d}.500Z",
            "level": "DEFAULT",
            **fields,
        }

    def turn(position: int, message: dict[str, Any]) -> dict[str, Any]:
        asked = {"tools": [definition(t) for t in tools]}
        said = {"messages": [{"role": "user", "content": task}]}
        return observation(
            position,
            type="GENERATION",
            name="chat",
            model="gpt-4o",
            input={**asked, **said},
            output={"role": "assistant", **message},
            usageDetails={"input": 10, "output": 2},
        )

    call = {"id": "c", "type": "function", "function": {"name": tool, "arguments": "{}"}}
    scores = [{"id": f"s-{number}", "name": "success", "value": score, "dataType": "BOOLEAN"}]
    return {
        "id": f"{number + 1:032x}",
        "timestamp": f"2024-05-29T13:{number % 60:02d}:00.000Z",
        "name": "desk",
        "input": task,
        "observations": [
            turn(1, {"content": None, "tool_calls": [call]}),
            observation(2, type="TOOL", name=tool) | ({"level": "ERROR"} if failed else {}),
            turn(3, {"content": "done"}),
        ],
        "scores": [] if score is None else scores,
    }


@pytest.fixture
def bring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Imports records and returns the exit code and the figures."""

    def run(daemon: Any, records: Any, *arguments: str) -> tuple[int, dict[str, Any]]:
        path = tmp_path / "traces.json"
        path.write_text(json.dumps(records))
        code = cli.main([str(path), "--home", str(daemon.home), "--json", *arguments])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture(scope="module")
def daemon(make_daemon: Callable[..., Any]) -> Any:
    return make_daemon().start()


def agentgym(home: Path, *arguments: str) -> str:
    """What the command line answers."""
    command = [sys.executable, "-m", "agentgym.cli", "--home", str(home), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_past_runs_are_stored_once_and_marked(daemon: Any, tools: Any, bring: Any) -> None:
    records = [
        trace(1, tools, score=1.0),
        trace(2, tools, tool="refund", score=0.0, failed=True),
        trace(3, tools),
    ]

    first = bring(daemon, records, "--agent", "once")
    status = daemon.applied()
    again = bring(daemon, records, "--agent", "once")
    stored = [daemon.get(found.trajectory_id) for found in daemon.summaries("once")]

    assert first[0] == again[0] == 0
    assert first[1]["sent"] == {
        "runs": 3,
        "known_runs": 0,
        "live_runs": 0,
        "rewards": 2,
        "known_rewards": 0,
    }
    assert again[1]["sent"] == {
        "runs": 0,
        "known_runs": 3,
        "live_runs": 0,
        "rewards": 0,
        "known_rewards": 2,
    }
    assert daemon.applied().log_end == status.log_end
    assert [one.check().summary.trajectory_id.hex() for one in stored] == [
        record["id"] for record in records
    ]
    rewards = [one.summary.reward if one.summary.HasField("reward") else None for one in stored]
    assert rewards == [1.0, 0.0, None]
    assert [one.summary.tool_errors for one in stored] == [0, 1, 0]
    assert [list(one.summary.tools) for one in stored] == [["look_up"], ["refund"], ["look_up"]]
    for one in stored:
        assert len(one.decisions) == 2
        for decision in one.decisions:
            assert decision.mode == common_pb2.MODE_OBSERVE
            assert decision.assignment == common_pb2.ASSIGNMENT_UNSPECIFIED
            assert [one.names[f] for f in decision.offered] == [tool.name for tool in tools]
            assert [f for f in decision.offered] == [tool.fingerprint for tool in tools]
            assert (decision.arm, decision.arm_propensity, len(decision.support)) == (-1, 0, 0)
            assert decision.features_id in {f.features_id for f in one.message.features}


def test_people_see_that_it_was_imported(daemon: Any, tools: Any, bring: Any) -> None:
    _, figures = bring(daemon, [trace(10, tools, score=1.0)], "--agent", "seen")
    daemon.applied()
    (found,) = daemon.summaries("seen")

    listed = agentgym(daemon.home, "trajectories", "--agent", "seen")
    explained = agentgym(daemon.home, "explain", found.trajectory_id.hex())

    sha256 = figures["files"][0]["sha256"]
    assert "imported" in listed
    assert "was imported" in explained
    assert f"langfuse:{sha256}" in explained.replace("\n", "")
    spans = daemon.get(found.trajectory_id).message.spans
    assert all(f"langfuse:{sha256}" in span.attributes_json for span in spans)
    assert not any("order 7" in span.attributes_json for span in spans)
    assert b"order 7" not in b"".join(p.read_bytes() for p in (daemon.home / "log").iterdir())


def test_what_live_traffic_brought_is_left_alone(daemon: Any, tools: Any, bring: Any) -> None:
    """The same trace went to the daemon over OTLP while it happened."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)  # live clocks are never years off
    text = json.dumps(trace(20, tools, score=0.0)).replace("2024-05-29", yesterday.isoformat())
    record = json.loads(text)
    start = unix_ns(record["timestamp"])
    span = Span(
        trace_id=bytes.fromhex(record["id"]),
        span_id=b"12345678",
        name="invoke_agent desk",
        start_time_unix_nano=start,
        end_time_unix_nano=start + 10**9,
    )
    config = resolve({"home": daemon.home}, {})
    with open_channel(config.endpoint) as channel:
        metadata = credentials(read_token(config.token_file))
        entry = ScopeSpans(spans=[span]).SerializeToString()
        data = export_request(resource_head({"service.name": "mixed"}), [entry])
        request = ExportTraceServiceRequest.FromString(data)
        TraceServiceStub(channel).Export(request, metadata=metadata, timeout=30)
    daemon.applied()

    code, figures = bring(daemon, [record], "--agent", "mixed")

    (stored,) = [daemon.get(found.trajectory_id) for found in daemon.summaries("mixed")]
    assert code == 0
    assert figures["sent"]["live_runs"] == 1
    assert "runs that live traffic brought before" in {p["reason"] for p in figures["problems"]}
    assert (len(stored.spans()), stored.decisions) == (1, [])
    assert not stored.summary.HasField("reward")


def test_scores_that_come_later_find_their_run(daemon: Any, tools: Any, bring: Any) -> None:
    bring(daemon, [trace(30, tools)], "--agent", "later")
    score = {"id": "late", "name": "success", "value": 1, "dataType": "BOOLEAN", "source": "API"}
    known = {**score, "traceId": f"{31:032x}"}
    unknown = {**score, "id": "lost", "traceId": "ee" * 16}

    _, figures = bring(daemon, [known, unknown], "--agent", "later")

    daemon.applied()
    (found,) = daemon.summaries("later")
    assert found.reward == 1.0
    assert figures["sent"]["rewards"] == 1
    assert [p["example"] for p in figures["problems"]] == ["ee" * 16]


class Dying(send.Daemon):
    """A daemon that goes away in the middle of the second batch's spans."""

    sends = 0

    def _spans(self, batch: Any, problems: Any) -> None:
        self.sends += 1
        if self.sends == 2:
            super()._spans([replace(run, spans=run.spans[:1]) for run in batch], problems)
            raise DaemonError("gone", code="UNAVAILABLE")
        super()._spans(batch, problems)


def test_an_import_that_broke_off_goes_on_where_it_was(
    daemon: Any, tools: Any, bring: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [trace(number, tools, score=1.0) for number in range(40, 44)]
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(records))
    monkeypatch.setattr(send, "BATCH_RUNS", 2)
    monkeypatch.setattr(send, "_PAGE", 3)  # what is there already takes several pages
    sent: Counter[str] = Counter()
    loaded = Loaded.of([files.read(path).loaded])
    broken = plan.make(loaded, plan.Options(agent="broken"))
    with Dying(resolve({"home": daemon.home}, {})) as dying:
        features = dying.featuriser()
        with pytest.raises(DaemonError, match="gone"):
            send.deliver(broken, dying, features, sent)
    daemon.applied()

    code, figures = bring(daemon, records, "--agent", "broken")

    assert (code, sent["runs"]) == (0, 2)
    assert figures["sent"]["runs"] == 2
    assert figures["sent"]["known_runs"] == 2
    stored = [daemon.get(found.trajectory_id) for found in daemon.summaries("broken")]
    assert [one.check().summary.reward for one in stored] == [1.0] * 4
    assert [len(one.decisions) for one in stored] == [2] * 4


def test_tools_of_which_only_the_name_is_known_are_those_of_the_live_agent(
    daemon: Any, tools: Any, bring: Any
) -> None:
    gym = AgentGym("names", home=daemon.home, mode="observe")
    assert gym.ready(30)
    run = gym.recorder.start_run("desk", framework="test", task="order 7?")
    run.turn(tools, model="stub").finish(input_tokens=1, output_tokens=1)
    run.finish()
    assert gym.flush(30)
    gym.close(5.0)
    daemon.applied()
    record = trace(50, tools)
    for observation in record["observations"][::2]:
        del observation["input"]["tools"]

    _, figures = bring(daemon, [record], "--agent", "names", "--agent-name", "desk")

    daemon.applied()
    stored = [daemon.get(found.trajectory_id) for found in daemon.summaries("names")]
    (past,) = [one for one in stored if one.summary.framework.startswith(semconv.IMPORT_PREFIX)]
    assert figures["undefined_tools"] == []
    assert list(past.decisions[0].offered) == [tools[0].fingerprint]


PHRASES = (
    "the parcel never came",
    "my jacket arrived torn",
    "two lamps instead of one",
    "the wrong size was in the box",
    "it broke on the first day",
    "nobody delivered anything",
)


def past_runs(tools: Any, right: str, first: int) -> list[dict[str, Any]]:
    """Two hundred runs by an agent that tosses a coin; customers want `right`."""
    chosen = ("look_up", "refund")
    return [
        trace(
            first + i,
            tools,
            task=f"{PHRASES[i % len(PHRASES)]}, number {i}",
            tool=chosen[i % 2],
            score=float(chosen[i % 2] == right),
        )
        for i in range(200)
    ]


def scores_of(gym: AgentGym, tools: Any) -> dict[str, float]:
    """How the live policy rates the tools for a request that it has not seen."""
    run = gym.recorder.start_run(gym.config.agent, framework="test")
    turn = run.turn(tools, model="stub", task="my parcel arrived torn")
    turn.finish(input_tokens=1, output_tokens=1)
    run.finish()
    assert turn.decision is not None
    arms = [arm for arm in turn.decision.support if arm.tools]
    return {tools[arm.tools[0]].name: arm.score for arm in arms}


@pytest.mark.timeout(240)
def test_what_was_imported_moves_the_prior_and_nothing_else(
    make_daemon: Callable[..., Any], make_gym: Any, tools: Any, bring: Any
) -> None:
    """The same requests, the same agent, opposite customers: the policies differ as they do."""
    daemon = make_daemon(flags=["--control-share", "0", "--retrain-trajectories", "100"]).start()
    wanted = {"wants-refund": "refund", "wants-answer": "look_up"}
    for number, (agent, right) in enumerate(wanted.items()):
        code, figures = bring(daemon, past_runs(tools, right, 1000 * number), "--agent", agent)
        assert (code, figures["sent"]["runs"], figures["sent"]["rewards"]) == (0, 200, 200)
    deadline = time.monotonic() + 120
    while not all(any(p.status == "live" for p in daemon.policies(agent)) for agent in wanted):
        assert time.monotonic() < deadline, daemon.log
        time.sleep(0.2)

    rated = {}
    for agent in wanted:
        gym = make_gym(daemon, agent)
        rated[agent] = scores_of(gym, tools)
        gym.close(5.0)

    assert rated["wants-refund"]["refund"] > 0.6 > 0.4 > rated["wants-refund"]["look_up"]
    assert rated["wants-answer"]["look_up"] > 0.6 > 0.4 > rated["wants-answer"]["refund"]
    reports = [json.loads(run.report_json) for run in daemon.trainings()]
    assert reports
    for report in reports:
        assert {name: report[name] for name in NOT_LEARNED} == NOT_LEARNED
        assert report["ratio_error"] is None
        assert report["imported_trajectories"] >= 100
        assert report["steps"] > 0


def test_no_default_reward_for_past_runs_that_nobody_judged(
    make_daemon: Callable[..., Any], make_gym: Any, tools: Any, bring: Any
) -> None:
    daemon = make_daemon(flags=["--default-reward", "0", "--default-reward-after-s", "0"]).start()
    bring(daemon, [trace(60, tools)], "--agent", "desk")
    gym = make_gym(daemon, "desk", mode="observe")
    run = gym.recorder.start_run("desk", framework="test", task="order 7?")
    run.turn(tools, model="stub").finish(input_tokens=1, output_tokens=1)
    run.finish()
    assert gym.flush(30)

    deadline = time.monotonic() + 30
    while not any(found.HasField("reward") for found in daemon.summaries("desk")):
        assert time.monotonic() < deadline, daemon.log
        time.sleep(0.1)
    time.sleep(1.5)  # another turn of the housekeeping
    past, live = daemon.summaries("desk")

    assert (past.HasField("reward"), live.reward) == (False, 0.0)
    assert past.framework == "import/langfuse"
