"""Arms of an experiment in the plugin: who gets which, that it stays so, and what wins over it."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym import semconv
from agentgym.assignment import draw, point_of
from agentgym.config import Mode
from agentgym.policy.experiment import Experiment, ExperimentArm, experiment_of
from agentgym.policy.snapshot import Snapshot
from agentgym.proto.v1 import experiment_pb2
from agentgym.recorder import Turn
from agentgym.testing.recording import RecordingGym, certain
from agentgym.trajectory import Assignment, Fallback, Stage, Tool, Treatment

LIVE = ExperimentArm("old", Treatment.LIVE, 0.5)
A, B = (ExperimentArm(name, Treatment.LABEL, 0.5) for name in "ab")
LABELS = Experiment("greeting", (A, B))
UNITS = [f"customer-{i}" for i in range(400)]
Gym = Callable[..., RecordingGym]
arms = st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5)


@pytest.fixture
def in_experiment(tools: tuple[Tool, ...]) -> Gym:
    """A gym whose live policy wants `refund_order`, in an experiment."""

    def make(
        experiment: Experiment, *, control: float = 0.1, stage: Stage = Stage.LIVE, **own: Any
    ) -> RecordingGym:
        gym = RecordingGym("agent", **own)
        gym.force(tools, "refund_order", "agent", control_share=control)
        current = gym.live.current
        assert current is not None
        changes: dict[str, Any] = {"canary_share": 0.2} if stage is Stage.CANARY else {}
        gym.live.swap(replace(current, experiment=experiment, stage=stage, **changes))
        return gym

    return make


def version_arm(tools: tuple[Tool, ...], wanted: str, share: float = 0.5) -> ExperimentArm:
    snapshot = Snapshot("p-000002", "1" * 64, certain(tools, wanted), {})
    return ExperimentArm("new", Treatment.VERSION, share, "p-000002", None, {"agent": snapshot})


def one_turn(gym: RecordingGym, tools: tuple[Tool, ...], unit: str = "", **options: Any) -> Turn:
    run = gym.recorder.start_run("agent", framework="test", task="pay", unit=unit, **options)
    turn = run.turn(tools)
    turn.finish()
    run.finish()
    return turn


def said(gym: RecordingGym) -> list[tuple[Any, ...]]:
    """What the roots say of their parts."""
    names = (
        semconv.EXPERIMENT,
        semconv.EXPERIMENT_ARM,
        semconv.EXPERIMENT_TREATMENT,
        semconv.EXPERIMENT_SHARE,
    )
    roots = [s.attributes for s in gym.sink.spans if semconv.TRAJECTORY_ROOT in s.attributes]
    return [tuple(root.get(name) for name in names) for root in roots]


# ---- the draw


@given(weights=arms, share=st.floats(0.0, 1.0), part=st.floats(0.1, 1.0), none=st.booleans())
def test_probabilities_are_those_of_the_draw(
    weights: list[float], share: float, part: float, none: bool
) -> None:
    """Over a fine grid of both points every arm gets what it says, and all of it adds up."""
    whole = math.fsum(weights)
    kinds = [Treatment.NONE if none and i == 0 else Treatment.LIVE for i in range(len(weights))]
    experiment = Experiment(
        "t",
        tuple(
            ExperimentArm(str(i), kind, part * weight / whole)
            for i, (kind, weight) in enumerate(zip(kinds, weights, strict=True))
        ),
    )
    n = 40
    grid = [(i + 0.5) / n for i in range(n)]

    found = Counter(
        draw(experiment, point=u, second=v, share=share).part for u in grid for v in grid
    )

    for drawn, count in found.items():
        if drawn.arm:
            assert abs(count / n**2 - drawn.probability) <= 2.5 / n
    if none and share > 0:
        edge = draw(experiment, point=0.0, second=0.0, share=share).edge
        assert edge <= share
        assert draw(experiment, point=1.0, second=0.5, share=share).part.arm == "0"


def test_the_control_group_has_no_part_unless_an_arm_is_without_a_policy() -> None:
    off = ExperimentArm("off", Treatment.NONE, 0.5)
    without, within = LABELS, Experiment("t", (off, replace(A, share=0.5)))

    assert draw(without, point=0.95, second=0.1, share=0.9).part.arm == ""
    assert draw(without, point=0.95, second=0.1, share=0.9).edge == 0.9
    found = {u: draw(within, point=u, second=0.1, share=0.9) for u in (0.95, 0.6, 0.4)}
    assert {u: d.part.arm for u, d in found.items()} == {0.95: "off", 0.6: "off", 0.4: "a"}
    assert {d.edge for d in found.values()} == {0.5}
    assert {d.part.probability for d in found.values()} == {0.5}


def test_units_stand_elsewhere_in_every_experiment() -> None:
    first = [point_of("agent", unit, "one") for unit in UNITS]
    second = [point_of("agent", unit, "two") for unit in UNITS]
    policy = [point_of("agent", unit) for unit in UNITS]

    for xs, ys in ((first, second), (first, policy)):
        together = sum((x < 0.5) == (y < 0.5) for x, y in zip(xs, ys, strict=True))
        assert 150 < together < 250


# ---- what an arm does


def test_a_version_decides_in_its_arm_alone(in_experiment: Gym, tools: tuple[Tool, ...]) -> None:
    gym = in_experiment(Experiment("t", (LIVE, version_arm(tools, "find_order"))))

    turns = {unit: one_turn(gym, tools, unit) for unit in UNITS}
    again = {unit: one_turn(gym, tools, unit) for unit in UNITS}

    ran = Counter((t.assignment.name, t.policy_version) for t in turns.values())
    assert set(ran) == {
        ("POLICY", "p-000001"),
        ("POLICY", "p-000002"),
        ("CONTROL", "p-000001"),
    }
    assert 120 < ran["POLICY", "p-000002"] < 240
    for unit, turn in turns.items():
        assert again[unit].policy_version == turn.policy_version
        expected = {"p-000001": "refund_order", "p-000002": "find_order"}[turn.policy_version]
        forced = turn.forced.name if turn.forced else ""
        assert forced in ("", expected)  # now and then a policy defers
        assert turn.assignment is Assignment.POLICY or not forced
        assert turn.assignment_probability in (0.9, 0.1)
    logged = {step.policy_version for step in gym.sink.steps if step.decision}
    assert logged == {"p-000001", "p-000002"}
    assert set(said(gym)) == {
        ("t", "old", "live", 0.45),
        ("t", "new", "p-000002", 0.45),
        ("t", None, None, None),  # the control group
    }


def test_a_decision_of_an_arm_is_the_arms_own(in_experiment: Gym, tools: tuple[Tool, ...]) -> None:
    """Its propensity is that of the version that is logged, so that it can be recomputed."""
    gym = in_experiment(Experiment("t", (LIVE, version_arm(tools, "find_order"))))
    policies = gym.live.current
    assert policies is not None

    for unit in UNITS[:60]:
        turn = one_turn(gym, tools, unit)
        if turn.decision is None:
            continue
        arm = version_arm(tools, "find_order")
        parameters = {
            "p-000001": policies.policies["agent"].parameters,
            "p-000002": arm.policies["agent"].parameters,
        }[turn.policy_version]
        alone = replace(
            policies, policies={"agent": Snapshot("p", "2" * 64, parameters, {})}, experiment=None
        )
        vector = policies.features.exactly("pay")
        catalogue = policies.catalogue(tools, None)
        assert catalogue is not None
        expected = alone.decide(
            "agent",
            vector,
            catalogue,
            (),
            allowed=turn.allowed,
            kind=turn.decision.support[-1].kind,
            rng=random.Random(1),
        )
        assert expected is not None
        assert [a.probability for a in expected.support] == pytest.approx(
            [a.probability for a in turn.decision.support]
        )


def test_an_arm_of_none_is_the_agent_alone(in_experiment: Gym, tools: tuple[Tool, ...]) -> None:
    off = ExperimentArm("off", Treatment.NONE, 0.5)
    gym = in_experiment(Experiment("t", (off, LIVE)))

    turns = [one_turn(gym, tools, unit) for unit in UNITS]

    ran = {(t.assignment, t.assignment_probability, t.decision is not None) for t in turns}
    assert ran == {(Assignment.POLICY, 0.5, True), (Assignment.CONTROL, 0.5, False)}
    assert set(said(gym)) == {("t", "off", "none", 0.5), ("t", "old", "live", 0.5)}


@pytest.mark.parametrize("mode", list(Mode))
def test_an_arm_of_a_mode_runs_in_it(
    mode: Mode, in_experiment: Gym, tools: tuple[Tool, ...]
) -> None:
    other = ExperimentArm("other", Treatment.MODE, 0.5, "", mode)
    gym = in_experiment(Experiment("t", (LIVE, other)), control=0.0)

    turns = [one_turn(gym, tools, unit) for unit in UNITS[:80]]

    modes = Counter(turn.mode for turn in turns)
    assert set(modes) == {Mode.STEER, mode}
    assert {p[1:3] for p in said(gym)} == {("old", "live"), ("other", mode.value)}


def test_shares_that_leave_something_leave_it_alone(
    in_experiment: Gym, tools: tuple[Tool, ...]
) -> None:
    some = Experiment("t", (replace(LIVE, share=0.1), version_arm(tools, "find_order", 0.1)))
    gym = in_experiment(some)

    turns = [one_turn(gym, tools, unit) for unit in UNITS]

    found = Counter(part[1] for part in said(gym))
    assert 15 < found["new"] < 65
    assert 15 < found["old"] < 65
    assert Counter(t.policy_version for t in turns)["p-000002"] == found["new"]


# ---- labels


def test_a_unit_has_its_arm_before_during_and_after_its_run(in_experiment: Gym) -> None:
    gym = in_experiment(LABELS)

    before = {unit: gym.arm("greeting", unit=unit) for unit in UNITS}
    during = {}
    for unit in UNITS:
        with gym.trajectory(unit=unit):
            during[unit] = gym.arm("greeting")
            assert gym.arm("greeting", unit="another") == during[unit]
            assert gym.arm("another") == ""

    assert before == during
    assert set(before.values()) == {"a", "b", ""}
    recorded = [part[1] or "" for part in said(gym)]
    assert recorded == list(during.values())
    controls = [unit for unit in UNITS if point_of("agent", unit) >= 0.9]
    assert [unit for unit in UNITS if not before[unit]] == controls


def test_a_label_that_nobody_asked_for_is_no_part(in_experiment: Gym) -> None:
    gym = in_experiment(LABELS, control=0.0)

    for asking in (True, False):
        with gym.trajectory():
            arm = gym.arm("greeting") if asking else ""
            assert arm in (("a", "b") if asking else ("",))

    asked, silent = said(gym)
    assert asked[:3] == ("greeting", asked[1], "label")
    assert silent == ("greeting", None, None, None)


def test_without_a_trajectory_and_a_unit_nothing_is_said_but_that_it_is_a_mistake(
    in_experiment: Gym,
) -> None:
    gym = in_experiment(LABELS)
    gym.guard.strict = False

    assert gym.arm("greeting") == ""
    assert gym.guard.errors == {"arm.LookupError": 1}
    assert not gym.guard.open


def test_before_the_first_contact_and_switched_off_there_is_no_arm(in_experiment: Gym) -> None:
    assert RecordingGym("agent").arm("greeting", unit="u") == ""
    assert RecordingGym("agent", disabled=True).arm("greeting", unit="u") == ""
    gym = in_experiment(LABELS)
    gym.guard.strict = False
    gym.recorder.live = None  # type: ignore[assignment]  # whatever fails in us
    assert gym.arm("greeting", unit="u") == ""
    assert gym.guard.errors["arm"] == 1


def test_labels_are_given_to_agents_that_only_watch_and_versions_are_not(
    in_experiment: Gym, tools: tuple[Tool, ...]
) -> None:
    for own in ("observe", "shadow"):
        gym = in_experiment(LABELS, control=0.0, mode=own)
        assert gym.arm("greeting", unit="u") in ("a", "b")
        assert one_turn(gym, tools, "u").forced is None
        versions = Experiment("t", (LIVE, version_arm(tools, "find_order")))
        gym = in_experiment(versions, control=0.0, mode=own)
        one_turn(gym, tools, "u")
        assert said(gym) == [(None, None, None, None)]


# ---- what wins over an experiment


@pytest.mark.parametrize("stage", [Stage.OBSERVE, Stage.SHADOW])
def test_below_canary_nobody_has_an_arm(
    stage: Stage, in_experiment: Gym, tools: tuple[Tool, ...]
) -> None:
    gym = in_experiment(LABELS, control=0.0, stage=stage)

    assert gym.arm("greeting", unit="u") == ""
    assert one_turn(gym, tools, "u").mode in (Mode.OBSERVE, Mode.SHADOW)
    assert said(gym) == [(None, None, None, None)]


def test_at_canary_only_its_share_is_shared_out(
    in_experiment: Gym, tools: tuple[Tool, ...]
) -> None:
    new = version_arm(tools, "find_order")
    gym = in_experiment(Experiment("t", (LIVE, new)), stage=Stage.CANARY)

    turns = {unit: one_turn(gym, tools, unit) for unit in UNITS}

    for unit, turn in turns.items():
        inside = point_of("agent", unit) < 0.2
        assert (turn.assignment is Assignment.POLICY) is inside
        assert turn.assignment_probability == (0.2 if inside else 0.8)
    found = Counter(part[1] for part in said(gym))
    assert found[None] > 270
    assert found["old"] + found["new"] == sum(point_of("agent", u) < 0.2 for u in UNITS)


def test_a_kill_and_a_stale_policy_win(
    in_experiment: Gym, tools: tuple[Tool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    gym = in_experiment(LABELS, control=0.0)
    assert gym.arm("greeting", unit="u")

    gym.live.halted = True
    assert gym.arm("greeting", unit="u") == ""
    assert one_turn(gym, tools, "u").fallback is Fallback.KILLED
    gym.live.halted = False
    gym.live.hold(-1.0)
    assert gym.arm("greeting", unit="u") == ""
    one_turn(gym, tools, "u")

    assert said(gym) == [(None, None, None, None)] * 2


def test_a_run_keeps_its_arm_when_the_experiment_ends(
    in_experiment: Gym, tools: tuple[Tool, ...]
) -> None:
    new = version_arm(tools, "find_order", 0.999999)
    gym = in_experiment(Experiment("t", (new, replace(LIVE, share=1e-6))), control=0.0)
    run = gym.recorder.start_run("agent", framework="test", task="pay", unit="u")
    current = gym.live.current
    assert current is not None

    gym.live.swap(replace(current, experiment=None))
    turn = run.turn(tools)
    turn.finish()
    run.finish()

    assert turn.policy_version == "p-000002"
    assert said(gym)[0][:3] == ("t", "new", "p-000002")
    assert one_turn(gym, tools, "u").policy_version == "p-000001"


# ---- from the wire


def test_arms_of_a_kind_that_is_not_known_make_no_experiment() -> None:
    known = experiment_pb2.ExperimentArm(name="a", kind=experiment_pb2.ExperimentArm.KIND_LIVE)
    odd = experiment_pb2.ExperimentArm(name="b", kind=99)  # type: ignore[arg-type]  # of a newer one
    modeless = experiment_pb2.ExperimentArm(name="b", kind="KIND_MODE")

    for arm in (odd, modeless):
        assert experiment_of(experiment_pb2.Experiment(name="t", arms=[known, arm]), {}) is None
    found = experiment_of(experiment_pb2.Experiment(name="t", arms=[known]), {})
    assert found == Experiment("t", (ExperimentArm("a", Treatment.LIVE, 0.0),))
    version = experiment_pb2.ExperimentArm(name="b", kind="KIND_VERSION", version="p-1")
    with pytest.raises(KeyError):
        experiment_of(experiment_pb2.Experiment(name="t", arms=[version]), {})
