"""Row F5: decoders that get anything at all, and the daemon against a model of itself."""

from __future__ import annotations

import contextlib
import io
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agentgym.errors import SnapshotError
from agentgym.policy.features import TextHasher
from agentgym.policy.snapshot import digest, dump, parse
from agentgym.proto.v1 import reward_pb2, spool_pb2
from agentgym.spool import frames as spool_frames
from agentgym.testing.recording import certain
from agentgym.trajectory import Tool
from agentgym_daemon.encoders.choice import featuriser_of
from agentgym_daemon.ingest.frames import BadFrameError, encode_frame, find_frames, read_frames
from agentgym_daemon.ingest.otlp import count_spans, decode_traces
from agentgym_daemon.ingest.wire import salvage
from tests.manifests import make_manifest

pytestmark = pytest.mark.timeout(300)  # many starts of a daemon, on whatever machine

TOOLS = (Tool("look_up", "Looks an order up."), Tool("refund", "Pays money back."))
Law = Callable[[bytes], None]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The bytes with a few of them changed; now and then bytes that were never anything."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(300))
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at : at + rng.randint(1, 32)]
            case 2:
                changed[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                changed[at:at] = changed[at : at + rng.randint(1, 64)]
            case _:
                changed[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x80\x80\x80\x80"))
    return bytes(changed)


def fuzz(seconds: float, seed: int, samples: list[bytes], law: Law) -> dict[str, Any]:
    """Gives a law mutations of samples for some time; names the input that breaks it."""
    rng, tried, deadline = random.Random(seed), 0, time.monotonic() + seconds
    while time.monotonic() < deadline or tried < 100:
        data = mutated(rng, rng.choice(samples))
        tried += 1
        try:
            law(data)
        except Exception as error:
            raise AssertionError(f"input {tried} of seed {seed}: {data.hex()}") from error
    return {"inputs": tried, "seconds": seconds}


@pytest.fixture
def requests(traces: Any, span: Any) -> list[bytes]:
    """OTLP requests to begin with, those of other languages' exporters too."""
    golden = Path(__file__).parent / "golden"
    rich = span(7)
    for value in ("text", "x" * 300):
        rich.attributes.add(key="gen_ai.tool.name").value.string_value = value
    nested = rich.attributes.add(key="nested").value.kvlist_value
    nested.values.add(key="deep").value.array_value.values.add().double_value = 0.5
    event = rich.events.add(name="gen_ai.evaluation.result", time_unix_nano=5)
    event.attributes.add(key="gen_ai.evaluation.score.value").value.double_value = 1.0
    made = [traces([span(0), span(1)]), traces([rich]), traces([])]
    return [one.SerializeToString() for one in made] + [
        path.read_bytes() for path in sorted(golden.glob("*.bin"))
    ]


def test_the_lenient_decoder_never_raises_and_counts_as_it_decodes(
    fuzz_s: float, report: Any, requests: list[bytes]
) -> None:
    """Whatever the bytes: rows or a count, and the cheap count agrees with the rows."""

    def law(data: bytes) -> None:
        decoded = decode_traces(data)
        taken, refused = count_spans(data)
        assert taken == len(decoded.spans)
        assert refused <= decoded.rejected
        for row in decoded.spans:
            assert len(row.trace_id) == 16
            assert len(row.span_id) == 8
            assert 0 < row.start_ns <= row.end_ns < 2**63

    report.figures |= fuzz(fuzz_s, 1, requests, law)


def test_the_salvage_of_a_broken_request_never_raises(
    fuzz_s: float, report: Any, requests: list[bytes]
) -> None:
    """What is cut out of a broken request are spans, and it always ends."""

    def law(data: bytes) -> None:
        for part in salvage(data):
            assert part.lost >= 0

    report.figures |= fuzz(fuzz_s, 2, requests, law)


def test_no_changed_snapshot_is_ever_loaded(fuzz_s: float, report: Any) -> None:
    """A snapshot whose bytes differ in anything is refused with a SnapshotError."""
    features = featuriser_of("default", TextHasher(b"any"))
    scope = {"agent": "a", "agent_name": "a", "feature_schema": features.schema}
    data = dump(certain(TOOLS, "refund", features.embedding_dim), make_manifest(scope=scope))
    sha256 = digest(data)
    header = data[:4096]  # where most of what can be misread lies

    def law(head: bytes) -> None:
        changed = head + data[4096:]
        for wanted in (sha256, digest(changed)):
            try:
                parse(changed, wanted)
            except SnapshotError:
                continue
            assert changed == data or wanted != sha256

    parse(data, sha256)
    report.figures |= fuzz(fuzz_s, 3, [header], law)


def test_damaged_frames_give_whole_records_or_an_error(
    fuzz_s: float, report: Any, tmp_path: Path
) -> None:
    """Frames of the log and of spools: what is read was written, and both sides read the same."""
    header = spool_pb2.SpoolFrame(header=spool_pb2.SpoolHeader(producer_id=b"p" * 16, agent="a"))
    payloads = [header.SerializeToString(), b"x", b"y" * 100, bytes(300), b"\xff" * 64]
    whole = b"".join(encode_frame(payload) for payload in payloads)

    def law(data: bytes) -> None:
        found = []
        with contextlib.suppress(BadFrameError):
            for _, payload in read_frames(io.BytesIO(data), 0, len(data)):
                found.append(payload)
        assert set(found) <= set(payloads)
        assert found == read_by_plugin(data)
        assert set(found) <= {payload for _, payload in find_frames(data)} <= set(payloads)

    def read_by_plugin(data: bytes) -> list[bytes]:
        path.write_bytes(data)
        with path.open("rb") as file:
            return [p for _, p in spool_frames.read(file.fileno(), 0, len(data))]

    path = tmp_path / "00000001.spool"
    report.figures |= fuzz(fuzz_s, 4, [whole, whole[:150]], law)


def test_random_bytes_at_the_socket_do_not_keep_others_from_being_served(
    fuzz_s: float, report: Any, daemon: Any, otlp: Any, traces: Any, span: Any
) -> None:
    """Whoever talks nonsense on the port is hung up on; the others are served."""
    rng, sender = random.Random(5), otlp(daemon.home)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    before, tried, served = daemon.descriptors(), 0, 0
    deadline = time.monotonic() + fuzz_s
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.home / "daemon.sock"))
            head = rng.choice((b"", preface, b"GET / HTTP/1.1\r\n\r\n", preface[:10]))
            settings_frame = b"\0\0\0\4\0\0\0\0\0" if rng.random() < 0.5 else b""
            with contextlib.suppress(OSError):  # it has hung up already
                client.sendall(head + settings_frame + rng.randbytes(rng.randrange(2000)))
        tried += 1
        if tried % 20 == 0:
            sender.export(traces([span(8 * tried)]))
            served += 1
    report.figures |= {"connections": tried, "served": served, "descriptors_before": before}

    assert daemon.applied().counters["spans"] == served
    stored = daemon.stored_spans()
    assert len(stored) == served > 0


class DaemonModel(RuleBasedStateMachine):
    """The daemon beside a model: ids of spans, rewards by key, what was revoked."""

    process: Any
    traces: Any
    span: Any
    otlp: Any
    runs = 0

    trajectories = Bundle("trajectories")
    rewards = Bundle("rewards")

    def __init__(self) -> None:
        super().__init__()
        type(self).runs += 1
        self.base = self.runs * 10**6
        self.sent: dict[bytes, set[bytes]] = {}
        self.values: dict[str, tuple[bytes, float]] = {}
        self.revoked: set[str] = set()
        self.sender = self.otlp(self.process.home)
        self.restarted = False  # a start takes a second; one in each run is enough

    def teardown(self) -> None:
        self.check()
        self.sender.close()

    @rule(target=trajectories, number=st.integers(0, 20), width=st.integers(1, 8))
    def ingest(self, number: int, width: int) -> int:
        first = self.base + 8 * number
        spans = [self.span(first + i) for i in range(width)]
        self.sender.export(self.traces(spans))
        self.sent.setdefault(spans[0].trace_id, set()).update(one.span_id for one in spans)
        return first

    @rule(first=trajectories)
    def retry(self, first: int) -> None:
        self.sender.export(self.traces([self.span(first)]))

    @rule(target=rewards, first=trajectories, value=st.sampled_from((0.0, 0.25, 1.0)))
    def reward(self, first: int, value: float) -> str:
        key = f"{first}/{len(self.values)}"
        return self.send_reward(first, value, key)

    def send_reward(self, first: int, value: float, key: str) -> str:
        trajectory_id = self.span(first).trace_id
        one = reward_pb2.Reward(trajectory_id=trajectory_id, value=value, idempotency_key=key)
        request = reward_pb2.ReportRequest(rewards=[one, one])  # the second is a repetition
        results = self.process.call("rewards", "Report", request).results
        assert [result.error for result in results] == ["", ""]
        assert results[1].duplicate
        assert results[0].reward_id == results[1].reward_id
        self.values[results[0].reward_id] = (trajectory_id, value)
        return str(results[0].reward_id)

    @rule(reward_id=consumes(rewards))
    def revoke(self, reward_id: str) -> None:
        request = reward_pb2.RevokeRequest(reward_id=reward_id, reason="model")
        self.process.call("rewards", "Revoke", request)
        self.revoked.add(reward_id)

    @precondition(lambda self: self.sent and not self.restarted)
    @rule()
    def kill(self) -> None:
        self.restarted = True
        self.process.kill()
        self.process.start()
        self.check()

    @precondition(lambda self: self.sent and not self.restarted)
    @rule()
    def reopen(self) -> None:
        self.restarted = True
        self.process.stop()
        self.process.start()
        self.check()

    @invariant()
    def everything_durable_gets_applied(self) -> None:
        self.process.applied()

    def check(self) -> None:
        """What is stored is what the model says."""
        for trajectory_id, span_ids in self.sent.items():
            stored = self.process.trajectory(trajectory_id)
            assert Counter(one.span_id for one in stored.spans) == Counter(span_ids)
            mine = {key: value for key, (of, value) in self.values.items() if of == trajectory_id}
            assert {one.reward_id: one.value for one in stored.rewards} == mine
            assert {one.reward_id for one in stored.rewards if one.revoked} == (
                self.revoked & set(mine)
            )
            left = [value for key, value in mine.items() if key not in self.revoked]
            assert stored.summary.HasField("reward") == bool(left)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
def test_the_daemon_does_what_its_model_does(
    fuzz_s: float, report: Any, daemon: Any, otlp: Any, traces: Any, span: Any
) -> None:
    """Ingest, retry, reward, revoke, kill and reopen in any order agree with a model."""
    machine = type(
        "Machine",
        (DaemonModel,),
        {
            "process": daemon,
            "traces": staticmethod(traces),
            "span": staticmethod(span),
            "otlp": staticmethod(otlp),
        },
    )
    examples = max(3, int(fuzz_s / 4))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=12,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    report.load["examples"] = examples
    report.figures["runs"] = machine.runs
    assert machine.runs >= examples


def test_a_reward_is_never_out_of_its_range(daemon: Any, otlp: Any, traces: Any, span: Any) -> None:
    otlp(daemon.home).export(traces([span(0)]))
    values = (float("nan"), float("inf"), -1.0, 1.0000001, 1e308)
    request = reward_pb2.ReportRequest(
        rewards=[reward_pb2.Reward(trajectory_id=span(0).trace_id, value=v) for v in values]
    )
    results = daemon.call("rewards", "Report", request).results

    assert {result.code for result in results} == {grpc.StatusCode.INVALID_ARGUMENT.name}
    assert not daemon.trajectory(span(0).trace_id).rewards
