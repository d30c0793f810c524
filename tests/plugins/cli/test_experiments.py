"""`agentgym experiment`: what it asks for, and how figures read in a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentgym.cli import main
from agentgym.proto.v1 import experiment_pb2, log_pb2, registry_pb2
from agentgym.proto.v1.experiment_pb2 import (
    ArmComparison,
    ArmFigures,
    Experiment,
    ExperimentArm,
    ExperimentFigures,
    ExperimentGuard,
    GuardFigures,
    Verdict,
)
from agentgym.testing.daemon import FakeDaemon

Run = Callable[..., tuple[int, str, str]]
ARMS = [
    ExperimentArm(name="old", kind="KIND_LIVE", share=0.5),
    ExperimentArm(name="new", kind="KIND_VERSION", version="p-000012", share=0.25),
    ExperimentArm(name="soft", kind="KIND_MODE", mode="MODE_ADVISE", share=0.25),
]
WON = ExperimentFigures(
    experiment=Experiment(
        name="rivals",
        agent="desk",
        arms=ARMS,
        metric="success",
        effect=0.05,
        guards=[ExperimentGuard(metric="tokens", bound=0.1, relative=True)],
        max_runs=9000,
    ),
    arms=[
        ArmFigures(arm="old", runs=400, mean=0.6),
        ArmFigures(arm="new", runs=200, mean=0.7),
        ArmFigures(arm="soft", runs=0, mean=math.nan),
    ],
    comparisons=[
        ArmComparison(
            arm="new",
            effect=0.1,
            low=0.021,
            high=0.179,
            p_value=0.0123,
            verdict=Verdict.VERDICT_WON,
            guards=[GuardFigures(metric="tokens", bound=0.1, relative=True, effect=0.07)],
        ),
        ArmComparison(
            arm="soft",
            effect=math.nan,
            low=math.nan,
            high=math.nan,
            p_value=1.0,
            verdict=Verdict.VERDICT_GUARDRAIL,
            guards=[
                GuardFigures(metric="tokens", bound=0.1, relative=True, effect=0.4, broken=True)
            ],
        ),
    ],
    runs=600,
    runs_needed=8800,
    verdict=Verdict.VERDICT_WON,
    why="new is proven better than old in success",
    winner="new",
    next="agentgym policy promote p-000012",
)


@pytest.fixture
def agentgym(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command on the home: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(["--home", str(home), *arguments])
        except SystemExit as error:  # wrong usage
            code = int(str(error.code))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_start_asks_for_what_the_options_say(daemon: FakeDaemon, agentgym: Run) -> None:
    daemon.reply("Start", WON)

    code, out, _ = agentgym(
        *("experiment", "start", "rivals", "--agent", "desk", "--new", "--reason", "why"),
        *("--arm", "off=none", "--arm", "old=live", "--arm", "new=desk/canary"),
        *("--arm", "soft=mode:advise", "--arm", "polite=label", "--share", "new=.25"),
        *("--metric", "tokens", "--effect", ".1", "--max-runs", "500"),
        *("--guard", "seconds:+10%", "--guard", "success:-.02"),
    )

    assert code == 0
    request = daemon.taken("Start")[-1].request
    asked = request.experiment
    assert request.unseen
    assert (asked.name, asked.agent, asked.metric, asked.effect) == (
        "rivals",
        "desk",
        "tokens",
        0.1,
    )
    assert (asked.max_runs, asked.reason) == (500, "why")
    assert list(asked.arms) == [
        ExperimentArm(name="off", kind="KIND_NONE"),
        ExperimentArm(name="old", kind="KIND_LIVE"),
        ExperimentArm(name="new", kind="KIND_VERSION", version="desk/canary", share=0.25),
        ExperimentArm(name="soft", kind="KIND_MODE", mode="MODE_ADVISE"),
        ExperimentArm(name="polite", kind="KIND_LABEL"),
    ]
    assert list(asked.guards) == [
        ExperimentGuard(metric="seconds", bound=0.1, relative=True),
        ExperimentGuard(metric="success", bound=-0.02),
    ]
    assert out.startswith("rivals: won")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--arm", "a"), 2, "expected NAME=WHAT"),
        (("--arm", "a=mode:fast"), 2, "mode:observe, mode:shadow"),
        (("--arm", "a=live", "--share", "a=2"), 2, "a share between 0 and 1"),
        (("--arm", "a=live", "--share", "b=.2"), 1, "expected each of the arms a once, got b"),
        (
            ("--arm", "a=live", "--share", "a=.2", "--share", "a=.3"),
            1,
            "expected each of the arms a once, got one twice",
        ),
        (("--arm", "a=live", "--guard", "tokens"), 2, "expected METRIC:BOUND"),
        (("--arm", "a=live", "--guard", "joy:1"), 2, "expected METRIC:BOUND"),
        (("--arm", "a=live", "--max-runs", "0"), 2, "a whole number above 0"),
    ],
)
def test_what_cannot_be_meant_is_said(
    arguments: tuple[str, ...], code: int, message: str, daemon: FakeDaemon, agentgym: Run
) -> None:
    ended, _, error = agentgym("experiment", "start", "t", "--agent", "desk", *arguments)

    assert ended == code
    assert message in " ".join(error.split())
    assert not daemon.taken("Start")


def test_the_figures_read_well(daemon: FakeDaemon, agentgym: Run) -> None:
    daemon.reply("Show", WON)

    code, out, _ = agentgym("experiment", "show", "rivals")

    assert code == 0
    assert daemon.taken("Show")[-1].request.name == "rivals"
    lines = out.splitlines()
    assert lines[0] == "rivals: won (new is proven better than old in success)"
    rows = {line.split()[0]: " ".join(line.split()) for line in lines[1:6]}
    assert rows["old"] == "old live 50 % 400 60.0 % reference"
    assert rows["new"] == "new p-000012 25 % 200 70.0 % +10.0 +2.1 to +17.9 0.012 better"
    assert rows["soft"].startswith(
        "soft mode:advise 25 % 0 - - too few runs 1.000 guardrail broken"
    )
    assert "+40.0 % BROKEN" in " ".join(out.split())
    assert "a difference of 5 points is found within about 8,800 runs" in out
    assert "It ends after 9,000 runs." in out
    assert "To act on it: agentgym policy promote p-000012" in out


def test_amounts_read_as_amounts_and_what_is_not_known_is_said(
    daemon: FakeDaemon, agentgym: Run
) -> None:
    figures = ExperimentFigures()
    figures.CopyFrom(WON)
    figures.experiment.metric, figures.runs_needed, figures.next = "tokens", 0, ""
    figures.arms[0].mean, figures.comparisons[0].effect = 812.5, -20.25
    daemon.reply("Show", figures)

    _, out, _ = agentgym("experiment", "show", "rivals")

    assert "812.50" in out
    assert "-20.25" in out
    assert "a number of runs that is known once each arm has some" in out
    assert "To act on it" not in out


def test_list_and_stop(daemon: FakeDaemon, agentgym: Run) -> None:
    daemon.reply("ListExperiments", experiment_pb2.ListExperimentsResponse(experiments=[WON]))
    daemon.reply("Stop", WON)

    _, out, _ = agentgym("experiment", "list", "--agent", "desk")
    _, listed, _ = agentgym("experiment", "list", "--json")
    code, stopped, _ = agentgym("experiment", "stop", "rivals", "--reason", "why", "--json")

    assert "old, new, soft" in out
    assert daemon.taken("ListExperiments")[0].request.agent == "desk"
    [one] = json.loads(listed)["experiments"]
    assert (one["verdict"], one["experiment"]["arms"][2]["mode"]) == ("won", "advise")
    assert one["comparisons"][1]["low"] is None
    assert code == 0
    assert json.loads(stopped)["winner"] == "new"
    assert daemon.taken("Stop")[-1].request == experiment_pb2.StopExperimentRequest(
        name="rivals", reason="why"
    )


def test_the_audit_names_the_experiment(daemon: FakeDaemon, agentgym: Run) -> None:
    change: Any = log_pb2.PolicyChange(
        kind="KIND_EXPERIMENT_START", actor="cli:ada", experiment=Experiment(name="rivals")
    )
    entry = registry_pb2.AuditEntry(change=change)
    daemon.reply("ListAudit", registry_pb2.ListAuditResponse(entries=[entry]))

    _, out, _ = agentgym("audit", "list")

    assert "experiment_start rivals" in out
