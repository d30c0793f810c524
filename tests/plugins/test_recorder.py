"""Assignment, decisions, fallbacks and rewards of trajectories."""

from __future__ import annotations

import contextvars
import math
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentgym.policy.arms import Exploration
from agentgym.policy.evaluate import CatalogueCache
from agentgym.policy.features import Featuriser, TextHasher
from agentgym.policy.parameters import Parameters
from agentgym.policy.policy_set import PolicySet
from agentgym.policy.snapshot import Snapshot
from agentgym.recorder import Turn, active
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import ArmKind, Assignment, Fallback, Tool


@pytest.fixture
def policies(parameters: Parameters) -> Callable[..., PolicySet]:
    def make(version: str = "p-000001", **changes: Any) -> PolicySet:
        features = changes.pop("features", None) or Featuriser(TextHasher(b"key"))
        made = PolicySet(
            features=features,
            catalogues=CatalogueCache(features),
            exploration=Exploration(),
            control_share=0.0,
            stale_after_s=3600.0,
            policies={"agent": Snapshot(version, version * 4, parameters, {})},
        )
        return replace(made, **changes)

    return make


def one_turn(gym: RecordingGym, tools: tuple[Tool, ...], **options: Any) -> Turn:
    run = gym.recorder.start_run("agent", framework="test", task="where is my order")
    turn = run.turn(tools, **options)
    turn.finish()
    run.finish()
    return turn


def untouched(turn: Turn) -> bool:
    return turn.forced is None and turn.shown is None and turn.hint is None


# ---- modes


def test_steer_forces_one_tool_or_defers(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym(seed=1)
    gym.live.swap(policies(exploration=Exploration(temperature=1.0)))

    turns = [one_turn(gym, tools) for _ in range(60)]

    kinds = Counter(turn.decision.taken.kind for turn in turns if turn.decision)
    assert set(kinds) == {ArmKind.DEFER, ArmKind.FORCE}
    for turn in turns:
        assert turn.decision is not None
        assert turn.assignment is Assignment.POLICY
        assert turn.decision.support[0].probability >= 0.02
        if turn.decision.taken.kind is ArmKind.DEFER:
            assert untouched(turn)
            assert turn.shown_tools == tools
        else:
            assert turn.forced is tools[turn.decision.taken.tools[0]]
            assert turn.force == "hard"
            assert turn.shown is None


def test_soft_force_also_narrows(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym()
    gym.force(tools, "refund_order", "agent")

    turn = one_turn(gym, tools, force="soft")

    assert turn.forced is tools[1]
    assert turn.shown_tools == (tools[1],)
    assert gym.sink.steps[0].force == "soft"
    assert gym.sink.steps[0].shown == (1,)


def test_advise_orders_and_narrows_but_forces_nothing(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym(mode="advise", seed=2)
    gym.live.swap(policies(exploration=Exploration(temperature=1.0, top_k=2)))

    turns = [one_turn(gym, tools) for _ in range(40)]

    shown = [turn for turn in turns if turn.shown is not None]
    assert 0 < len(shown) < len(turns)
    assert all(turn.forced is None for turn in turns)
    assert all(len(turn.shown_tools) == 2 for turn in shown)
    assert all(not turn.may_call("x") for turn in shown)


def test_shadow_decides_and_applies_nothing(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym(mode="shadow")
    gym.force(tools, "refund_order", "agent")

    turn = one_turn(gym, tools)

    assert untouched(turn)
    assert turn.decision is not None
    assert turn.decision.taken.kind is ArmKind.FORCE
    assert gym.sink.steps[0].assignment is Assignment.SHADOW
    assert gym.sink.steps[0].shown == (0, 1, 2, 3)


def test_observe_has_no_arm_and_no_version(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym(mode="observe")
    gym.force(tools, "refund_order", "agent")

    turn = one_turn(gym, tools)

    [step] = gym.sink.steps
    assert untouched(turn)
    assert (step.decision, step.policy_version) == (None, "")
    assert step.assignment is Assignment.NONE
    assert step.fallback is Fallback.NONE
    assert step.features_id


def test_a_turn_without_tools_is_no_step(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym()
    gym.force(tools, "refund_order", "agent")

    one_turn(gym, ())

    assert gym.sink.steps == []
    assert len(gym.sink.spans) == 2


@pytest.mark.parametrize("mode", ["steer", "advise"])
def test_text_agents_are_shadowed_unless_a_hint_was_asked_for(
    mode: str, tools: tuple[Tool, ...]
) -> None:
    for wanted in (False, True):
        gym = RecordingGym(mode=mode, hint_text=wanted)
        gym.force(tools, "refund_order", "agent")

        turn = one_turn(gym, tools, text_agent=True)

        assert turn.forced is None
        assert turn.shown is None
        assert turn.hint is (tools[1] if wanted else None)
        assert gym.sink.steps[0].mode == ("advise" if wanted else "shadow")
        assert gym.sink.steps[0].force == ("hint" if wanted else "")
        assert turn.may_call("find_order")


def test_a_route_that_can_only_watch_shadows(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym()
    gym.force(tools, "refund_order", "agent")

    run = gym.recorder.start_run("agent", framework="test", task="t", applies=False)
    turn = run.turn(tools)

    assert run.trajectory.mode == "shadow"
    assert untouched(turn)
    assert turn.decision is not None


def test_greedy_takes_the_best_with_certainty_and_is_pinned(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym(explore=False)
    gym.live.swap(policies())

    turns = [one_turn(gym, tools) for _ in range(5)]

    assert len({turn.decision for turn in turns}) == 1
    assert turns[0].decision is not None
    assert turns[0].decision.greedy
    assert turns[0].decision.propensity == 1.0
    assert turns[0].assignment is Assignment.PINNED


# ---- assignment


def test_the_control_share_runs_without_the_policy(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym(seed=3)
    gym.live.swap(policies(control_share=0.3))

    turns = [one_turn(gym, tools) for _ in range(400)]

    control = [turn for turn in turns if turn.assignment is Assignment.CONTROL]
    assert 0.24 < len(control) / 400 < 0.36
    assert all(turn.decision is None and untouched(turn) for turn in control)
    assert {t.policy_version for t in control} == {"p-000001"}
    probabilities = {(s.assignment, s.assignment_probability) for s in gym.sink.steps}
    assert probabilities == {(Assignment.CONTROL, 0.3), (Assignment.POLICY, 0.7)}


def test_the_users_control_share_beats_the_daemons(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym(control_share=1.0)
    gym.live.swap(policies(control_share=0.0))

    assert one_turn(gym, tools).assignment is Assignment.CONTROL


def test_a_seed_repeats_assignments_and_draws(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    def draws() -> list[Any]:
        gym = RecordingGym(seed=11)
        gym.live.swap(policies(control_share=0.2, exploration=Exploration(temperature=1.0)))
        return [(t.assignment, t.decision) for t in (one_turn(gym, tools) for _ in range(30))]

    assert draws() == draws()


def test_nested_runs_inherit_assignment_and_version(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...], parameters: Parameters
) -> None:
    gym = RecordingGym(control_share=0.5, seed=1)
    both = {n: Snapshot("p-000001", "1" * 64, parameters, {}) for n in ("agent", "helper")}
    gym.live.swap(policies(policies=both))
    seen = set()
    for _ in range(20):
        run = gym.recorder.start_run("agent", framework="test", task="t")
        run.turn(tools).finish([("find_order", "c")])
        call = run.call("find_order", call_id="c")
        with active(call):
            nested = gym.recorder.start_run("helper", framework="other", task="sub-task")
            nested.turn(tools).finish()
            nested.finish()
        call.finish()
        run.finish()
        outer, inner = gym.sink.steps[-2:]

        assert inner.trajectory_id == outer.trajectory_id
        assert inner.assignment is outer.assignment
        assert inner.assignment_probability == outer.assignment_probability
        assert inner.agent_path == ("agent", "helper")
        assert inner.features_id != outer.features_id
        seen.add(inner.assignment)
    assert seen == {Assignment.CONTROL, Assignment.POLICY}


def test_a_swap_in_mid_run_waits_for_the_next_trajectory(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym()
    gym.live.swap(policies("p-000001"))
    run = gym.recorder.start_run("agent", framework="test", task="t")
    first = run.turn(tools)

    gym.live.swap(policies("p-000002"))

    assert first.policy_version == run.turn(tools).policy_version == "p-000001"
    run.finish()
    assert one_turn(gym, tools).policy_version == "p-000002"


def test_a_nested_gym_of_another_agent_uses_its_own_policies(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    outer, inner = RecordingGym("desk"), RecordingGym("agent")
    inner.live.swap(policies("p-000009"))
    run = outer.recorder.start_run("desk", framework="test", task="t")
    with active(run):
        nested = inner.recorder.start_run("agent", framework="test", task="t")

    assert nested.turn(tools).policy_version == "p-000009"
    assert run.turn(tools).fallback is Fallback.NO_POLICY


# ---- fallbacks


def test_before_the_first_policy_every_step_falls_back(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym()

    turn = one_turn(gym, tools)

    assert turn.fallback is Fallback.NO_POLICY
    assert untouched(turn)
    assert gym.sink.tasks[0].vector is None


def test_an_agent_without_a_policy_of_its_own_falls_back(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym()
    gym.live.swap(policies(policies={}))

    assert one_turn(gym, tools).fallback is Fallback.NO_POLICY


def test_a_stale_policy_is_not_used(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting, silent_s, expected in (
        (None, 3601.0, Fallback.STALE),
        (None, 3599.0, Fallback.NONE),
        (10.0, 11.0, Fallback.STALE),
        (9999.0, 3601.0, Fallback.NONE),
    ):
        gym = RecordingGym(stale_after_s=setting)
        gym.live.swap(policies())
        now = gym.live._last_contact_s + silent_s
        monkeypatch.setattr(gym.live, "_monotonic", lambda now=now: now)

        turn = one_turn(gym, tools)

        assert turn.fallback is expected
        assert untouched(turn) or expected is Fallback.NONE


def test_the_kill_switch_stops_open_trajectories_too(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym()
    gym.live.swap(policies())
    run = gym.recorder.start_run("agent", framework="test", task="t")
    assert run.turn(tools).fallback is Fallback.NONE

    gym.live.swap(policies(killed=True))

    turn = run.turn(tools)
    assert turn.fallback is Fallback.KILLED
    assert untouched(turn)


def test_a_run_is_left_alone_after_its_share_of_forced_steps(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym(explore=False, max_forced=2)
    gym.force(tools, tools[1].name, "agent")
    run = gym.recorder.start_run("agent", framework="test", task="where is my order")

    turns = [run.turn(tools) for _ in range(4)]

    assert [turn.forced is not None for turn in turns] == [True, True, False, False]
    assert [turn.fallback for turn in turns[2:]] == [Fallback.PROTECTED] * 2


def test_a_step_with_only_protected_tools_falls_back(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym(protected=[tool.name for tool in tools[:3]])
    gym.live.swap(policies())

    marked = (*tools[:3], replace(tools[3], protected=True))
    turn = one_turn(gym, marked)

    assert turn.fallback is Fallback.PROTECTED
    assert untouched(turn)
    assert gym.sink.steps[0].allowed == (False,) * 4


@pytest.mark.parametrize("mode", ["steer", "advise"])
def test_protected_tools_are_never_chosen_and_the_mask_is_logged(
    mode: str, policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym(mode=mode, protected=["find_order"], seed=4)
    gym.live.swap(policies(exploration=Exploration(temperature=5.0, top_k=2)))

    for _ in range(100):
        turn = one_turn(gym, tools)
        assert turn.forced is not tools[0]
        if turn.shown is not None:
            assert turn.shown[-1] == 0  # neither promoted nor hidden

    assert {step.allowed for step in gym.sink.steps} == {(False, True, True, True)}


def test_without_a_task_there_is_nothing_to_decide_from(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym()
    gym.live.swap(policies())
    run = gym.recorder.start_run("agent", framework="test")

    assert run.turn(tools).fallback is Fallback.ERROR
    assert gym.sink.tasks == []


def test_a_decision_that_fails_leaves_the_agent_alone(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...], parameters: Parameters
) -> None:
    broken = replace(parameters, tensors={})
    gym = RecordingGym()
    gym.guard.strict = False
    gym.live.swap(policies(policies={"agent": Snapshot("p-1", "1" * 64, broken, {})}))

    turn = one_turn(gym, tools)

    assert turn.fallback is Fallback.ERROR
    assert turn.decision is None
    assert untouched(turn)
    assert gym.guard.errors == {"decide": 1}
    assert gym.sink.steps[0].fallback is Fallback.ERROR


def test_a_task_travels_once_per_trajectory(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym()
    gym.live.swap(policies())
    run = gym.recorder.start_run("agent", framework="test", task="one")
    run.turn(tools)
    run.turn(tools)
    run.turn(tools, task="two")

    assert [task.text for task in gym.sink.tasks] == ["one", "two"]


# ---- an encoder that takes its time


class SlowEncoder:
    """Encodes when it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.texts: list[str] = []

    def __call__(self, text: str) -> np.ndarray:
        self.texts.append(text)
        assert self.go.wait(20)
        vector = np.random.default_rng(zlib.crc32(text.encode())).normal(size=12)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture
def encoder() -> Iterator[SlowEncoder]:
    encoder = SlowEncoder()
    yield encoder
    encoder.go.set()  # the process has one thread for all encoders


@pytest.fixture
def encoding(
    encoder: SlowEncoder,
    policies: Callable[..., PolicySet],
    make_parameters: Callable[..., Parameters],
    tools: tuple[Tool, ...],
) -> Callable[..., PolicySet]:
    """Policies whose texts are encoded, `slow` or only off the step's thread for a catalogue."""

    def make(*, slow: bool = True) -> PolicySet:
        features = Featuriser(TextHasher(b"key"), encoder, schema=7, dim=12, slow=slow)
        snapshot = Snapshot("p-000001", "1" * 64, make_parameters(tools, 0, 12), {})
        return policies(features=features, policies={"agent": snapshot})

    return make


def test_a_step_whose_task_takes_too_long_to_encode_is_left_alone_and_the_next_is_decided(
    encoder: SlowEncoder, encoding: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym(encoder_wait_s=0.01)
    policies = encoding()
    gym.live.swap(policies)
    run = gym.recorder.start_run("agent", framework="test", task="where is my order")

    first = run.turn(tools)
    first.finish([("find_order", "")])
    assert (first.fallback, first.decision, first.policy_version) == (
        Fallback.TIMEOUT,
        None,
        "p-000001",
    )
    assert untouched(first)
    [task] = gym.sink.tasks
    assert task.vector is None  # the sender encodes it once more, and finds it done

    encoder.go.set()
    vector = policies.features("where is my order")
    assert policies.catalogue(tools, None) is not None
    second = run.turn(tools)
    second.finish()
    assert second.fallback is Fallback.NONE
    assert second.decision is not None
    assert [task.text for task in gym.sink.tasks] == ["where is my order"]
    assert {step.features_id for step in gym.sink.steps} == {task.features_id}
    assert {step.feature_schema for step in gym.sink.steps} == {7}
    known = run.trajectory.tasks["where is my order"][1]
    assert known is vector
    assert encoder.texts.count("where is my order") == 1


def test_a_step_whose_tools_take_too_long_to_encode_is_left_alone(
    encoder: SlowEncoder, encoding: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    gym = RecordingGym(encoder_wait_s=0.01)
    policies = encoding()
    gym.live.swap(policies)
    encoder.go.set()
    policies.features("where is my order")
    encoder.go.clear()

    assert one_turn(gym, tools).fallback is Fallback.TIMEOUT

    encoder.go.set()
    assert policies.catalogue(tools, None) is not None
    turn = one_turn(gym, tools)
    assert turn.fallback is Fallback.NONE
    assert gym.sink.tasks[-1].vector is not None
    assert gym.sink.tasks[-1].feature_schema == 7


@pytest.mark.parametrize(
    ("settings", "changes", "fallback"),
    [
        ({"mode": "observe"}, {}, Fallback.NONE),
        ({"control_share": 1.0}, {}, Fallback.NONE),
        ({}, {"policies": {}}, Fallback.NO_POLICY),
        ({}, {"killed": True}, Fallback.KILLED),
    ],
    ids=["observe", "control", "no policy", "killed"],
)
def test_a_step_that_decides_nothing_does_not_wait_for_the_encoder(
    settings: dict[str, Any],
    changes: dict[str, Any],
    fallback: Fallback,
    encoder: SlowEncoder,
    encoding: Callable[..., PolicySet],
    tools: tuple[Tool, ...],
) -> None:
    gym = RecordingGym(encoder_wait_s=3600.0, **settings)
    gym.live.swap(replace(encoding(), **changes))

    turn = one_turn(gym, tools)  # for ever, if it waited

    assert not encoder.go.is_set()
    assert "where is my order" not in encoder.texts
    assert (turn.fallback, turn.decision) == (fallback, None)
    [task], [step] = gym.sink.tasks, gym.sink.steps
    assert (task.text, task.vector) == ("where is my order", None)  # for the sender to encode
    assert step.features_id == task.features_id


def test_a_fast_encoder_is_waited_for_as_long_as_a_step_may_take(
    encoder: SlowEncoder, encoding: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    encoder.go.set()
    gym = RecordingGym(encoder_wait_s=20.0)
    gym.live.swap(encoding(slow=False))

    assert one_turn(gym, tools).decision is not None


def test_an_encoder_that_fails_leaves_the_agent_alone(
    policies: Callable[..., PolicySet], tools: tuple[Tool, ...]
) -> None:
    def broken(_: str) -> np.ndarray:
        raise ValueError("no numbers today")

    for slow in (False, True):
        gym = RecordingGym(encoder_wait_s=20.0)
        gym.guard.strict = False
        features = Featuriser(TextHasher(b"key"), broken, schema=7, dim=12, slow=slow)
        gym.live.swap(policies(features=features))

        turn = one_turn(gym, tools)

        assert turn.fallback is Fallback.ERROR
        assert untouched(turn)
        assert gym.guard.errors == {"decide": 1}


def test_features_off_records_no_task(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym(features="off")

    one_turn(gym, tools)

    assert gym.sink.tasks == []
    assert gym.sink.steps[0].features_id == b""


# ---- rewards


def test_a_reward_within_an_open_trajectory_waits_for_its_end() -> None:
    gym = RecordingGym()
    with gym.trajectory() as run:
        for target in (None, run, run.trajectory, run.trajectory_id, run.trajectory.id):
            gym.reward(0.5, trajectory=target)
        assert gym.sink.rewards == []

    assert [r.trajectory_id for r in gym.sink.rewards] == [run.trajectory.id] * 5
    assert [type(item).__name__ for item in gym.sink.items] == ["SpanItem"] + ["RewardItem"] * 5


def test_a_reward_after_the_end_goes_at_once() -> None:
    gym = RecordingGym()
    with gym.trajectory() as run:
        pass

    gym.reward(1.0, name="outcome", source="test", idempotency_key="k", reason="because")

    [reward] = gym.sink.rewards
    assert reward.trajectory_id == run.trajectory.id
    assert (reward.name, reward.source, reward.idempotency_key, reward.reason) == (
        "outcome",
        "test",
        "k",
        "because",
    )


def test_a_reward_by_key_is_the_daemons_to_find_unless_the_trajectory_is_open_here() -> None:
    gym = RecordingGym()
    gym.reward(1.0, key="ticket-1")
    assert [(r.trajectory_id, r.key) for r in gym.sink.rewards] == [(b"", "ticket-1")]

    with gym.trajectory(key="ticket-2") as run:
        gym.reward(0.0, key="ticket-2")
        gym.reward(0.0, key="ticket-3")
        assert [r.key for r in gym.sink.rewards] == ["ticket-1", "ticket-3"]

    assert gym.sink.rewards[-1].trajectory_id == run.trajectory.id


def test_a_reward_for_a_trajectory_of_another_process_goes_by_its_id() -> None:
    gym = RecordingGym()

    gym.reward(1, trajectory="ab" * 16)
    gym.reward(True, trajectory=b"\xab" * 16)

    assert [(r.trajectory_id, r.value) for r in gym.sink.rewards] == [(b"\xab" * 16, 1.0)] * 2


@pytest.mark.parametrize(
    ("value", "options", "match"),
    [
        (math.nan, {}, "between 0 and 1"),
        (math.inf, {}, "between 0 and 1"),
        (1.01, {}, "between 0 and 1"),
        (-0.01, {}, "between 0 and 1"),
        ("good", {}, "could not convert"),
        (None, {}, "must be a string or a real number"),
        (1.0, {"trajectory": "xyz"}, "32 hex digits"),
        (1.0, {"trajectory": "abcd"}, "32 hex digits"),
        (1.0, {}, "no trajectory ran in this context"),
    ],
)
def test_a_reward_that_cannot_be_meant_is_refused_with_a_warning(
    value: Any, options: dict[str, Any], match: str, caplog: pytest.LogCaptureFixture
) -> None:
    gym = RecordingGym()
    gym.guard.strict = False

    for _ in range(7):
        contextvars.Context().run(gym.reward, value, **options)

    assert gym.sink.rewards == []
    assert gym.on
    assert match in caplog.text
    assert len(caplog.records) == 1
    assert sum(gym.status()["errors"].values()) == 7
