"""A tool that breaks is left out without a training, and used again once it works."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from agentgym import AgentGym
from agentgym.trajectory import ArmKind, Tool

pytestmark = pytest.mark.e2e

WANTED = "refund"


class Shop:
    """An agent whose customers want their money back; `refund` works until it is broken."""

    def __init__(self, gym: AgentGym, tools: tuple[Tool, ...]) -> None:
        self.gym, self.tools = gym, tools
        self.broken = False
        self.served = 0

    def serve(self) -> Any:
        """One run with one call, and its reward; returns the turn."""
        self.served += 1
        run = self.gym.recorder.start_run("desk", framework="test", task=f"order {self.served}?")
        turn = run.turn(self.tools, model="stub")
        name = turn.forced.name if turn.forced else "look_up"
        turn.finish([(name, "call-1")], input_tokens=7, output_tokens=3)
        error = "OSError" if self.broken and name == WANTED else ""
        run.call(name, call_id="call-1").finish(error=error)
        run.finish()
        self.gym.reward(float(name == WANTED and not error), trajectory=run)
        assert turn.decision is not None
        return turn

    def serve_until_called(self, times: int) -> None:
        """Runs until `refund` was forced so often."""
        while times:
            turn = self.serve()
            times -= turn.forced is not None and turn.forced.name == WANTED

    def fail_until_left_out(self) -> int:
        """Runs until the agent is told that `refund` is down; how many of its calls that took."""
        self.broken = True
        failed = 0
        while not self.down:
            self.serve_until_called(1)
            failed += 1
            assert self.gym.flush(30)
            patience = time.monotonic() + 1.0
            while not self.down and time.monotonic() < patience:
                time.sleep(0.02)
        return failed

    @property
    def down(self) -> frozenset[bytes]:
        """What the agent leaves out."""
        assert self.gym.live.current is not None
        return self.gym.live.current.down

    def wait_for(self, *down: bytes) -> None:
        """Returns once the daemon's word has come; the test's own time limit ends the wait."""
        assert self.gym.flush(30)
        while self.down != set(down):
            time.sleep(0.02)


def test_a_tool_that_fails_is_left_out_without_a_training_and_used_again_when_it_works(
    make_daemon: Callable[..., Any],
    forcing: Any,
    make_gym: Callable[..., AgentGym],
    tools: tuple[Tool, ...],
) -> None:
    flags = ["--control-share", "0", "--retrain-trajectories", "100000"]
    daemon = make_daemon(forcing("desk", WANTED), flags=flags).start()
    shop = Shop(make_gym(daemon, "desk"), tools)
    refund = next(tool for tool in tools if tool.name == WANTED)
    shop.serve_until_called(20)
    shop.wait_for()

    assert 2 <= shop.fail_until_left_out() <= 8
    assert shop.down == {refund.fingerprint}

    assert [list(scope.down) for scope in daemon.status().scopes] == [[WANTED]]
    turns = [shop.serve() for _ in range(40)]
    assert {turn.policy_version for turn in turns} == {"p-000001"}
    left_out = [turn for turn in turns if turn.decision.down]
    assert len(left_out) >= 30
    position = tools.index(refund)
    for turn in left_out:
        assert turn.decision.down == (position,)
        assert all(position not in arm.tools for arm in turn.decision.support)
    assert any(turn.decision.taken.kind is ArmKind.FORCE for turn in left_out)

    daemon.stop()  # what is down follows from what is stored
    daemon.start()
    assert [list(scope.down) for scope in daemon.status().scopes] == [[WANTED]]

    shop.broken = False
    shop.serve_until_called(1)  # one step in twenty lets it through
    shop.wait_for()

    forced = [shop.serve().forced for _ in range(20)]
    assert sum(tool is not None and tool.name == WANTED for tool in forced) >= 15
    assert daemon.status().scopes[0].down == []
    assert [policy.version for policy in daemon.policies()] == ["p-000001"]
    stored = daemon.stored(shop.gym)
    assert len(stored) == shop.served
    for trajectory in stored:
        trajectory.check()
    assert any(d.down for s in stored for d in s.decisions)
