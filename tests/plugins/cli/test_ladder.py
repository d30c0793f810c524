"""`agentgym stage`, `kill` and `revive`: what they ask for, and the file where nobody answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentgym.cli import main
from agentgym.proto.v1 import common_pb2, policy_pb2
from agentgym.testing.daemon import FakeDaemon

Run = Callable[..., tuple[int, str, str]]
CANARY = common_pb2.AgentStage(
    agent="desk", stage=common_pb2.STAGE_CANARY, canary_share=0.1, recorded=True
)
LIVE = common_pb2.AgentStage(agent="desk", stage=common_pb2.STAGE_LIVE)


@pytest.fixture
def agentgym(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command on the home: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--home", str(home), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def asked(daemon: FakeDaemon, method: str) -> Any:
    """The newest request of a method."""
    return daemon.taken(method)[-1].request


def test_stage_shows_one_agent_or_all(daemon: FakeDaemon, agentgym: Run) -> None:
    daemon.reply("ListStages", policy_pb2.ListStagesResponse(stages=[CANARY, LIVE]))

    code, table, _ = agentgym("stage")
    _, out, _ = agentgym("stage", "desk", "--json")

    assert code == 0
    assert "canary 0.1" in table
    assert "the daemon's setting" in table
    assert json.loads(out)["stages"][0] == {
        "agent": "desk",
        "stage": "canary",
        "canary_share": 0.1,
        "killed": False,
        "recorded": True,
    }
    assert asked(daemon, "ListStages").agent == "desk"


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (
            ("canary", "--share", ".1", "--reason", "why"),
            {"stage": common_pb2.STAGE_CANARY, "canary_share": 0.1, "reason": "why"},
        ),
        (("observe", "--new"), {"stage": common_pb2.STAGE_OBSERVE, "unseen": True}),
        (("up",), {"step": 1}),
        (("down",), {"step": -1}),
    ],
)
def test_stage_asks_for_one_step(
    arguments: tuple[str, ...], request_: dict[str, Any], daemon: FakeDaemon, agentgym: Run
) -> None:
    daemon.reply("SetStage", policy_pb2.StageResponse(now=CANARY, before=LIVE, seen=True))

    code, out, _ = agentgym("stage", "desk", *arguments)

    assert (code, out) == (0, "desk: live -> canary 0.1\n")
    assert asked(daemon, "SetStage") == policy_pb2.SetStageRequest(agent="desk", **request_)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("desk", "canary", "--share", "1"), "between 0 and 1, got 1"),
        (("desk", "canary", "--share", "0"), "between 0 and 1, got 0"),
        (("desk", "--share", ".1"), "expected a stage with --share"),
    ],
)
def test_a_share_that_cannot_be_is_refused(
    arguments: tuple[str, ...], words: str, daemon: FakeDaemon, agentgym: Run
) -> None:
    code, _, err = agentgym("stage", *arguments)

    assert code == 1
    assert words in err
    assert daemon.taken("SetStage") == []


def test_an_unknown_stage_is_wrong_usage(
    daemon: FakeDaemon, agentgym: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        agentgym("stage", "desk", "moon")

    assert raised.value.code == 2
    assert "'observe', 'shadow', 'canary', 'live', 'up', 'down'" in capsys.readouterr().err


def test_kill_and_revive_ask_the_daemon_and_leave_no_file(
    daemon: FakeDaemon, agentgym: Run, home: Path
) -> None:
    daemon.reply("Kill", lambda r: policy_pb2.StageResponse(seen=r.agent != "who", killed=["x"]))

    assert agentgym("kill", "desk", "--reason", "why")[:2] == (0, "killed: agent desk\n")
    assert asked(daemon, "Kill") == policy_pb2.KillRequest(agent="desk", reason="why")
    assert "nothing was ever heard of an agent 'who'" in agentgym("kill", "who")[2]
    assert agentgym("revive")[1] == "revived: all agents; still killed by name: x\n"
    assert asked(daemon, "Kill") == policy_pb2.KillRequest(revive=True)
    assert not (home / "kill").exists()


@pytest.mark.parametrize("why", ["no token", "no daemon", "not ready"])
def test_a_kill_that_no_daemon_does_is_written_down(
    why: str, home: Path, agentgym: Run, request: pytest.FixtureRequest
) -> None:
    if why == "no daemon":
        (home / "token").write_text("anything")
    elif why == "not ready":
        daemon: FakeDaemon = request.getfixturevalue("daemon")
        daemon.refuse("Kill", grpc.StatusCode.UNAVAILABLE, details="full", retry_s=1.0)
    path = home / "kill"

    code, out, _ = agentgym("kill", "desk")
    assert code == 0
    assert f"{path} was written instead: agent desk of this home fall back now" in out
    assert path.read_text() == "desk\n"


def test_names_join_the_file_and_leave_it(home: Path, agentgym: Run) -> None:
    path = home / "kill"
    agentgym("kill", "desk")
    agentgym("kill", "billing")
    assert path.read_text() == "billing\ndesk\n"

    code, out, _ = agentgym("revive", "desk")
    assert (code, path.read_text()) == (0, "billing\n")
    assert "no daemon answers, so what it has recorded stays" in out
    agentgym("kill")
    assert path.read_text() == ""
    agentgym("kill", "desk")  # all stay stopped
    assert path.read_text() == ""
    code, _, err = agentgym("revive", "desk")
    assert code == 1
    assert "stops all agents" in err
    assert agentgym("revive")[0] == 0
    assert not path.exists()
    assert agentgym("revive")[0] == 69


def test_a_daemon_that_refuses_a_kill_is_heard(
    daemon: FakeDaemon, agentgym: Run, home: Path
) -> None:
    daemon.refuse("Kill", grpc.StatusCode.PERMISSION_DENIED, details="needs admin")

    code, _, err = agentgym("kill")

    assert code == 1
    assert "needs admin" in err
    assert not (home / "kill").exists()


def test_revive_takes_away_the_file_too(daemon: FakeDaemon, agentgym: Run, home: Path) -> None:
    (home / "kill").write_text("desk\n")
    daemon.refuse("Kill", grpc.StatusCode.FAILED_PRECONDITION, details="not killed by name")

    code, out, err = agentgym("revive", "desk")

    assert (code, out) == (0, "revived: agent desk\n")
    assert "no longer stops agent desk" in err
    assert not (home / "kill").exists()


def test_a_name_that_does_not_fit_into_the_file_is_said(agentgym: Run, home: Path) -> None:
    code, _, err = agentgym("kill", "two\nlines")

    assert code == 1
    assert "does not fit" in err
    assert not (home / "kill").exists()
