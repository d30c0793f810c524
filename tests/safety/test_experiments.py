"""Experiments while agents run and the daemon dies, and how often they are wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agentgym.proto.v1 import common_pb2, trajectory_pb2
from agentgym.proto.v1.experiment_pb2 import (
    Experiment,
    ExperimentArm,
    ExperimentFigures,
    ExperimentGuard,
    Verdict,
)
from agentgym.testing.recording import certain
from agentgym_daemon.bench.placing import Placed, place
from agentgym_daemon.experiments.definition import completed
from agentgym_daemon.experiments.judge import judge
from agentgym_daemon.store.arms import ExperimentSums, Units
from tests.faults.processes import DaemonProcess
from tests.reports import Report
from tests.safety.agents.decider import TOOLS

MakeAgent = Callable[[Path, str], Any]
Agentgym = Callable[..., Any]
UNITS = [f"customer-{i}" for i in range(300)]


@pytest.fixture
def rivals(make_daemon: Callable[..., DaemonProcess], home: Path) -> DaemonProcess:
    """A daemon whose agent `desk` has `refund` live, and a candidate that wants `escalate`."""
    scope = common_pb2.Scope(agent="desk", agent_name="desk", feature_schema=1)
    place(
        home,
        [
            Placed(scope, certain(TOOLS, "refund")),
            Placed(scope, certain(TOOLS, "escalate"), live=False),
        ],
    )
    flags = ("--encoder", "none", "--control-share", "0.1", "--temperature", "0.001")
    return make_daemon(*flags, "--floor", "0", home=home).start()


def by_unit(agent: Any) -> dict[str, tuple[str, str]]:
    """Of every unit the assignment and the version that decided."""
    steps = agent.ask("runs", units=UNITS)
    return {u: (s["assignment"], s["version"]) for u, s in zip(UNITS, steps, strict=True)}


def test_arms_are_the_same_in_every_process_and_after_the_daemons_death(
    rivals: DaemonProcess, make_agent: MakeAgent, agentgym: Agentgym
) -> None:
    agents = [make_agent(rivals.home, "desk") for _ in range(2)]
    plain = by_unit(agents[0])
    agentgym(
        *("experiment", "start", "rivals", "--agent", "desk"),
        *("--arm", "old=live", "--arm", "new=p-000002", "--share", "new=.3"),
    )
    for agent in agents:
        agent.ask("compared", experiment="rivals")

    first, second = (by_unit(agent) for agent in agents)
    rivals.kill()
    away = by_unit(agents[0])
    rivals.start()
    late = make_agent(rivals.home, "desk")
    late.ask("compared", experiment="rivals")

    assert first == second == away == by_unit(late)
    control = {unit for unit, (assignment, _) in plain.items() if assignment == "control"}
    assert {unit for unit, (assignment, _) in first.items() if assignment == "control"} == control
    versions = Counter(version for assignment, version in first.values() if assignment == "policy")
    assert abs(versions["p-000002"] / len(UNITS) - 0.27) < 0.1
    arms = dict(zip(UNITS, late.ask("arms", experiment="rivals", units=UNITS), strict=True))
    expected = {"old": ("policy", "p-000001"), "new": ("policy", "p-000002")}
    assert all(first[unit] == expected[arm] for unit, arm in arms.items() if arm)
    assert {unit for unit, arm in arms.items() if not arm} == control

    assert all(agent.ask("flush") for agent in (*agents, late))
    stored = Counter(
        (t.experiment, t.experiment_arm, t.policy_version)
        for t in summaries(rivals)
        if t.experiment
    )
    n = Counter(arms.values())
    assert stored["rivals", "new", "p-000002"] == 4 * n["new"]
    assert stored["rivals", "old", "p-000001"] == 4 * n["old"]
    shown = agentgym("experiment", "show", "rivals")
    assert shown["runs"] == 4 * (n["new"] + n["old"])
    assert shown["verdict"] == "running"
    agentgym("experiment", "stop", "rivals", "--reason", "seen enough")
    for agent in (*agents, late):
        agent.ask("compared", experiment="")
        assert by_unit(agent) == plain
    assert agentgym("experiment", "show", "rivals")["experiment"]["why"] == "seen enough"
    assert agentgym("audit", "verify")["ok"]


def summaries(daemon: DaemonProcess) -> list[trajectory_pb2.TrajectorySummary]:
    """All trajectories of the desk."""
    daemon.applied()
    found: list[trajectory_pb2.TrajectorySummary] = []
    request = trajectory_pb2.ListTrajectoriesRequest(agent="desk", limit=1000)
    while page := list(daemon.call("trajectories", "List", request).trajectories):
        found += page
        request.before_unix_nano = page[-1].start_unix_nano
    return found


def test_the_ladder_and_a_kill_win_over_an_experiment(
    rivals: DaemonProcess, make_agent: MakeAgent, agentgym: Agentgym
) -> None:
    agent = make_agent(rivals.home, "desk")
    agentgym(
        *("experiment", "start", "tone", "--agent", "desk"),
        *("--arm", "plain=label", "--arm", "polite=label"),
    )
    agent.ask("compared", experiment="tone")
    arms = agent.ask("arms", experiment="tone", units=UNITS)
    assert {"plain", "polite", ""} == set(arms)

    agentgym("stage", "desk", "shadow")
    agent.ask("at", stage="shadow")
    assert set(agent.ask("arms", experiment="tone", units=UNITS)) == {""}
    assert "stage shadow" in agentgym("experiment", "show", "tone")["why"]
    agentgym("stage", "desk", "live")
    agent.ask("at", stage="live")
    assert agent.ask("arms", experiment="tone", units=UNITS) == arms
    agentgym("kill", "desk")
    agent.ask("until", killed=True, threads=1)
    assert set(agent.ask("arms", experiment="tone", units=UNITS)) == {""}
    agentgym("revive", "desk")
    agent.ask("until", killed=False, threads=1)
    assert agent.ask("arms", experiment="tone", units=UNITS) == arms


def test_a_forked_child_has_the_arms_of_its_parent(
    rivals: DaemonProcess, make_agent: MakeAgent, agentgym: Agentgym
) -> None:
    agentgym(
        *("experiment", "start", "tone", "--agent", "desk"),
        *("--arm", "plain=label", "--arm", "new=p-000002"),
    )
    agent = make_agent(rivals.home, "desk")
    agent.ask("compared", experiment="tone")

    parent = agent.ask("arms", experiment="tone", units=UNITS)
    child = agent.ask("forked_arms", experiment="tone", units=UNITS)

    assert child == parent
    assert set(parent) == {"plain", "new", ""}


# ---- how often it is wrong

LOOK = 50
LABELS = [ExperimentArm(name=name, kind="KIND_LABEL") for name in "abc"]


def fresh(arms: int = 2, metric: str = "success", **fields: Any) -> Experiment:
    """An experiment as it is started; amounts had a mean of 100 before."""
    wanted = Experiment(name="t", agent="desk", arms=LABELS[:arms], metric=metric, **fields)
    return completed(wanted, {"tokens": (5000, 100.0)})


Values = dict[str, NDArray[np.float64]]


def looks(
    experiment: Experiment, drawn: NDArray[np.int64], values: Values
) -> Iterator[ExperimentFigures]:
    """What the referee sees every LOOK runs until it ends the experiment."""
    sums: dict[tuple[int, str], NDArray[np.float64]] = {}
    for number in range(len(experiment.arms)):
        mine = drawn == number
        for metric, value in values.items():
            kept = np.where(mine, value, 0.0)
            sums[number, metric] = np.stack([np.cumsum(mine), np.cumsum(kept), np.cumsum(kept**2)])
    for last in range(LOOK - 1, len(drawn), LOOK):
        found = judge(
            experiment,
            [
                ExperimentSums(
                    experiment.arms[number].name, 0.3, metric, int(n), float(total), float(squares)
                )
                for (number, metric), columns in sums.items()
                for n, total, squares in [columns[:, last]]
            ],
        )
        yield found
        if found.verdict != Verdict.VERDICT_RUNNING:
            return


def ended(experiment: Experiment, drawn: NDArray[np.int64], values: Values) -> ExperimentFigures:
    """The last that the referee sees."""
    *_, last = looks(experiment, drawn, values)
    return last


@pytest.mark.parametrize(("arms", "metric"), [(2, "success"), (3, "success"), (2, "tokens")])
def test_without_a_difference_at_most_one_in_twenty_experiments_has_a_winner_or_a_loser(
    arms: int, metric: str, load: Callable[..., int], report: Report
) -> None:
    """A/A (and A/A/A) with a look every 50 of 5,000 runs: decided wrongly <= 5 % of 400."""
    count, runs = load(400), 5_000
    rng = np.random.default_rng(11)
    # With an effect as small as this none ends early for lack of a difference.
    experiment = fresh(arms, metric, effect=0.03)
    verdicts: Counter[int] = Counter()
    for _ in range(count):
        drawn = rng.integers(arms, size=runs)
        every = np.ones(runs)
        value = rng.random(runs) < 0.65 if metric == "success" else rng.gamma(1.0, 100.0, runs)
        values = {metric: value.astype(float), "tool_calls": every}
        verdicts[ended(experiment, drawn, values).verdict] += 1

    wrong = verdicts[Verdict.VERDICT_WON] + verdicts[Verdict.VERDICT_LOST]
    report.load = {"simulations": count, "runs": runs}
    report.figures = {"arms": arms, "metric": metric, "decided_wrongly": wrong / count}
    # In 20 simulations, 4 wrong ones are as rare as one in 60 if the true share is 5 %.
    assert wrong / count <= (0.05 if count >= 400 else 0.2)


def test_customers_who_are_alike_in_all_their_runs_make_no_winner(
    load: Callable[..., int], report: Report
) -> None:
    """A/A, 200 units that differ much, 5,000 runs: decided wrongly <= 5 % of 400."""
    count, runs, customers = load(400), 5_000, 200
    rng = np.random.default_rng(14)
    experiment = fresh(effect=0.03)
    wrong = {"aware": 0, "blind": 0}
    for _ in range(count):
        rates, arm_of = rng.beta(0.7, 0.4, customers), rng.integers(2, size=customers)
        who = rng.integers(customers, size=runs)
        good = rng.random(runs) < rates[who]
        decided = dict.fromkeys(wrong, False)
        for last in range(250, runs + 1, 250):
            n = np.bincount(who[:last], minlength=customers).astype(float)
            t = np.bincount(who[:last], good[:last], minlength=customers)
            aware = [of_units(i, n[arm_of == i], t[arm_of == i]) for i in (0, 1)]
            blind = [replace(one, units=None) for one in aware]
            for kind, sums in (("aware", aware), ("blind", blind)):
                verdict = judge(experiment, sums).verdict
                decided[kind] |= verdict in (Verdict.VERDICT_WON, Verdict.VERDICT_LOST)
        for kind in wrong:
            wrong[kind] += decided[kind]

    report.load = {"simulations": count, "runs": runs, "units": customers}
    report.figures = {f"decided_wrongly_{kind}": n / count for kind, n in wrong.items()}
    assert wrong["aware"] / count <= (0.05 if count >= 400 else 0.2)
    assert wrong["blind"] > wrong["aware"]


def of_units(number: int, n: NDArray[np.float64], t: NDArray[np.float64]) -> ExperimentSums:
    """The sums of an arm's units with these runs and successes."""
    n, t = n[n > 0], t[n > 0]
    units = Units(len(n), float(t @ t), float(t @ n), float(n @ n))
    whole = float(t.sum())
    return ExperimentSums("abc"[number], 0.45, "success", int(n.sum()), whole, whole, units)


def test_a_true_effect_is_found_within_the_runs_that_were_printed(
    load: Callable[..., int], report: Report
) -> None:
    """+5 points at .65: won in 80 % within 1.3 times the runs printed at the start; never lost."""
    count = load(200)
    rng = np.random.default_rng(12)
    experiment = fresh(effect=0.05)
    printed = judge(experiment, []).runs_needed
    runs = int(1.3 * printed)
    found: Counter[int] = Counter()
    took = []
    for _ in range(count):
        drawn = rng.integers(2, size=runs)
        success = rng.random(runs) < np.where(drawn == 1, 0.70, 0.65)
        values = {"success": success.astype(float), "tool_calls": np.ones(runs)}
        last = ended(experiment, drawn, values)
        found[last.verdict] += 1
        if last.verdict == Verdict.VERDICT_WON:
            took.append(last.runs / printed)

    report.load = {"simulations": count, "printed": printed}
    report.figures = {
        "won": found[Verdict.VERDICT_WON] / count,
        "lost": found[Verdict.VERDICT_LOST] / count,
        "median_share_of_printed": float(np.median(took)),
    }
    assert found[Verdict.VERDICT_WON] / count >= 0.8
    assert found[Verdict.VERDICT_LOST] == 0


def test_arms_that_are_alike_end_as_no_difference_and_a_guard_seldom_breaks(
    load: Callable[..., int], report: Report
) -> None:
    """Alike, with a guard of 10 % more tokens: no difference of 10 points, guard <= 5 % of 200."""
    count, runs = load(200), 6_000
    rng = np.random.default_rng(13)
    guard = ExperimentGuard(metric="tokens", bound=0.1, relative=True)
    experiment = fresh(effect=0.1, guards=[guard])
    found: Counter[int] = Counter()
    for _ in range(count):
        drawn = rng.integers(2, size=runs)
        values = {
            "success": (rng.random(runs) < 0.65).astype(float),
            # At the bound itself, where a false alarm is likeliest.
            "tokens": rng.gamma(1.0, np.where(drawn == 1, 110.0, 100.0), runs),
            "tool_calls": np.ones(runs),
        }
        found[ended(experiment, drawn, values).verdict] += 1

    report.load = {"simulations": count, "runs": runs}
    report.figures = {
        "no_difference": found[Verdict.VERDICT_NO_DIFFERENCE] / count,
        "guard_broken": found[Verdict.VERDICT_GUARDRAIL] / count,
    }
    assert found[Verdict.VERDICT_NO_DIFFERENCE] / count >= 0.8
    assert found[Verdict.VERDICT_GUARDRAIL] / count <= (0.05 if count >= 200 else 0.3)
