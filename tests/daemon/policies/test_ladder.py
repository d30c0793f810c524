"""The fold of stages and kills, and the rules of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentgym.proto.v1 import common_pb2, log_pb2
from agentgym_daemon.config import STAGES, resolve
from agentgym_daemon.errors import InvalidRequestError, PolicyStateError
from agentgym_daemon.policies.ladder import Climb, Ladder, Move

STAGE = {name: common_pb2.Stage.Value(f"STAGE_{name.upper()}") for name in STAGES}


class Desk:
    """A ladder whose facts go into a list."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.facts: list[log_pb2.LogRecord] = []
        self.told: list[str] = []
        self.ladder = Ladder(resolve({"home": home, **settings}, {}))
        self.climb = Climb(self.ladder, append=self.append, changed=self.told.append)

    async def append(self, record: log_pb2.LogRecord) -> int:
        self.facts.append(record)
        return len(self.facts)

    async def move(self, to: str = "", *, step: int = 0, share: float = 0.0) -> str:
        move = Move(stage=STAGE.get(to, 0), step=step, share=share)
        await self.climb.move("desk", move, actor="cli:ada", reason="why")
        return str(self.ladder.rung("desk"))


@pytest.fixture
def desk(home: Path) -> Desk:
    return Desk(home)


async def test_every_rung_up_and_back(desk: Desk) -> None:
    assert await desk.move("observe") == "observe"
    ups = [await desk.move(step=1) for _ in range(3)]
    downs = [await desk.move(step=-1) for _ in range(3)]

    assert ups == ["shadow", "canary (0.05)", "live"]
    assert downs == ["canary (0.05)", "shadow", "observe"]
    assert desk.told == ["desk"] * 7
    change = desk.facts[2].change
    assert (change.kind, change.stage) == (change.KIND_STAGE, common_pb2.STAGE_CANARY)
    assert (change.scope.agent, change.actor, change.reason) == ("desk", "cli:ada", "why")
    assert change.canary_share == 0.05


async def test_a_canary_remembers_its_share(desk: Desk) -> None:
    assert await desk.move("canary", share=0.2) == "canary (0.2)"
    assert await desk.move("live") == "live"
    assert await desk.move(step=-1) == "canary (0.2)"
    assert await desk.move("canary", share=0.1) == "canary (0.1)"


async def test_what_is_loaded_is_what_was_written(desk: Desk, home: Path) -> None:
    await desk.move("canary", share=0.3)
    await desk.climb.kill("other", actor="a")
    await desk.climb.kill("", actor="a")

    again = Desk(home)
    again.climb.load(fact.change for fact in desk.facts)

    assert again.ladder.status("desk") == desk.ladder.status("desk")
    assert (again.ladder.killed, again.ladder.all_killed) == (["other"], True)
    assert again.ladder.agents() == {"desk", "other"}


@pytest.mark.parametrize(
    ("stage", "share"), [("observe", 0.0), ("shadow", 0.0), ("canary", 0.07), ("live", 0.0)]
)
def test_an_agent_without_a_record_is_where_the_setting_says(
    home: Path, stage: str, share: float
) -> None:
    place = Desk(home, stage=stage, canary_share=0.07).ladder.status("desk")

    assert (place.stage, place.canary_share, place.recorded) == (STAGE[stage], share, False)


@pytest.mark.parametrize(
    ("move", "error", "words"),
    [
        (Move(stage=9), InvalidRequestError, "expected one of observe, shadow, canary, live"),
        (Move(), InvalidRequestError, "either a stage or a step"),
        (Move(stage=2, step=1), InvalidRequestError, "either a stage or a step"),
        (Move(step=2), InvalidRequestError, "expected 1 (up) or -1 (down)"),
        (Move(step=1), PolicyStateError, "live is the highest stage"),
        (Move(stage=4, share=0.1), InvalidRequestError, "only the stage canary has one"),
        (Move(stage=3, share=1.0), InvalidRequestError, "between 0 and 1, got 1"),
        (Move(stage=3, share=-0.1), InvalidRequestError, "between 0 and 1, got -0.1"),
        (Move(stage=3, share=float("nan")), InvalidRequestError, "between 0 and 1, got nan"),
    ],
)
async def test_a_step_that_cannot_be_says_why(
    desk: Desk, move: Move, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as raised:
        await desk.climb.move("desk", move, actor="a")

    assert words in str(raised.value)
    assert desk.facts == []


async def test_a_step_to_where_one_is_says_so(desk: Desk) -> None:
    await desk.move("shadow")

    with pytest.raises(PolicyStateError, match="at shadow already"):
        await desk.move("shadow")
    with pytest.raises(InvalidRequestError, match="agent: expected the name"):
        await desk.climb.move("", Move(stage=2), actor="a")


async def test_kills_by_name_and_of_all_are_two_things(desk: Desk) -> None:
    climb, ladder = desk.climb, desk.ladder
    await climb.kill("desk", actor="a")
    assert (ladder.is_killed("desk"), ladder.is_killed("other")) == (True, False)
    await climb.kill("", actor="a")
    assert ladder.is_killed("other")

    with pytest.raises(PolicyStateError, match="all agents are killed; revive them without"):
        await climb.revive("other", actor="a")
    await climb.revive("", actor="a")
    assert (ladder.is_killed("desk"), ladder.is_killed("other")) == (True, False)
    with pytest.raises(PolicyStateError, match="killed by name are: desk"):
        await climb.revive("", actor="a")
    await climb.revive("desk", actor="a")
    assert not ladder.is_killed("desk")
    assert desk.told == ["desk", "", "", "desk"]


async def test_what_the_log_does_not_take_does_not_hold(desk: Desk) -> None:
    async def full(record: log_pb2.LogRecord) -> int:
        raise OSError("no space")

    climb = Climb(desk.ladder, append=full, changed=desk.told.append)
    with pytest.raises(OSError, match="no space"):
        await climb.move("desk", Move(stage=1), actor="a")

    assert str(desk.ladder.rung("desk")) == "live"
    assert desk.told == []
